"""Normal distributions per machine ID whose covariances are shrunk as far as held-out clips like it best (ours).

    C = (1 - d) * ((1 - s) * own + s * shared) + d * its diagonal

`own` is the covariance of an ID's clips about their mean, `shared` that of all IDs' clips about their IDs' means.
Neither is right everywhere: some machines vary alike, some each in its own way, and a few clips tell neither. So `s`
and `d` are those under which clips that are left out, fold by fold, have the highest likelihood.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyasd.training.data import BAND_SCALE_FLOOR

SHARED = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The values of `s` that are tried."""

DIAGONAL = (0.02, 0.05, 0.1, 0.2)
"""The values of `d` that are tried. Held-out clips often like more: they are normal. But how bands vary together is
what tells that others aren't (docs/results.md)."""

FOLDS = 8
"""Folds that deal out each machine ID's clips in turn."""

JUDGED_ALONE = 8
"""Clips from which on a machine ID has values of its own; IDs of fewer take those that are best for all together."""

JUDGED_IDS = 32
"""Machine IDs, evenly spaced, whose held-out clips decide where there are more: a decision takes a second an ID."""

VARIANCE_FLOOR = 1e-3
"""Smallest variance of a standardised feature: an ID's clips may all have the same."""


class Shrunk(NamedTuple):
    """Fitted distributions.

    Attributes:
        mean: `[ids, dims]` float64.
        inverse_covariance: `[ids, dims, dims]` float64.
        held_out: `[clips]` float64, each clip's distance (see `distance`) from the distribution of the clips without
            its fold; NaN for an ID's only clip.
    """

    mean: Tensor
    inverse_covariance: Tensor
    held_out: Tensor


class _Moments(NamedTuple):
    """Means `[ids, dims]` of some clips, the scale `[dims]` of features, and covariances of standardised features."""

    mean: Tensor
    scale: Tensor
    own: list[Tensor]
    shared: Tensor


def fit(features: Tensor, ids: Sequence[str]) -> Shrunk:
    """Fit a distribution for each machine ID, in sorted order, to clips' features `[clips, dims]` float64."""
    names = sorted(set(ids))
    places = torch.tensor([names.index(x) for x in ids])
    order = torch.empty(len(ids), dtype=torch.long)
    order[torch.argsort(places, stable=True)] = torch.arange(len(ids))
    fold = order % FOLDS
    folds = [(fold != k, _moments(features, places, fold != k, len(names))) for k in range(FOLDS) if (fold == k).any()]
    chosen = _choose(features, places, folds, len(names))
    held_out = torch.full((len(ids),), torch.nan, dtype=torch.float64)
    for kept, moments in folds:
        for i in places[~kept].unique().tolist():
            if (places[kept] == i).any():
                out = ~kept & (places == i)
                z, _ = _whitened(features[out], moments, i, *chosen[i])
                held_out[out] = z.square().mean(1).sqrt()
    everything = _moments(features, places, torch.ones_like(fold, dtype=torch.bool), len(names))
    outer = torch.outer(everything.scale, everything.scale)
    inverses = [torch.cholesky_inverse(_factor(everything, i, *chosen[i])) / outer for i in range(len(names))]
    return Shrunk(everything.mean, torch.stack(inverses), held_out)


def _choose(
    features: Tensor, places: Tensor, folds: list[tuple[Tensor, _Moments]], count: int
) -> list[tuple[float, float]]:
    """Choose `s` and `d` for each machine ID by the likelihood of held-out clips."""
    judged = range(0, count, math.ceil(count / JUDGED_IDS))
    shares = SHARED if count > 1 else SHARED[:1]  # one ID's own covariance is the shared one
    tried = list(itertools.product(shares, DIAGONAL))
    likelihood = torch.zeros(count, len(tried), dtype=torch.float64)
    for (kept, moments), i in itertools.product(folds, judged):
        out = ~kept & (places == i)
        if out.any() and (places[kept] == i).any():
            for column, (share, diagonal) in enumerate(tried):
                z, log_determinant = _whitened(features[out], moments, i, share, diagonal)
                likelihood[i, column] -= (z.square().sum(1) / 2 + log_determinant).sum()
    together = int(likelihood.sum(0).argmax())
    clips = torch.bincount(places, minlength=count).tolist()
    alone = [
        int(likelihood[i].argmax()) if i in judged and clips[i] >= JUDGED_ALONE else together for i in range(count)
    ]
    return [tried[column] for column in alone]


def _moments(features: Tensor, places: Tensor, kept: Tensor, count: int) -> _Moments:
    x, where = features[kept], places[kept]
    clips = torch.bincount(where, minlength=count)
    mean = x.new_zeros(count, x.shape[1]).index_add_(0, where, x) / clips.clamp(min=1)[:, None]
    residual = x - mean[where]
    freedom = max(len(x) - int((clips > 0).sum()), 1)
    scale = (residual.square().sum(0) / freedom).sqrt().clamp(min=BAND_SCALE_FLOOR)
    residual = residual / scale
    groups = [residual[where == i] for i in range(count)]
    own = [group.T @ group / max(len(group) - 1, 1) for group in groups]
    return _Moments(mean, scale, own, residual.T @ residual / freedom)


def _factor(moments: _Moments, i: int, share: float, diagonal: float) -> Tensor:
    """The Cholesky factor of a machine ID's covariance, in standardised units."""
    covariance = (1 - share) * moments.own[i] + share * moments.shared
    variances = covariance.diagonal().clamp(min=VARIANCE_FLOOR)
    factor: Tensor = torch.linalg.cholesky((1 - diagonal) * covariance + torch.diag(diagonal * variances))
    return factor


def _whitened(x: Tensor, moments: _Moments, i: int, share: float, diagonal: float) -> tuple[Tensor, Tensor]:
    """Clips' features in a machine ID's own standard deviations, uncorrelated, `[clips, dims]`; half the logarithm of
    the covariance's determinant.
    """
    factor = _factor(moments, i, share, diagonal)
    z = torch.linalg.solve_triangular(factor, ((x - moments.mean[i]) / moments.scale).T, upper=False).T
    return z, factor.diagonal().log().sum()
