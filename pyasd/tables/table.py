"""The table of scores: its columns, and writing it as the rows come."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

Combination = Literal["mean", "max"]
"""How members' standardised scores are combined (report section 2.3)."""

COLUMNS = ("clip", "machine_type", "machine_id", "channel", "duration", "score", "label", "status", "error")
"""The table's columns. Between `score` and `label` stand `score.mean` and `score.max`, the members' standardised scores
combined in either way (`score` is the one of them that the recipe takes), then one `score.<member>` for each member."""

MEMBER_PREFIX = "score."
COMBINED = tuple(MEMBER_PREFIX + how for how in get_args(Combination))
EXTENSIONS = (".csv", ".parquet")

ROW_GROUP = 8192
"""Rows that a Parquet file collects before it writes them: every group has a fixed cost."""

_TEXT = ("clip", "machine_type", "machine_id", "channel", "status", "error")


def columns(members: Sequence[str]) -> list[str]:
    """The table's columns in order, with both combinations and one `score.<member>` per ensemble member."""
    at = COLUMNS.index("label")
    return [*COLUMNS[:at], *COMBINED, *(MEMBER_PREFIX + member for member in members), *COLUMNS[at:]]


def table(rows: Iterable[dict[str, Any]], members: Sequence[str]) -> pd.DataFrame:
    """Rows as a table, with every column and its type, whatever the rows leave out.

    Args:
        rows: dictionaries by column. What is missing or `None` is "" in a column of text, else empty.
        members: names of the ensemble members.

    Returns:
        Text columns hold strings, `duration` (seconds) and the scores float64 (NaN is empty), `label` nullable
        Int64. `channel` is text, since it can be "mean".

    Raises:
        ValueError: a row has a column that the table hasn't.
    """
    cells = [_cells(row, members) for row in rows]
    names = columns(members)
    return pd.DataFrame({name: _series(name, [row[i] for row in cells]) for i, name in enumerate(names)})


