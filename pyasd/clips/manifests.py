"""Manifests: tables whose column `clip` names a clip a row, with what is known of it. pyasd's own tables of scores are
such, too.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pyasd.clips.clip import Channel, Clip
from pyasd.clips.names import LABELS, SPLITS, printable, unguarded
from pyasd.clips.sources import BrokenSource, archive_members

SUFFIXES = (".csv", ".parquet")

CLIP = "clip"
"""The column that makes a table a manifest."""

SECTION = ("start", "duration")
"""The columns that make sections of recordings of rows, both together: many a table tells the length of its files."""

BATCH_ROWS = 8192
"""Rows of a Parquet file that are in memory at once."""

ARCHIVES = 64
"""Archives whose clips' names are in memory, where rows name members."""

Record = Callable[[Path, Path], Clip]
"""Makes the record of a file, of its path and of the folder from which on folders tell."""

Archived = Callable[[Path], Iterable[Clip]]
"""Lists the clips in an archive."""


def is_manifest(path: Path) -> bool:
    """Return whether a file is a table with a column `clip`."""
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    try:
        return CLIP in _columns(path)
    except (OSError, ValueError):
        return False


def of_file(path: Path, record: Record, archived: Archived) -> Iterator[Clip]:
    """Yield the clips of a manifest, in its order and as it is read. Relative paths are relative to its folder; to the
    current folder, if the first one of them that is there lies there.

    Args:
        path: a .csv or .parquet file.
        record: makes the record of a file.
        archived: lists an archive's clips.

    Raises:
        ValueError: a row can't be read, or says of its clip what can't be; the message has the row's line.
        OSError: it can't be opened.
    """
    shown = printable(path)
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _parquet_rows(path)
    return _clips(rows, shown, path.absolute().parent, record, archived)


def of_table(table: Any, record: Record, archived: Archived) -> Iterator[Clip]:
    """Yield the clips of a pandas table, as of a manifest in the current folder; see `of_file`."""
    known = {name: list(table[name]) for name in COLUMNS if name in table.columns}
    rows = (
        (f"row {number}", dict(zip(known, cells, strict=True)))
        for number, cells in enumerate(zip(*known.values(), strict=True))
    )
    return _clips(rows, "the table of clips", Path.cwd(), record, archived)


# -- rows ---------------------------------------------------------------------------------------------------------

Rows = Iterable[tuple[str, Mapping[str, Any]]]
"""A manifest's rows: for each the place that messages name, such as "line 7", and its cells by column."""


def _columns(path: Path) -> list[str]:
    """Return a table's columns.

    Raises:
        ValueError: it is none.
        OSError: it can't be opened.
    """
    if path.suffix.lower() == ".csv":
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
            try:
                return [name.strip() for name in next(csv.reader(file), [])]
            except csv.Error as error:
                raise ValueError(str(error)) from None
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open(path, "rb") as binary:  # pyarrow takes no other names than UTF-8
        try:
            return list(pq.read_schema(binary).names)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(str(error)) from None


def _csv_rows(path: Path) -> Rows:
    shown, columns = printable(path), _columns(path)
    _check_columns(shown, columns)
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        before = 0  # lines before the row: one may have several
        try:
            for cells in reader:
                line, before = before + 1, reader.line_num
                if not cells or line == 1:
                    continue
                if len(cells) != len(columns):
                    raise ValueError(
                        f"{shown}, line {line}: there are {len(cells)} cells, and {len(columns)} columns (a name with "
                        "a comma needs quotes)"
                    )
                yield f"line {line}", dict(zip(columns, map(unguarded, cells), strict=True))
        except UnicodeDecodeError:
            raise ValueError(f"{shown} isn't UTF-8, behind line {before}: save it so") from None
        except csv.Error as error:
            raise ValueError(f"{shown}, line {before + 1}: {error}") from None


def _parquet_rows(path: Path) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    shown, columns = printable(path), _columns(path)
    _check_columns(shown, columns)
    number = 0
    with open(path, "rb") as file:
        try:
            for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=[x for x in COLUMNS if x in columns]):
                for cells in batch.to_pylist():
                    number += 1
                    yield f"row {number}", cells
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: texts that aren't UTF-8
            raise ValueError(f"{shown} can't be read behind row {number} ({error}): write it again") from None


def _check_columns(shown: str, columns: Sequence[str]) -> None:
    twice = [name for name in COLUMNS if columns.count(name) > 1]
    if twice:
        raise ValueError(f"{shown} has two columns {twice[0]}: leave one out")


# -- cells --------------------------------------------------------------------------------------------------------


