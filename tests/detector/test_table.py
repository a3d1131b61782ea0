"""Scores collected in a table, and written as they come."""

from __future__ import annotations

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
from pyasd.detector.table import collect, open_table
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


def test_no_file_is_opened_where_none_is_wanted() -> None:
    with open_table(None, ("a",)) as writer:
        assert writer is None


def test_the_table_says_how_it_was_computed(detector: Detector, clips: list[Clip]) -> None:
    scores = collect(Scoring(detector, score_mode="joint"), clips, detector.recipe.names, None)
    assert len(scores) == 10
    assert scores.attrs == {"precision": "float32", "modes": {"group-made": "joint"}}
    assert collect(Scoring(detector), [], detector.recipe.names, None).columns.tolist() == scores.columns.tolist()


def test_the_file_has_the_rows_of_the_table(detector: Detector, clips: list[Clip], tmp_path: Path) -> None:
    for path in (tmp_path / "scores.csv", tmp_path / "scores.parquet"):
        with open_table(path, detector.recipe.names) as writer:
            scores = collect(Scoring(detector), clips, detector.recipe.names, writer)
        pd.testing.assert_frame_equal(read(path), scores, check_exact=True)


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
    with pytest.raises(KeyboardInterrupt), open_table(path, detector.recipe.names) as writer:
        collect(Scoring(detector), clips, detector.recipe.names, writer)
    assert seen == [0] * 4 + [4] * 4 + [8] * 2
    assert read(f"{path}.partial")["clip"].tolist() == [f"clip {i}" for i in range(9)]
    assert not path.exists()
