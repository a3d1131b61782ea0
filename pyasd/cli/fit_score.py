"""The commands `fit` and `score`."""

from __future__ import annotations

from collections import Counter
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
    some_of,
)

if TYPE_CHECKING:
    from pandas import DataFrame


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
    unknown_ids: Annotated[
        str, typer.Option(help="Machine IDs that the model never learnt: refuse, or pool (score against all IDs).")
    ] = "refuse",
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
    from pyasd import storage
    from pyasd.tables import table as results

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
        results.kind_of(storage.check_writable(table.events))
    if table.retry_failed and not table.resume:
        raise ValueError("--retry-failed goes with --resume: give both")
    shard = None if table.shard is None else some_of("--shard", "3/16, the third of 16 shares", table.shard)
    with terminal.progress() as progress:
        scores = pyasd.score(
            clips, model, unknown_ids=cast(Any, unknown_ids), score_mode=score, out=table.out,
            resume="retry-failed" if table.retry_failed else table.resume,
            shard=shard, progress=progress, **decisions.arguments(), **recordings.arguments(),
            **cuts.given(), **hardware.given(),
        )  # fmt: skip
    _print_top(scores, table.top)
    if table.out is not None:
        terminal.say(f"{len(scores)} rows are in {table.out}")
    if table.events is not None:
        _print_events(scores, table.events, table.top)
    _tell_notes(scores)
    return terminal.report_failures(scores)


def _print_events(scores: DataFrame, out: Path, count: int) -> None:
    """Write the events, and print those with the highest scores."""
    import pyasd
    from pyasd.tables import table

    found = pyasd.events(scores)
    table.write(out, found)
    printed = terminal.table("peak", "from", "to", "cuts", "channel:", "clip:")
    for row in found.nlargest(count, "peak", keep="first").to_dict("records"):
        times = [terminal.clock(row["start"]), terminal.clock(row["end"])]
        names = [Text(terminal.visible(row[x])) for x in ("channel", "clip")]
        printed.add_row(f"{row['peak']:.2f}", *times, str(row["cuts"]), *names)
    if len(found) and count:
        terminal.console().print(printed)
    terminal.say(f"{len(found)} events are in {out}")


def _tell_notes(scores: DataFrame) -> None:
    """Say how many clips are unlike those that were learnt, and in what."""
    from pyasd.tables.table import LEARNT

    notes = Counter(word for note in scores["note"] for word in note.split(", ") if word)
    learnt = notes.pop(LEARNT, 0)
    if notes:
        count = int(scores["note"].map(lambda note: note not in ("", LEARNT)).sum())
        what = ", ".join(f"{word} {times}" for word, times in notes.most_common())
        terminal.say(
            f"{count} of {len(scores)} recordings are unlike those that were learnt ({what}): their scores may tell of "
            "that, and not of the machine"
        )
    if learnt:
        terminal.say(f"{learnt} of {len(scores)} clips were learnt: their scores say nothing of new ones")


def _print_top(scores: DataFrame, count: int) -> None:
    best = scores[scores["score"].notna()].nlargest(count, "score", keep="first")
    decided = [name for name in ("decision", "confirmed") if name in scores]
    noted = ["note"] if (scores["note"] != "").any() else []
    texts = [*decided, "status", *noted, *(["channel"] if scores["channel"].nunique() > 1 else []), "clip"]
    cut = (scores["start"] > 0).any()
    numbers = ["score", *(["p"] if decided else []), *(["from"] if cut else [])]
    table = terminal.table(*numbers, *(f"{x}:" for x in texts))
    for row in best.to_dict("records"):
        p = "" if not decided or row["p_value"] != row["p_value"] else f"{row['p_value']:.4f}"
        numbers = [f"{row['score']:.2f}", *([p] if decided else [])]
        numbers += [terminal.clock(row["start"])] if cut else []
        table.add_row(*numbers, *(Text(terminal.visible(row[x])) for x in texts))
    if len(best):
        terminal.console().print(table)
