"""The commands `calibrate` and `adapt`: thresholds, mean and spread from other normal clips, without training."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from pyasd.cli import terminal
from pyasd.cli.command import command
from pyasd.cli.options import Clips, Cuts, Hardware, Recordings

if TYPE_CHECKING:
    from pyasd import Detector

RATES = (0.01, 0.05)
"""Rates of false alarms whose thresholds are shown, before and after."""

LaterMode = Annotated[
    str | None, typer.Option(help="The score mode that clips will be scored by, if not the recipe's: {modes}.")
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="What pyasd fit wrote.", show_default=False)]


@command
def calibrate(
    model: Model,
    clips: Clips,
    out: Annotated[Path, typer.Option("--out", "-o", help="The calibrated model's file; MODEL stays as it is.")],
    score: LaterMode = None,
    verdicts: Annotated[
        Path | None,
        typer.Option(
            help="A CSV file with the columns clip and verdict (false alarm or ok, missed fault or fault). CLIPS are "
            "the tables of these clips' scores then.",
        ),
    ] = None,
    *,
    recordings: Recordings,
    cuts: Cuts,
    hardware: Hardware,
) -> bool:
    """Take thresholds from normal recordings that the model hasn't learnt, and write the model with them.

    Scores stay as they are. Thresholds (pyasd score --false-alarms) are those of the new clips, for each machine ID
    that has some. Take clips of many days, from the microphone that will be listened to; 99 of an ID or more for a rate
    of 1 %. Prints the thresholds before and after.

    With --verdicts, clips that somebody has listened to join those that thresholds come from, where they are healthy.
    Of faulty ones, prints at which rate of false alarms half of them, and all, would have been found.

    Examples:

    - `pyasd calibrate line3.safetensors healthy-in-march/ -o line3-march.safetensors`

    - `pyasd calibrate line3.safetensors march.csv april.csv --verdicts heard.csv -o line3-heard.safetensors`
    """
    import pyasd

    path = _place(model, out)
    old = pyasd.load(model)
    if verdicts is not None:
        return _take_verdicts(old, verdicts, clips, path, score)
    with terminal.progress() as progress:
        new = old.calibrate(
            clips, score_mode=score, progress=progress, **recordings.arguments(), **cuts.given(), **hardware.given()
        )
    new.save(path)
    _print_thresholds(old, new, score)
    terminal.say(f"{out}: calibrated; scores are as before")
    return _tell_skipped(new)


def _take_verdicts(old: Detector, verdicts: Path, tables: list[str], out: Path, score: str | None) -> bool:
    """Write the model with thresholds that know verdicts, and print what they change."""
    import pandas as pd

    from pyasd.detector.feedback import feedback
    from pyasd.tables import table as results
    from pyasd.tables.verdicts import read_verdicts

    said = read_verdicts(verdicts)
    scores = pd.concat([results.read(x) for x in tables], ignore_index=True)
    new, found = feedback(old, scores, said, score_mode=score)
    new.save(out)
    _print_thresholds(old, new, score)
    printed = terminal.table("machine:", "ID:", "healthy", "faulty", "half found at", "all found at")
    for row in found.to_dict("records"):
        names = [Text(terminal.visible(row[x])) for x in ("machine_type", "machine_id")]
        rates = ["" if row[x] != row[x] else f"{100 * row[x]:.3g} %" for x in ("rate_for_half", "rate_for_all")]
        printed.add_row(*names, str(row["healthy"]), str(row["faulty"]), *rates)
    terminal.console().print(printed)
    unused = found.attrs["unused"]
    terminal.say(f"{out}: calibrated; scores are as before")
    if unused:
        terminal.say(f"{unused} of {len(said)} verdicts not used: of clips that the tables lack or have no score of")
    return not unused


@command
def adapt(
    model: Model,
    clips: Clips,
    out: Annotated[Path, typer.Option("--out", "-o", help="The adapted model's file; MODEL stays as it is.")],
    memory: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="For how many clips what is known so far counts at most: the fewer, the more the new ones count. By "
            "default for as many as were learnt.",
            show_default=False,
        ),
    ] = None,
    score: LaterMode = None,
    *,
    recordings: Recordings,
    cuts: Cuts,
    hardware: Hardware,
) -> bool:
    """Take further normal recordings into what is usual, and write the model with that: no training.

    Changes the mean and spread that scores are standardised by, and thresholds, for each machine ID that has new clips.
    Prints both before and after.

    Listen first: what is taken in is normal from then on, and a fault that grows slowly is hidden so. pyasd drift says
    whether there is a change, and since when. Where the new clips score far above what is known, which is warned of,
    fit again with them among the others.

    Examples:

    - `pyasd adapt line3.safetensors healthy-in-winter/ -o line3-winter.safetensors`

    - `pyasd adapt line3.safetensors healthy-in-winter/ -o line3-winter.safetensors --memory 50` forgets faster
    """
    import pyasd

    path = _place(model, out)
    old = pyasd.load(model)
    with terminal.progress() as progress:
        new = old.adapt(
            clips, memory=memory, score_mode=score, progress=progress, **recordings.arguments(), **cuts.given(),
            **hardware.given(),
        )  # fmt: skip
    new.save(path)
    _print_moments(old, new, score)
    _print_thresholds(old, new, score)
    terminal.say(f"{out}: adapted")
    return _tell_skipped(new)


def _place(model: Path, out: Path) -> Path:
    """Return the file of the new model, which can be written and isn't the old one's.

    Raises:
        OSError, ValueError: it can't, or it is.
    """
    from pyasd import storage

    path = storage.check_writable(out)
    if path.exists() and model.exists() and path.samefile(model):
        raise ValueError(f"{out} is the model itself: name another file, so that the old one is kept")
    return path


def _tell_skipped(new: Detector) -> bool:
    """Say how many clips were not used, and why; return whether there are none."""
    if new.skipped:
        terminal.say(f"clips not used: {len(new.skipped)}; the first: {new.skipped[0]['error']}")
    return not new.skipped


def _print_moments(old: Detector, new: Detector, score_mode: str | None) -> None:
    """Print the mean and spread of each machine ID's members' own scores, before and after."""
    modes = old.score_modes(score_mode)
    table = terminal.table("machine:", "ID:", "member:", "mean before", "mean after", "spread before", "spread after")
    for machine_type, machine in new.machines.items():
        before = old.machines[machine_type].baselines
        for machine_id in machine.ids:
            for name, baseline in machine.baselines.items():
                both = [x.usual(machine_id, modes[name]) for x in (before[name], baseline)]
                numbers = [f"{x:.4g}" for pair in zip(*both, strict=True) for x in pair]
                table.add_row(*map(Text, [machine_type, machine_id, name, *numbers]))
    terminal.console().print(table)


def _print_thresholds(old: Detector, new: Detector, score: str | None) -> None:
    """Print each machine ID's calibration clips and thresholds, before and after."""
    heads = [f"{100 * rate:g} % {when}" for rate in RATES for when in ("before", "after")]
    table = terminal.table("machine:", "ID:", "clips before", "clips after", *heads)
    for machine_type, machine in new.machines.items():
        for machine_id in machine.ids:
            both = [_thresholds(x, machine_type, machine_id, score) for x in (old, new)]
            cells = [cell for pair in zip(*both, strict=True) for cell in pair]
            table.add_row(*map(Text, [machine_type, machine_id, *cells]))
    terminal.console().print(table)


def _thresholds(detector: Detector, machine_type: str, machine_id: str, score_mode: str | None) -> list[str]:
    """The number of calibration clips, and the threshold for each of `RATES`, as cells of a table."""
    calibration = detector.machines[machine_type].calibration
    if calibration is None or machine_id not in calibration.samples:
        return ["0", *([""] * len(RATES))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of too few clips: the cells say it
        found = [
            detector.threshold(rate, machine_id, machine_type=machine_type, score_mode=score_mode) for rate in RATES
        ]
    return [str(found[0].clips), *("too few" if x.score == math.inf else f"{x.score:.2f}" for x in found)]
