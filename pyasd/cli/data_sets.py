"""The commands about the DCASE data sets: `download` and `reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from pyasd.cli import terminal
from pyasd.cli.command import command
from pyasd.cli.options import Hardware, Machines, Training


@command
def download(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="{data sets}.", show_default=False)],
    to: Annotated[Path, typer.Option(help="The folder for it.", show_default=False)],
    machines: Machines = None,
    parts: Annotated[
        list[str] | None,
        typer.Option(
            help="Of {parts}; by default all. The additional part has training clips for the machine IDs of the "
            "evaluation set.",
            show_default=False,
        ),
    ] = None,
    unpack: Annotated[
        bool, typer.Option(help="Unpack the archives. All commands read them packed, too, a little more slowly.")
    ] = True,
    remove: Annotated[bool, typer.Option("--remove-archives", help="Remove each archive when it is unpacked.")] = False,
) -> bool:
    """Download a data set of DCASE Task 2 from Zenodo, verify it, and unpack it.

    An interrupted download or unpacking goes on when the same command is given again. Archives that lie in the folder
    already, put there by hand perhaps, are checked and not downloaded. dcase2020 takes 18 GB unpacked, and its archives
    about three quarters of that.

    The data sets are not part of pyasd; their licences forbid commercial use. See the pages of the challenge.

    Examples:

    - `pyasd download dcase2020 --to dcase2020`

    - `pyasd download dcase2020 --to dcase2020 --machines fan --parts development` is 1.4 GB
    """
    from pyasd.datasets import dcase
    from pyasd.datasets import download as downloads

    year = dcase.data_set(dataset)
    with terminal.progress() as progress:
        notes = downloads.download(
            year, to, machines=machines or None, parts=parts or dcase.PARTS, unpack=unpack, remove=remove,
            progress=progress,
        )  # fmt: skip
    for note in notes:
        terminal.say(note)
    entries = dcase.find(to, year, machines or None)
    missing = dcase.shortfalls(entries, year, machines or None)
    if parts is None and missing:
        terminal.say(f"the archives lack clips that should be there; the first: {missing[0]}")
    terminal.line(f"{to}: {len(entries)} clips of {dataset}")
    return True


@command
def reproduce(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="dcase2020.", show_default=False)],
    data: Annotated[
        Path,
        typer.Option(help="The data set's folder, unpacked or as archives: see pyasd download.", show_default=False),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for models, scores and the report.", show_default=False)
    ],
    systems: Annotated[
        list[str] | None, typer.Option(help="The report's systems, 1 to 4; by default all.", show_default=False)
    ] = None,
    machines: Machines = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="The organisers' eval_data_list_2020.csv, if it isn't in the data set's folder."),
    ] = None,
    *,
    training: Training,
    hardware: Hardware,
) -> bool:
    """Train the report's four systems, and print its Table 1 beside the report's figures.

    Each ensemble member is trained once per machine type and seed, on all machine IDs of the development and the
    additional training set; the systems' scores are means and maxima of the members'. AUC and pAUC are counted as the
    challenge does, per machine ID and averaged; then again with the IDs pooled, as some publications do. With the
    evaluation set and its labels there, that is evaluated as well.

    Writes report.md, scores.parquet (every clip's scores) and the challenge's own CSV files. A run that was killed goes
    on when the same command is given again; what is finished is not done again.

    The whole of it is many days' work for a CPU, and meant for GPUs. --quick takes minutes.

    Examples:

    - `pyasd demo --layout dcase2020 -o mini` makes a miniature to try it on

    - `pyasd reproduce dcase2020 --data mini --quick -o quick` tries it

    - `pyasd reproduce dcase2020 --data dcase2020/ --systems 4 --machines ToyCar fan -o system4` Group MADE alone
    """
    from pyasd.datasets import dcase
    from pyasd.reproduce import report, table1, units
    from pyasd.reproduce import reproduce as table_1
    from pyasd.reproduce.systems import REPORT_SYSTEMS

    if dcase.data_set(dataset) != table_1.YEAR:
        raise ValueError(
            f"the report's Table 1 is of dcase{table_1.YEAR}; for other years see pyasd fit, score and evaluate"
        )
    if training.quick:
        terminal.say(table_1.QUICK_NOTICE)
    changes = {} if training.epochs is None else {"epochs": training.epochs}
    settings = table_1.Settings(
        systems or REPORT_SYSTEMS, machines or None, training.seeds, training.quick, labels, changes
    )
    with terminal.progress() as progress:
        result = table_1.reproduce(
            data, out, settings, units.Hardware(**hardware.given()), jobs=training.jobs, progress=progress
        )
    for title, figures in result.tables.items():
        columns, lines = table1.lines(figures, title == report.COMPARED)
        table = terminal.table("AUC (pAUC), %:", *columns)
        terminal.line(title)
        for line in lines:
            table.add_row(line.name, *map(Text, line.cells), style="bold" if line.first else None)
        terminal.console(wide=True).print(table)
    for note in result.notes:
        terminal.say(f"note: {note}")
    if training.quick:
        terminal.say(table_1.QUICK_NOTICE)
    terminal.line(f"{result.report}: the report")
    return not result.failed
