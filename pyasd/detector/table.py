"""Scores collected in a table, and written to a file as they come."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyasd.clips import Clip
from pyasd.detector.scoring import BATCH_CLIPS, Scoring
from pyasd.errors import DeviceLost
from pyasd.tables import table
from pyasd.tables.writer import Resume, Writer

if TYPE_CHECKING:
    from pandas import DataFrame


WRITE_SECONDS = 1.0
"""Rows wait no longer for others before they are written."""


def open_table(
    out: str | os.PathLike[str] | None,
    members: Sequence[str],
    decisions: Sequence[str] = (),
    made_by: Mapping[str, Any] | None = None,
    resume: Resume = False,
    several: bool = False,
) -> contextlib.AbstractContextManager[Writer | None]:
    """Open the file of a table, see `Writer`; or nothing where none is wanted."""
    return contextlib.nullcontext() if out is None else Writer(out, members, decisions, made_by, resume, several)


def without(clips: Sequence[Clip], done: Counter[str]) -> list[Clip]:
    """Return the clips that have no row yet: of those of one name, the first ones have it."""
    left = Counter(done)
    remaining = []
    for clip in clips:
        if left[clip.name] > 0:
            left[clip.name] -= 1
        else:
            remaining.append(clip)
    return remaining


def written(rows: Iterable[table.Row], writer: Writer | None) -> Iterator[table.Row]:
    """Yield rows once `writer` has them: some together, or what has come within a second. Whatever ends this, it has
    them all.

    Raises:
        OSError: the file can't be written.
    """
    waiting: list[table.Row] = []
    last = time.monotonic()
    try:
        for row in rows:
            waiting.append(row)
            if len(waiting) == BATCH_CLIPS or time.monotonic() - last > WRITE_SECONDS:
                some, waiting, last = waiting, [], time.monotonic()
                if writer is not None:
                    writer.write(some)
                yield from some
    finally:
        if writer is not None and waiting:
            writer.write(waiting)
    yield from waiting


def collect(scoring: Scoring, clips: Sequence[Clip], members: Sequence[str], writer: Writer | None) -> DataFrame:
    """Score clips into one table; `writer` gets the rows as they come.

    Raises:
        DeviceLost: a GPU failed; `kept` says where the rows so far are.
        OSError: the file can't be written.
    """
    try:
        rows = list(written(scoring.rows(clips), writer))
    except DeviceLost as error:
        if writer is not None:
            error.kept = f"those are in {writer.partial}"
        raise
    scores = table.table(rows, members, scoring.decision_columns)
    scores.attrs |= {"precision": scoring.compute.precision, "modes": scoring.modes}
    return scores
