"""The table of scores: its rows and columns, and reading it. `tables.writer` writes it as the rows come."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pyasd import storage
from pyasd.clips.names import guarded, parse, unguarded
from pyasd.tables import Combination, unfinished

EXTENSIONS = (".csv", ".parquet")

SCORE_PREFIX = "score."
"""Begins the columns of combined scores (`score.mean`) and of members' own scores (`score.group-made`)."""

LEARNT = "learnt"
"""The word in a clip's `note` that the model has learnt it."""


@dataclass(slots=True)
class Row:
    """One clip's row. The fields, in their order and with their types, are the table's columns.

    Attributes:
        clip: its name, as found.
        machine_type, machine_id, split, domain, label: what is known of the clip; see `clips.Clip`.
        channel: its number from 0, or "mean"; "" for a log-Mel; "all" where none of them can be read.
        start: where in the recording, in seconds; 0 for a whole one.
        duration: in seconds; `None` where it isn't known.
        score: in standard deviations above the machine ID's normal clips; higher is more anomalous. `None` where the
            clip has none, as `status` and `error` say.
        combined: the members' standardised scores combined in each way; `score` is the one that the recipe chooses.
            Columns `score.mean` and `score.max`.
        members: each member's own score by its name, in the member's unit. Columns `score.<member>`.
        p_value: the share of the machine ID's normal clips that score as high or higher, this clip counted among them.
        decision: "normal" or "anomaly"; "" where there is no score, or no threshold.
        confirmed: the same, by the last clips' decisions.
        status: "ok", a remark such as "pooled", or what went wrong, such as "truncated".
        note: what of the recording is unlike those that were learnt, in words such as "level, bandwidth"; "learnt"
            where it is one of them.
        error: what went wrong, in words, and what to do; else "".
    """

    clip: str
    machine_type: str = ""
    machine_id: str = ""
    split: str = ""
    domain: str = ""
    channel: str = ""
    start: float | None = 0.0
    duration: float | None = None
    score: float | None = None
    combined: Mapping[Combination, float] = field(default_factory=dict)
    members: Mapping[str, float] = field(default_factory=dict)
    p_value: float | None = None
    decision: str = ""
    confirmed: str = ""
    label: int | None = None
    status: str = "ok"
    note: str = ""
    error: str = ""


DECISIONS = ("p_value", "decision", "confirmed")
"""Columns that a table has only where decisions are asked for."""


class _Type(NamedTuple):
    """The type of a column: in pandas, in Arrow, and `parse`, which makes a cell's value of a field of `Row`, of the
    text in a CSV file or of what pandas has read. It gets the column's name too, for its messages.
    """

    pandas: str
    arrow: pa.DataType
    parse: Callable[[str, Any], Any]


def _text(_column: str, value: Any) -> str:
    return "" if _is_missing(value) else str(value)


def _number(column: str, value: Any) -> float | None:
    if _is_missing(value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"column {column} holds {value!r}, which is no number") from None


def _label(column: str, value: Any) -> int | None:
    number = _number(column, value)
    if number is None:
        return None
    if number not in (0, 1):
        raise ValueError(f"column {column} holds {value!r}: a label is 0 (normal) or 1 (anomalous)")
    return int(number)


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value != value or value == ""


_TEXT = _Type("str", pa.string(), _text)
_NUMBER = _Type("float64", pa.float64(), _number)
_LABEL = _Type("Int64", pa.int64(), _label)
_TYPES = {"str": _TEXT, "float | None": _NUMBER, "int | None": _LABEL}
"""By the type hint of a field of `Row`. `combined` and `members` are several columns of numbers each."""


