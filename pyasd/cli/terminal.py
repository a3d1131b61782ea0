"""What all commands of the command line share: the console, progress bars, tables, and errors as exit codes."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from pyasd.errors import FAILED, INTERRUPTED, USAGE, PyasdError
from pyasd.progress import Progress as ProgressCallback
from pyasd.progress import silent


def console(stderr: bool = False, wide: bool = False) -> Console:
    """Plain text, whatever the text holds; as wide as it takes where nobody watches, or where it is to be `wide`."""
    watched = (sys.stderr if stderr else sys.stdout).isatty() and not wide
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, width=None if watched else 10_000)


def say(text: str) -> None:
    """A line for the person at the terminal, on stderr."""
    console(stderr=True).print(Text(f"pyasd: {text}"), soft_wrap=True)


def command(function: Callable[..., bool]) -> Callable[..., None]:
    """Makes a command of a function that says whether all went well: errors become one line and an exit code."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_: say(f"warning: {message}")
            try:
                code = 0 if function(*args, **kwargs) else FAILED
            except KeyboardInterrupt:
                say("stopped" + kept(kwargs.get("out")))
                code = INTERRUPTED
            except BrokenPipeError:  # `pyasd evaluate ... | head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                code = FAILED
            except PyasdError as error:
                say(f"error: {message(error)}")
                code = error.exit_code
            except (ImportError, OSError, TypeError, ValueError) as error:
                say(f"error: {message(error)}")
                code = USAGE
        raise typer.Exit(code)

    return run


def message(error: Exception) -> str:
    """One line that names the file, also for an OSError that Python made."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}: check the path and its rights"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())


def kept(out: Path | None) -> str:
    """What an interrupted command leaves behind."""
    if out is not None and os.path.exists(f"{out}.partial"):
        return f"; the rows so far are in {out}.partial"
    if out is not None and (out / "units").is_dir():
        return f"; the same command goes on with what is in {out}"
    if out is not None and any(Path(f"{out}.checkpoint").glob("*.safetensors")):
        return f"; the same command goes on from {out}.checkpoint"
    return ""


@contextlib.contextmanager
def progress() -> Iterator[ProgressCallback]:
    """A bar for the stage at work, on a terminal; nothing when piped."""
    if not sys.stderr.isatty():
        yield silent
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    left_over = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # else a long path leaves no room for the others
    info = TextColumn("{task.fields[info]}", markup=False, table_column=left_over)
    with Progress(*columns, info, console=console(True), transient=True, expand=True) as bar:
        now: tuple[str, TaskID] | None = None

        def progress(stage: str, done: int, total: int, info: str) -> None:
            nonlocal now
            if now is None or now[0] != stage:
                if now is not None:
                    bar.remove_task(now[1])
                now = stage, bar.add_task(stage, total=total, info=info)
            bar.update(now[1], completed=done, total=total, info=info)

        yield progress


def table(*columns: str) -> Table:
    """A table whose columns are numbers, flush right, but for those whose names end in a colon."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        text = name.endswith(":")
        table.add_column(name.rstrip(":"), justify="left" if text else "right", overflow="fold", no_wrap=not text)
    return table


def percent(*shares: float) -> list[str]:
    """Shares from 0 to 1 in per cent, as cells of a table."""
    return [f"{100 * share:.1f}" for share in shares]
