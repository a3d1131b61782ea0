from __future__ import annotations

import pytest
import torch

from pyasd.models import dense


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


def test_a_floor_of_variances_stays_in_the_function() -> None:
    stack = dense.DenseStack([9, 6, 4], torch.Generator().manual_seed(0))
    x = torch.randn(64, 9)
    with stack.variance_floor(0.5):
        stack.train()
        in_training = stack(x)
        stack.eval()
        floored = stack(x)
    torch.testing.assert_close(stack(x), floored)
    assert stack.get_submodule("bn0").eps == pytest.approx(1e-5)
    stack.train()
    assert (in_training - stack(x)).abs().max() > 0.01  # batches' own variances have it, too


def test_spread_over_frames_averages_what_overlaps() -> None:
    values = torch.arange(1.0, 7.0).view(3, 2, 1)  # windows (1, 2), (3, 4), (5, 6)
    assert dense.spread_over_frames(values, [0, 1]).flatten().tolist() == [1, 2.5, 4.5, 6]
    last = dense.spread_over_frames(values, [1]).flatten()
    assert torch.isnan(last[0])
    assert last[1:].tolist() == [2, 4, 6]
