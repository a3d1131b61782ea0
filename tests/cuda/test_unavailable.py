"""What the CUDA backend says where it can't run, so that the automatic choice goes to Triton."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from pyasd.backends import cuda as backend
from pyasd.backends import self_check
from pyasd.backends.contract import Backend, LogMelPlan
from pyasd.backends.cuda import BACKEND, CudaBackend


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An extension that sees a device."""
    extension = SimpleNamespace(device_count=lambda: (1, ""), loaded=lambda index: None)
    monkeypatch.setattr(backend, "_cuda", extension, raising=False)
    return extension


@pytest.fixture
def device(extension: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A CUDA device that torch and the extension both see."""
    CudaBackend._self_check.cache_clear()
    monkeypatch.setattr(backend, "_why", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return torch.device("cuda", 0)


def test_a_device_whose_checks_pass_is_checked_once(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(self_check, "disagreement", lambda module, where: calls.append(where))
    assert BACKEND.unavailable(device) is None
    assert BACKEND.unavailable(device) is None
    assert calls == [device]


def test_each_reason_is_told(device: torch.device, extension: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(index: int) -> None:
        raise RuntimeError("CUDA: no kernel image is available for execution on the device")

    assert BACKEND.unavailable(torch.device("cpu")) == "its kernels run on CUDA tensors"
    monkeypatch.setattr(self_check, "disagreement", lambda module, where: "log_mel disagrees")
    assert BACKEND.unavailable(device) == "log_mel disagrees"
    CudaBackend._self_check.cache_clear()
    monkeypatch.setattr(extension, "loaded", refuse)
    reason = BACKEND.unavailable(device)
    assert reason is not None
    assert "no kernel was compiled for the architecture of cuda:0 (CUDA: no kernel image" in reason
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "torch sees no CUDA device" in (BACKEND.unavailable(device) or "")
    monkeypatch.setattr(extension, "device_count", lambda: (0, "CUDA driver version is insufficient"))
    assert BACKEND.unavailable(device) == "no CUDA device: CUDA driver version is insufficient"
    monkeypatch.setattr(backend, "_why", "not built")
    assert BACKEND.unavailable(device) == "not built"


def test_an_error_on_the_device_is_a_reason() -> None:
    class Broken(Backend):
        def log_mel(self, samples: Tensor, plan: LogMelPlan, lengths: Sequence[int]) -> Tensor:
            raise RuntimeError("CUDA: an illegal memory access was encountered")

    reason = self_check.disagreement(Broken(), torch.device("cpu"))
    assert reason == "the self-check failed: CUDA: an illegal memory access was encountered"
