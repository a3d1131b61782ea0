"""The CUDA backend on the host: the kernels' own source, compiled against tests/csrc/cuda_on_host.h, on CPU tensors."""

from __future__ import annotations

import ctypes
import importlib.util
import mmap
import os
import shutil
import subprocess
import sysconfig
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from pyasd import ops
from pyasd.backends import cuda as backend
from pyasd.backends.cuda import CudaBackend

ROOT = Path(__file__).resolve().parents[2]
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
FLAGS = ["-std=c++17", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"]
FLAGS += ["-fno-stack-protector", "-U_FORTIFY_SOURCE"]  # stacks are switched by long jumps
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


@pytest.fixture(scope="session")
def emulation(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """`pyasd._cuda`, but for the host."""
    if COMPILER is None:
        pytest.skip("no C++ compiler to build the emulation with")
    folder = tmp_path_factory.mktemp("cuda_on_host")
    headers = [ROOT / "csrc", ROOT / "tests" / "csrc", sysconfig.get_path("include")]
    pybind11 = Path(torch.__file__).parent / "include"  # torch brings its headers
    command = [COMPILER, *FLAGS, *[f"-I{path}" for path in headers], "-isystem", str(pybind11), "-c"]
    sources = {"kernels.o": ROOT / "tests/csrc/cuda_on_host.cpp", "bindings.o": ROOT / "csrc/bindings/cuda.cpp"}
    builds = [subprocess.Popen([*command, str(path), "-o", str(folder / name)]) for name, path in sources.items()]
    assert not any([build.wait() for build in builds])
    library = folder / "_cuda.so"
    subprocess.run([COMPILER, "-shared", *[str(folder / name) for name in sources], "-o", str(library)], check=True)
    spec = importlib.util.spec_from_file_location("_cuda", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def guarded_empty(*size: int | Sequence[int], dtype: torch.dtype = torch.float32, **_: Any) -> Tensor:
    """A tensor of NaN (or of all bits set) whose memory ends where a page begins that can't be touched."""
    shape = torch.Size([n for part in size for n in ([part] if isinstance(part, int) else part)])
    count = max(1, shape.numel() * dtype.itemsize)
    page = mmap.PAGESIZE
    length = (count + page - 1) // page * page + 2 * page
    start = LIBC.mmap(None, length, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    LIBC.mprotect(start + page, length - 2 * page, mmap.PROT_READ | mmap.PROT_WRITE)
    memory = (ctypes.c_byte * count).from_address(start + length - page - count)
    weakref.finalize(memory, LIBC.munmap, start, length)
    ctypes.memset(memory, 0xFF, count)
    if shape.numel() == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def guarded(x: Tensor) -> Tensor:
    """A copy of `x` between guards, with its strides; what lies between its rows is NaN."""
    if x.numel() == 0:
        return x
    reach = 1 + sum((n - 1) * stride for n, stride in zip(x.shape, x.stride(), strict=True))
    copy = guarded_empty(reach, dtype=x.dtype).as_strided(x.shape, x.stride())
    return copy.copy_(x)


@pytest.fixture
def cuda(emulation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> CudaBackend:
    """The backend, launching into the emulation; what it allocates lies between guards and is NaN."""
    monkeypatch.setattr(backend, "_cuda", emulation, raising=False)
    monkeypatch.setattr(backend, "_why", None)
    monkeypatch.setattr(backend, "_queue", lambda x: backend._Queue(0, 0))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size, **k: guarded_empty(*size, **k))
    monkeypatch.setattr(torch, "empty_like", lambda x, **k: guarded_empty(x.shape, dtype=x.dtype))
    backend._head.cache_clear()
    backend._packed.clear()
    backend._trunks.clear()
    return CudaBackend()


@pytest.fixture(params=[False, True], ids=["warps", "warpgroups"])
def warpgroups(request: pytest.FixtureRequest, cuda: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The head's forward kernel multiplies by warps, as on any architecture, or by warpgroups, as on sm_90a."""
    monkeypatch.setattr(cuda, "warpgroups_obstacle", lambda device: None if request.param else "not asked for")
    return bool(request.param)


def misaligned(x: Tensor) -> Tensor:
    """The same numbers, beginning a byte after where an element may begin."""
    raw = bytearray(1) + bytearray(x.contiguous().numpy().tobytes())
    return torch.frombuffer(raw, dtype=x.dtype, offset=1).view(x.shape)


@pytest.fixture(params=["forward", "reverse"])
def order(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Threads of a block run first to last, or last to first."""
    monkeypatch.setenv("PYASD_HOST_ORDER", request.param)
    return str(request.param)


ORDER = (1, 2, 5, 3, 4)


def make_head(hidden: int, dims: int, components: int, degrees_out: tuple[int, ...] = ORDER) -> ops.MixtureHead:
    degrees = sorted(1 + i % 4 for i in range(hidden))
    weight = 0.1 * torch.randn(3 * dims * components, hidden)
    bias = 0.3 * torch.randn(3 * dims * components)
    return ops.MixtureHead(guarded(weight), guarded(bias), degrees, degrees_out, components)


def make_windows(head: ops.MixtureHead, windows: int) -> tuple[Tensor, Tensor]:
    hidden = torch.randn(windows, head.weight.shape[1]).relu()
    return guarded(hidden), guarded(torch.randn(windows, head.shape.dims))