class Schema:
    """The table's columns, in order and with their types: `Row`, with the members of one detector and those of
    `DECISIONS` that are wanted.
    """

    def __init__(self, members: Sequence[str], decisions: Sequence[str] = DECISIONS) -> None:
        self._score_names: dict[str, Sequence[str]] = {"combined": get_args(Combination), "members": tuple(members)}
        self._fields = [x for x in fields(Row) if x.name not in DECISIONS or x.name in decisions]
        self.types: dict[str, _Type] = {}
        for column in self._fields:
            if column.name in self._score_names:
                names = self._score_names[column.name]
                self.types |= {SCORE_PREFIX + name: _NUMBER for name in names}
            else:
                self.types[column.name] = _TYPES[str(column.type)]

    @property
    def arrow(self) -> pa.Schema:
        """The schema of a Parquet file."""
        return pa.schema([(name, kind.arrow) for name, kind in self.types.items()])

    def cells(self, row: Row) -> list[Any]:
        """Return a row's values in the order of the columns: text (never missing), a number or `None`.

        Raises:
            ValueError: the row has scores that the table has no column for, or a value that its column can't hold.
        """
        values: list[Any] = []
        for column in self._fields:
            value = getattr(row, column.name)
            if column.name in self._score_names:
                names = self._score_names[column.name]
                if unknown := [SCORE_PREFIX + name for name in value if name not in names]:
                    raise ValueError(f"the table has no column {', '.join(unknown)}: it has {', '.join(self.types)}")
                values += [value.get(name) for name in names]
            else:
                values.append(value)
        return [kind.parse(name, value) for (name, kind), value in zip(self.types.items(), values, strict=True)]


FROM_NAMES = ("split", "domain")
"""Columns that older versions' tables lack: what they hold was parsed from the clips' names when it was needed."""

_ADDED = (("start", "channel", 0.0), ("note", "status", ""))
"""Columns that they lack, too: each with the one that it stands behind, and what it holds in them."""


def columns(members: Sequence[str], decisions: Sequence[str] = ()) -> list[str]:
    """Return the table's columns in order, for a detector with these members and those of `DECISIONS` wanted."""
    return list(Schema(members, decisions).types)


def table(rows: Iterable[Row], members: Sequence[str], decisions: Sequence[str] = ()) -> pd.DataFrame:
    """Return rows as a table.

    Args:
        rows: one per clip.
        members: names of the ensemble members.
        decisions: which of `DECISIONS` are wanted.

    Returns:
        Text columns hold strings ("" where there is none), `duration` (seconds) and the scores float64 (NaN is empty),
        `label` nullable Int64.

    Raises:
        ValueError: a row has a score that the table has no column for, or a label other than 0 and 1.
    """
    schema = Schema(members, decisions)
    cells = [schema.cells(row) for row in rows]
    by_column = zip(*cells, strict=True) if cells else ([] for _ in schema.types)
    return pd.DataFrame(
        {
            name: pd.Series(list(values), dtype=kind.pandas)
            for (name, kind), values in zip(schema.types.items(), by_column, strict=True)
        }
    )


