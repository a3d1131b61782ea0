"""The emulation of a CUDA block notices what it is there to notice."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
FAULTS = {
    "none": "",
    "no barrier": "",  # shows in the result
    "no wait": "",
    "out of bounds": "out of bounds",
    "shared memory out of bounds": "out of bounds",
    "written twice": "written twice",
    "deadlock": "for ever",
    "mixed up": "different operations",
    "diverged": "for ever",
}

WGMMA_FAULTS = {
    "none": "",
    "no fence": "without a fence",
    "copies not shown": "doesn't see a copy",
    "not waited for": "",  # shows in the result
    "factor changed": "changed before",
    "matrix changed": "changed before",
    "misaligned": "not aligned",
    "half a team": "for ever",
}

Check = Callable[[str, torch.Tensor], str]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if COMPILER is None:
        pytest.skip("no C++ compiler to build the check with")
    here = Path(__file__).resolve()
    library = tmp_path_factory.mktemp("check") / "check.so"
    command = [COMPILER, "-std=c++17", "-O2", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-fno-stack-protector"]
    command += [f"-I{here.parents[2] / 'csrc'}", f"-I{here.parent}"]
    subprocess.run([*command, str(here.with_name("cuda_on_host_check.cpp")), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def check(library: ctypes.CDLL) -> Check:
    function = library.check
    function.restype = ctypes.c_char_p
    function.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]

    def run(fault: str, out: torch.Tensor) -> str:
        page = torch.arange(1024 * 1024, dtype=torch.float32)  # large: a mapping of its own
        libc = ctypes.CDLL(None)
        end = (page.data_ptr() + 4 * page.numel()) // 4096 * 4096 - 4096
        libc.mprotect(ctypes.c_void_p(end), 4096, 0)
        source = end - 256
        for i in range(64):
            ctypes.c_float.from_address(source + 4 * i).value = i
        try:
            said: bytes = function(list(FAULTS).index(fault), source, out.data_ptr())
            return said.decode()
        finally:
            libc.mprotect(ctypes.c_void_p(end), 4096, 3)

    return run


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_noticed(check: Check, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = 32 * torch.arange(63, -1, -1, dtype=torch.float32)
    right = []
    for order in ("forward", "reverse"):
        monkeypatch.setenv("PYASD_HOST_ORDER", order)
        out = torch.full((64,), float("nan"))
        message = check(fault, out)
        assert FAULTS[fault] in message
        assert bool(message) == bool(FAULTS[fault])
        right.append(torch.equal(out, expected))
    assert all(right) == (fault == "none")


@pytest.mark.parametrize("order", ["forward", "reverse"])
@pytest.mark.parametrize("fault", WGMMA_FAULTS)
def test_wgmma_and_what_is_against_its_rules(
    library: ctypes.CDLL, fault: str, order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYASD_HOST_ORDER", order)
    right = torch.randint(-8, 8, (16, 48), generator=torch.Generator().manual_seed(0)).float()
    blocks = right.bfloat16().view(2, 8, 6, 8).permute(2, 0, 3, 1).contiguous()
    left = torch.arange(64)[:, None] % 5 + torch.arange(16.0)
    out = torch.full((64, 48), float("nan"))
    library.check_wgmma.restype = ctypes.c_char_p
    library.check_wgmma.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    message = library.check_wgmma(list(WGMMA_FAULTS).index(fault), blocks.data_ptr(), out.data_ptr()).decode()
    assert WGMMA_FAULTS[fault] in message
    assert bool(message) == bool(WGMMA_FAULTS[fault])
    if not message:
        assert torch.equal(out, 2 * left @ right) == (fault == "none")
