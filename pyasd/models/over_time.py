"""Statistics of a clip's Mel bands over time: what members that take a clip as a whole compare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pyasd.models.pooling import pool

OverTime = Literal["mean", "deviation", "change"]
"""Of each band over the frames: its mean; its standard deviation (load and speed that vary are told by nothing else);
the standard deviation of the differences between neighbouring frames."""


def over_time(log_mel: Tensor, statistics: Sequence[OverTime]) -> Tensor:
    """Compute statistics of each Mel band over a clip's frames, `[statistics * mels]` float64."""
    values = []
    for name in statistics:
        if name == "mean":
            values.append(pool(log_mel, "mean"))
        else:
            x = log_mel.double()
            values.append((x if name == "deviation" else x.diff(dim=0)).std(0, correction=0))
    return torch.cat(values)
