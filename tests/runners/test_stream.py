"""Streams give a file's rows, bit for bit, whatever the chunks."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

import pyasd
from pyasd import Detector
from pyasd.runners.stream import Stream
from pyasd.tables import table as results
from pyasd.tables.table import Row

RATE = 22_050
SAMPLES = (
    3000 * np.sin(2 * np.pi * 120 * np.arange(9 * RATE + 321) / RATE)
    + 300 * np.random.default_rng(0).normal(size=(2, 9 * RATE + 321))
).astype(np.int16)


@pytest.fixture(scope="module")
def detector() -> Detector:
    noise = np.random.default_rng(1).normal(0, 300, SAMPLES.shape[1])
    learnt = (SAMPLES[0] + noise).astype(np.int16)
    model = pyasd.fit([learnt], "fast", sample_rate=RATE, ids="7", window=1, hop=0.2)
    return model.calibrate([learnt], sample_rate=RATE, ids="7", window=1, hop=0.3)


def fed(stream: Stream, samples: np.ndarray, sizes: list[int]) -> list[Row]:
    rows = []
    place = 0
    for size in itertools.chain(sizes, itertools.repeat(100_000)):
        chunk = samples[..., place : place + size].copy()
        rows += stream.feed(chunk)
        chunk[:] = 0  # as a sound card's buffer
        place += size
        if place >= samples.shape[-1]:
            return [*rows, *stream.end()]
    raise AssertionError


@pytest.mark.parametrize("channel", [0, "mean", "all"])
@pytest.mark.parametrize("seed", range(3))
def test_chunks_of_any_size_give_the_files_rows(
    detector: Detector, tmp_path: Path, channel: int | str, seed: int
) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, SAMPLES.T, RATE)
    how: dict[str, object] = {"channel": channel, "false_alarms": 0.1, "confirm": (2, 3)}
    expected = detector.score(path, ids="7", window=1.0, hop=0.7, **how)  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    sizes = [int(10 ** rng.uniform(0, 5)) for _ in range(200)]
    stream = Stream(detector, RATE, 1.0, 0.7, machine_id="7", name=str(path), **how)  # type: ignore[arg-type]
    rows = fed(stream, SAMPLES, sizes)
    table = results.table(rows, detector.recipe.names, ("p_value", "decision", "confirmed"))
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert stream.seconds == SAMPLES.shape[1] / RATE


def test_a_cut_is_scored_when_it_ends(detector: Detector) -> None:
    stream = Stream(detector, RATE, 1.0, machine_id="7")
    assert stream.feed(SAMPLES[0, : RATE - 1]) == []
    (row,) = stream.feed(SAMPLES[0, RATE - 1 : RATE])
    assert (row.start, row.duration, row.status) == (0.0, 1.0, "ok")
    assert [x.start for x in stream.feed(SAMPLES[0, RATE : 4 * RATE])] == [1.0, 2.0, 3.0]
    assert stream.end() == []


def test_float_samples_and_no_samples(detector: Detector) -> None:
    stream = Stream(detector, RATE, 1.0, machine_id="7")
    assert stream.feed(np.empty(0, np.float32)) == []
    (row,) = stream.feed((SAMPLES[0, :RATE] / 32768).astype(np.float32))
    (same,) = Stream(detector, RATE, 1.0, machine_id="7").feed(SAMPLES[0, :RATE])
    assert row.score == same.score
    assert Stream(detector, RATE, 1.0, machine_id="7").end() == []


def test_what_is_wrong_with_a_cut_stands_in_its_row(detector: Detector) -> None:
    samples = SAMPLES[0, : 3 * RATE] / 32768
    samples[RATE + 5] = np.nan
    rows = Stream(detector, RATE, 1.0, machine_id="7").feed(samples)
    assert [row.status for row in rows] == ["ok", "not-finite", "ok"]
    (row,) = Stream(detector, RATE, 1.0, machine_id="8").feed(SAMPLES[0, :RATE])
    assert row.status == "unknown-id"


def test_what_can_be_no_stream(detector: Detector) -> None:
    with pytest.raises(ValueError, match="sample_rate must be a number of Hz"):
        Stream(detector, 0, 1.0)
    with pytest.raises(ValueError, match="window is a number of seconds above 0"):
        Stream(detector, RATE, 0)
    stream = Stream(detector, RATE, 1.0, machine_id="7")
    with pytest.raises(ValueError, match="samples must be"):
        stream.feed(np.zeros(3, np.int32))
    stream.feed(SAMPLES)
    for other in (SAMPLES[0], SAMPLES / 32768):
        with pytest.raises(ValueError, match="begin another stream"):
            stream.feed(other)
    stream.end()
    with pytest.raises(ValueError, match="has ended"):
        stream.feed(SAMPLES)
