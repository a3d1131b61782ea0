"""The command `pyasd`.

Tables go to stdout; progress (on a terminal only), warnings and errors go to stderr. Exit codes: 0 when all went well,
1 when some clips or a training failed, 2 for wrong usage, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
"""

from __future__ import annotations

import os
import signal
import sys
from importlib import metadata
from io import TextIOWrapper
from typing import Annotated

import typer

from pyasd.cli import calibrate, data_sets, demo, doctor, drift, explain, fit_score, recipes, tables, terminal, watch
from pyasd.cli.command import Command, stop

app = typer.Typer(
    help="Learn what machines sound like when they are healthy, and find the recordings that don't.",
    epilog="Start with `pyasd demo`; or, with a folder of your own recordings, `pyasd score recordings/`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS = (
    fit_score.fit,
    fit_score.score,
    watch.watch,
    explain.explain,
    calibrate.calibrate,
    calibrate.adapt,
    drift.drift,
    tables.evaluate,
    demo.demo,
    recipes.recipes,
    doctor.doctor,
    data_sets.download,
    data_sets.reproduce,
)
"""All commands, in the order in which `pyasd --help` lists them."""

for _command in COMMANDS:
    app.command(cls=Command)(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        terminal.console().print(f"pyasd {metadata.version('pyasd')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


def _open_missing_streams() -> None:
    """Put the null device in the place of standard streams that were closed (`>&-`): else the next file that is opened
    takes their place, and gets what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115 (to the end)


def main() -> None:
    """Run the command `pyasd`."""
    # Before torch is imported: its threads then sleep while they wait for each other. By default they spin, which on
    # a processor that others use too can take many times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _open_missing_streams()
    for name in ("SIGTERM", "SIGHUP"):  # Windows lacks the second
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, stop)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal's encoding lacks
    app(prog_name="pyasd")
