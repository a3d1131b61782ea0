"""Writing tables: nothing is lost, whatever ends the run."""

from __future__ import annotations

import csv
import errno
import io
import os
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pytest

from pyasd.tables import table as results
from pyasd.tables import unfinished
from pyasd.tables import writer as tables_writer
from pyasd.tables.table import Row
from pyasd.tables.writer import Writer

from .test_table import EXTENSIONS, MEMBERS, ROWS, write


def test_many_rows_make_few_row_groups(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "scores.parquet"
    write(path, ROWS[:1], tables_writer.ROW_GROUP + 5)
    metadata = pq.read_metadata(path)
    assert (metadata.num_rows, metadata.num_row_groups) == (tables_writer.ROW_GROUP + 5, 2)


@EXTENSIONS
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_keeps_the_rows_so_far(tmp_path: Path, extension: str, error: type[BaseException]) -> None:
    path = tmp_path / f"scores{extension}"
    write(path, ROWS[:1])
    with pytest.raises(error), Writer(path, MEMBERS) as writer:  # noqa: PT012
        writer.write(ROWS[:2])
        raise error
    assert len(results.read(path)) == 1, "the earlier table is still there"
    partial = results.read(f"{path}.partial")
    pd.testing.assert_frame_equal(partial, results.table(ROWS[:2], MEMBERS))


def test_csv_rows_are_on_the_disk_when_write_returns(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    with Writer(path, MEMBERS) as writer:
        writer.write(ROWS[:1])
        assert len(results.read(writer.partial)) == 1
        assert not path.exists()


@pytest.mark.parametrize("name", ["scores", "scores.xlsx", "scores.csv.gz", ".txt"])
def test_another_extension_is_refused_before_any_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet"):
        Writer(tmp_path / name, MEMBERS)


@EXTENSIONS
def test_a_folder_that_does_not_exist(tmp_path: Path, extension: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"can't write .*there is no folder .*nowhere: make it first"):
        write(tmp_path / "nowhere" / f"scores{extension}")


def test_a_folder_where_the_table_should_be(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder: name a file"):
        write(tmp_path / "scores.csv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="choose a place that can be written"):
        write(tmp_path / "scores.csv")


def test_no_right_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError, match=r"can't write .*scores\.csv: Permission denied: choose a place"):
        Writer(tmp_path / "scores.csv", MEMBERS).__enter__()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@EXTENSIONS
def test_a_disk_that_is_full_from_the_start(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"scores{extension}"
    Path(f"{path}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"^can't write .*scores.*: the disk is full: make room") as caught:
        write(path)
    assert caught.value.errno == errno.ENOSPC
    assert not path.exists()


class FullDisk:
    """A file whose disk takes half of what is written, and then, so many times, nothing."""

    def __init__(self, file: IO[bytes] | None, times: int) -> None:
        assert file is not None
        self.file = file
        self.times = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: memoryview) -> int:
        if not self.times:
            return self.file.write(data)
        self.times -= 1
        self.file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


@EXTENSIONS
def test_a_disk_that_fills_up_keeps_whole_rows(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"scores{extension}"
    writer = Writer(path, MEMBERS)
    message = r"disk is full: the rows so far are in .*scores\.(csv|parquet)\.partial; make room"
    with pytest.raises(OSError, match=message), writer:  # noqa: PT012
        writer.write(ROWS)
        writer._file = FullDisk(writer._file, 2)  # type: ignore[assignment]
        writer.write(ROWS)
    pd.testing.assert_frame_equal(results.read(writer.partial), results.table(ROWS, MEMBERS))
    assert not path.exists()


class Slow:
    """A file that takes three bytes at a time."""

    def __init__(self, file: IO[bytes] | None) -> None:
        assert file is not None
        self.file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: memoryview) -> int:
        return self.file.write(data[:3])


def test_what_a_write_leaves_over_is_written_too(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    with Writer(path, MEMBERS) as writer:
        writer._file = Slow(writer._file)  # type: ignore[assignment]
        writer.write(ROWS)
        pd.testing.assert_frame_equal(results.read(writer.partial), results.table(ROWS, MEMBERS))


@EXTENSIONS
def test_what_an_earlier_run_left_is_replaced(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"scores{extension}"
    Path(f"{path}.partial").write_text("rows of an earlier run\n" * 100)
    write(path, ROWS[:1])
    pd.testing.assert_frame_equal(results.read(path), results.table(ROWS[:1], MEMBERS))


def test_a_disk_that_fills_up_at_the_end_keeps_the_rows_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would have been the Parquet file leaves room for them."""
    path = tmp_path / "scores.parquet"

    def full(partial: Path, path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tables_writer, "publish", full)
    with pytest.raises(OSError, match=r"disk is full: the rows so far are in .*scores\.parquet\.partial; make room"):
        write(path)
    assert os.listdir(tmp_path) == ["scores.parquet.partial"]
    pd.testing.assert_frame_equal(results.read(f"{path}.partial"), results.table(ROWS, MEMBERS))


@EXTENSIONS
def test_text_that_utf_8_lacks_costs_no_row(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"scores{extension}"
    write(path, [Row("a.wav", machine_id="\udcff"), Row("b.wav", error="caf\udce9/x.zip is damaged")])
    table = results.read(path)
    assert table["machine_id"].tolist() == [r"\udcff", ""]
    assert table["error"].tolist() == ["", r"caf\udce9/x.zip is damaged"]


class FailingDisk(FullDisk):
    """A file that, while it can't be written, can't be cut either."""

    def truncate(self, size: int) -> int:
        if self.times:
            self.times -= 1
            raise OSError(errno.EIO, "Input/output error")
        return self.file.truncate(size)


@EXTENSIONS
@pytest.mark.parametrize(("disk", "times"), [(FullDisk, 1), (FailingDisk, 2)], ids=["cut off", "cut off later"])
def test_rows_that_could_not_be_written_come_with_the_next_ones(
    tmp_path: Path, extension: str, disk: type[FullDisk], times: int
) -> None:
    """Whoever goes on after an error has a whole table in the end, also where half a row could not be cut off then."""
    path = tmp_path / f"scores{extension}"
    with Writer(path, MEMBERS) as writer:
        writer.write(ROWS[:1])
        writer._file = disk(writer._file, times)  # type: ignore[assignment]
        with pytest.raises(OSError, match="disk is full"):
            writer.write(ROWS[1:2])
        writer.write(ROWS[2:])
    pd.testing.assert_frame_equal(results.read(path), results.table(ROWS, MEMBERS))


def test_rows_of_megabytes(tmp_path: Path) -> None:
    long = Row("x.wav", error="broken: " + 3_000_000 * "y")
    write(tmp_path / "scores.parquet", [*ROWS, long])
    assert results.read(tmp_path / "scores.parquet")["error"].iloc[-1] == long.error


def test_ctrl_c_while_a_parquet_file_is_made_keeps_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tables_writer, "_write_groups", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "scores.parquet")
    assert os.listdir(tmp_path) == ["scores.parquet.partial"]
    pd.testing.assert_frame_equal(results.read(tmp_path / "scores.parquet.partial"), results.table(ROWS, MEMBERS))


class Interrupted(FullDisk):
    """A file in whose second half of a write Ctrl-C strikes, once."""

    def write(self, data: memoryview) -> int:
        try:
            return super().write(data)
        except OSError:
            raise KeyboardInterrupt from None


def test_ctrl_c_in_the_middle_of_a_row(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "scores.csv", MEMBERS)
    with pytest.raises(KeyboardInterrupt), writer:  # noqa: PT012
        writer.write(ROWS[:1])
        writer._file = Interrupted(writer._file, 1)  # type: ignore[assignment]
        writer.write(ROWS[1:])
    pd.testing.assert_frame_equal(results.read(writer.partial), results.table(ROWS, MEMBERS))


@EXTENSIONS
def test_two_runs_with_one_table(tmp_path: Path, extension: str) -> None:
    """The second one is refused, and costs the first none of its rows; a third comes after it."""
    path = tmp_path / f"scores{extension}"
    with Writer(path, MEMBERS) as writer:
        writer.write(ROWS[:2])
        with pytest.raises(FileExistsError, match=rf"another run is writing .*scores\{extension}: wait for it"):
            write(path)
    assert len(results.read(path)) == 2
    write(path)
    assert len(results.read(path)) == 3
    assert os.listdir(tmp_path) == [path.name]


def test_a_run_that_opens_what_another_one_just_finished_makes_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, the unfinished table became the finished one: it must not be emptied."""
    path = tmp_path / "scores.csv"
    first = Writer(path, MEMBERS)
    first.__enter__()
    first.write(ROWS[:2])
    real = tables_writer._lock
    calls: list[IO[bytes]] = []

    def late(file: IO[bytes]) -> None:
        if not calls:
            first.__exit__(None, None, None)
        calls.append(file)
        real(file)

    monkeypatch.setattr(tables_writer, "_lock", late)
    second = Writer(path, MEMBERS)
    second.__enter__()
    assert len(results.read(path)) == 2
    second.write(ROWS)
    second.__exit__(None, None, None)
    assert len(results.read(path)) == 3
    assert len(calls) == 2


NAMES = [
    "=1+1.wav", "+x.wav", "-x.wav", "@x.wav", "'=x.wav", "''-x.wav", "'x.wav", "\tx.wav", "\rx.wav", "a\rb.wav", "a\nb",
]  # fmt: skip


@EXTENSIONS
def test_names_that_look_like_formulas_come_back_as_they_are(tmp_path: Path, extension: str) -> None:
    """In a CSV file they are guarded, and a lone carriage return splits no row in two."""
    path = tmp_path / f"scores{extension}"
    write(path, [Row(name, error=name) for name in NAMES])
    table = results.read(path)
    assert table["clip"].tolist() == table["error"].tolist() == NAMES
    if extension == ".csv":
        text = path.read_bytes().decode()
        cells = list(csv.reader(io.StringIO(text, newline="")))
        assert [row[0][0] for row in cells[1:]] == ["'"] * 9 + ["a", "a"]
        assert '\n"a\rb.wav",' in text
        assert len(pd.read_csv(path)) == len(NAMES)
    else:
        assert pd.read_parquet(path)["clip"].tolist() == NAMES


def test_bytes_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is synchronised has all rows in it."""
    path = tmp_path / "scores.csv"
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(Path(f"{path}.partial").read_bytes()))
    write(path)
    assert synced == [path.read_bytes()]


# -- endless tables ----------------------------------------------------------------------------------------------

MADE_BY = {"model": "abc", "folder": "in"}


def test_an_endless_table_is_added_to_in_place(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    for count, some in enumerate(([], ROWS[:2], ROWS[2:], []), 1):
        with Writer(path, MEMBERS, made_by=MADE_BY, endless=True) as writer:
            before = sum(writer.done.values())
            writer.write(some)
            assert len(results.read(path)) == before + len(some), f"run {count}: rows are there when write returns"
        assert sorted(os.listdir(tmp_path)) == ["scores.csv", "scores.csv.json"]
    pd.testing.assert_frame_equal(results.read(path), results.table(ROWS, MEMBERS))
    assert [row[0] for row in unfinished.cells(path, "clip")] == [row.clip for row in ROWS]


def test_an_endless_table_goes_on_wherever_a_kill_tore_it(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    with Writer(path, MEMBERS, made_by=MADE_BY, endless=True) as writer:
        writer.write(ROWS)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        with Writer(path, MEMBERS, made_by=MADE_BY, endless=True) as writer:
            writer.write(row for row in ROWS if not writer.done[row.clip])
        assert path.read_bytes() == whole


def test_an_endless_table_is_of_one_model_and_settings(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    write(path, ROWS)
    with pytest.raises(ValueError, match=r"scores\.csv\.json doesn't tell what .*scores\.csv was made by.*move"):
        Writer(path, MEMBERS, made_by=MADE_BY, endless=True).__enter__()
    path.unlink()
    with Writer(path, MEMBERS, made_by=MADE_BY, endless=True) as writer:
        writer.write(ROWS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"scores\.csv was begun with another model: give that one, or move"):
        Writer(path, MEMBERS, made_by=MADE_BY | {"model": "b"}, endless=True).__enter__()
    with pytest.raises(ValueError, match="folder='in', and this run has folder='out'"):
        Writer(path, MEMBERS, made_by=MADE_BY | {"folder": "out"}, endless=True).__enter__()
    with pytest.raises(ValueError, match="has other columns"):
        Writer(path, ["other"], made_by=MADE_BY, endless=True).__enter__()
    with pytest.raises(FileExistsError, match=r"scores\.csv is a table that runs add to, as scores\.csv\.json says"):
        write(path)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match=r"\.parquet: rows can be added to a finished \.csv file alone"):
        Writer(tmp_path / "scores.parquet", MEMBERS, made_by=MADE_BY, endless=True)


def test_one_run_at_a_time_has_an_endless_table(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    with Writer(path, MEMBERS, made_by=MADE_BY, endless=True) as writer:
        with pytest.raises(FileExistsError, match=r"another run is writing .*scores\.csv: wait for it"):
            Writer(path, MEMBERS, made_by=MADE_BY, endless=True).__enter__()
        unfinished.note_of(path).unlink()
        with pytest.raises(FileExistsError, match="another run is writing"):
            write(path)
        writer.write(ROWS)
    other = tmp_path / "other.csv"
    with Writer(other, MEMBERS), pytest.raises(FileExistsError, match=r"another run is writing .*other\.csv: wait"):
        Writer(other, MEMBERS, made_by=MADE_BY, endless=True).__enter__()
    assert len(results.read(path)) == len(ROWS)


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_an_endless_table_that_is_moved_away_is_told(tmp_path: Path, how: str) -> None:
    path = tmp_path / "scores.csv"
    message = r"can't write .*scores\.csv: it was moved, replaced or removed, and the last rows went with it"
    with (  # noqa: PT012
        pytest.raises(OSError, match=message),
        Writer(path, MEMBERS, made_by=MADE_BY, endless=True) as writer,
    ):
        writer.write(ROWS[:1])
        path.rename(tmp_path / "old.csv")
        if how == "replaced":
            path.write_text("")
        writer.write(ROWS[1:2])
    assert len(results.read(tmp_path / "old.csv")) == 2


def test_rows_of_an_endless_table_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scores.csv"
    synced: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(path.read_bytes()))
    with Writer(path, MEMBERS, made_by=MADE_BY, endless=True) as writer:
        writer.write(ROWS)
        assert synced[-1] == path.read_bytes()
