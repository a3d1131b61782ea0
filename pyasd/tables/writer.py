"""Writing the table of scores as its rows come, so that they survive whatever ends the run."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pyasd.clips.names import guarded, unguarded
from pyasd.storage import publish
from pyasd.tables import unfinished
from pyasd.tables.table import Row, Schema, kind_of

try:
    import fcntl
except ImportError:  # Windows has none: two runs with one table are not noticed there
    fcntl = None  # type: ignore[assignment]

ROW_GROUP = 8192
"""Rows in a group of a Parquet file: every group has a fixed cost."""


Resume = bool | Literal["retry-failed"]
"""Whether to go on with an unfinished table, and then, whether clips without a score are tried again."""

BLOCK_BYTES = 16 << 20
"""Bytes that are read at once to make a Parquet file: a row must fit in."""


class Writer:
    """Write a table row by row: `with Writer("scores.csv", members) as writer: writer.write(rows)`.

    The rows go to `<path>.partial`, as CSV, and are with the operating system when `write` returns. When all is done it
    becomes `path`; a Parquet file is made of it then, some thousand rows at a time. After an exception, a signal or a
    kill it stays there with the rows so far, and `read` reads it.

    An endless table is never done: the rows go to `path` itself, on the disk when `write` returns, and each run goes on
    with those of the runs before. What they are made by is noted in `<path>.json`.

    Args:
        path: the table, .csv or .parquet; one that is there is replaced at the end.
        members: names of the ensemble members.
        decisions: which of `DECISIONS` are wanted.
        made_by: the model and the settings that rows are made by, by name; `None` for rows that can't be gone on with.
        resume: go on with the rows that are in `<path>.partial`, if there are any, instead of starting over; with
            "retry-failed" without those of clips that have no score.
        several: a clip may have several rows, of its cuts and channels: those of the last one are made again, since
            nothing tells whether they are all there.
        endless: see above; only of a .csv file.

    Attributes:
        done: how many clips of each name have their rows already, once a `with` block has begun.

    Raises:
        ValueError: the extension is another, or not one of an endless table; or (from the beginning of the block) the
            rows that are there were made by another model, other settings, or nobody knows what.
        FileExistsError: another run is writing this table, or it is an endless one.
        OSError: the file can't be made, or (from `write` and the end of the block) can't be written: disk full; an
            endless one was moved away.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        members: Sequence[str],
        decisions: Sequence[str] = (),
        made_by: Mapping[str, Any] | None = None,
        resume: Resume = False,
        several: bool = False,
        endless: bool = False,
    ) -> None:
        self.path = Path(path)
        self.partial = self.path if endless else _partial(self.path)
        self.done: Counter[str] = Counter()
        self._schema = Schema(members, decisions)
        self._made_by = made_by
        self._resume: Resume = resume or endless
        self._several = several
        self._endless = endless
        self._kind = kind_of(self.path)
        if endless and self._kind != ".csv":
            raise ValueError(f"{self.path}: rows can be added to a finished .csv file alone: choose that extension")
        self._waiting: list[str] = []  # lines
        self._file: IO[bytes] | None = None
        self._whole_bytes = 0  # where the last whole row ends
        self._torn = False  # whether there may be a part of a row behind that

    def __enter__(self) -> Writer:
        """Make the file, so that a wrong place is known before any work is done."""
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder: name a file, like {self.path / 'scores.csv'}")
        try:
            self._file = self._open()
            self._begin()
        except OSError as error:
            self._close()
            raise self._explained(error) from error
        except ValueError:
            self._close()
            raise
        return self

    def _begin(self) -> None:
        """Write the first line; or go behind the last whole row that is there."""
        assert self._file is not None
        header = _line(list(self._schema.types))
        there = os.fstat(self._file.fileno())
        if self._resume and there.st_size:
            unfinished.check(self.partial, self._made_by or {})
            if self._resume == "retry-failed":
                unfinished.drop_failed(self.partial)
                self._file.close()
                self._file = self._open()  # the new one
            self.done, self._whole_bytes = unfinished.rows(self.partial, header, self._several)
        if stat.S_ISREG(there.st_mode):
            self._file.truncate(self._whole_bytes)
        if not self._whole_bytes:
            unfinished.forget(self.partial)
            if self._made_by is not None:
                unfinished.note(self.partial, self._made_by)
            self._waiting = [header]
        self._flush()

    def write(self, rows: Iterable[Row]) -> None:
        """Add rows. The file has them when this returns; rows that it could not take are tried again with the next."""
        self._waiting += [_line(map(_guarded, self._schema.cells(row))) for row in rows]
        try:
            self._flush()
        except OSError as error:
            raise self._explained(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the file, and give it its name if all went well."""
        try:
            self._flush()
            if error is None and not self._endless:
                if self._kind == ".csv":
                    publish(self.partial, self.path)
                else:
                    self._make_parquet()
                unfinished.forget(self.partial)
        except OSError as failure:
            if error is None:  # else the first error is the one to be seen
                raise self._explained(failure) from failure
        finally:
            self._close()

    def _open(self) -> IO[bytes]:
        """Open the unfinished table for this run alone.

        Raises:
            FileExistsError: another run has it, or the table of that name under the other of its two names; or an
                endless table would be replaced.
            OSError: it can't be opened.
        """
        if not self._endless and unfinished.note_of(self.path).exists() and self.path.exists():
            raise FileExistsError(
                f"{self.path} is a table that runs add to, as {unfinished.note_of(self.path).name} says: write to "
                "another file, or move both away"
            )
        other = _partial(self.path) if self._endless else self.path
        if other.is_file() and os.access(other, os.R_OK):
            with open(other, "rb") as held:
                _lock(held)
        while True:
            file = open(self.partial, "ab", buffering=0)  # noqa: SIM115 (__exit__ closes it)
            try:
                _lock(file)
                opened = os.fstat(file.fileno())
                if os.path.samestat(opened, os.stat(self.partial)):
                    return file
            except FileNotFoundError:  # the other run has just finished with it
                pass
            except BaseException:
                file.close()
                raise
            file.close()

    def _flush(self) -> None:
        """Write what waits; what can't be written goes on waiting, and no part of it stays in the file."""
        if not self._waiting:
            return
        assert self._file is not None, "a Writer is used in a `with` block"
        data = memoryview("".join(self._waiting).encode("utf-8", "backslashreplace"))
        whole, none = self._whole_bytes + len(data), list[str]()
        try:
            if self._torn:
                self._file.truncate(self._whole_bytes)
            self._torn = True
            while data:
                data = data[self._file.write(data) :]
            self._whole_bytes, self._waiting, self._torn = whole, none, False
            if self._endless:
                self._make_lasting()
        except BaseException:  # Ctrl-C too
            with contextlib.suppress(OSError):
                self._file.truncate(self._whole_bytes)
            raise

    def _make_lasting(self) -> None:
        """Have an endless table on the disk, and see that its name is still its own.

        Raises:
            OSError: the disk fails, or it isn't.
        """
        assert self._file is not None
        os.fsync(self._file.fileno())
        if not (self.path.exists() and os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())):
            raise OSError(errno.ESTALE, "it was moved, replaced or removed, and the last rows went with it")

    def _make_parquet(self) -> None:
        """Make the Parquet file of the unfinished table, some rows at a time."""
        types = {name: kind.arrow for name, kind in self._schema.types.items()}
        options = pa.csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=False)
        blocks = pa.csv.ReadOptions(block_size=BLOCK_BYTES)
        temporary = Path(f"{self.path}.partial.parquet")
        try:
            with (
                open(self.partial, "rb") as source,
                open(temporary, "wb") as file,  # pyarrow takes no other names than UTF-8
                pq.ParquetWriter(file, self._schema.arrow) as parquet,
                pa.csv.open_csv(source, blocks, pa.csv.ParseOptions(newlines_in_values=True), options) as reader,
            ):
                waiting: list[pa.RecordBatch] = []
                for batch in reader:
                    waiting.append(batch)
                    if sum(x.num_rows for x in waiting) >= ROW_GROUP:
                        waiting = _write_groups(parquet, waiting, ROW_GROUP)
                _write_groups(parquet, waiting, 1)
            publish(temporary, self.path)
        except BaseException:  # Ctrl-C too
            temporary.unlink(missing_ok=True)
            raise
        self.partial.unlink()

    def _close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    def _explained(self, error: OSError) -> OSError:
        """Return the same error, saying which table and what to do."""
        if isinstance(error, FileExistsError):
            return error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            kept = f"the rows so far are in {self.partial}; " if self._whole_bytes else ""
            what = f"the disk is full: {kept}make room, or write to another one"
        elif error.errno == errno.ENOENT and not self.path.parent.exists():
            what = f"there is no folder {self.path.parent}: make it first"
        else:
            what = f"{error.strerror or error}: choose a place that can be written"
        explained = type(error)(f"can't write {self.path}: {what}")
        explained.errno = error.errno
        return explained


