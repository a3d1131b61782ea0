"""Facts about recordings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyasd.features.conditions import of_log_mels


def test_facts_are_numpys() -> None:
    log_mel = np.random.default_rng(0).normal(-40, 8, (41, 128)).astype(np.float32)
    level, floor, bandwidth = of_log_mels([torch.from_numpy(log_mel)])[0].tolist()
    x = log_mel.astype(np.float64)
    assert level == pytest.approx(x.mean(), abs=1e-4)
    assert floor == pytest.approx(np.sort(x.mean(1))[2], abs=1e-4)
    assert bandwidth == pytest.approx(x[:, 96:].mean() - x.mean(), abs=1e-4)


def test_clips_are_looked_at_one_by_one() -> None:
    clips = [torch.randn(n, 16) for n in (5, 1, 300)]
    together = of_log_mels(clips)
    assert together.shape == (3, 3)
    assert together.dtype == torch.float64
    assert torch.equal(together, torch.cat([of_log_mels([x]) for x in clips]))
    assert of_log_mels([torch.zeros(4, 2)]).tolist() == [[0.0, 0.0, 0.0]]
