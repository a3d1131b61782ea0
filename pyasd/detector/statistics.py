"""From the members' clip scores to one score: standardised per machine ID, then combined (report section 2.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyasd.models import NormalScores
from pyasd.models.moments import VARIANCE_FLOOR, Moments, group_by_id
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
            ranked = np.sort(scores, axis=0)
            if len(ranked) > SAMPLE_SIZE:
                ranked = ranked[np.linspace(0, len(ranked) - 1, SAMPLE_SIZE).round().astype(int)]
            row[:, : len(ranked)] = ranked.T
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
        mean, variance = (float(x[self.modes.index(mode)]) for x in self.moments.of_id(machine_id))
        spread: float = max(variance, VARIANCE_FLOOR) ** 0.5
        return (score - mean) / spread

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
