"""The whole command line: help, version, start-up."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import get_args

import pytest

from pyasd import backends, models
from pyasd.cli import app as cli
from pyasd.cli import vocabulary
from pyasd.datasets import dcase
from pyasd.models.group_made import Order
from pyasd.models.pooling import Pooling
from pyasd.recipes import files
from pyasd.tables import evaluation
from pyasd.training.run import StatisticsPolicy

from .conftest import ROOT, Command


def test_help_teaches(pyasd: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for command in ("fit", "score", "evaluate", "download", "reproduce", "demo", "doctor"):
        assert command in pyasd("--help").out
        outcome = pyasd(command, "-h")
        assert outcome.code == 0
        assert command == "doctor" or f"pyasd {command}" in outcome.out  # an example


def test_version(pyasd: Command) -> None:
    assert pyasd("--version").out.split() == ["pyasd", "0.1.0"]


def help_of(pyasd: Command, monkeypatch: pytest.MonkeyPatch, command: str, width: int = 200) -> str:
    """A command's help, without the lines around its tables and without line breaks."""
    monkeypatch.setenv("COLUMNS", str(width))
    outcome = pyasd(command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= width
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", outcome.out).split())


@pytest.mark.parametrize("command", [x.__name__ for x in cli.COMMANDS])
@pytest.mark.parametrize("width", [80, 120])
def test_help_has_no_placeholders_left(
    pyasd: Command, monkeypatch: pytest.MonkeyPatch, command: str, width: int
) -> None:
    text = help_of(pyasd, monkeypatch, command, width)
    assert re.findall(r"\{[^}]*\}", text) in (
        [],
        ["{CLIPS}"],
        ["{DIR}"],
        ["{TABLE}"],
        ["{DATASET}"],
        ["{MODEL}", "{CLIPS}"],
        ["{MODEL}", "{TABLE}"],
    ), "the usage line's alone"


def test_help_lists_every_choice(pyasd: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = help_of(pyasd, monkeypatch, "fit")
    for name in (*files.names(), *get_args(StatisticsPolicy), *get_args(Order), *get_args(Pooling)):
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", fit), name
    score = help_of(pyasd, monkeypatch, "score")
    modes = vocabulary.modes_by_kind()
    assert modes.keys() == set(models.kinds())
    for kind, names in modes.items():
        assert kind in score
        for name in names:
            assert re.search(rf"(?<![\w-]){name}(?![\w-])", score), name
    for command in ("fit", "score", "reproduce"):
        assert all(name in help_of(pyasd, monkeypatch, command) for name in backends.NAMES)
    for command in ("demo", "download"):
        assert all(f"dcase{year}" in help_of(pyasd, monkeypatch, command) for year in dcase.years())
    assert all(rule in help_of(pyasd, monkeypatch, "evaluate") for rule in evaluation.RULES)


def test_the_modes_are_the_members_own() -> None:
    for kind, modes in vocabulary.modes_by_kind().items():
        member = models.kinds()[kind]
        assert set(member(kind, member.Config(), 16).mode_names) <= set(modes)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["fit"], ["download", "--help"]], ids=" ".join)
def test_starting_up_is_light(arguments: list[str]) -> None:
    """It loads neither torch nor pandas, except for a command's help that lists what they know."""
    code = (
        "import sys\nfrom pyasd.cli.app import app\n"
        f"try: app({arguments!r}, prog_name='pyasd')\nexcept SystemExit: pass\n"
        "print('loaded:', *({'torch', 'pandas', 'pyarrow', 'soundfile', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"
