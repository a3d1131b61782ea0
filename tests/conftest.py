"""Fixtures shared by all tests."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch's idle threads must not spin against the native pool

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pyasd.backends import cpu


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings; they are not part of the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PYASD_REAL_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}: set PYASD_REAL_DATA")
    return folder


@pytest.fixture(params=[name for name in cpu.ISAS if cpu.isa_obstacle(name) is None])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that this machine has or emulates, in turn."""
    monkeypatch.setenv("PYASD_CPU_ISA", request.param)
    name: str = request.param
    return name


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """Each test starts from the same random numbers."""
    torch.manual_seed(0)
    yield