def _partial(path: Path) -> Path:
    return Path(f"{path}.partial")


def _lock(file: IO[Any]) -> None:
    """Take the file for this process, until it is closed.

    Raises:
        FileExistsError: another process has it.
    """
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        path = os.fsdecode(file.name).removesuffix(".partial")
        raise FileExistsError(f"another run is writing {path}: wait for it, or write to another file") from None
    except OSError:  # a file system without locks
        return


def _guarded(cell: Any) -> Any:
    return guarded(cell) if isinstance(cell, str) else cell


def _line(cells: Iterable[Any]) -> str:
    """A row as a line of CSV. With this end of line, texts with either of its characters are quoted; older versions of
    Python quote no others.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue()[:-2] + "\n"


def _write_groups(parquet: pq.ParquetWriter, batches: Sequence[pa.RecordBatch], least: int) -> list[pa.RecordBatch]:
    """Write rows in groups, texts as they were before `guarded`; return those that are fewer than `least`."""
    table = pa.Table.from_batches(batches) if batches else parquet.schema.empty_table()
    while table.num_rows >= least:
        group, table = table[:ROW_GROUP], table[ROW_GROUP:]
        for place, column in enumerate(group.schema):
            if column.type == pa.string():
                texts = pa.array(map(unguarded, group.column(place).to_pylist()), pa.string())
                group = group.set_column(place, column, texts)
        parquet.write_table(group, ROW_GROUP)
    return list(table.to_batches())
