"""The command `drift`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from pyasd.cli import terminal
from pyasd.cli.command import command
from pyasd.cli.options import share


@command
def drift(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="What scored the clips.", show_default=False)],
    tables: Annotated[
        list[Path],
        typer.Argument(
            metavar="TABLE", help="What pyasd score wrote, in the order of time: .csv, .parquet.", show_default=False
        ),
    ],
    false_alarms: Annotated[
        str, typer.Option(help="How probable a false alarm may be, for each machine ID and at any time: 1% or 0.01.")
    ] = "1%",
    score: Annotated[
        str | None, typer.Option(help="The score mode that clips were scored by, if not the recipe's: {modes}.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the table here, .csv or .parquet.")] = None,
) -> bool:
    """Test whether normal clips still score as those did that thresholds come from.

    Machines wear, loads and seasons change, microphones are moved: then thresholds no longer hold. For each machine ID,
    prints how improbable its scores are if nothing has changed (p), by how many standard deviations they have shifted,
    the clip that the change probably began with, and the clip at which it was noticed.

    Calibrate the model with clips that were recorded like those to be watched (pyasd calibrate); where there is drift,
    listen to clips since then, and calibrate it anew if the machine is healthy. However often you look, a machine ID
    without a change is found to have drifted with the probability of --false-alarms, at most.

    Examples:

    - `pyasd drift line3-march.safetensors april.csv may.csv`
    """
    import pandas as pd

    import pyasd
    from pyasd import storage
    from pyasd.detector.drift import drift
    from pyasd.tables import table as results

    if out is not None:
        results.kind_of(storage.check_writable(out))
    detector = pyasd.load(model)
    scores = pd.concat([results.read(x) for x in tables], ignore_index=True)
    found = drift(detector, scores, false_alarms=share(false_alarms), score_mode=score)
    printed = terminal.table("machine:", "ID:", "clips", "p", "shift", "since:", "noticed:")
    for row in found.to_dict("records"):
        names = [Text(terminal.visible(row[x])) for x in ("machine_type", "machine_id", "since", "noticed")]
        numbers = [str(row["clips"]), f"{row['p_value']:.2g}", f"{row['shift']:+.2f}"]
        printed.add_row(*names[:2], *numbers, *names[2:])
    terminal.console().print(printed)
    if found.attrs["unused"]:
        terminal.say(
            f"{found.attrs['unused']} of {len(scores)} rows not tested: without a score, labelled anomalous, learnt, "
            "or of a machine ID without calibration clips"
        )
    if out is not None:
        results.write(out, found)
    return True
