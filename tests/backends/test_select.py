"""Which backend runs, and what is said where none can."""

from __future__ import annotations

import pytest
import torch

from pyasd import backends
from pyasd.backends import cpu
from pyasd.errors import BackendUnavailable

CPU = torch.device("cpu")


def test_automatic_choice_on_cpu_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYASD_BACKEND", raising=False)
    assert backends.select("auto", CPU).name == "cpu"
    assert backends.select("reference", CPU).name == "reference"


def test_environment_variable_overrides_auto_but_not_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYASD_BACKEND", "reference")
    assert backends.select("auto", CPU).name == "reference"
    assert backends.select("cpu", CPU).name == "cpu"
    monkeypatch.setenv("PYASD_BACKEND", "cuda")
    with pytest.raises(BackendUnavailable, match="'cuda' can't run on cpu"):
        backends.select("auto", CPU)


def test_automatic_choice_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYASD_BACKEND", raising=False)
    monkeypatch.setattr(backends, "_unavailable", lambda name, device: None if name == "reference" else "broken")
    assert backends.select("auto", CPU).name == "reference"
    with pytest.raises(BackendUnavailable, match="broken"):
        backends.select("cpu", CPU)


def test_available_names_every_backend() -> None:
    known = backends.available()
    assert list(known) == list(backends.NAMES)
    assert known["reference"] is None
    assert known["cpu"] is None


def test_isa_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cpu.supported_isas():
        monkeypatch.setenv("PYASD_CPU_ISA", name)
        assert cpu.isa() == name
    monkeypatch.setenv("PYASD_CPU_ISA", "")
    assert cpu.isa() == cpu.supported_isas()[-1]
    monkeypatch.setenv("PYASD_CPU_ISA", "sse9")
    with pytest.raises(ValueError, match="choose from base, avx2, avx512, avx512bf16, amx, amx-emulated"):
        cpu.isa()


def test_emulated_tiles_are_asked_for_by_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu.EMULATED not in cpu.supported_isas()
    monkeypatch.setenv("PYASD_CPU_ISA", cpu.EMULATED)
    why = cpu.isa_obstacle(cpu.EMULATED)
    if why is None:
        assert cpu.isa() == cpu.EMULATED
    else:
        with pytest.raises(ValueError, match=why):
            cpu.isa()


def test_a_level_that_is_not_there_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "isa_obstacle", lambda name: None if name == "base" else "its self-check failed")
    cpu._isa.cache_clear()
    try:
        monkeypatch.setenv("PYASD_CPU_ISA", "amx")
        assert cpu.isa() == "base"
        monkeypatch.setenv("PYASD_CPU_ISA", cpu.EMULATED)
        with pytest.raises(ValueError, match="its self-check failed"):
            cpu.isa()
    finally:
        cpu._isa.cache_clear()
