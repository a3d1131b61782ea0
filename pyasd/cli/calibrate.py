"""The command `calibrate`."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from pyasd.cli import terminal
from pyasd.cli.command import command
from pyasd.cli.options import Clips, Hardware, Recordings

if TYPE_CHECKING:
    from pyasd import Detector

RATES = (0.01, 0.05)
"""Rates of false alarms whose thresholds are shown, before and after."""


@command
def calibrate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="What pyasd fit wrote.", show_default=False)],
    clips: Clips,
    out: Annotated[Path, typer.Option("--out", "-o", help="The calibrated model's file; MODEL stays as it is.")],
    score: Annotated[
        str | None, typer.Option(help="The score mode that clips will be scored by, if not the recipe's: {modes}.")
    ] = None,
    *,
    recordings: Recordings,
    hardware: Hardware,
) -> bool:
    """Take thresholds from normal recordings that the model hasn't learnt, and write the model with them.

    Scores stay as they are. Thresholds (pyasd score --false-alarms) are those of the new clips, for each machine ID
    that has some. Take clips of many days, from the microphone that will be listened to; 99 of an ID or more for a rate
    of 1 %. Prints the thresholds before and after.

    Examples:

    - `pyasd calibrate line3.safetensors healthy-in-march/ -o line3-march.safetensors`
    """
    import pyasd
    from pyasd import storage

    path = storage.check_writable(out)
    if path.exists() and model.exists() and path.samefile(model):
        raise ValueError(f"{out} is the model itself: name another file, so that the old one is kept")
    old = pyasd.load(model)
    with terminal.progress() as progress:
        new = old.calibrate(clips, score_mode=score, progress=progress, **recordings.arguments(), **hardware.given())
    new.save(path)
    heads = [f"{100 * rate:g} % {when}" for rate in RATES for when in ("before", "after")]
    table = terminal.table("machine:", "ID:", "clips before", "clips after", *heads)
    for machine_type, machine in new.machines.items():
        for machine_id in machine.ids:
            both = [_thresholds(x, machine_type, machine_id, score) for x in (old, new)]
            cells = [cell for pair in zip(*both, strict=True) for cell in pair]
            table.add_row(*map(Text, [machine_type, machine_id, *cells]))
    terminal.console().print(table)
    terminal.say(f"{out}: calibrated; scores are as before")
    if new.skipped:
        terminal.say(f"clips not used: {len(new.skipped)}; the first: {new.skipped[0]['error']}")
    return not new.skipped


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
