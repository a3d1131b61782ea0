"""The command line as a user meets it: what its tests share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from pyasd.cli import app as cli
from pyasd.factory import factory as synthetic

ROOT = Path(__file__).resolve().parents[2]
RATE = 16000


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]
"""Runs a command in this process."""


@pytest.fixture
def pyasd(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command in this process."""

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as stop:
            cli.app([str(x) for x in arguments], prog_name="pyasd")
        out, err = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), out, err)

    return run


def usage_error(outcome: Outcome, *parts: object) -> None:
    """One clear line on stderr that says all of `parts`, nothing on stdout, no traceback."""
    assert outcome.code == 2, outcome
    assert not outcome.out
    assert outcome.err.startswith("pyasd: error: ")
    assert outcome.err.count("\n") == 1
    assert outcome.err.endswith("\n")
    for part in parts:
        assert str(part) in outcome.err


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short synthetic clips: 3 to learn from and 2 + 2 to test, of each machine."""
    folder = tmp_path_factory.mktemp("factory")
    synthetic.write(folder, train=3, test=2, seconds=1.0)
    return folder


@pytest.fixture(scope="session")
def model(factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fan's model, from the command itself."""
    return fitted(factory, tmp_path_factory.mktemp("model"), "--epochs", "1")


def fitted(factory: Path, folder: Path, *options: str) -> Path:
    """A fan's model, from the command with these options."""
    path = folder / "fan.safetensors"
    with pytest.raises(SystemExit) as stop:
        cli.app(["fit", str(factory / "fan"), "-o", str(path), *options], prog_name="pyasd")
    assert stop.value.code == 0
    return path


def normal_fans(folder: Path, count: int, seed: int) -> Path:
    """So many normal clips of each of the factory's fans, that nobody has learnt."""
    synthetic.write(folder, train=count, test=0, seconds=0.5, seed=seed)
    return folder / "fan"


def tone(seconds: float = 1.0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(7)
    return (3000 * rng.standard_normal((int(seconds * rate), channels))).astype(np.int16)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pyasd", *(str(x) for x in arguments)]
