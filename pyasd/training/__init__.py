"""Training: how it is run, the clips that it learns from, the loop, and its checkpoints."""
