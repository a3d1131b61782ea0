"""Scores collected in a table, and written as they come."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pyasd
from pyasd.clips import Clip, find
from pyasd.detector import Detector, table
from pyasd.detector.scoring import Scoring
from pyasd.detector.table import Rows
from pyasd.tables.table import Row, read

TINY: dict[str, Any] = {"n_mels": 16, "hidden": (8, 8), "components": 2, "epochs": 1, "features": "log-mel"}


def log_mels(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(-40, 8, (count, 30, 16)).astype(np.float32))


@pytest.fixture(scope="module")
def detector() -> Detector:
    return pyasd.fit(log_mels(6), ids="00", members=("group-made",), device="cpu", **TINY)


@pytest.fixture
def clips() -> list[Clip]:
    return list(find(log_mels(10), features="log-mel", ids="00"))


def rows(detector: Detector, clips: list[Clip], out: Path | None = None, **how: Any) -> Rows:
    return Rows(Scoring(detector, **how), iter(clips), detector.recipe.names, out)


def test_the_table_says_how_it_was_computed(detector: Detector, clips: list[Clip]) -> None:
    scores = rows(detector, clips, score_mode="joint").table()
    assert len(scores) == 10
    assert scores.attrs == {"precision": "float32", "modes": {"group-made": "joint"}}
    assert rows(detector, []).table().columns.tolist() == scores.columns.tolist()


def test_the_file_has_the_rows_of_the_table(detector: Detector, clips: list[Clip], tmp_path: Path) -> None:
    for path in (tmp_path / "scores.csv", tmp_path / "scores.parquet"):
        scores = rows(detector, clips, path).table()
        pd.testing.assert_frame_equal(read(path), scores, check_exact=True)


def test_tables_in_parts_are_the_table(detector: Detector, clips: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows(detector, clips).table()
    monkeypatch.setattr(table, "CHUNK", 4)
    parts = list(rows(detector, clips).tables())
    assert [len(part) for part in parts] == [4, 4, 2]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole)
    assert [len(part) for part in rows(detector, []).tables()] == [0]


def test_an_archive_is_scored_while_it_is_listed(
    detector: Detector, clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = 0

    def finding() -> Iterator[Clip]:
        nonlocal listed
        while True:  # an archive without an end
            for clip in clips:
                listed += 1
                yield clip

    monkeypatch.setattr(table, "COUNTED", 20)
    heard: list[int] = []
    scoring = Scoring(detector, progress=lambda stage, done, total, info: heard.append(total))
    endless = Rows(scoring, finding(), detector.recipe.names)
    for number, row in enumerate(itertools.islice(endless, 2000)):
        assert row.clip == f"clip {number % 10}"
        assert listed - number < 400
    endless.close()
    assert set(heard) == {0}, "nobody knows how many there are"
    scoring = Scoring(detector, progress=lambda stage, done, total, info: heard.append(total))
    list(Rows(scoring, iter(clips), detector.recipe.names))
    assert heard[-1] == 10


def test_memory_does_not_grow_with_an_archive(
    detector: Detector, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "COUNTED", 500)

    def peak(count: int) -> int:
        endless = Rows(Scoring(detector), itertools.cycle(clips), detector.recipe.names, tmp_path / f"{count}.csv")
        tracemalloc.start()
        for _ in itertools.islice(endless, count):
            pass
        endless.close()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(600)  # what is made once
    assert peak(4_000) < peak(1_000) + (1 << 19), "3,000 rows take two to three times as much"


def test_rows_that_are_left_are_in_the_unfinished_table(detector: Detector, clips: list[Clip], tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    some = rows(detector, clips, path)
    next(some)
    some.close()
    assert len(read(f"{path}.partial")) == 10
    assert not path.exists()


def test_rows_are_written_as_they_come(
    detector: Detector, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four at a time; what came before an interruption is kept, to the last row."""
    seen: list[int] = []
    path = tmp_path / "scores.csv"
    monkeypatch.setattr(table, "BATCH_CLIPS", 4)
    real = Scoring.rows

    def interrupted(self: Scoring, found: Any) -> Iterator[Row]:
        for number, row in enumerate(real(self, found)):
            seen.append(len(Path(f"{path}.partial").read_text().splitlines()) - 1)
            if number == 9:
                raise KeyboardInterrupt
            yield row

    monkeypatch.setattr(Scoring, "rows", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rows(detector, clips, path).table()
    assert seen == [0] * 4 + [4] * 4 + [8] * 2
    assert read(f"{path}.partial")["clip"].tolist() == [f"clip {i}" for i in range(9)]
    assert not path.exists()
