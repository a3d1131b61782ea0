"""Statistics of a clip's Mel bands over time: what members that take a clip as a whole compare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

OverTime = Literal["mean", "deviation", "change"]
"""Of each band over the frames: its mean; its standard deviation (load and speed that vary are told by nothing else);
the standard deviation of the differences between neighbouring frames."""


class Usual(NamedTuple):
    """What a machine's normal clips are like, band by band: statistics over time, each `[mels]` float64 in dB.

    Attributes:
        mean: of each statistic, the mean over normal clips.
        scale: its standard deviation from clip to clip, where that is known.
    """

    mean: dict[OverTime, NDArray[np.float64]]
    scale: dict[OverTime, NDArray[np.float64]]

    @classmethod
    def of(cls, statistics: Sequence[OverTime], mean: Tensor, scale: Tensor) -> Usual:
        """Return what is usual by means and standard deviations `[dims]` of these statistics, one after the other."""
        parts = (x.cpu().double().numpy().reshape(len(statistics), -1) for x in (mean, scale))
        means, scales = (dict(zip(statistics, x, strict=True)) for x in parts)
        return cls(means, scales)


def pooled(means: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation `[dims]` of all clips by machine IDs' `[ids, dims]`, which weigh alike."""
    mean = means.mean(0)
    return mean, (scales.square() + (means - mean).square()).mean(0).sqrt()


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
    mean = x.mean(0)
    for name in statistics:
        if name == "mean":
            values.append(mean)
        elif name == "deviation":
            values.append(_root_mean_square(x - mean))
        else:
            change = x.diff(dim=0)
            values.append(_root_mean_square(change - (x[-1] - x[0]) / len(change)))
    return torch.cat(values)


def _root_mean_square(x: Tensor) -> Tensor:
    """Compute it over the first dimension; `x` is not kept. `torch.std` takes six times as long along it."""
    return x.square_().mean(0).sqrt_()
