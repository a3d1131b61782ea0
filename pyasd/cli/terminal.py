"""Printing of commands: lines on stderr, tables on stdout, progress bars on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import rich.progress
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from pyasd.cli import vocabulary
from pyasd.progress import Progress, silent

if TYPE_CHECKING:
    from pandas import DataFrame


def visible(text: str) -> str:
    """Return a text with its control characters, and others that can't be seen, written out: a name may have some that
    a terminal would obey.
    """
    return "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in text)


def console(stderr: bool = False, wide: bool = False) -> Console:
    """Return a console for plain text, without markup. Lines are cut to a terminal's width, unless they may be `wide`,
    and never where the output is piped.
    """
    stream = sys.stderr if stderr else sys.stdout
    narrow = stream is not None and stream.isatty() and not wide
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=None if narrow else 10_000)


def say(text: str) -> None:
    """Print a line for the person at the terminal, on stderr. Where it is gone, there is nobody to tell."""
    with contextlib.suppress(OSError):
        console(stderr=True).print(Text(f"pyasd: {visible(text)}"), soft_wrap=True)


def line(text: str) -> None:
    """Print a line on stdout."""
    console().print(Text(visible(text)), soft_wrap=True)


class _Speed(rich.progress.ProgressColumn):
    """How many are done in a second."""

    def render(self, task: rich.progress.Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if not speed else f"{speed:.3g}/s" if speed < 1000 else f"{speed:,.0f}/s")


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """Show a bar for the stage at work, on a terminal; nothing when piped."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield silent
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), _Speed(),
        TimeRemainingColumn(),
    )  # fmt: skip
    remaining_width = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # a long path must leave room for the others
    info_column = TextColumn("{task.fields[info]}", markup=False, table_column=remaining_width)
    with rich.progress.Progress(*columns, info_column, console=console(True), transient=True, expand=True) as bar:
        current: tuple[str, TaskID] | None = None

        def show(stage: str, done: int, total: int, info: str) -> None:
            nonlocal current
            info = visible(info)
            if current is None or current[0] != stage:
                if current is not None:
                    bar.remove_task(current[1])
                current = stage, bar.add_task(stage, total=total or None, info=info)
            bar.update(current[1], completed=done, total=total or None, info=info)

        yield show


def table(*columns: str) -> Table:
    """Return a table of numbers, flush right; columns whose names end in a colon are of text, flush left."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        text = name.endswith(":")
        table.add_column(name.rstrip(":"), justify="left" if text else "right", overflow="fold", no_wrap=not text)
    return table


def clock(seconds: float) -> str:
    """Return a place in a recording, such as "1:02:03.5"."""
    tenths = round(10 * seconds)
    hours, minutes = divmod(tenths // 600, 60)
    return (f"{hours}:{minutes:02}" if hours else str(minutes)) + f":{tenths // 10 % 60:02}.{tenths % 10}"


def percent(*shares: float) -> list[str]:
    """Return shares from 0 to 1 in per cent, as cells of a table."""
    return [f"{100 * share:.1f}" for share in shares]


class Failures:
    """Which clips of a table have no score, counted part by part."""

    def __init__(self) -> None:
        self._rows = 0
        self._counts: Counter[str] = Counter()
        self._first = ""

    def add(self, scores: DataFrame) -> None:
        """Take the next rows in."""
        failed = scores[scores["error"] != ""]
        self._rows += len(scores)
        self._counts.update(failed["status"])
        if len(failed) and not self._first:
            self._first = failed["error"].iloc[0]

    def report(self) -> bool:
        """Say how many clips have no score, and why; return whether there are none."""
        if not self._counts:
            return True
        counts = ", ".join(f"{count} {status}" for status, count in self._counts.items())
        first = vocabulary.with_options(self._first)
        say(f"{self._counts.total()} of {self._rows} clips have no score ({counts}). The first: {first}")
        return False


def report_failures(scores: DataFrame) -> bool:
    """Say how many clips of a table have no score, and why; return whether there are none."""
    failures = Failures()
    failures.add(scores)
    return failures.report()
