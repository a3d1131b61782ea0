"""The table of scores and its evaluation."""
