"""Scores collected in a table, and written to a file as they come."""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pyasd.clips import Clip
from pyasd.detector.scoring import BATCH_CLIPS, Scoring
from pyasd.errors import DeviceLost
from pyasd.tables import table as results
from pyasd.tables import unfinished
from pyasd.tables.table import Row
from pyasd.tables.writer import Resume, Writer

if TYPE_CHECKING:
    from pandas import DataFrame


WRITE_SECONDS = 1.0
"""Rows wait no longer for others before they are written."""

COUNTED = 10_000
"""Clips that are listed before the first is scored, so that one sees how much is left of them."""

CHUNK = 8192
"""Rows of a long table that are looked at together."""


def without(clips: Iterable[Clip], done: Counter[str]) -> Iterable[Clip]:
    """Return the clips that have no row yet, a list of a list: of those of one name, the first ones have it."""
    left = Counter(done)

    def remaining() -> Iterator[Clip]:
        for clip in clips:
            if left[clip.name] > 0:
                left[clip.name] -= 1
            else:
                yield clip

    return list(remaining()) if isinstance(clips, list) else remaining()


def counted(clips: Iterator[Clip]) -> Iterable[Clip]:
    """Return the clips as a list, so that one knows how many there are, unless there are more than `COUNTED`: listing
    an archive takes longer than anybody wants to wait for the first row, and more memory than there may be.
    """
    first = list(itertools.islice(clips, COUNTED + 1))
    return first if len(first) <= COUNTED else itertools.chain(first, clips)


def written(rows: Iterable[Row], writer: Writer | None) -> Iterator[Row]:
    """Yield rows once `writer` has them: some together, or what has come within a second. Whatever ends this, it has
    them all.

    Raises:
        DeviceLost: a GPU failed; `kept` says where the rows so far are.
        OSError: the file can't be written.
    """
    waiting: list[Row] = []
    last = time.monotonic()
    try:
        for row in rows:
            waiting.append(row)
            if len(waiting) == BATCH_CLIPS or time.monotonic() - last > WRITE_SECONDS:
                some, waiting, last = waiting, [], time.monotonic()
                if writer is not None:
                    writer.write(some)
                yield from some
    except DeviceLost as error:
        if writer is not None:
            error.kept = f"those are in {writer.partial}"
        raise
    finally:
        if writer is not None and waiting:
            writer.write(waiting)
    yield from waiting


class Rows(Iterator[Row]):
    """Score clips into a table's file, if there is one, and give each row once it is there.

    Args:
        scoring: the system, and how it scores.
        clips: those to score.
        members: names of the system's members.
        out: the file; `None` for none.
        made_by: see `Writer`, as for what follows.
        resume: go on with rows of an ended run, which are not given again.

    Attributes:
        scoring: see above.
        resumed: how many clips an ended run has scored, once the first row has come or the iterator has ended.

    Raises:
        ValueError: when it begins: the rows that are there can't be gone on with.
        FileExistsError: when it begins: another run is writing this table.
        DeviceLost, OSError: see `written`.
    """

    def __init__(
        self,
        scoring: Scoring,
        clips: Iterator[Clip],
        members: Sequence[str],
        out: str | os.PathLike[str] | None = None,
        made_by: Mapping[str, Any] | None = None,
        resume: Resume = False,
    ) -> None:
        self.scoring = scoring
        self.resumed = 0
        self._members = members
        self._rows = self._written(counted(clips), out, made_by, resume)

    def __next__(self) -> Row:
        """Return the next row."""
        return next(self._rows)

    def close(self) -> None:
        """End early: what was scored is in the unfinished table."""
        self._rows.close()

    def table(self) -> DataFrame:
        """Return the rows that are still to come as a table; its `attrs` say in which `precision` they were computed,
        and each member's score mode (`modes`).
        """
        scores = results.table(self, self._members, self.scoring.decision_columns)
        scores.attrs |= {"precision": self.scoring.compute.precision, "modes": self.scoring.modes}
        return scores

    def tables(self) -> Iterator[DataFrame]:
        """Yield the rows that are still to come as tables of some thousand rows each, at least one."""
        some = list(itertools.islice(self, CHUNK))
        while True:
            yield results.table(some, self._members, self.scoring.decision_columns)
            if not (some := list(itertools.islice(self, CHUNK))):
                return

    def _written(
        self,
        clips: Iterable[Clip],
        out: str | os.PathLike[str] | None,
        made_by: Mapping[str, Any] | None,
        resume: Resume,
    ) -> Generator[Row, None, None]:
        if out is None:
            yield from written(self.scoring.rows(clips), None)
            return
        columns, several = self.scoring.decision_columns, self.scoring.wanted.several
        with Writer(out, self._members, columns, made_by, resume, several) as writer:
            self.resumed = writer.done.total()
            if self.resumed and "confirmed" in columns:
                before = ("machine_type", "machine_id", "channel", "decision")
                self.scoring.recall(unfinished.cells(writer.partial, *before))
            yield from written(self.scoring.rows(without(clips, writer.done)), writer)
