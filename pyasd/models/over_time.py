"""Statistics of a clip's Mel bands over time: what members that take a clip as a whole compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from pyasd.models.pooling import pool

OverTime = Literal["mean", "deviation", "change"]
"""Of each band over the frames: its mean; its standard deviation (load and speed that vary are told by nothing else);
the standard deviation of the differences between neighbouring frames."""


def check_statistics(statistics: Sequence[OverTime]) -> None:
    """Check that there are statistics, each once.

    Raises:
        ValueError: there is none, or one comes twice.
    """
    if not statistics or len(set(statistics)) != len(statistics):
        raise ValueError(f"over_time needs statistics, each once, not {statistics}")


def of_clips(log_mels: Iterable[Tensor], statistics: Sequence[OverTime]) -> Tensor:
    """Compute clips' statistics over time, `[clips, statistics * mels]` float64 on the CPU."""
    return torch.stack([over_time(x, statistics).cpu() for x in log_mels])


def over_time(log_mel: Tensor, statistics: Sequence[OverTime]) -> Tensor:
    """Compute statistics of each Mel band over a clip's frames, `[statistics * mels]` float64."""
    values = []
    x = log_mel.double()
    for name in statistics:
        if name == "mean":
            values.append(pool(x, "mean"))
        else:
            values.append((x if name == "deviation" else x.diff(dim=0)).std(0, correction=0))
    return torch.cat(values)
