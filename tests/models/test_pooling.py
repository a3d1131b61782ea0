from __future__ import annotations

import numpy as np
import pytest
import torch

from pyasd.models.pooling import Pooling, pool, pool_clips


@pytest.fixture
def scores() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(41, 3)).astype(np.float32))


def test_mean_max_and_quantile_pooling_are_numpys(scores: torch.Tensor) -> None:
    x = scores.numpy().astype(np.float64)
    np.testing.assert_allclose(pool(scores, "mean"), x.mean(0), rtol=1e-12)
    np.testing.assert_array_equal(pool(scores, "max"), x.max(0))
    np.testing.assert_allclose(pool(scores, "quantile"), np.quantile(x, 0.95, axis=0), rtol=1e-12)


def test_rank_pooling_weights_by_rank() -> None:
    expected = (5 * 1 + 3 * 0.99 + 1 * 0.99**2) / (1 + 0.99 + 0.99**2)
    assert pool(torch.tensor([[1.0], [5.0], [3.0]]), "rank").item() == pytest.approx(expected, rel=1e-12)


def test_pooling_sums_in_float64() -> None:
    many = torch.full((1_000_000, 1), 0.1)
    assert pool(many, "mean").item() == pytest.approx(float(many[0]), rel=1e-13)


@pytest.mark.parametrize("pooling", ["mean", "max", "quantile", "rank"])
@pytest.mark.parametrize("counts", [(1,), (2,), (4, 4), (5, 3, 1), (1, 2), (7, 16, 9), (17,)])
def test_clips_are_pooled_as_if_each_were_alone(pooling: Pooling, counts: tuple[int, ...]) -> None:
    scores = torch.randn(sum(counts), 3)
    clips = torch.split(scores, list(counts))
    together = pool_clips(scores, counts, pooling)
    assert torch.equal(together, torch.stack([pool(x, pooling) for x in clips]))
    if pooling == "mean":
        torch.testing.assert_close(together, torch.stack([x.double().mean(0) for x in clips]), rtol=1e-12, atol=1e-12)
