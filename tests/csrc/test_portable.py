"""The portable kernels on 64-bit ARM: cross-compiled, run by an emulator, and compared with this processor's.

They need a cross compiler and an emulator (Debian's g++-aarch64-linux-gnu and qemu-user).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
ARM = ("aarch64-linux-gnu-g++", "qemu-aarch64")


def results(compiler: str, program: Path, emulator: tuple[str, ...] = ()) -> np.ndarray:
    """All that `portable.cpp` writes when it is built by `compiler` with the extension's own flags."""
    sources = [HERE / "portable.cpp", *sorted((CSRC / "cpu").glob("*.cpp"))]
    flags = ["-std=c++17", "-O3", "-ffp-contract=off", f"-I{CSRC}", "-pthread", "-static"]
    subprocess.run([compiler, *flags, *map(str, sources), "-o", str(program)], check=True)
    run = subprocess.run([*emulator, str(program)], check=True, capture_output=True)
    return np.frombuffer(run.stdout, np.float32)


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler to build the check with")
@pytest.mark.skipif(not all(map(shutil.which, ARM)), reason=f"{' and '.join(ARM)} are not installed")
def test_arm_gives_the_same(tmp_path: Path) -> None:
    assert COMPILER is not None
    ours = results(COMPILER, tmp_path / "here")
    arm = results(ARM[0], tmp_path / "arm", ARM[1:])
    assert len(ours) > 10_000
    assert np.isfinite(ours).all()
    assert np.array_equal(ours, arm)
