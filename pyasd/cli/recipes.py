"""The command `recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

from pyasd.cli import terminal
from pyasd.cli.command import command


@command
def recipes(
    name: Annotated[
        str | None, typer.Argument(help="Print this one, to be copied and changed.", show_default=False)
    ] = None,
) -> bool:
    """List the recipes that systems are made by, or print one.

    A recipe is a TOML file: members, features, label augmentation, training. A file of your own works like those that
    come with pyasd.

    Examples:

    - `pyasd recipes 2 > mine.toml` gives one to begin with

    - `pyasd fit fan/ -o fan.safetensors --system mine.toml` learns as it says
    """
    from pyasd.recipes import files

    if name is not None:
        print(files.path_of(name).read_text(encoding="utf-8"), end="")
        return True
    table = terminal.table("system:", "members:", "recipe:")
    for system in files.names():
        table.add_row(system, " + ".join(files.find(system).names), str(files.path_of(system)))
    terminal.console().print(table)
    return True
