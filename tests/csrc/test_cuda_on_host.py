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

Check = Callable[[str, torch.Tensor], str]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    if COMPILER is None:
        pytest.skip("no C++ compiler to build the check with")
    here = Path(__file__).resolve()
    library = tmp_path_factory.mktemp("check") / "check.so"
    command = [COMPILER, "-std=c++17", "-O2", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-fno-stack-protector"]
    command += [f"-I{here.parents[2] / 'csrc'}", f"-I{here.parent}"]
    subprocess.run([*command, str(here.with_name("cuda_on_host_check.cpp")), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).check
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
            return function(list(FAULTS).index(fault), source, out.data_ptr()).decode()
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
