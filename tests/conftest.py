"""Fixtures shared by all tests."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch's idle threads must not spin against the native pool

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pyasd import backends, ops
from pyasd.backends import cpu
from pyasd.backends.contract import Backend
from pyasd.errors import BackendUnavailable


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real recordings, which are not part of the repository; skip where none is named."""
    folder = os.environ.get("PYASD_REAL_DATA")
    if not folder:
        pytest.skip("PYASD_REAL_DATA names no folder of real recordings")
    if not Path(folder).is_dir():
        pytest.fail(f"PYASD_REAL_DATA: there is no folder {folder}")
    return Path(folder)


@pytest.fixture
def latin1(tmp_path: Path) -> Path:
    """Return a folder whose name is not UTF-8; skip where there are no such names."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/L\xfcfter"))
    try:
        path.mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    return path


@pytest.fixture(params=[name for name in cpu.ISAS if cpu.isa_obstacle(name) is None])
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that this machine has or emulates, in turn."""
    monkeypatch.setenv("PYASD_CPU_ISA", request.param)
    name: str = request.param
    return name


@dataclass(frozen=True)
class Engine:
    """A backend, and the device that its tensors lie on."""

    backend: str
    device: torch.device

    @property
    def implementation(self) -> Backend:
        return backends.load(self.backend)

    def put(self, *things: Any) -> Any:
        """Tensors, heads and networks on the device; one alone as it is, several as a list."""
        moved = [self._put(x) for x in things]
        return moved[0] if len(moved) == 1 else moved

    def _put(self, x: Any) -> Any:
        if isinstance(x, ops.MixtureHead):
            there = ops.MixtureHead.__new__(ops.MixtureHead)
            there.weight, there.bias, there.shape = self._put(x.weight), self._put(x.bias), x.shape
            return there
        if isinstance(x, ops.GroupMadeNetwork):
            layers = tuple((self._put(w), self._put(b)) for w, b in x.layers)
            return ops.GroupMadeNetwork(self._put(x.band_mean), self._put(x.band_scale), layers, self._put(x.head))
        return x.to(self.device)


GPU_BACKENDS = [pytest.param(name, marks=[pytest.mark.gpu, getattr(pytest.mark, name)]) for name in ("cuda", "triton")]


@pytest.fixture(params=["cpu", *GPU_BACKENDS])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Every backend but the reference, `cuda` and `triton` with -m gpu."""
    return _engine(request.param)


@pytest.fixture(params=[*cpu.supported_isas(), *GPU_BACKENDS])
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """As `engine`, and the CPU's with each instruction set that this machine has."""
    if request.param in cpu.ISAS:
        monkeypatch.setenv("PYASD_CPU_ISA", request.param)
        return _engine("cpu")
    return _engine(request.param)


@pytest.fixture(params=GPU_BACKENDS)
def gpu_engine(request: pytest.FixtureRequest) -> Engine:
    """Every backend of a GPU."""
    return _engine(request.param)


@pytest.fixture
def make_engine() -> Callable[[str], Engine]:
    """The engine of a backend's name; skips where that can't run."""
    return _engine


def _engine(backend: str) -> Engine:
    if backend == "cpu":
        return Engine("cpu", torch.device("cpu"))
    device = torch.device("cuda")
    try:  # asks this backend alone: a fault of another's self-check would end this process's device too
        backends.select(backend, device)
    except BackendUnavailable as error:
        pytest.skip(str(error))
    return Engine(backend, device)


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """Each test starts from the same random numbers."""
    torch.manual_seed(0)
    yield
