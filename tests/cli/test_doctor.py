"""The command `doctor`."""

from __future__ import annotations

import pytest
import torch

from .conftest import Command


def test_doctor(pyasd: Command) -> None:
    outcome = pyasd("doctor")
    facts = {line[:18].strip(): line[18:] for line in outcome.out.splitlines()}
    assert outcome.code == (0 if facts["backend cpu"] == "ready" else 1)
    assert {"pyasd", "torch", "CPU kernels", "GPU", "backend reference", "backend cuda", "soundfile"} <= facts.keys()
    assert facts["backend reference"] == "ready"


@pytest.mark.parametrize(
    ("cuda", "hip", "words"),
    [
        (None, None, "is a build without CUDA and ROCm"),
        ("13.0", None, "no driver answers, or it is older than CUDA 13.0 needs"),
        (None, "6.4", "no driver answers, or it is older than ROCm 6.4 needs"),
    ],
)
def test_doctor_says_why_there_is_no_gpu(
    pyasd: Command, monkeypatch: pytest.MonkeyPatch, cuda: str | None, hip: str | None, words: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    facts = {line[:18].strip(): line[18:] for line in pyasd("doctor").out.splitlines()}
    assert words in facts["GPU"]
    for backend in ("cuda", "triton"):
        assert facts[f"backend {backend}"] != "ready"


@pytest.mark.parametrize("why", [None, "the self-check of the hidden layers (float32) disagrees with the reference"])
def test_doctor_says_which_cuda_kernels_run(pyasd: Command, monkeypatch: pytest.MonkeyPatch, why: str | None) -> None:
    from pyasd import backends
    from pyasd.backends import cuda

    monkeypatch.setattr(backends, "available", lambda: dict.fromkeys(backends.NAMES))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda.CudaBackend, "unavailable", lambda self, device=None: None)
    monkeypatch.setattr(cuda.CudaBackend, "hidden_layers_obstacle", lambda self, device: why)
    monkeypatch.setattr(cuda.CudaBackend, "warpgroups_obstacle", lambda self, device: why)
    facts = {line[:18].strip(): line[18:] for line in pyasd("doctor").out.splitlines()}
    assert facts["backend cuda"] == "ready"
    assert facts["CUDA trunk"] == ("ready" if why is None else f"in torch: {why}")
    assert facts["CUDA wgmma"] == ("ready" if why is None else f"not used: {why}")


def test_doctor_without_the_native_kernels(pyasd: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyasd import backends

    monkeypatch.setattr(backends, "available", lambda: dict.fromkeys(backends.NAMES, "it is not built here"))
    outcome = pyasd("doctor")
    assert outcome.code == 1
    assert "it is not built here" in outcome.out
    assert "install pyasd again" in outcome.err
