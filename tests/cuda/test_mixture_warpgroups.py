"""When the head's forward kernel multiplies by warpgroups; test_mixture.py has what it then computes."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch

from pyasd.backends import self_check
from pyasd.backends.cuda import CudaBackend

CPU = torch.device("cpu")


def test_compute_capability_9_alone_has_them(
    cuda: CudaBackend, emulation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    why = cuda.warpgroups_obstacle(CPU)  # the emulation's is 8.0
    assert why is not None
    assert "compute capability 9" in why
    CudaBackend.warpgroups_obstacle.cache_clear()
    monkeypatch.setattr(emulation, "device", lambda index: {"capability": (9, 0)})
    asked: list[bool] = []
    right = cuda.log_prob_by

    def recorded(*arguments: Any, warpgroups: bool) -> torch.Tensor:
        asked.append(warpgroups)
        return right(*arguments, warpgroups=warpgroups)

    monkeypatch.setattr(cuda, "log_prob_by", recorded)
    assert cuda.warpgroups_obstacle(CPU) is None
    assert asked == [True] * 4  # checked in both precisions, with near targets and far ones
    cuda.mixture_log_prob(*self_check.small_mixture(CPU), "float32", False)
    assert asked[4:] == [True]


def test_warps_where_they_disagree(cuda: CudaBackend, emulation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulation, "device", lambda index: {"capability": (9, 0)})
    right = cuda.log_prob_by

    def forward(*arguments: Any, warpgroups: bool) -> torch.Tensor:
        return right(*arguments, warpgroups=warpgroups) * (1.001 if warpgroups else 1)

    monkeypatch.setattr(cuda, "log_prob_by", forward)
    assert cuda.warpgroups_obstacle(CPU) == "the self-check of mixture_log_prob (float32) disagrees with the reference"
    assert self_check.disagreement(cuda, CPU) is None  # the backend goes on, by warps
