"""The command `demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from pyasd.cli import terminal
from pyasd.cli.command import command
from pyasd.cli.options import Seed

if TYPE_CHECKING:
    from pandas import DataFrame


@command
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for recordings and results.")] = Path("pyasd-demo"),
    seed: Seed = 0,
    clips: Annotated[
        int,
        typer.Option(min=2, help="Clips per machine to learn from; as many healthy and faulty ones are for testing."),
    ] = 24,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the clips in training, instead of each model's own number.")
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="Make a miniature of a data set in its folders and names, and stop: {data sets}.", show_default=False
        ),
    ] = None,
) -> bool:
    """Make a small synthetic factory, learn its machines, and score and evaluate its recordings.

    Nine machines of three types (fans, pumps, conveyors), healthy and with faults (imbalance, worn bearing, leak,
    missing strokes, slipping belt), in hall noise. Nothing was recorded, so the figures say nothing about real
    machines. Learns the default system, and the challenge's autoencoder beside it, and draws a picture of one normal
    and one faulty clip.

    Examples:

    - `pyasd demo --out factory --seed 1`

    - `pyasd demo --layout dcase2020 --out mini` makes something to try pyasd reproduce on
    """
    if layout is not None:
        from pyasd.datasets import dcase
        from pyasd.factory import miniature

        with terminal.progress() as progress:
            made = miniature.write(out, dcase.data_set(layout), seed=seed, train=clips, test=clips, progress=progress)
        terminal.line(f"{out}: {len(made)} synthetic clips in the layout of {layout}")
        return True

    from pyasd.factory import demo as factory

    start = time.monotonic()
    with terminal.progress() as progress:
        result = factory.run(out, seed=seed, clips=clips, epochs=epochs, progress=progress)
    _print_comparison(result.evaluations)
    lines = [f"{what + ':':12}{path}" for what, path in result.files.items()]
    lines.append(f"{time.monotonic() - start:.0f} s. All sounds are synthetic. Next, with recordings of your own:")
    lines.append("  pyasd score RECORDINGS/")
    for text in lines:
        terminal.line(text)
    return not result.detector.skipped and terminal.report_failures(result.scores)


def _print_comparison(evaluations: dict[str, DataFrame]) -> None:
    """Print AUC / pAUC in per cent: a row per machine ID, a column per model."""
    from pyasd.tables.evaluation import AVERAGE

    table = terminal.table("machine:", "ID:", "normal/faulty", *evaluations)
    table.title = "AUC / pAUC in %, synthetic recordings"
    for rows in zip(*(x.itertuples() for x in evaluations.values()), strict=True):
        first, average = rows[0], rows[0].machine_id == AVERAGE
        figures = [" / ".join(terminal.percent(row.auc, row.pauc)) for row in rows]
        cells = (first.machine_type, first.machine_id, f"{first.normal}/{first.anomalous}", *figures)
        table.add_row(*map(Text, cells), end_section=average, style="bold" if average else None)
    terminal.console().print(table)
