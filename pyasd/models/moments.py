"""Mean and variance of numbers per machine ID: of clips' scores, or of Mel bands' likelihoods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

VARIANCE_FLOOR = 1e-12
"""Smallest variance that a machine ID's normal clips are taken to have when scores are standardised."""


@dataclass(frozen=True)
class Moments:
    """Mean and variance of each column of numbers, per machine ID.

    Attributes:
        ids: machine IDs, sorted.
        count: `[ids]` int64, clips.
        mean, variance: `[ids, columns]` float64 (the variance of the population, not yet floored).
    """

    ids: tuple[str, ...]
    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    def check(self, what: str, columns: int) -> Moments:
        """Return the moments, once it is sure that they can be some: those of a file may not be, as `what` then says.

        Raises:
            ValueError: their shapes don't fit the IDs and so many columns, a mean is not finite, a variance is negative
                or not finite, or an ID has no clip.
        """
        shape = (len(self.ids), columns)
        if (self.count.shape, self.mean.shape, self.variance.shape) != (shape[:1], shape, shape) or not self.ids:
            raise ValueError(f"{what}: the tensors aren't those of {len(self.ids)} machine IDs and {columns} columns")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.variance).all()):
            raise ValueError(f"{what}: a mean or a variance is not finite")
        if (self.variance < 0).any() or (self.count < 1).any():
            raise ValueError(f"{what}: a variance is negative, or a machine ID has no clip")
        return self

    @classmethod
    def of(cls, values: NDArray[np.float64], ids: Sequence[str], robust: bool = False, prior: float = 0.0) -> Moments:
        """Compute the moments of clips' values.

        An ID's variance is its own weighted by its clips but one, and the mean variance of the IDs with several clips
        weighted by `prior`, in clips: the posterior mean of a variance, were the prior an inverse gamma distribution
        (Gelman et al., 2013, section 2.6). Without a prior it is its own, and a single clip's that of the others.

        Args:
            values: `[clips, columns]`.
            ids: the clips' machine IDs.
            robust: take medians for means, and for variances those of normal distributions with the values' median
                absolute deviations.
            prior: in clips.

        Raises:
            ValueError: there is no clip, or a value is not finite.
        """
        if not len(values) or not np.isfinite(values).all():
            raise ValueError(f"standardisation needs finite scores, and at least one; got {len(values)} clips")
        names = tuple(sorted(set(ids)))
        groups = group_by_id(values, ids)
        count = np.array([len(x) for x in groups])
        variance = np.stack([robust_variance(x) if robust else x.var(0) for x in groups])
        several = count > 1
        if several.any():
            typical = np.average(variance[several], axis=0, weights=count[several])
            weight = np.divide(count - 1, count - 1 + prior, out=np.zeros(len(count)), where=several)[:, None]
            variance = weight * variance + (1 - weight) * typical
        mean = np.stack([np.median(x, 0) if robust else x.mean(0) for x in groups])
        return cls(names, count, mean, variance)

    def clips(self, machine_id: str | None) -> int:
        """Return how many clips a machine ID has; `None` is for all."""
        return int(self.count.sum() if machine_id is None else self.count[self.ids.index(machine_id)])

    def of_id(self, machine_id: str | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and variance `[columns]` of a machine ID's normal clips; `None` is for all clips pooled."""
        if machine_id is not None:
            row = self.ids.index(machine_id)
            return self.mean[row], self.variance[row]
        weight = self.count / self.count.sum()
        mean = weight @ self.mean
        return mean, weight @ (self.variance + np.square(self.mean - mean))


def group_by_id(values: NDArray[np.float64], ids: Sequence[str]) -> list[NDArray[np.float64]]:
    """Return the rows of `values` of each machine ID, IDs sorted."""
    return [values[[x == name for x in ids]] for name in sorted(set(ids))]


def robust_variance(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the variance of a normal distribution with the median absolute deviation of each column."""
    return np.square(np.median(np.abs(x - np.median(x, 0)), 0) / NormalDist().inv_cdf(0.75))
