"""Tables of scores: their rows and files, labels, evaluation, and printing them."""

from typing import Literal

Combination = Literal["mean", "max"]
"""How the members' standardised scores are made one. A table has a column for each; a recipe chooses one of them."""
