"""Scoring files as they land in a folder, each once, whatever ends the run and however often it starts again."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

from pyasd.clips import Channel
from pyasd.compute import Compute
from pyasd.cutting import Cutting
from pyasd.detector import Detector, load
from pyasd.detector.decisions import DecisionRule
from pyasd.detector.scoring import Scoring, UnknownIds
from pyasd.detector.table import written
from pyasd.runners.arrivals import Arrivals, File, Patience
from pyasd.tables import unfinished
from pyasd.tables.table import Row
from pyasd.tables.writer import Writer

TOGETHER = 256
"""Files that are taken from a backlog at once."""

SHARE = 9.0
"""The pause between two looks is at least so many times as long as a look: a slow drive isn't kept busy by it."""

PERHAPS_LATER = ("missing", "empty", "unreadable", "truncated", "too-short", "not-finite")
"""What may be wrong with a file only because it isn't all there."""


def watch(  # noqa: PLR0913 (a public door: as `score`)
    folder: str | os.PathLike[str],
    model: str | os.PathLike[str] | Detector,
    out: str | os.PathLike[str],
    *,
    ids: str | None = None,
    machine_type: str | None = None,
    channel: Channel = 0,
    window: float | None = None,
    hop: float | None = None,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "auto",
    unknown_ids: UnknownIds = "refuse",
    score_mode: str | None = None,
    false_alarms: float | None = None,
    confirm: tuple[int, int] | None = None,
    once: bool = False,
    poll: float = 1.0,
    settle: float = 2.0,
    give_up: float = 600.0,
) -> Iterator[Row]:
    """Score the files in a folder and those that land in it, and add each one's row to a table, once.

    Files that have a row in the table are not scored again: a call with the same table goes on where another one ended,
    whatever ended it. So each file needs a name of its own. Files are scored in the order of their times.

    A file is read once its size and time have been the same for a while. One that ends before its header says, or can't
    be read, is tried again, and taken as it is in the end. One that vanishes before it was read has no row, and is
    scored if it comes back.

    Args:
        folder: the folder, with its subfolders. It may be out of reach for a while.
        model: a detector or its file.
        out: the table, a .csv file; see `tables.writer.Writer` on endless ones. Everybody may read it at any time.
        ids: the machine ID of all clips, instead of what their names say.
        machine_type: that of all clips, instead of what their folders say.
        channel: see `Detector.score`, as for what follows.
        window: cut recordings into sections of so many seconds, each with a row of its own.
        hop: from one section to the next, in seconds.
        device: "auto", "cpu", "cuda", or several GPUs.
        backend: of the operators.
        precision: of the operators.
        unknown_ids: "refuse" or "pool".
        score_mode: instead of the members' own.
        false_alarms: decide clips with this rate of false alarms among normal ones.
        confirm: `(3, 5)` looks back at the table's last clips, those of earlier runs too.
        once: end when the files have rows that are there now. What isn't there in full is left for the next run, unless
            its time is longer ago than `give_up`.
        poll: seconds between two looks into the folder; more where a look takes more than a tenth of them.
        settle: seconds in which a file's size and time mustn't change before it is read.
        give_up: seconds for which a file is tried again that ends early or can't be read.

    Returns:
        An iterator of the rows: the table has them when they come.

    Raises:
        FileNotFoundError: there is no such folder, or no such model.
        ValueError: the arguments don't make sense; or (from the iterator) the table was made by another model or other
            settings.
        FileExistsError: from the iterator: another run is writing the table.
        OSError: from the iterator: the table can't be written.
        DeviceLost: from the iterator: a GPU failed.
    """
    place = Path(folder)
    if not place.is_dir():
        what = "is a file" if place.exists() else "doesn't exist"
        raise FileNotFoundError(f"{place} {what}: give the folder in which recordings land")
    if not poll >= 0:
        raise ValueError(f"poll must be a number of seconds from 0 on, not {poll:g}")
    detector = model if isinstance(model, Detector) else load(model)
    scoring = Scoring(
        detector,
        Compute.choose(device, backend, precision),
        channel=channel,
        cutting=Cutting.of(window, hop),
        unknown_ids=unknown_ids,
        score_mode=score_mode,
        rule=DecisionRule.of(false_alarms, confirm),
    )
    made_by = {"model": detector.digest(), "folder": str(place), "ids": ids, "machine_type": machine_type}
    made_by |= scoring.made_by()
    writer = Writer(out, detector.recipe.names, scoring.decision_columns, made_by, endless=True)
    known = {"machine_id": ids, "machine_type": machine_type}
    told = {name: value for name, value in known.items() if value is not None}
    return _Watch(place, scoring, writer, told, poll, Patience(settle, give_up)).rows(once)


