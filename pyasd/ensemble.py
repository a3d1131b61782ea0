"""From the members' clip scores to one score: standardised per machine ID, then combined (report section 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from pyasd.config import SAMPLE_SIZE, VARIANCE_FLOOR, Combine


@dataclass(frozen=True)
class Statistics:
    """What a member's scores are like on normal clips, per machine ID and score mode.

    Attributes:
        ids: machine IDs, sorted.
        modes: score modes.
        count: `[ids]` int64, clips.
        mean, variance: `[ids, modes]` float64 (the variance of the population, not yet floored).
        sample: `[ids, modes, SAMPLE_SIZE]` float64, ascending: all scores, then NaN; or, where there are more,
            evenly spaced ranks of them, the lowest and highest among them.
    """

    ids: tuple[str, ...]
    modes: tuple[str, ...]
    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    sample: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        scores: NDArray[np.float64],
        ids: Sequence[str],
        modes: Sequence[str],
        robust: bool = False,
        sample_size: int = SAMPLE_SIZE,
        prior: float = 0.0,
    ) -> Statistics:
        """Statistics of clip scores `[clips, modes]`; `robust` takes medians for means, and for variances those of
        normal distributions with the scores' median absolute deviations. `sample_size` is that of `sample`.

        An ID's variance is its own weighted by its clips but one, and the mean variance of the IDs with several clips
        weighted by `prior`, in clips: the posterior mean of a variance, were the prior an inverse gamma distribution
        (Gelman et al., 2013, section 2.6). Without a prior it is its own, and a single clip's that of the others.

        Raises:
            ValueError: there is no clip, or a score is not finite.
        """
        if not len(scores) or not np.isfinite(scores).all():
            raise ValueError(f"standardisation needs finite scores, and at least one; got {len(scores)} clips")
        names = tuple(sorted(set(ids)))
        own = [scores[[x == name for x in ids]] for name in names]
        count = np.array([len(x) for x in own])
        variance = np.stack([_robust_variance(x) if robust else x.var(0) for x in own])
        several = count > 1
        if several.any():
            typical = np.average(variance[several], axis=0, weights=count[several])
            weight = np.divide(count - 1, count - 1 + prior, out=np.zeros(len(count)), where=several)[:, None]
            variance = weight * variance + (1 - weight) * typical
        sample = np.full((len(names), len(modes), sample_size), np.nan)
        for row, x in zip(sample, own, strict=True):
            x = np.sort(x, axis=0)
            if len(x) > sample_size:
                x = x[np.linspace(0, len(x) - 1, sample_size).round().astype(int)]
            row[:, : len(x)] = x.T
        return cls(
            ids=names,
            modes=tuple(modes),
            count=count,
            mean=np.stack([np.median(x, 0) if robust else x.mean(0) for x in own]),
            variance=variance,
            sample=sample,
        )

    def standardise(self, score: float, machine_id: str | None, mode: str) -> float:
        """A clip's score in standard deviations above the mean of its machine ID's normal clips.

        Args:
            score: the member's score in that mode.
            machine_id: one of `ids`; `None` for the statistics of all clips pooled.
            mode: one of `modes`.
        """
        mean, variance = (float(x[self.modes.index(mode)]) for x in self.moments(machine_id))
        return (score - mean) / max(variance, VARIANCE_FLOOR) ** 0.5

    def moments(self, machine_id: str | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and variance `[modes]` of a machine ID's normal clips; `None` is for all clips pooled."""
        if machine_id is not None:
            row = self.ids.index(machine_id)
            return self.mean[row], self.variance[row]
        weight = self.count / self.count.sum()
        mean = weight @ self.mean
        return mean, weight @ (self.variance + np.square(self.mean - mean))


def _robust_variance(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.square(np.median(np.abs(x - np.median(x, 0)), 0) / NormalDist().inv_cdf(0.75))


def combine(scores: Sequence[float]) -> dict[Combine, float]:
    """One score from the members' standardised ones, both ways: their mean, and the largest (report section 2.3)."""
    return {"mean": float(np.mean(scores)), "max": float(np.max(scores))}
