"""Long recordings on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from pyasd.cli import terminal
from pyasd.tables import table as results

from .conftest import RATE, Command, usage_error


def machine(seconds: float, seed: int) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    return 0.1 * np.sin(2 * np.pi * 120 * time) + 0.01 * np.random.default_rng(seed).normal(size=len(time))


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """A recording of two channels, with a whistle in the second from 20 to 23 s."""
    samples = np.stack([machine(40, 2), machine(40, 3)], 1)
    samples[20 * RATE : 23 * RATE, 1] += 0.1 * np.sin(2 * np.pi * 3000 * np.arange(3 * RATE) / RATE)
    soundfile.write(tmp_path / "=night.flac", samples, RATE, subtype="PCM_16")
    return tmp_path / "=night.flac"


def test_from_a_recording_to_its_events(pyasd: Command, night: Path, tmp_path: Path) -> None:
    healthy, model, table, events = (tmp_path / x for x in ("healthy.wav", "m.safetensors", "t.csv", "events.csv"))
    soundfile.write(healthy, machine(60, 1), RATE, subtype="PCM_16")
    assert pyasd("fit", healthy, "-o", model, "--system", "fast", "--window", "1", "--hop", "0.5").code == 0
    outcome = pyasd(
        "score", night, "-m", model, "--window", "1", "--channel", "all", "--false-alarms", "2%", "-o", table,
        "--events", events,
    )  # fmt: skip
    assert outcome.code == 0, outcome
    found = pd.read_csv(events, dtype={"channel": str})
    highest = found.loc[found["peak"].idxmax()]
    assert (highest["channel"], highest["start"], highest["end"], highest["cuts"]) == ("1", 20.0, 23.0, 3)
    assert highest["clip"].startswith("/") or highest["clip"].startswith("'=")
    assert f"{len(found)} events are in" in outcome.err
    assert "0:20.0" in outcome.out
    assert "0:23.0" in outcome.out
    assert len(results.read(table)) == 80


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--window", "0"], "window is a number of seconds above 0"),
        (["--hop", "5"], "--window"),
        (["--window", "1", "--events", "e.csv"], "--false-alarms"),
        (["--window", "1", "--false-alarms", "1%", "--events", "e.txt"], ".csv or .parquet"),
    ],
)
def test_what_makes_no_sense(
    pyasd: Command,
    night: Path,
    model: Path,
    options: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    usage_error(pyasd("score", night, "-m", model, *options), words)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00.0"), (9.96, "0:10.0"), (62.54, "1:02.5"), (3599.97, "1:00:00.0"), (3723.5, "1:02:03.5")],
)
def test_the_clock(seconds: float, shown: str) -> None:
    assert terminal.clock(seconds) == shown
