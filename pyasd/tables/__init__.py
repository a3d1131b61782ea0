"""Tables of scores: their rows and files, labels, evaluation, and printing them."""

from typing import Literal

Combination = Literal["mean", "max"]
"""How the members' standardised scores are made one, in columns of their own."""