def _text(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():  # a column of whole numbers with gaps
        value = int(value)
    return str(value).strip()


def _word(what: str, words: Mapping[str, Any], shown: str = "") -> Callable[[Any], Any]:
    def parse(value: Any) -> Any:
        text = _text(value).casefold()
        if text not in words:
            raise ValueError(f"{what} is {str(value)!r}, and can be {shown or ', '.join(words)}")
        return words[text]

    return parse


def _seconds(what: str, least: float, wanted: str) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not least <= number < math.inf:
            raise ValueError(f"{what} is {str(value)!r}, and can be a number of seconds{wanted}")
        return number

    return parse


def _channel(value: Any) -> Channel:
    text = _text(value)
    if text in ("mean", "all"):
        return cast(Channel, text)
    if not re.fullmatch("[0-9]{1,6}", text):
        raise ValueError(f"channel is {text!r}, and can be a number from 0, mean or all")
    return int(text)


_LABELS = {"0": 0, "0.0": 0, "1": 1, "1.0": 1, "false": 0, "true": 1, **LABELS}

COLUMNS: dict[str, Callable[[Any], Any]] = {
    CLIP: str,
    "machine_type": _text,
    "machine_id": _text,
    "split": _word("split", SPLITS),
    "domain": _word("domain", {"source": "source", "target": "target"}),
    "label": _word("label", _LABELS, "0 or normal, 1 or anomalous"),
    "channel": _channel,
    "start": _seconds("start", 0, " from 0"),
    "duration": _seconds("duration", 1e-9, " above 0"),
}
"""The columns that say something of a clip, and what makes a field of `Clip` of a cell. Others are passed over."""


def _is_empty(value: Any) -> bool:
    return value is None or str(value).strip() in ("", "nan", "<NA>", "NaT")


def _clips(rows: Rows, shown: str, folder: Path, record: Record, archived: Archived) -> Iterator[Clip]:
    places = Places(folder, record, archived)
    for where, cells in rows:
        section = all(name in cells for name in SECTION)
        try:
            known = {
                name: parse(cells[name])
                for name, parse in COLUMNS.items()
                if not _is_empty(cells.get(name)) and (section or name not in SECTION)
            }
            if CLIP not in known:
                raise ValueError("it names no clip")
        except ValueError as error:
            raise ValueError(f"{shown}, {where}: {error}") from None
        name = known.pop(CLIP)
        if "label" in known:
            known["doubt"] = ""
        yield replace(places.find(name), name=name, named=True, **known)


class Places:
    """Finds the clips that rows name: files, and members of archives."""

    def __init__(self, folder: Path, record: Record, archived: Archived) -> None:
        self._folder = folder
        self._decided = folder == Path() or folder == Path.cwd()
        self._record = record
        self._archived = archived
        self._members: dict[Path, dict[str, deque[Clip]]] = {}  # of the last archives, by the clips' names

    def find(self, name: str) -> Clip:
        """Return the clip of a name; the next one, of an archive's members of one name."""
        path = Path(name)
        base = self._base(path)
        archive = self._archive(base, path)
        if archive is not None:
            return self._in_archive(name, archive, base)
        whole = Path(os.path.normpath(base / path))
        return self._record(base / path, base if whole.is_relative_to(base) else whole.parent)

    def member(self, name: str) -> Clip | None:
        """Return the clip of a name such as tables of scores have for members of archives; `None` for any other."""
        base, path = self._folder, Path(name)
        archive = self._archive(base, path)
        if archive is None or archive == base / path:
            return None
        return replace(self._in_archive(name, archive, base), name=name, named=True)

    def _archive(self, base: Path, path: Path) -> Path | None:
        """Return the archive that a path leads into."""
        outermost = (base / x for x in (*reversed(path.parents), path) if archive_members(x.name) is not None)
        return next((x for x in outermost if _is_there(x) and x.is_file()), None)

    def _base(self, path: Path) -> Path:
        """Return the folder that relative paths are relative to."""
        if not self._decided and not path.is_absolute():
            here = Path.cwd()
            if _is_there(self._folder / path) or self._archive(self._folder, path):
                self._decided = True
            elif _is_there(here / path) or self._archive(here, path):
                self._folder, self._decided = here, True
        return self._folder

    def _in_archive(self, name: str, archive: Path, base: Path) -> Clip:
        if archive not in self._members:
            if len(self._members) == ARCHIVES:
                del self._members[next(iter(self._members))]
            self._members[archive] = self._list(archive)
        members = self._members[archive].get(str(base / name)) or self._members[archive].get("")
        if members:
            return members.popleft() if len(members) > 1 else members[0]
        if archive == base / name:
            why = "is an archive, and a row names one clip: give it by itself"
        else:
            why = "doesn't exist: the archive has no such clip"
        return Clip(name, BrokenSource(name, "missing", f"{name} {why}"))

    def _list(self, archive: Path) -> dict[str, deque[Clip]]:
        """Return an archive's clips by their names; under "" one for all that can't be read."""
        members: dict[str, deque[Clip]] = {}
        try:
            for clip in self._archived(archive):
                members.setdefault(str(Path(clip.name)), deque()).append(clip)
        except (OSError, ValueError) as error:
            members[""] = deque([Clip("", BrokenSource(printable(archive), "unreadable", str(error)))])
        return members


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
