"""The commands `fit` and `score`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.text import Text

from pyasd.cli import terminal
from pyasd.cli.command import command
from pyasd.cli.options import (
    Clips,
    Cuts,
    Decisions,
    Hardware,
    Options,
    RecipeChanges,
    Recordings,
    ScoreMode,
    Seed,
    UnknownIds,
    some_of,
)

if TYPE_CHECKING:
    from pandas import DataFrame

    from pyasd import Detector
    from pyasd.cli.summary import Summary


@command
def fit(
    clips: Clips,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The model's file, such as fan.safetensors.", show_default=False),
    ] = None,
    system: Annotated[
        str,
        typer.Option(
            help="Which models learn and score together: {systems}. report-1 to report-4 are the report's; their "
            "classifiers need clips of two machine IDs or more. Or a recipe's .toml file: see pyasd recipes."
        ),
    ] = "default",
    seed: Seed = 0,
    machines: Annotated[
        str,
        typer.Option(
            help="What tells machine types where names of data sets don't: folder (those that differ), names, none "
            "(all are of one machine), or auto: folders, unless they are called by dates, numbers or words like day."
        ),
    ] = "auto",
    doubtful: Annotated[
        str,
        typer.Option(help="Clips without a label whose names have a word such as broken: refuse, or learn as healthy."),
    ] = "refuse",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what each group of clips is taken for, and learn nothing.")
    ] = False,
    *,
    recipe: RecipeChanges,
    recordings: Recordings,
    cuts: Cuts,
    hardware: Hardware,
) -> bool:
    """Learn what healthy machines sound like, and write the model to one file.

    Folders and names as in the DCASE challenges tell machine types, machine IDs and what is normal
    (fan/train/normal_id_00_00000000.wav): one model per machine type is learnt, never from anomalies, nor from
    validation and test clips where there are others. Clips without such names are taken to be healthy, of one machine
    or of one for each folder; --dry-run shows what is taken for what.

    A run that was killed goes on from its checkpoint when the same command is given again.

    Examples:

    - `pyasd fit recordings/ -o line3.safetensors` learns all clips of a folder

    - `pyasd fit recordings/ --dry-run` shows what would be learnt

    - `pyasd fit dcase/fan -o fan.safetensors --epochs 20 --order middle` learns dcase/fan/train

    - `pyasd fit mic/*.flac -o mic.safetensors --channel mean` averages the channels of each recording

    - `pyasd fit shift.flac -o line3.safetensors --window 10` learns a long recording in cuts of ten seconds
    """
    import pyasd

    if dry_run:
        _print_plan(pyasd.plan(clips, machines=cast(Any, machines), **recordings.about_clips()))
        return True
    if out is None:
        raise ValueError("give the model's file: --out fan.safetensors, or -o; or --dry-run")
    with terminal.progress() as progress:
        detector = pyasd.fit(
            clips, system, out=out, seed=seed, machines=cast(Any, machines), doubtful=cast(Any, doubtful),
            progress=progress, **recordings.arguments(), **cuts.given(), **hardware.given(), **recipe.given(),
        )  # fmt: skip
    terminal.line(f"{out}: {detector!r}")
    return not detector.skipped


def _print_plan(plan: DataFrame) -> None:
    table = terminal.table("clips", "learnt:", "machine:", "ID:", "split:", "label:", "folder:")
    for row in plan.itertuples():
        learnt = "yes" if row.learnt else "no"
        names = [Text(terminal.visible(x)) for x in (row.machine_type, row.machine_id, row.folder)]
        table.add_row(str(row.clips), learnt, *names[:2], row.split, row.label, names[2])
    terminal.console().print(table)


@dataclass(frozen=True)
class Table(Options):
    """Options for the table of scores."""

    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the whole table here, .csv or .parquet.")] = (
        None
    )
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the table of a run that was ended: clips that have a row in TABLE.partial are not read "
            "again. Needs --model and --out, the same as then.",
        ),
    ] = False
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: clips whose rows have no score are read again.")
    ] = False
    shard: Annotated[
        str | None,
        typer.Option(
            help="3/16 scores the third of 16 shares of the clips, for as many machines or jobs. Names, as they are "
            "given, decide the share. Needs --model."
        ),
    ] = None
    events: Annotated[
        Path | None,
        typer.Option(
            help="Join neighbouring cuts that are anomalies to events, with start, end and peak: print them, and write "
            "them here, .csv or .parquet. Needs --window and --false-alarms."
        ),
    ] = None
    top: Annotated[int, typer.Option(min=0, help="How many of the highest scores to print.")] = 10


@command
def score(
    clips: Clips,
    model: Annotated[Path | None, typer.Option("--model", "-m", help="What pyasd fit wrote.")] = None,
    score: ScoreMode = None,
    unknown_ids: UnknownIds = "refuse",
    *,
    decisions: Decisions,
    table: Table,
    recordings: Recordings,
    cuts: Cuts,
    hardware: Hardware,
) -> bool:
    """Score recordings: the higher, the less they sound like the machine. Prints the highest.

    With --model, scores are in standard deviations above the mean of the machine's normal clips. Of a folder with
    train/ and test/, the clips in test/ are scored.

    Without --model, each clip is compared with the others of its machine, and those unlike all others get the highest
    scores: listen to those first.

    Each clip gets a row in the table; one that can't be scored has its reason in the columns status and error, and
    the exit code is then 1.

    Examples:

    - `pyasd score recordings/` ranks a folder without a model

    - `pyasd score new/ --model line3.safetensors -o scores.csv` scores clips with what `pyasd fit` learnt

    - `pyasd score new/ --model line3.safetensors --false-alarms 1%` decides them too

    - `pyasd score archive/ --model line3.safetensors -o scores.parquet --resume` goes on after a kill

    - `pyasd score archive/ --model line3.safetensors -o part-3.parquet --shard 3/16` scores a sixteenth

    - `pyasd score night.flac --model line3.safetensors --window 10 --channel all` scores each cut and channel

    - `pyasd score night.flac --model line3.safetensors --window 10 --false-alarms 1% --events events.csv` tells when
    """
    import pyasd

    if model is None and decisions.given():
        raise ValueError(
            "--false-alarms, --confirm: decisions need a model that knows healthy recordings: give --model"
        )
    if table.shard is not None and model is None:
        raise ValueError("--shard: a ranking compares all clips with each other: give --model")
    if table.resume and (model is None or table.out is None):
        raise ValueError("--resume goes on with a model's table: give --model and --out, the same as then")
    if table.events is not None and (cuts.window is None or not decisions.given()):
        raise ValueError("--events joins cuts that are anomalies: give --window and --false-alarms too")
    if table.events is not None:
        from pyasd import storage
        from pyasd.tables import table as results

        results.kind_of(storage.check_writable(table.events))
    if table.retry_failed and not table.resume:
        raise ValueError("--retry-failed goes with --resume: give both")
    shard = None if table.shard is None else some_of("--shard", "3/16, the third of 16 shares", table.shard)
    how = {
        "unknown_ids": unknown_ids, "score_mode": score, "out": table.out,
        "resume": "retry-failed" if table.retry_failed else table.resume, "shard": shard,
        **decisions.arguments(), **recordings.arguments(), **cuts.given(), **hardware.given(),
    }  # fmt: skip
    with terminal.progress() as progress:
        how["progress"] = progress
        summary = _ranked(clips, table, how) if model is None else _scored(pyasd.load(model), clips, table, how)
    summary.print_top()
    if table.out is not None:
        terminal.say(f"{summary.rows} rows are in {table.out}")
    if table.events is not None:
        summary.print_events(table.events)
    summary.tell_notes()
    return summary.report_failures()


def _ranked(clips: list[str], table: Table, how: dict[str, Any]) -> Summary:
    """Rank clips without a model."""
    import pyasd
    from pyasd.cli.summary import Summary

    summary = Summary(table.top)
    summary.add(pyasd.score(clips, **how))
    return summary


def _scored(detector: Detector, clips: list[str], table: Table, how: dict[str, Any]) -> Summary:
    """Score clips with a model, however many they are."""
    from pyasd.cli.summary import Summary
    from pyasd.detector.table import CHUNK
    from pyasd.tables import table as results

    rows = detector.rows(clips, **how)
    summary = Summary(table.top, table.events is not None)
    for part in rows.tables():
        summary.add(part)
    if table.out is not None and rows.resumed:  # rows of the run before, too
        summary = Summary(table.top, table.events is not None)
        for part in results.read_in_parts(table.out, CHUNK):
            summary.add(part)
    return summary
