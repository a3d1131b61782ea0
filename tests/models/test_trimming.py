"""Which clips are learnt where some may be anomalous."""

from __future__ import annotations

import numpy as np
import torch

from pyasd.models.trimming import usual


def features(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(shift, 1, (count, 12)))


def test_three_quarters_of_each_id_are_taken_and_the_odd_ones_are_not_among_them() -> None:
    x = torch.cat([features(32, 0), features(8, 1, 5.0), features(12, 2, 40.0)])
    chosen = usual(x, ["00"] * 40 + ["01"] * 12)
    assert int(chosen[:40].sum()) == 30
    assert not chosen[32:40].any()
    assert int(chosen[40:].sum()) == 9


def test_odd_ones_that_lie_close_together_are_still_odd() -> None:
    """Eight equal clips are each other's nearest, but of ten neighbours some are others."""
    x = torch.cat([features(32, 0), features(1, 1, 5.0).expand(8, -1)])
    assert not usual(x, ["00"] * 40)[32:].any()


def test_of_few_clips_all_are_taken() -> None:
    assert usual(features(4, 0), ["00"] * 4).all()
    assert usual(features(5, 0), ["00"] * 4 + ["01"]).all()
