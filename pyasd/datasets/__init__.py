"""Data sets: their layouts, and a synthetic factory for demonstrations."""
