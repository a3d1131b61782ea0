"""A run goes on where another was ended, with each row once, and only with what made the rows before."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pyasd import storage
from pyasd.tables import table as results
from pyasd.tables.table import Row
from pyasd.tables.writer import Resume, Writer

from .test_table import EXTENSIONS, MEMBERS

MADE_BY: dict[str, Any] = {"model": "abc", "channel": 0, "ids": ["00"], "score_mode": None}
ROWS = [Row(name, error="a\nb") for name in ("a.wav", 'b"\n.wav', "=c.wav", "a.wav", "é\udcff.wav", "d\r.wav")]


def begin(path: Path, rows: list[Row], made_by: dict[str, Any] | None = None, resume: Resume = False) -> Writer:
    """Write rows and end as a kill does."""
    writer = Writer(path, MEMBERS, made_by=made_by or MADE_BY, resume=resume)
    with pytest.raises(KeyboardInterrupt), writer:  # noqa: PT012
        writer.write(rows)
        raise KeyboardInterrupt
    return writer


@EXTENSIONS
@pytest.mark.parametrize("first", range(len(ROWS)))
def test_a_run_in_three_parts_is_one_in_a_piece(tmp_path: Path, extension: str, first: int) -> None:
    whole, parts = tmp_path / f"whole{extension}", tmp_path / f"parts{extension}"
    with Writer(whole, MEMBERS) as writer:
        writer.write(ROWS)
    begin(parts, ROWS[:first])
    begin(parts, ROWS[first : first + 1], resume=True)
    with Writer(parts, MEMBERS, made_by=MADE_BY, resume=True) as writer:
        assert sum(writer.done.values()) == first + 1
        assert writer.done["a.wav"] == [x.clip for x in ROWS[: first + 1]].count("a.wav")
        writer.write(ROWS[first + 1 :])
    assert parts.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == sorted([whole.name, parts.name])


def test_wherever_a_row_is_torn(tmp_path: Path) -> None:
    """A kill or a power cut may leave any part of what was written last."""
    path = tmp_path / "scores.csv"
    partial = begin(path, ROWS).partial
    whole = partial.read_bytes()
    with Writer(tmp_path / "none.csv", MEMBERS) as writer:
        head = writer.partial.read_bytes()
    for size in range(len(head), len(whole) + 1):
        partial.write_bytes(whole[:size])
        with Writer(path, MEMBERS, made_by=MADE_BY, resume=True) as writer:
            count = sum(writer.done.values())
            assert writer.partial.read_bytes() == whole[: writer._whole_bytes]
            writer.write(ROWS[count:])
        assert path.read_bytes() == whole
        begin(path, ROWS)
    partial.write_bytes(whole + bytes(100))  # as some file systems do
    with Writer(path, MEMBERS, made_by=MADE_BY, resume=True) as writer:
        assert sum(writer.done.values()) == len(ROWS)
    assert path.read_bytes() == whole


def test_a_table_is_read_wherever_it_is_torn(tmp_path: Path) -> None:
    """Its whole rows are read. Of the last one there is no half of a number: it counts if only its error is cut off."""
    path = tmp_path / "scores.csv"
    scored = [Row(f"{name}.wav", score=-1.23456789, error='x "y"\nz, é') for name in "abc"]
    with Writer(path, MEMBERS) as writer:
        writer.write(scored)
    whole = path.read_bytes()
    expected = results.table(scored, MEMBERS)
    ends = [whole.index(b"b.wav"), whole.index(b"c.wav"), len(whole)]
    for size in range(ends[0], len(whole) + 1):
        path.write_bytes(whole[:size])
        table, count = results.read(path), sum(size >= end for end in ends)
        assert count <= len(table) <= count + (whole[:size].count(b",ok,") > count)
        pd.testing.assert_series_equal(table["error"][:count], expected["error"][:count])
        pd.testing.assert_frame_equal(table.drop(columns="error"), expected[: len(table)].drop(columns="error"))


def test_a_table_without_an_end_of_line_has_its_last_row(tmp_path: Path) -> None:
    """As some programs write it; of one row alone, too."""
    path = tmp_path / "scores.csv"
    for count in (1, 3):
        with Writer(path, MEMBERS) as writer:
            writer.write(ROWS[:count])
        path.write_bytes(path.read_bytes()[:-1])
        assert results.read(path)["clip"].tolist() == [row.clip for row in ROWS[:count]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "def"}, "was begun with another model: give that one, or move .* away"),
        ({"channel": 1}, r"was begun with channel=0, and this run has channel=1: give the same, or move .* away"),
        ({"ids": ["02"]}, r"was begun with ids=\['00'\], and this run has ids=\['02'\]"),
        ({"more": 1}, r"json doesn't tell what .* was made by: read it as it is, or move .* away"),
    ],
)
def test_what_others_made_is_not_gone_on_with(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "scores.csv"
    before = begin(path, ROWS).partial.read_bytes()
    writer = Writer(path, MEMBERS, made_by=MADE_BY | change, resume=True)
    with pytest.raises(ValueError, match=message), writer:
        pass
    assert writer.partial.read_bytes() == before
    with pytest.raises(ValueError, match="has other columns"), Writer(path, ["x"], made_by=MADE_BY, resume=True):
        pass
    with Writer(path, MEMBERS, made_by=MADE_BY, resume=True) as writer:
        assert sum(writer.done.values()) == len(ROWS)


@pytest.mark.parametrize("noted", [None, "", "{", "[]", "3"])
def test_rows_of_unknown_origin_are_not_gone_on_with(tmp_path: Path, noted: str | None) -> None:
    path = tmp_path / "scores.csv"
    partial = begin(path, ROWS).partial
    note = Path(f"{partial}.json")
    note.unlink()
    if noted is not None:
        note.write_text(noted)
    with (
        pytest.raises(ValueError, match=r"json doesn't tell what"),
        Writer(path, MEMBERS, made_by=MADE_BY, resume=True),
    ):
        pass
    assert partial.exists()


def test_settings_of_numpy_and_paths_are_noted(tmp_path: Path) -> None:
    path, made_by = tmp_path / "scores.csv", {"channel": np.int64(1), "shard": (1, 2), "where": tmp_path}
    begin(path, ROWS[:2], made_by)
    with Writer(path, MEMBERS, made_by=made_by, resume=True) as writer:
        assert sum(writer.done.values()) == 2


def test_without_resume_a_run_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    begin(path, ROWS)
    begin(path, ROWS[:1], MADE_BY | {"model": "other"})
    with pytest.raises(ValueError, match="another model"), Writer(path, MEMBERS, made_by=MADE_BY, resume=True):
        pass
    with Writer(path, MEMBERS) as writer:  # a ranking, which can't be resumed
        assert not Path(f"{writer.partial}.json").exists()
        writer.write(ROWS[:2])
    pd.testing.assert_frame_equal(results.read(path), results.table(ROWS[:2], MEMBERS))
    with Writer(path, MEMBERS, made_by=MADE_BY, resume=True) as writer:  # nothing is left to go on with
        assert not writer.done


def test_rows_without_a_score_are_made_again(tmp_path: Path) -> None:
    path, partial = tmp_path / "scores.csv", tmp_path / "scores.csv.partial"
    names = ["a.wav", "=b.wav", "c\n.wav", "d.wav", "=b.wav", "e.wav"]
    rows = [Row(name, score=None if i in (1, 3) else float(i)) for i, name in enumerate(names)]
    begin(path, rows)
    with open(partial, "ab") as file:
        file.write(b"torn, 0.")
    before = partial.read_bytes()
    with Writer(path, MEMBERS, made_by=MADE_BY, resume="retry-failed") as writer:
        assert writer.done == {"a.wav": 1, "c\n.wav": 1, "e.wav": 1}, "both clips of a name are made again"
        with pytest.raises(FileExistsError, match="another run is writing"), Writer(path, MEMBERS):
            pass
        writer.write([Row("=b.wav", score=1.0), Row("d.wav"), Row("=b.wav", score=4.0)])
    assert list(results.read(path)["clip"]) == ["a.wav", "c\n.wav", "e.wav", "=b.wav", "d.wav", "=b.wav"]
    assert sorted(os.listdir(tmp_path)) == ["scores.csv"]
    begin(path, rows)
    assert partial.read_bytes() == before.removesuffix(b"torn, 0.")
    begin(path, [], resume=True)
    assert partial.read_bytes() == before.removesuffix(b"torn, 0."), "not unless asked for"
    with pytest.raises(ValueError, match="another model"):
        begin(path, [], {"model": "other"}, resume="retry-failed")


def test_a_full_disk_leaves_the_failed_rows_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, partial = tmp_path / "scores.csv", tmp_path / "scores.csv.partial"
    begin(path, [Row("a.wav", score=1.0), Row("b.wav")])
    before = partial.read_bytes()

    def full(partial: Path, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="can't write"):  # noqa: PT012
        patched.setattr(storage, "publish", full)
        begin(path, [], resume="retry-failed")
    assert partial.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["scores.csv.partial", "scores.csv.partial.json"]