def read(path: str | os.PathLike[str]) -> pd.DataFrame:
    """A table that `Writer` wrote, also one that was left unfinished (`<path>.partial`).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the extension is neither .csv nor .parquet, the file isn't a table, a column is missing, or holds
            what isn't its own.
    """
    path = Path(path)
    kind = _kind(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} doesn't exist: write it with `pyasd score CLIPS -o {path}`")
    try:
        if kind == ".parquet":
            found = pq.read_table(path).to_pandas()
        else:  # text that looks like a number or like NaN is text
            found = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (pa.ArrowException, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a table of scores ({error}): write it again with `pyasd score`") from None
    missing = [name for name in COLUMNS if name not in found]
    if missing:
        raise ValueError(f"{path} has no column {', '.join(missing)}: give a table that `pyasd score` wrote")
    try:
        return pd.DataFrame({name: _series(name, [_cell(name, x) for x in found[name]]) for name in found})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


class Writer:
    """Writes a table row by row: `with Writer("scores.csv", members) as writer: writer.write(rows)`.

    The rows go to `<path>.partial`, which becomes `path` when all is done. After an exception (Ctrl-C too) it stays
    there with the rows so far, and `read` reads it. Only a Parquet file that a full disk cut short can't be read:
    it is described at its end.

    Args:
        path: the table, .csv or .parquet; one that is there is replaced at the end.
        members: names of the ensemble members.

    Raises:
        ValueError: the extension is another.
        OSError: the file can't be made, or (from `write` and the end of the block) can't be written: disk full.
    """

    def __init__(self, path: str | os.PathLike[str], members: Sequence[str]) -> None:
        self.path = Path(path)
        self.partial = Path(f"{self.path}.partial")
        self._members = tuple(members)
        self._kind = _kind(self.path)
        self._waiting: list[list[Any]] = []
        self._file: IO[bytes] | None = None
        self._parquet: pq.ParquetWriter | None = None
        self._sound = 0  # bytes of a CSV file that are whole rows

    def __enter__(self) -> Writer:
        """Makes the file, so that a wrong place is known before any work is done."""
        if self.path.is_dir():
            raise IsADirectoryError(f"{self.path} is a folder: name a file, like {self.path / 'scores.csv'}")
        try:
            self._file = open(self.partial, "wb")  # noqa: SIM115 (__exit__ closes it)
            if self._kind == ".csv":
                self._append_csv([columns(self._members)])
            else:
                self._parquet = pq.ParquetWriter(self._file, _schema(self._members))
        except OSError as error:
            self._abandon()
            raise self._explained(error) from error
        return self

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Adds rows. A CSV file has them when this returns; a Parquet file grows by groups of rows."""
        self._waiting += [_cells(row, self._members) for row in rows]
        try:
            if self._kind == ".csv" or len(self._waiting) >= ROW_GROUP:
                self._flush()
        except OSError as error:
            raise self._explained(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the file, and gives it its name if all went well."""
        try:
            self._flush()
            if self._parquet is not None:
                self._parquet.close()
            if self._file is not None:
                self._file.close()  # may write, and fail
            if error is None:
                os.replace(self.partial, self.path)
        except OSError as failure:
            self._abandon()
            if error is None:  # else the first error is the one to be seen
                raise self._explained(failure) from failure

    def _flush(self) -> None:
        cells, self._waiting = self._waiting, []
        if cells and self._parquet is not None:
            by_column = dict(zip(columns(self._members), zip(*cells, strict=True), strict=True))
            self._parquet.write_table(pa.table(by_column, _schema(self._members)))
        elif cells:
            self._append_csv(cells)

    def _append_csv(self, cells: list[list[Any]]) -> None:
        assert self._file is not None, "a Writer is used in a `with` block"
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(cells)
        self._file.write(text.getvalue().encode("utf-8"))
        self._file.flush()
        self._sound = self._file.tell()

    def _abandon(self) -> None:
        """After an error in writing: lets go of the file, and cuts off a row that is not whole."""
        if self._parquet is not None:
            self._parquet.is_open = False  # else it would try again when it is collected
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            if self._kind == ".csv":
                with contextlib.suppress(OSError):
                    os.truncate(self.partial, self._sound)

    def _explained(self, error: OSError) -> OSError:
        """The same error, saying which table and what to do."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            kept = f"the rows so far are in {self.partial}; " if self._kind == ".csv" and self._sound else ""
            what = f"the disk is full: {kept}make room, or write to another one"
        elif error.errno == errno.ENOENT:
            what = f"there is no folder {self.path.parent}: make it first"
        else:
            what = f"{error.strerror or error}: choose a place that can be written"
        explained = type(error)(f"can't write {self.path}: {what}")
        explained.errno = error.errno
        return explained


def _kind(path: Path) -> str:
    name = path.name.removesuffix(".partial").lower()
    for extension in EXTENSIONS:
        if name.endswith(extension):
            return extension
    raise ValueError(f"{path}: a table's name must end in {' or '.join(EXTENSIONS)}")


def _schema(members: Sequence[str]) -> pa.Schema:
    types = {**dict.fromkeys(_TEXT, pa.string()), "label": pa.int64()}
    return pa.schema([(name, types.get(name, pa.float64())) for name in columns(members)])


def _series(name: str, cells: list[Any]) -> pd.Series:
    if name in _TEXT:
        return pd.Series(cells, dtype=str)
    if name == "label":
        return pd.Series(cells, dtype="Int64")
    return pd.Series(cells, dtype=np.float64) if _is_number(name) else pd.Series(cells)


def _is_number(name: str) -> bool:
    return name in ("duration", "score") or name.startswith(MEMBER_PREFIX)


def _cells(row: dict[str, Any], members: Sequence[str]) -> list[Any]:
    """A row's values in the order of the columns."""
    names = columns(members)
    if unknown := set(row).difference(names):
        raise ValueError(f"the table has no column {', '.join(sorted(unknown))}: it has {', '.join(names)}")
    return [_cell(name, row.get(name)) for name in names]


def _cell(name: str, value: Any) -> Any:
    """A value as its column has it: text (never missing), a number or `None`; other columns' are left alone."""
    if value is None or value is pd.NA or value != value:
        value = ""
    if name in _TEXT:
        return str(value)
    if name != "label" and not _is_number(name):
        return value
    if value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"column {name} holds {value!r}, which is no number") from None
    if name != "label":
        return number
    if number not in (0, 1):
        raise ValueError(f"column label holds {value!r}: a label is 0 (normal) or 1 (anomalous)")
    return int(number)
