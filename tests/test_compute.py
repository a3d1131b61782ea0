"""Devices, backend and arithmetic: what "auto" stands for, and what can't be."""

from __future__ import annotations

import pytest
import torch

from pyasd.compute import CPU, Compute


def test_without_arguments_everything_is_on_the_cpu_in_float32() -> None:
    compute = Compute()
    assert (compute.devices, compute.backend, compute.precision, compute.mixed) == ((CPU,), "auto", "float32", False)
    assert compute.device == CPU


@pytest.mark.parametrize("gpu", [True, False])
def test_auto_is_a_gpu_where_there_is_one(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = torch.empty

    def empty(*size: int, device: str) -> torch.Tensor:
        asked.append(device)
        return real(*size, device="meta" if device == "cuda" else device)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch, "empty", empty)
    assert Compute.choose().device.type == ("meta" if gpu else "cpu")
    assert asked == ["cuda" if gpu else "cpu"]


@pytest.mark.parametrize(
    ("asked", "precision", "mixed"),
    [("auto", "float32", True), ("float32", "float32", False), ("bfloat16", "bfloat16", False)],
)
def test_precision_is_mixed_where_nobody_asked_for_one(asked: str, precision: str, mixed: bool) -> None:
    compute = Compute.choose("cpu", "reference", asked)
    assert (compute.precision, compute.mixed, compute.backend) == (precision, mixed, "reference")


def test_several_devices_of_one_type() -> None:
    compute = Compute.choose("cpu, cpu")
    assert compute.devices == (CPU, CPU)
    assert compute.device == CPU
    assert compute.on([CPU]) == Compute((CPU,), "auto", "float32", True)


def test_devices_that_are_not_there_or_do_not_go_together() -> None:
    with pytest.raises(ValueError, match=r"torch has no device 'cpu,nonsense' here: give device=\"cpu\""):
        Compute.choose("cpu,nonsense")
    with pytest.raises(ValueError, match="devices must be of one type, not 'cpu,meta'"):
        Compute.choose("cpu,meta")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_missing() -> None:
    with pytest.raises(ValueError, match="torch has no device 'cuda' here"):
        Compute.choose("cuda")


def test_a_precision_that_is_none() -> None:
    with pytest.raises(ValueError, match="precision must be 'auto', 'float32' or 'bfloat16', not 'float16'"):
        Compute.choose("cpu", precision="float16")
