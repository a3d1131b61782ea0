"""The command `watch`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pyasd.cli import terminal, vocabulary
from pyasd.cli.command import command
from pyasd.cli.options import Cuts, Decisions, Hardware, Options, Recordings, ScoreMode, UnknownIds

if TYPE_CHECKING:
    from pyasd.tables.table import Row


@dataclass(frozen=True)
class Waiting(Options):
    """Say how long files are waited for."""

    panel = "Waiting"

    once: Annotated[bool, typer.Option("--once", help="Score what is there and has no row yet, and end: for cron.")] = (
        False
    )
    poll: Annotated[float, typer.Option(help="Seconds between two looks into the folder.")] = 1.0
    settle: Annotated[
        float, typer.Option(help="Seconds in which a file's size and time mustn't change before it is read.")
    ] = 2.0
    give_up: Annotated[
        float, typer.Option(help="Seconds for which a file is tried again that ends early or can't be read.")
    ] = 600.0


@command
def watch(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder in which recordings land.", show_default=False)
    ],
    model: Annotated[Path, typer.Option("--model", "-m", help="What pyasd fit wrote.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Add each file's row to this table, a .csv.", show_default=False)
    ],
    score: ScoreMode = None,
    unknown_ids: UnknownIds = "refuse",
    *,
    decisions: Decisions,
    waiting: Waiting,
    recordings: Recordings,
    cuts: Cuts,
    hardware: Hardware,
) -> bool:
    """Score recordings as they land in a folder, and add each one's row to a table, once.

    Goes on until it is stopped (Ctrl-C, SIGTERM). Whatever ends it, a kill or a power cut too, the same command goes on
    where it was: files that have a row are not scored again. So each file needs a name of its own.

    With --false-alarms, prints a line for each alarm as it comes; with --confirm, for each one that is confirmed. Files
    without a score are told on stderr, and with --once the exit code is then 1.

    Examples:

    - `pyasd watch incoming/ --model line3.safetensors -o scores.csv`

    - `pyasd watch incoming/ -m line3.safetensors -o scores.csv --false-alarms 1% --confirm 3/5` prints alarms
    """
    import pyasd

    rows = pyasd.watch(
        folder, model, out, unknown_ids=cast(Any, unknown_ids), score_mode=score, **decisions.arguments(),
        **waiting.given(), **recordings.arguments(), **cuts.given(), **hardware.given(),
    )  # fmt: skip
    count = failed = 0
    for row in rows:
        count += 1
        if row.error:
            failed += 1
            terminal.say(f"no score: {vocabulary.with_options(row.error)}")
        elif (row.decision if decisions.confirm is None else row.confirmed) == "anomaly":
            terminal.line(_alarm(row))
    terminal.say(f"{count} new rows are in {out}" + (f", {failed} of them without a score" if failed else ""))
    return not failed


def _alarm(row: Row) -> str:
    machine = " ".join(word for word in (row.machine_type, row.machine_id) if word)
    words = ["anomaly", f"score {row.score:.2f}", f"p {row.p_value:.4f}", machine, row.clip]
    return "  ".join(word for word in words if word)
