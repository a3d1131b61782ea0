"""Clips to log-Mel spectrograms: batched extraction, windows of frames, transfers to and from a GPU."""
