"""Covariances shrunk by held-out likelihood, against numpy, and where the data decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from pyasd.models import shrinkage

DIMS = 6


def clips(seed: int, counts: dict[str, int], covariances: dict[str, np.ndarray]) -> tuple[torch.Tensor, list[str]]:
    rng = np.random.default_rng(seed)
    parts = [
        rng.multivariate_normal(np.full(DIMS, 10.0 * i), covariances[name], count)
        for i, (name, count) in enumerate(counts.items())
    ]
    return torch.from_numpy(np.concatenate(parts)), [name for name, count in counts.items() for _ in range(count)]


def correlated(strength: float, sign: float = 1.0) -> np.ndarray:
    direction = np.array([1, sign, 1, sign, 1, sign]) / np.sqrt(DIMS)
    return np.eye(DIMS) + strength * np.outer(direction, direction)


def shrunk(x: np.ndarray, ids: list[str], name: str, share: float, diagonal: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of one ID, from the formula alone."""
    names = sorted(set(ids))
    means = {n: x[[i == n for i in ids]].mean(0) for n in names}
    residual = x - np.stack([means[i] for i in ids])
    freedom = len(x) - len(names)
    scale = np.sqrt((residual**2).sum(0) / freedom)
    z = residual / scale
    own = z[[i == name for i in ids]]
    covariance = (1 - share) * own.T @ own / (len(own) - 1) + share * z.T @ z / freedom
    covariance = (1 - diagonal) * covariance + diagonal * np.diag(np.diag(covariance))
    return means[name], covariance * np.outer(scale, scale)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_formula(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    x, ids = clips(0, {"00": 30, "01": 40}, {"00": correlated(5), "01": correlated(5, -1)})
    monkeypatch.setattr(shrinkage, "SHARED", (share,))
    monkeypatch.setattr(shrinkage, "DIAGONAL", (0.3,))
    fitted = shrinkage.fit(x, ids)
    for row, name in enumerate(("00", "01")):
        mean, covariance = shrunk(x.numpy(), ids, name, share, 0.3)
        np.testing.assert_allclose(fitted.mean[row], mean, rtol=1e-12)
        np.testing.assert_allclose(fitted.inverse_covariance[row], np.linalg.inv(covariance), rtol=1e-8, atol=1e-10)


def test_held_out_distances_are_those_of_a_fit_without_the_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    x, ids = clips(1, {"00": 24, "01": 16}, {"00": correlated(5), "01": correlated(1)})
    monkeypatch.setattr(shrinkage, "SHARED", (0.5,))
    monkeypatch.setattr(shrinkage, "DIAGONAL", (0.1,))
    held_out = shrinkage.fit(x, ids).held_out
    for clip, fold in ((0, 0), (9, 1), (24, 0), (39, 7)):  # clips of an ID are dealt out in turn
        kept = [i for i in range(40) if i % 8 != fold]
        mean, covariance = shrunk(x.numpy()[kept], [ids[i] for i in kept], ids[clip], 0.5, 0.1)
        deviation = x[clip].numpy() - mean
        distance = np.sqrt(deviation @ np.linalg.inv(covariance) @ deviation / DIMS)
        assert held_out[clip] == pytest.approx(distance, rel=1e-9)


def test_the_data_decide_between_shared_and_own() -> None:
    """The likelihood of new clips, from the distribution that each choice gives, is the judge."""
    unlike = {"00": correlated(50), "01": correlated(50, -1)}
    alike = {"00": correlated(50), "01": correlated(50)}
    for covariances, counts, own in ((unlike, {"00": 200, "01": 200}, True), (alike, {"00": 10, "01": 200}, False)):
        x, ids = clips(2, counts, covariances)
        fitted = shrinkage.fit(x, ids)
        new, new_ids = clips(3, {"00": 500, "01": 1}, covariances)
        new = new[[i == "00" for i in new_ids]]

        def likelihood(inverse: np.ndarray, mean: np.ndarray, new: torch.Tensor = new) -> float:
            return float(multivariate_normal(mean, np.linalg.inv(inverse)).logpdf(new.numpy()).mean())

        chosen = likelihood(fitted.inverse_covariance[0].numpy(), fitted.mean[0].numpy())
        mean, covariance = shrunk(x.numpy(), ids, "00", 1.0 if own else 0.0, 0.02)  # the wrong choice
        assert chosen > likelihood(np.linalg.inv(covariance), mean) + 0.05


@pytest.mark.parametrize("counts", [{"00": 3}, {"00": 1, "01": 5}, {"00": 2, "01": 2, "02": 3}])
def test_few_clips(counts: dict[str, int]) -> None:
    x, ids = clips(4, counts, dict.fromkeys(counts, correlated(3)))
    fitted = shrinkage.fit(x, ids)
    assert torch.isfinite(fitted.inverse_covariance).all()
    assert fitted.held_out.isnan().tolist() == [counts[i] == 1 for i in ids]


def test_clips_that_are_all_alike() -> None:
    fitted = shrinkage.fit(torch.ones(12, DIMS, dtype=torch.float64), ["00"] * 6 + ["01"] * 6)
    assert torch.isfinite(fitted.inverse_covariance).all()
    assert (fitted.held_out == 0).all()


def test_many_ids_are_judged_by_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shrinkage, "JUDGED_IDS", 2)
    counts = {f"{i:02}": 9 for i in range(7)}
    x, ids = clips(5, counts, dict.fromkeys(counts, correlated(3)))
    fitted = shrinkage.fit(x, ids)
    assert fitted.inverse_covariance.shape == (7, DIMS, DIMS)
    assert torch.isfinite(fitted.held_out).all()
