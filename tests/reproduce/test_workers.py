"""Units side by side, and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from .conftest import group_made, same


@pytest.mark.slow
def test_in_parallel_it_is_the_same(data: Path, tmp_path: Path) -> None:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = group_made(data, tmp_path / "one", seeds=2, jobs=1)
        two = group_made(data, tmp_path / "two", seeds=2, jobs=2)
    finally:
        torch.set_num_threads(threads)
    assert set(two.scores["seed"]) == {0, 1}
    if len(os.sched_getaffinity(0)) in (2, 3):  # then a worker has one thread, too
        same(one.scores, two.scores)
    else:
        assert np.allclose(one.scores["system 4"], two.scores["system 4"], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_and_started_again_it_ends_with_the_same(data: Path, tmp_path: Path, jobs: int) -> None:
    """All four systems, killed again and again as soon as there is something new."""

    def start(out: Path) -> subprocess.Popen[bytes]:
        code = "from pyasd.cli.app import main; main()"
        arguments = ["reproduce", "dcase2020", "--data", data, "--quick", "--jobs", jobs, "--device", "cpu", "-o", out]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)], env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def made(out: Path) -> int:
        names = [name for _, _, files in os.walk(out) for name in files]  # passes over folders that vanish meanwhile
        return sum(name.endswith(".safetensors") for name in names) + names.count("scores.parquet")

    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    whole = start(unbroken).communicate()[0].decode()
    kills = 0
    for _ in range(3):
        before, process = made(broken), start(broken)
        while process.poll() is None and made(broken) < before + 3:
            time.sleep(0.05)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        time.sleep(1.5)  # workers notice
    last = start(broken)
    text = last.communicate()[0].decode()
    assert last.returncode == 0
    assert kills == 3
    assert text.replace(str(broken), "") == whole.replace(str(unbroken), "")
    same(pd.read_parquet(broken / "scores.parquet"), pd.read_parquet(unbroken / "scores.parquet"))
    assert "system 1, max" in text
    assert "system 3, mean" in text
