"""The vector exp and log by themselves, compiled for each instruction set: errors in units of the last place."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pyasd.backends import cpu

FLAGS = {
    "base": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"],
}
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler to build the check with")
@pytest.mark.parametrize("isa", [name for name in cpu.supported_isas() if name in FLAGS])
def test_errors_are_as_stated(isa: str, tmp_path: Path) -> None:
    assert COMPILER is not None
    here = Path(__file__).resolve()
    program = tmp_path / "elementary"
    command = [COMPILER, "-std=c++17", "-O2", "-ffp-contract=off", f"-I{here.parents[2] / 'csrc'}", *FLAGS[isa]]
    subprocess.run([*command, str(here.with_name("elementary.cpp")), "-o", str(program)], check=True)
    found = json.loads(subprocess.run([program], check=True, capture_output=True, text=True).stdout)
    assert found["lanes"] == {"base": 4, "avx2": 8, "avx512": 16}[isa]
    assert found["exp_ulps"] <= 1.0
    assert found["exp_term_error"] <= 1.3e-7  # of e^0
    assert found["log_ulps"] <= 0.95
    assert found["decibels"] <= 5e-5
    assert found["keeps_nan"]
    assert 0 <= found["exp_of_minus_infinity"] <= 2e-38
