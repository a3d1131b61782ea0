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
        scale: its standard deviation from clip to clip, where that is known; that of "mean" is of the band's level
            relative to the clip's.
        level_scale: the standard deviation of the clip's level, the mean over bands, in dB.
    """

    mean: dict[OverTime, NDArray[np.float64]]
    scale: dict[OverTime, NDArray[np.float64]]
    level_scale: float

    @classmethod
    def of(cls, statistics: Sequence[OverTime], means: Tensor, covariances: Tensor) -> Usual:
        """Return what is usual in all clips of some machine IDs, which weigh alike.

        Args:
            statistics: those that follow each other in the dimensions.
            means: `[ids, dims]`, in dB.
            covariances: `[ids, dims, dims]`.
        """
        mean = means.double().mean(0)
        apart = means.double() - mean
        covariance = (covariances.double().mean(0) + apart.T @ apart / len(means)).cpu().numpy()
        values = dict(zip(statistics, mean.cpu().numpy().reshape(len(statistics), -1), strict=True))
        variances = dict(zip(statistics, covariance.diagonal().reshape(len(statistics), -1), strict=True))
        level_scale = 0.0
        if "mean" in statistics:
            mels = len(values["mean"])
            first = list(statistics).index("mean") * mels
            of_mean = covariance[first : first + mels, first : first + mels]
            variances["mean"] = of_mean.diagonal() - 2 * of_mean.mean(0) + of_mean.mean()
            level_scale = float(max(of_mean.mean(), 0)) ** 0.5
        return cls(values, {name: np.sqrt(np.maximum(x, 0)) for name, x in variances.items()}, level_scale)


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


class Together(list[Tensor]):
    """Log-Mels of clips that several members score one after another: `of_each` computes each statistic once.

    Attributes:
        known: statistics so far, `[clips, mels]` float64 each.
    """

    def __init__(self, log_mels: Iterable[Tensor]) -> None:
        super().__init__(log_mels)
        self.known: dict[OverTime, Tensor] = {}


def of_each(log_mels: Sequence[Tensor], statistics: Sequence[OverTime]) -> Tensor:
    """Compute statistics of clips over time, `[clips, statistics * mels]` float64, on their device."""
    known = log_mels.known if isinstance(log_mels, Together) else {}
    missing = [name for name in statistics if name not in known]
    if missing:
        values = torch.stack([over_time(x, missing) for x in log_mels]).chunk(len(missing), 1)
        known.update(zip(missing, values, strict=True))
    return torch.cat([known[name] for name in statistics], 1)


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
