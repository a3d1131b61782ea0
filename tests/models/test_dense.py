from __future__ import annotations

import numpy as np
import pytest
import torch

from pyasd.models import dense


@pytest.fixture
def scores() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(41, 3)).astype(np.float32))


def test_mean_max_and_quantile_pooling_are_numpys(scores: torch.Tensor) -> None:
    x = scores.numpy().astype(np.float64)
    np.testing.assert_allclose(dense.pool(scores, "mean"), x.mean(0), rtol=1e-12)
    np.testing.assert_array_equal(dense.pool(scores, "max"), x.max(0))
    np.testing.assert_allclose(dense.pool(scores, "quantile"), np.quantile(x, 0.95, axis=0), rtol=1e-12)


def test_rank_pooling_weights_by_rank() -> None:
    expected = (5 * 1 + 3 * 0.99 + 1 * 0.99**2) / (1 + 0.99 + 0.99**2)
    assert dense.pool(torch.tensor([[1.0], [5.0], [3.0]]), "rank").item() == pytest.approx(expected, rel=1e-12)


def test_pooling_sums_in_float64() -> None:
    many = torch.full((1_000_000, 1), 0.1)
    assert dense.pool(many, "mean").item() == pytest.approx(float(many[0]), rel=1e-13)


def test_folding_keeps_the_function() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = [(torch.rand(6, 9, generator=generator) < 0.5).float(), torch.ones(4, 6)]
    stack = dense.DenseStack([9, 6, 4], generator, masks, batch_norm_eps=1e-3)
    stack.train()
    for _ in range(5):
        stack(3 * torch.randn(64, 9) + 1)  # moves the running statistics
    stack.eval()
    x = torch.randn(17, 9)
    torch.testing.assert_close(dense.run_folded(stack.fold(torch.device("cpu")), x), stack(x), rtol=1e-5, atol=1e-6)
    assert (stack.fold(torch.device("cpu"))[0][0][masks[0] == 0] == 0).all()


def test_spread_over_frames_averages_what_overlaps() -> None:
    values = torch.arange(1.0, 7.0).view(3, 2, 1)  # windows (1, 2), (3, 4), (5, 6)
    assert dense.spread_over_frames(values, [0, 1]).flatten().tolist() == [1, 2.5, 4.5, 6]
    last = dense.spread_over_frames(values, [1]).flatten()
    assert torch.isnan(last[0])
    assert last[1:].tolist() == [2, 4, 6]
