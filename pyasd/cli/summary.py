"""Gather what `pyasd score` prints, some thousand rows at a time: a table of millions doesn't fit in memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.text import Text

from pyasd.cli import terminal
from pyasd.tables import events, table
from pyasd.tables.table import LEARNT

if TYPE_CHECKING:
    from pandas import DataFrame


class Summary:
    """The highest scores of a table, what its recordings are like, and what failed.

    Args:
        top: how many of the highest scores are kept.
        events: whether cuts that are anomalies are kept.

    Attributes:
        rows: how many there were.
    """

    def __init__(self, top: int, events: bool = False) -> None:
        self.rows = 0
        self._top = top
        self._with_events = events
        self._best: DataFrame | None = None
        self._anomalies: list[DataFrame] = []
        self._channels: set[str] = set()
        self._cut = False
        self._noted = 0
        self._notes: Counter[str] = Counter()
        self._failures = terminal.Failures()

    def add(self, scores: DataFrame) -> None:
        """Take the next rows in."""
        self.rows += len(scores)
        scored = scores[scores["score"].notna()]
        if len(scored):
            known = scored if self._best is None else pd.concat([self._best, scored])
            self._best = known.nlargest(self._top, "score", keep="first")
        if self._with_events:
            self._anomalies.append(scores[scores["decision"] == "anomaly"])
        self._channels |= set(scores["channel"])
        self._cut |= bool((scores["start"] > 0).any())
        self._notes.update(word for note in scores["note"] for word in note.split(", ") if word)
        self._noted += sum(note not in ("", LEARNT) for note in scores["note"])
        self._failures.add(scores)

    def print_top(self) -> None:
        """Print the highest scores."""
        if self._best is None or self._best.empty:
            return
        best = self._best
        decided = [name for name in ("decision", "confirmed") if name in best]
        noted = ["note"] if self._notes else []
        texts = [*decided, "status", *noted, *(["channel"] if len(self._channels) > 1 else []), "clip"]
        numbers = ["score", *(["p"] if decided else []), *(["from"] if self._cut else [])]
        printed = terminal.table(*numbers, *(f"{x}:" for x in texts))
        for row in best.to_dict("records"):
            p = "" if not decided or row["p_value"] != row["p_value"] else f"{row['p_value']:.4f}"
            cells = [f"{row['score']:.2f}", *([p] if decided else [])]
            cells += [terminal.clock(row["start"])] if self._cut else []
            printed.add_row(*cells, *(Text(terminal.visible(row[x])) for x in texts))
        terminal.console().print(printed)

    def print_events(self, out: Path) -> None:
        """Write the events, and print those with the highest scores."""
        found = events.events(pd.concat(self._anomalies, ignore_index=True))
        table.write(out, found)
        printed = terminal.table("peak", "from", "to", "cuts", "channel:", "clip:")
        for row in found.nlargest(self._top, "peak", keep="first").to_dict("records"):
            times = [terminal.clock(row["start"]), terminal.clock(row["end"])]
            names = [Text(terminal.visible(row[x])) for x in ("channel", "clip")]
            printed.add_row(f"{row['peak']:.2f}", *times, str(row["cuts"]), *names)
        if len(found) and self._top:
            terminal.console().print(printed)
        terminal.say(f"{len(found)} events are in {out}")

    def tell_notes(self) -> None:
        """Say how many clips are unlike those that were learnt, and in what."""
        notes = Counter(self._notes)
        learnt = notes.pop(LEARNT, 0)
        if notes:
            what = ", ".join(f"{word} {times}" for word, times in notes.most_common())
            terminal.say(
                f"{self._noted} of {self.rows} recordings are unlike those that were learnt ({what}): their scores may "
                "tell of that, and not of the machine"
            )
        if learnt:
            terminal.say(f"{learnt} of {self.rows} clips were learnt: their scores say nothing of new ones")

    def report_failures(self) -> bool:
        """Say how many clips have no score, and why; return whether there are none."""
        return self._failures.report()