def read(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table that `Writer` wrote, also one that was left unfinished (`<path>.partial`) or is being written to, of
    which the whole rows count, or one of an older version.

    Columns of others are kept as they are.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the extension is neither .csv nor .parquet, the file isn't a table, a column is missing, or holds
            what isn't its own.
    """
    (whole,) = read_in_parts(path, None)
    return whole


def read_in_parts(path: str | os.PathLike[str], rows: int | None) -> Iterator[pd.DataFrame]:
    """Read a table some rows at a time, at least once; see `read`.

    Args:
        path: the table.
        rows: in a part, about; `None` for all of them.

    Raises:
        FileNotFoundError, ValueError: as `read`.
    """
    path = Path(path)
    kind = kind_of(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} doesn't exist: write it with `pyasd score CLIPS -o {path}`")
    try:
        if kind == ".parquet" and path.suffix != ".partial":
            with open(path, "rb") as file:  # pyarrow takes no other names than UTF-8
                if rows is None:
                    yield _typed(path, pq.read_table(file).to_pandas())
                    return
                parts = pq.ParquetFile(file)
                for batch in parts.iter_batches(rows):
                    yield _typed(path, batch.to_pandas())
                if not parts.metadata.num_rows:
                    yield _typed(path, parts.schema_arrow.empty_table().to_pandas())
            return
        # text that looks like a number or like NaN is text
        with pd.read_csv(
            unfinished.whole(path), dtype=str, keep_default_na=False, encoding="utf-8", chunksize=rows or sys.maxsize
        ) as raw:
            for part in raw:
                yield _typed(path, part.apply(lambda column: column.map(unguarded)))
    except (pa.ArrowException, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a table of scores ({reason}): write it again with `pyasd score`") from None


def _typed(path: Path, raw: pd.DataFrame) -> pd.DataFrame:
    """Return what was read of a file with the types that the table's columns have."""
    required = [
        column.name
        for column in fields(Row)
        if str(column.type) in _TYPES and column.name not in (*FROM_NAMES, *DECISIONS, "note", "start")
    ]
    if missing := [name for name in required if name not in raw]:
        raise ValueError(f"{path} has no column {', '.join(missing)}: give a table that `pyasd score` wrote")
    try:
        return with_names(pd.DataFrame({name: _series(name, raw[name]) for name in raw}))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write(path: str | os.PathLike[str], frame: pd.DataFrame) -> None:
    """Write a finished table, of whatever columns, at once.

    Raises:
        ValueError: the extension is neither .csv nor .parquet.
        OSError: it can't be written.
    """
    kind = kind_of(Path(path))
    with storage.atomic(path) as partial:
        if kind == ".csv":
            texts = frame.select_dtypes(["object", "string"]).columns
            safe = frame.assign(**{name: [guarded(str(x)) for x in frame[name]] for name in texts})
            safe.to_csv(partial, index=False, encoding="utf-8", errors="backslashreplace", lineterminator="\n")
        else:
            frame.to_parquet(partial, index=False)


def unlearnt(table: pd.DataFrame) -> pd.DataFrame:
    """Return the clips of a table of scores that the model has not learnt, as far as their notes say."""
    if "note" not in table:
        return table
    notes = table["note"].astype(object).where(table["note"].notna(), "")
    return table[~notes.map(lambda note: LEARNT in note.split(", ")).astype(bool)]


def with_names(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the table with all columns: where it lacks `split` and `domain`, with what the clips' names tell; those of
    older versions are of whole recordings, which start at 0 s, and have no notes.
    """
    missing = [name for name in FROM_NAMES if name not in scores]
    added = [(name, behind, value) for name, behind, value in _ADDED if name not in scores and behind in scores]
    if not missing and not added:
        return scores
    scores = scores.copy()
    for name, behind, value in added:
        kind = Schema(()).types[name].pandas
        scores.insert(list(scores).index(behind) + 1, name, pd.Series(value, scores.index, dtype=kind))
    known = [parse(Path(name)) for name in scores["clip"].astype(str)] if missing else []
    place = list(scores).index("machine_id") + 1
    for name in reversed(missing):
        scores.insert(place, name, pd.Series([getattr(names, name) for names in known], scores.index, dtype="str"))
    return scores


def kind_of(path: Path) -> str:
    """Return the extension that says what a table's file is; that of an unfinished one counts too.

    Raises:
        ValueError: it has another.
    """
    name = path.name.removesuffix(".partial").lower()
    for extension in EXTENSIONS:
        if name.endswith(extension):
            return extension
    raise ValueError(f"{path}: a table's name must end in {' or '.join(EXTENSIONS)}")


def _series(name: str, values: pd.Series) -> pd.Series:
    """Return a column of a file with the type that it has in the table."""
    kind = _NUMBER if name.startswith(SCORE_PREFIX) else Schema(()).types.get(name)
    if kind is None:
        return pd.Series(["" if _is_missing(value) else value for value in values])
    return pd.Series([kind.parse(name, value) for value in values], dtype=kind.pandas)