@dataclass
class _Watch:
    """What `watch` was called with, checked.

    Attributes:
        begun: by its name, a recording of which an earlier run may have left some cuts and channels without a row, and
            those that have one.
    """

    folder: Path
    scoring: Scoring
    writer: Writer
    told: dict[str, Any]
    poll: float
    patience: Patience
    begun: dict[str, set[tuple[str, float]]] = field(default_factory=dict)

    def rows(self, once: bool) -> Iterator[Row]:
        """Yield the rows of the files that land."""
        with self.writer as writer:
            self._look_back()
            arrivals = Arrivals(self.folder, writer.done, self.patience)
            while True:
                begun = time.monotonic()
                files = arrivals.look()
                pause = max(self.poll, SHARE * (time.monotonic() - begun))
                yield from self._scored(arrivals, files)
                if once:
                    break
                time.sleep(pause)
            if arrivals.waiting:
                time.sleep(self.patience.settle)
                yield from self._scored(arrivals, arrivals.look(), last=True)

    def _look_back(self) -> None:
        """Find in the table what `confirm` looks back at, and whether the last recording has rows for all its cuts: it
        is scored again, unless it has gone, and the rows that there are stay.
        """
        several, decided = self.scoring.wanted.several, "confirmed" in self.scoring.decision_columns
        if not several and not decided:
            return
        columns = ("clip", "channel", "start", "machine_type", "machine_id", *["decision"][:decided])
        last, rows = "", list[list[str]]()
        for name, own in groupby(unfinished.cells(self.writer.partial, *columns), key=itemgetter(0)):
            self._recall(rows)
            last, rows = name, list(own)
        if several and os.path.exists(last):
            self.begun = {last: {(channel, float(start)) for _, channel, start, *_ in rows}}
            del self.writer.done[last]
        else:
            self._recall(rows)

    def _recall(self, rows: Sequence[Sequence[str]]) -> None:
        """Let clips of earlier runs count among the last ones that `confirm` looks back at."""
        if "confirmed" in self.scoring.decision_columns:
            self.scoring.recall(
                [machine_type, machine_id, channel, decision]
                for _, channel, _, machine_type, machine_id, decision in rows
            )

    def _scored(self, arrivals: Arrivals, files: Sequence[File], last: bool = False) -> Iterator[Row]:
        """Score settled files, some at a time, and yield the rows that count."""
        for begin in range(0, len(files), TOGETHER):
            yield from written(self._judged(arrivals, files[begin : begin + TOGETHER], last), self.writer)

    def _judged(self, arrivals: Arrivals, files: Sequence[File], last: bool) -> Iterator[Row]:
        """Yield the rows of those files that have landed or are waited for no longer, all of a file's or none."""
        looked_into = [(file, arrivals.clip(file, last)) for file in files]
        landed = [(file, replace(clip, **self.told)) for file, clip in looked_into if clip is not None]
        rows = self.scoring.rows([clip for _, clip in landed])
        for (file, clip), (_, of_file) in zip(landed, groupby(rows, key=attrgetter("clip")), strict=True):
            own = list(of_file)
            wrong = {row.status for row in own}.intersection(PERHAPS_LATER)
            if "missing" in wrong or (wrong and not arrivals.is_unfit(file, last)):
                continue
            arrivals.end(file)
            self.writer.done[clip.name] += 1
            there = self.begun.pop(clip.name, set())
            yield from (row for row in own if (row.channel, row.start) not in there)
