"""The whole command line: help, version, start-up."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import get_args

import pytest

from pyasd import backends, config, models
from pyasd.cli import app as cli
from pyasd.cli import vocabulary
from pyasd.datasets import dcase
from pyasd.tables import evaluation

from .conftest import ROOT


def test_help_teaches(pyasd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for command in ("fit", "score", "evaluate", "download", "reproduce", "demo", "doctor"):
        assert command in pyasd("--help").out
        outcome = pyasd(command, "-h")
        assert outcome.code == 0
        assert command == "doctor" or f"pyasd {command}" in outcome.out  # an example


def test_version(pyasd) -> None:
    assert pyasd("--version").out.split() == ["pyasd", "0.1.0"]


def help_of(pyasd, monkeypatch: pytest.MonkeyPatch, command: str, width: int = 200) -> str:
    """A command's help, without the lines around its tables and without line breaks."""
    monkeypatch.setenv("COLUMNS", str(width))
    outcome = pyasd(command, "--help")
    assert (outcome.code, outcome.err) == (0, "")
    assert max(map(len, outcome.out.splitlines())) <= width
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", outcome.out).split())


@pytest.mark.parametrize("command", [x.__name__ for x in cli.COMMANDS])
@pytest.mark.parametrize("width", [80, 120])
def test_help_has_no_placeholders_left(pyasd, monkeypatch: pytest.MonkeyPatch, command: str, width: int) -> None:
    text = help_of(pyasd, monkeypatch, command, width)
    assert re.findall(r"\{[^}]*\}", text) in ([], ["{CLIPS}"], ["{TABLE}"], ["{DATASET}"]), "the usage line's alone"


def test_help_lists_every_choice(pyasd, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = help_of(pyasd, monkeypatch, "fit")
    for name in (*config.SYSTEMS, *get_args(config.Statistics), *get_args(config.Order), *get_args(config.Pooling)):
        assert re.search(rf"(?<![\w-]){name}(?![\w-])", fit), name
    score = help_of(pyasd, monkeypatch, "score")
    modes = vocabulary.modes_by_kind()
    assert modes.keys() == set(config.MEMBER_NAMES)
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
    recipe = config.Recipe(config.MEMBER_NAMES)
    for kind, modes in vocabulary.modes_by_kind().items():
        assert set(models.build(kind, recipe).modes) <= set(modes)


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
