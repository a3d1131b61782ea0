"""A synthetic factory to try pyasd on: sounds, recordings and miniatures of data sets."""
