"""What an ended run leaves beside a table: its rows so far, and what they were made by, so that a run can go on."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pyasd import storage
from pyasd.clips.names import unguarded


def note_of(partial: Path) -> Path:
    """Return the file, beside an unfinished table, that says what it is made by."""
    return partial.with_name(f"{partial.name}.json")


def note(partial: Path, made_by: Mapping[str, Any]) -> None:
    """Note what an unfinished table is made by.

    Raises:
        OSError: it can't be written.
    """
    with storage.atomic(note_of(partial)) as file:
        file.write_text(json.dumps(made_by, indent=1, default=str), encoding="utf-8")


def forget(partial: Path) -> None:
    """Remove what was noted of a table that is finished, or begun anew."""
    note_of(partial).unlink(missing_ok=True)


def check(partial: Path, made_by: Mapping[str, Any]) -> None:
    """Check that an unfinished table is made by the same model and settings.

    Raises:
        ValueError: it isn't, or nothing is known of it.
    """
    remedy = f"or move {partial} away to start over"
    try:
        known = json.loads(note_of(partial).read_text(encoding="utf-8"))
        differing = [name for name in made_by if known[name] != json.loads(json.dumps(made_by[name], default=str))]
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        raise ValueError(
            f"{note_of(partial).name} doesn't tell what {partial} was made by: read it as it is, {remedy}"
        ) from None
    if "model" in differing:
        raise ValueError(f"{partial} was begun with another model: give that one, {remedy}")
    for name in differing:
        raise ValueError(
            f"{partial} was begun with {name}={known[name]!r}, and this run has {name}={made_by[name]!r}: give the "
            f"same, {remedy}"
        )


def rows(partial: Path, header: str, several: bool = False) -> tuple[Counter[str], int]:
    """Count the clips of an unfinished table that have all their rows, by their names, and the bytes that these rows
    take with the header.

    Args:
        partial: the table.
        header: its first line.
        several: a clip may have several rows, of its cuts and channels: those of the last one don't count, for there
            may be more.

    Raises:
        ValueError: it has other columns.
    """
    names = header.rstrip().split(",")
    section = [names.index("channel"), names.index("start")]
    clips: Counter[str] = Counter()
    size = before = 0
    last = ""
    sections: set[tuple[str, ...]] = set()
    for number, line in enumerate(_whole_lines(partial)):
        text = line.decode("utf-8", "surrogatepass")
        if number == 0 and text != header:
            raise ValueError(f"{partial} has other columns: give the settings that it was begun with, or move it away")
        if number:
            cells = next(csv.reader([text]))
            name, place = unguarded(cells[0]), tuple(cells[i] for i in section)
            if not several or name != last or place in sections:  # also where one clip is given twice
                clips[name] += 1
                last, sections, before = name, set(), size
            sections.add(place)
        size += len(line)
    if several and clips:
        clips[last] -= 1
        return +clips, before
    return clips, size


def drop_failed(partial: Path) -> None:
    """Take the rows without a score out of an unfinished table, with all others of their clips, which are then scored
    again. Whatever ends this, the table is the old one or the new one.

    Raises:
        OSError: it can't be written.
    """
    failed = {name for name, score in cells(partial, "clip", "score") if not score}
    if not failed:
        return
    with storage.atomic(partial) as path, open(path, "wb") as file:
        for number, line in enumerate(_whole_lines(partial)):
            name = unguarded(next(csv.reader([line.decode("utf-8", "surrogatepass")]))[0])
            if not number or name not in failed:
                file.write(line)


def cells(table: Path, *columns: str) -> Iterator[list[str]]:
    """Yield the texts in some columns of each whole row of a table that is written to, `*columns` by their names.

    Raises:
        ValueError: it has no such column.
    """
    lines = (next(csv.reader([line.decode("utf-8", "surrogatepass")])) for line in _whole_lines(table))
    header = next(lines, list(columns))
    places = [header.index(column) for column in columns]
    return ([unguarded(row[place]) for place in places] for row in lines)


def whole(table: Path) -> Path | io.BytesIO:
    """Return a CSV file for reading, without the part of a row that it may end with: a kill leaves one, and so may
    somebody who is writing just now. The last row needs no end of line, if it has all its cells.
    """
    quotes, end = 0, b""
    with open(table, "rb") as file:
        while block := file.read(1 << 20):
            quotes, end = quotes + block.count(b'"'), block[-1:]
    if end in (b"", b"\n") and quotes % 2 == 0:
        return table
    lines = list(_whole_lines(table))
    rows = b"".join(lines)
    with open(table, "rb") as file:
        file.seek(len(rows))
        rest = file.read()
    with contextlib.suppress(UnicodeDecodeError, csv.Error):
        header, last = csv.reader([(lines or [rest])[0].decode(), rest.decode()])
        if quotes % 2 == 0 and len(last) == len(header):
            rows += rest
    return io.BytesIO(rows)


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Yield a CSV file's rows, with their ends of line: a text in quotes may have some, too. A torn row isn't one."""
    line = b""
    with open(path, "rb") as file:
        for part in file:
            line += part
            if line.endswith(b"\n") and line.count(b'"') % 2 == 0:
                yield line
                line = b""
