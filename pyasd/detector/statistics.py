"""From the members' clip scores to one score: standardised per machine ID, then combined (report section 2.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyasd.models import NormalScores
from pyasd.models.moments import VARIANCE_FLOOR, Moments, group_by_id, robust_variance
from pyasd.recipes.recipe import Combine
from pyasd.tables import Combination

SAMPLE_SIZE = 256
"""Scores of normal clips per machine ID and mode that a detector keeps, sorted (evenly spaced ranks of more)."""


@dataclass(frozen=True)
class Baseline:
    """How a member scores normal clips, per machine ID and mode: what other scores are measured against.

    Attributes:
        modes: the member's modes.
        moments: mean and variance of the scores; its columns are the modes.
        sample: `[ids, modes, SAMPLE_SIZE]` float64, ascending: all scores, then NaN; or, where there are more,
            evenly spaced ranks of them, the lowest and highest among them.
    """

    modes: tuple[str, ...]
    moments: Moments
    sample: NDArray[np.float64]

    @classmethod
    def of(cls, normal: NormalScores, modes: Sequence[str], robust: bool = False) -> Baseline:
        """Compute the baseline from scores of normal clips; `robust` as in `Moments.of`.

        Raises:
            ValueError: there is no clip, or a score is not finite.
        """
        moments = Moments.of(normal.scores, normal.ids, robust, normal.prior)
        sample = np.full((len(moments.ids), len(modes), SAMPLE_SIZE), np.nan)
        for row, scores in zip(sample, group_by_id(normal.scores, normal.ids), strict=True):
            for place, of_mode in zip(row, scores.T, strict=True):
                ranked = _ranked(of_mode)
                place[: len(ranked)] = ranked
        return cls(tuple(modes), moments, sample)

    @property
    def ids(self) -> tuple[str, ...]:
        """The machine IDs, sorted."""
        return self.moments.ids

    def standardise(self, score: float, machine_id: str | None, mode: str) -> float:
        """Return a clip's score in standard deviations above the mean of its machine ID's normal clips.

        Args:
            score: the member's score in that mode.
            machine_id: one of `ids`; `None` for all clips pooled.
            mode: one of `modes`.
        """
        mean, spread = self.usual(machine_id, mode)
        return (score - mean) / spread

    def usual(self, machine_id: str | None, mode: str) -> tuple[float, float]:
        """Return the mean and the standard deviation of a machine ID's normal clips; see `standardise`."""
        mean, variance = (float(x[self.modes.index(mode)]) for x in self.moments.of_id(machine_id))
        spread: float = max(variance, VARIANCE_FLOOR) ** 0.5
        return mean, spread

    def adapted(
        self, machine_id: str, mode: str, scores: NDArray[np.float64], memory: int | None = None, robust: bool = False
    ) -> Baseline:
        """Return the baseline with further normal clips of a machine ID taken into its mean and variance.

        How many clips the ID has stays as it is: so many, or `memory` where that is less, have what is known so far.

        Args:
            machine_id: one of `ids`.
            mode: one of `modes`.
            scores: `[clips]` of the further ones, at least one.
            memory: how many clips, from 1 on, what is known so far counts for at most.
            robust: as in `of`.
        """
        place = self.ids.index(machine_id), self.modes.index(mode)
        known = self.moments.clips(machine_id) if memory is None else min(self.moments.clips(machine_id), memory)
        sample = self.sample[place][~np.isnan(self.sample[place])]
        mean, variance = self.moments.mean.copy(), self.moments.variance.copy()
        if robust:
            middles = ((np.arange(known) + 0.5) / known * len(sample)).astype(int)  # so many clips of that distribution
            together = np.concatenate([sample[middles], scores])
            mean[place] = np.median(together)
            variance[place] = robust_variance(together) or variance[place]  # 0 where half of a few agree
        else:
            weights = np.array([known, len(scores)]) / (known + len(scores))
            means, variances = np.array([mean[place], scores.mean()]), np.array([variance[place], scores.var()])
            mean[place] = weights @ means
            variance[place] = weights @ (variances + np.square(means - mean[place]))
        samples = self.sample.copy()
        samples[place] = np.nan
        ranked = _ranked(np.concatenate([sample, scores]))
        samples[place][: len(ranked)] = ranked
        return Baseline(self.modes, Moments(self.ids, self.moments.count, mean, variance), samples)

    def tensors(self) -> dict[str, Tensor]:
        """Return all numbers by name, for a model file."""
        arrays = {"count": self.moments.count, "mean": self.moments.mean, "variance": self.moments.variance}
        return {name: torch.from_numpy(x) for name, x in (arrays | {"sample": self.sample}).items()}

    @classmethod
    def from_tensors(cls, ids: Sequence[str], modes: Sequence[str], tensors: Mapping[str, Tensor]) -> Baseline:
        """Return the baseline that `tensors()` gave.

        Raises:
            KeyError: a tensor is missing.
            ValueError: they can't be the statistics of these IDs and modes: of another shape, not finite, negative, or
                not those of the sample beside them.
        """
        count, mean, variance, sample = (tensors[x].numpy() for x in ("count", "mean", "variance", "sample"))
        if sample.shape != (len(ids), len(modes), SAMPLE_SIZE):
            raise ValueError(f"the sample of normal scores has the shape {sample.shape}")
        moments = Moments(tuple(ids), count, mean, variance).check("statistics", len(modes))
        if np.isnan(sample[:, :, 0]).any() or (np.diff(sample) < 0).any() or np.isinf(sample).any():
            raise ValueError("the sample of normal scores is not one")
        lowest, quarter, three_quarters, highest = np.nanquantile(sample, (0, 0.25, 0.75, 1), axis=2)
        slack = 1e-6 * (np.abs(mean) + highest - lowest)
        if ((mean < lowest - slack) | (mean > highest + slack)).any():
            raise ValueError("statistics: a mean lies outside the scores that it is of")
        if ((variance == 0) & (quarter < three_quarters)).any():  # a robust one is 0 where half of the scores agree
            raise ValueError("statistics: a variance is 0, and its scores differ")
        return cls(tuple(modes), moments, sample)


def _ranked(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores in ascending order; of more than `SAMPLE_SIZE` some, evenly spaced."""
    count = min(len(scores), SAMPLE_SIZE)
    some: NDArray[np.float64] = np.sort(scores)[np.linspace(0, len(scores) - 1, count).round().astype(int)]
    return some


def combine(scores: Sequence[float]) -> dict[Combination, float]:
    """Combine the members' standardised scores both ways: their mean, and the largest (report section 2.3)."""
    return {"mean": float(np.mean(scores)), "max": float(np.max(scores))}


def overall(scores: Sequence[float], how: Combine, weights: Sequence[float]) -> float:
    """Combine the members' standardised scores as a recipe says: their largest, their weighted mean, or that of
    `sign(z) log(1 + |z|)` (ours).

    A plain mean follows whichever member's tail is heaviest: a distance may be hundreds of standard deviations off
    where another member is sure at five.
    """
    if how == "max":
        return float(np.max(scores))
    values = np.sign(scores) * np.log1p(np.abs(scores)) if how == "signed-log" else scores
    return float(np.average(values, weights=weights))
