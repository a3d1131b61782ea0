"""Runs `in_interpreter.py` with `TRITON_INTERPRET=1`: the variable decides how kernels are made, once a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def test_kernels_in_the_interpreter(tmp_path: Path) -> None:
    cases = Path(__file__).with_name("in_interpreter.py")
    run = subprocess.run(
        [sys.executable, "-c", "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))",
         "-q", "-p", "no:cacheprovider", "--rootdir", str(cases.parents[2]), str(cases)],
        cwd=tmp_path,  # not the repository's root, whose source tree would hide an installed package
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout
