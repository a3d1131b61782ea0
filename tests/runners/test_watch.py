"""Scoring what lands in a folder: each file's row once, whatever happens to files, tables and runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

import pyasd
from pyasd import Detector
from pyasd.runners import watch as watching
from pyasd.runners.arrivals import Arrivals
from pyasd.tables import table as results
from pyasd.tables.writer import Writer

RATE = 16000
FAST: dict[str, Any] = {"settle": 0, "poll": 0}


def hum(seed: int, tone: float = 0.0) -> np.ndarray:
    """Half a second of a machine, with a whistle where it is faulty."""
    rng, at = np.random.default_rng(seed), np.arange(RATE // 2) / RATE
    hum = 0.1 * np.sin(2 * np.pi * 120 * at) + 0.01 * rng.normal(size=len(at))
    return np.asarray((20000 * (hum + tone * np.sin(2 * np.pi * 3000 * at))).astype(np.int16))


@pytest.fixture(scope="module")
def detector() -> Detector:
    """Two machine IDs, calibrated with 30 clips each."""
    ids = ["00", "02"] * 10
    fitted = pyasd.fit([hum(i) for i in range(20)], "fast", sample_rate=RATE, ids=ids)
    clips = [hum(100 + i) for i in range(60)]
    return fitted.calibrate(clips, sample_rate=RATE, ids=["00", "02"] * 30)


def land(folder: Path, *numbers: int, tone: float = 0.0, machine_id: str = "00") -> list[Path]:
    """Write clips of these numbers, each a second younger than the one before."""
    paths = [folder / f"normal_id_{machine_id}_{number:08}.wav" for number in numbers]
    folder.mkdir(exist_ok=True)
    for number, path in zip(numbers, paths, strict=True):
        soundfile.write(path, hum(1000 + number, tone), RATE, subtype="PCM_16")
        os.utime(path, (1_700_000_000 + number,) * 2)
    return paths


def once(folder: Path, detector: Detector, out: Path, **more: Any) -> list[str]:
    """The names of the rows that are new."""
    return [Path(row.clip).name[-6:-4] for row in pyasd.watch(folder, detector, out, once=True, **(FAST | more))]


def test_rows_are_those_of_score(detector: Detector, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "scores.csv"
    land(folder, 1, 2, 3)
    land(folder / "sub", 4, 5, machine_id="02")
    land(folder, 6, machine_id="09")
    rows = list(pyasd.watch(folder, detector, out, once=True, **FAST))
    expected = detector.score(folder)
    pd.testing.assert_frame_equal(
        results.read(out).sort_values("clip", ignore_index=True), expected.sort_values("clip", ignore_index=True)
    )
    assert [row.clip for row in rows] == results.read(out)["clip"].tolist()
    assert [row.status for row in rows] == ["ok"] * 5 + ["unknown-id"]


def test_each_file_has_its_row_once_in_the_order_of_time(detector: Detector, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "scores.csv"
    land(folder, 5, 3, 9)
    assert once(folder, detector, out) == ["03", "05", "09"]
    assert [*pyasd.watch(f"{folder}/", detector, out, once=True, **FAST)] == []
    land(folder, 4, 11)
    (folder / "normal_id_00_00000005.wav").unlink()
    assert once(folder, detector, out) == ["04", "11"]
    land(folder, 5)  # a name that has a row
    assert once(folder, detector, out) == []
    assert [name[-6:-4] for name in results.read(out)["clip"]] == ["03", "05", "09", "04", "11"]


def test_it_goes_on_until_it_is_left(detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that land while others are scored, or while nothing does; the table is free afterwards."""
    folder, out = tmp_path / "in", tmp_path / "scores.csv"
    land(folder, 1, 2)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) % 3 == 0:
            land(folder, 10 + len(pauses))

    monkeypatch.setattr(time, "sleep", pause)
    rows: Iterator[Any] = pyasd.watch(folder, detector, out, settle=0, poll=7)
    names = []
    for row in rows:
        assert row.clip in results.read(out)["clip"].tolist(), "the table has it before anybody hears of it"
        names.append(row.clip[-6:-4])
        if len(names) == 5:
            break
    rows.close()  # type: ignore[attr-defined]
    assert names == ["01", "02", "13", "16", "19"]
    assert min(pauses) == 7
    assert once(folder, detector, out) == []


def test_a_slow_folder_is_looked_at_less_often(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enough(Exception):
        pass

    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        raise Enough

    (tmp_path / "in").mkdir()
    look = Arrivals.look
    real = time.sleep
    monkeypatch.setattr(Arrivals, "look", lambda self: real(0.05) or look(self))
    monkeypatch.setattr(time, "sleep", pause)
    with pytest.raises(Enough):
        list(pyasd.watch(tmp_path / "in", detector, tmp_path / "scores.csv", poll=0.1))
    assert 0.45 <= pauses[0] < 5


def test_what_is_not_all_there_is_left_for_the_next_run(detector: Detector, tmp_path: Path) -> None:
    """A header that says more, a decoder that finds less, nothing at all: no row until it is old."""
    folder, out = tmp_path / "in", tmp_path / "scores.csv"
    paths = land(folder, 1, 2, 3, 4)
    whole = [path.read_bytes() for path in paths]
    paths[1].write_bytes(whole[1][:-2000])
    paths[2].write_bytes(b"RIFF")
    paths[3].write_bytes(b"")
    assert once(folder, detector, out) == ["01"]
    paths[1].write_bytes(whole[1])
    assert once(folder, detector, out) == ["02"]
    assert once(folder, detector, out, give_up=1e6) == []
    for number, path in enumerate(paths):
        os.utime(path, (1_700_000_000 + number,) * 2)
    assert once(folder, detector, out) == ["03", "04"]
    table = results.read(out)
    assert table["status"].tolist() == ["ok", "ok", "unreadable", "empty"]
    assert table["score"].notna().tolist() == [True, True, False, False]


def test_a_file_that_is_gone_when_it_is_read_has_no_row(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a drive is lost: the file is scored when it is back."""
    folder, out = tmp_path / "in", tmp_path / "scores.csv"
    paths = land(folder, 1, 2, 3)
    content = paths[1].read_bytes()
    clip = Arrivals.clip

    def lose(self: Arrivals, file: Any, last: bool = False) -> Any:
        found = clip(self, file, last)
        paths[1].unlink(missing_ok=True)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Arrivals, "clip", lose)
        assert once(folder, detector, out) == ["01", "03"]
    paths[1].write_bytes(content)
    assert once(folder, detector, out) == ["02"]


def test_a_run_that_fails_keeps_what_it_scored(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "in", tmp_path / "scores.csv"
    land(folder, *range(1, 10))
    monkeypatch.setattr(watching, "TOGETHER", 4)
    write, calls = Writer.write, []

    def fail(self: Writer, rows: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError("disk full")
        write(self, rows)

    monkeypatch.setattr(Writer, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        once(folder, detector, out)
    monkeypatch.setattr(Writer, "write", write)
    assert len(results.read(out)) == 4
    assert once(folder, detector, out) == ["05", "06", "07", "08", "09"]


CONFIRMED: dict[str, Any] = {"false_alarms": 0.1, "confirm": (2, 3)}


def test_decisions_look_back_at_runs_before(detector: Detector, tmp_path: Path) -> None:
    """In four runs, the rows are those of a single one, which are those of score."""
    folder, out, whole = tmp_path / "in", tmp_path / "scores.csv", tmp_path / "whole.csv"
    for number in range(24):
        tone = 0.1 if number in (3, 4, 9, 10, 13, 15, 16, 20) else 0.0
        land(folder, number, tone=tone, machine_id=("00", "02")[number % 4 == 1])
        if number % 6 == 5:
            once(folder, detector, out, **CONFIRMED)
    once(folder, detector, whole, **CONFIRMED)
    assert out.read_bytes() == whole.read_bytes()
    table = results.read(out)
    assert table["confirmed"][6] == "anomaly", "by clips 3 and 4, of the run before"
    expected = detector.score(table["clip"].tolist(), **CONFIRMED)
    pd.testing.assert_frame_equal(table, expected)


CUT: dict[str, Any] = {"window": 0.5, "channel": "all"} | CONFIRMED


def long(folder: Path, *numbers: int) -> list[Path]:
    """Write recordings of two channels and two seconds, in which a fault begins."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"normal_id_00_{number:08}.wav" for number in numbers]
    for number, path in zip(numbers, paths, strict=True):
        parts = [hum(5000 + 10 * number + i, 0.1 if i == 2 else 0.0) for i in range(8)]
        soundfile.write(path, np.concatenate(parts).reshape(2, -1).T, RATE, subtype="PCM_16")
        os.utime(path, (1_700_000_000 + number,) * 2)
    return paths


def test_cuts_and_channels_have_their_rows_once_wherever_a_run_was_killed(detector: Detector, tmp_path: Path) -> None:
    """What `confirm` looks back at, too. The rows that there are stay as they are: others may have read them."""
    folder, out, whole = tmp_path / "in", tmp_path / "scores.csv", tmp_path / "whole.csv"
    long(folder, 1, 2, 3)
    assert once(folder, detector, whole, **CUT) == ["01"] * 8 + ["02"] * 8 + ["03"] * 8
    table = results.read(whole)
    pd.testing.assert_frame_equal(table, detector.score(folder, **CUT))
    assert {"normal", "anomaly"} == set(table["confirmed"])
    lines = whole.read_bytes().splitlines(keepends=True)
    for kept in (1, 2, 5, 8, 9, 13, 17, 24, 25):
        head = b"".join(lines[:kept])
        out.write_bytes(head + b"".join(lines[kept : kept + 1])[:40])
        Path(f"{out}.json").write_bytes(Path(f"{whole}.json").read_bytes())
        assert len(once(folder, detector, out, **CUT)) == 25 - kept
        assert out.read_bytes() == whole.read_bytes()
    assert once(folder, detector, out, **CUT) == []


def test_rows_of_a_recording_that_has_gone_stay(detector: Detector, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "scores.csv"
    paths = long(folder, 1, 2)
    once(folder, detector, out, **CUT)
    paths[1].unlink()
    long(folder, 3)
    assert once(folder, detector, out, **CUT) == ["03"] * 8
    assert [name[-6:-4] for name in results.read(out)["clip"]] == ["01"] * 8 + ["02"] * 8 + ["03"] * 8


def test_a_recording_of_which_a_cut_cannot_be_scored_has_all_its_rows_or_none(
    detector: Detector, tmp_path: Path
) -> None:
    """NaN may be what a copy hasn't filled yet: it is tried again, and then there is a row for each cut, once."""
    folder, out = tmp_path / "in", tmp_path / "scores.csv"
    (path,) = long(folder, 1)
    samples, _ = soundfile.read(path)
    samples[RATE : RATE + 5] = np.nan
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    cut: dict[str, Any] = {"window": 0.5}
    assert once(folder, detector, out, **cut) == []
    assert once(folder, detector, out, give_up=0, **cut) == ["01"] * 4
    assert results.read(out)["status"].tolist() == ["ok", "ok", "not-finite", "ok"]
    assert once(folder, detector, out, give_up=0, **cut) == []
    lines = out.read_bytes().splitlines(keepends=True)
    for kept in (2, 3, 4):
        out.write_bytes(b"".join(lines[:kept]))
        assert len(once(folder, detector, out, give_up=0, **cut)) == 5 - kept
        assert out.read_bytes() == b"".join(lines)


def test_what_cannot_be_watched(detector: Detector, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "scores.csv"
    with pytest.raises(FileNotFoundError, match=r"in doesn't exist: give the folder"):
        pyasd.watch(folder, detector, out)
    (path,) = land(folder, 1)
    with pytest.raises(FileNotFoundError, match=r"wav is a file: give the folder"):
        pyasd.watch(path, detector, out)
    with pytest.raises(ValueError, match="poll must be a number of seconds from 0 on, not -1"):
        pyasd.watch(folder, detector, out, poll=-1)
    with pytest.raises(ValueError, match="settle must be"):
        pyasd.watch(folder, detector, out, settle=-1)
    with pytest.raises(ValueError, match=r"finished \.csv file alone"):
        pyasd.watch(folder, detector, tmp_path / "scores.parquet")
    with pytest.raises(ValueError, match="need false_alarms="):
        pyasd.watch(folder, detector, out, confirm=(1, 2))
    with pytest.raises(FileNotFoundError, match="no model file"):
        pyasd.watch(folder, tmp_path / "no.safetensors", out)
    assert not out.exists()
    once(folder, detector, out)
    for change in ({"channel": "mean"}, {"false_alarms": 0.1}, {"ids": "02"}, {"unknown_ids": "pool"}):
        with pytest.raises(ValueError, match="was begun with"):
            once(folder, detector, out, **change)


def test_machine_ids_and_types_may_be_told(detector: Detector, tmp_path: Path) -> None:
    land(tmp_path / "in", 1, machine_id="77")
    (row,) = pyasd.watch(tmp_path / "in", detector, tmp_path / "s.csv", once=True, ids="02", machine_type="", **FAST)
    assert (row.status, row.machine_id) == ("ok", "02")
