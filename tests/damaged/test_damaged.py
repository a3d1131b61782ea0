"""Files damaged at random, by a seed: no score is made up, nothing ends in a traceback, nothing hangs."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from .judge import judge
from .kinds import DAMAGES, KINDS, fit_small

ROOT = Path(__file__).parents[2]
CASES = int(os.environ.get("PYASD_DAMAGED_CASES", "2000"))
SECONDS = 20
"""After which a case hangs. It takes 0.03 s else; a model or a recipe may be refused only after a while."""

WRONG = ("made-up", "traceback", "hang", "crash")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model."""
    folder = tmp_path_factory.mktemp("damaged")
    fit_small(folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_some_damaged_files_of_each_kind(kind: str, folder: Path) -> None:
    for seed in range(len(DAMAGES)):
        word, what = judge(kind, seed, folder)
        assert word not in WRONG, f"{kind} {seed}: {word}: {what}"


class Judge:
    """A process that judges cases, and is replaced where one hangs or crashes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.damaged.judge", str(self.folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def __call__(self, kind: str, seed: int) -> tuple[str, str]:
        process = self.process = self.process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{kind} {seed}\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], SECONDS)
        line = process.stdout.readline() if ready else ""
        if line:
            word, what = json.loads(line)
            return word, what
        self.close()
        return ("crash", f"exit code {process.returncode}") if ready else ("hang", f"more than {SECONDS} s")

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


@pytest.mark.slow
def test_two_thousand_damaged_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judged = Judge(folder)
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
    wrong = []
    for number in range(CASES):
        kind, seed = KINDS[number % len(KINDS)], number // len(KINDS)
        word, what = judged(kind, seed)
        counts[kind][word] += 1
        if word in WRONG:
            wrong.append(f"{kind} {seed}: {word}: {what}")
    judged.close()
    words = ("same", "told", "untold", *WRONG)
    with capsys.disabled():
        print("\n" + "".join(f"{x:>10}" for x in ("kind", "cases", *words)))
        for kind, count in counts.items():
            print("".join(f"{x!s:>10}" for x in (kind, sum(count.values()), *(count[x] for x in words))))
    assert not wrong, f"{len(wrong)} of {CASES}:\n" + "\n".join(wrong)
