"""What commands say: in the words of the command line, and without characters that a terminal would obey."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pyasd.cli import app, terminal, vocabulary

from .conftest import Command

PACKAGE = Path(app.__file__).parents[1]


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        ("give ids=, or fit", "give --id, or fit"),
        ('all IDs with unknown_ids="pool"', "all IDs with --unknown-ids pool"),
        ("or give device='cpu'", "or give --device cpu"),
        ("score with false_alarms=0.01", "score with --false-alarms 0.01"),
        ("the list, labels=eval_data_list_....csv", "the list, --labels eval_data_list_....csv"),
        ('give doubtful="learn" if', "give --doubtful learn if"),
        ("Raise validation=, give", "Raise validation in a recipe, give"),
        ("or take warps=1 or more", "or take warps = 1 in a recipe or more"),
        ('take statistics="training"', "take --statistics training"),
        ("max_fpr must be above 0", "--max-fpr must be above 0"),
        ("precision must have a diagonal", "precision must have a diagonal"),
        ("a.wav: channel must be a number", "a.wav: channel must be a number"),
        ("clips/ids=3/x.wav is missing", "clips/ids=3/x.wav is missing"),
        ("n = 3, x==y, frobs=1", "n = 3, x==y, frobs=1"),
    ],
)
def test_arguments_become_options(said: str, printed: str) -> None:
    assert vocabulary.with_options(said) == printed


def test_no_message_keeps_an_argument_of_python() -> None:
    """Every text of the package that looks like one of these arguments is put into words."""
    texts = [
        text
        for path in PACKAGE.rglob("*.py")
        for text in re.findall(r"""(?m)^\s+(?:raise \w+\()?f?(["'].*["']),?\)?$""", path.read_text(encoding="utf-8"))
    ]
    names = "ids|machine_type|unknown_ids|doubtful|machines|labels|device|false_alarms|statistics|model"
    spoken = [text for text in texts if re.search(rf"(?<![\w.])(?:{names})=", text)]
    assert len(spoken) >= 8
    for text in spoken:
        assert not re.search(rf"(?<![\w.-])(?:{names})=", vocabulary.with_options(text)), text


def test_the_row_of_a_clip_that_is_refused_is_put_into_words(pyasd: Command, factory: Path, model: Path) -> None:
    outcome = pyasd("score", factory / "fan/test/normal_id_00_00000000.wav", "--id", "77", "-m", model)
    assert outcome.code == 1
    assert "give --id, fit a detector with clips of it, or score against all IDs with --unknown-ids pool" in outcome.err


def test_control_characters_are_written_out() -> None:
    text = "a\x1b[31mb\r\n\tc \u202ed\u2028 Pümpe 漢字 \udcff"
    assert terminal.visible(text) == "a\\x1b[31mb\\r\\n\\tc \\u202ed\\u2028 Pümpe 漢字 \\udcff"


def test_names_with_control_characters_do_nothing_to_the_terminal(
    pyasd: Command, factory: Path, model: Path, tmp_path: Path
) -> None:
    names = ["red\x1b[31m.wav", "return\r.wav", "line\n.wav", "bell\x07.wav"]
    for name in names:
        shutil.copy(factory / "fan/test/normal_id_00_00000000.wav", tmp_path / name)
    (tmp_path / "broken\x1b[2J.wav").write_bytes(b"no audio")
    outcome = pyasd("score", tmp_path, "-m", model, "--id", "00")
    assert outcome.code == 1
    for text in (outcome.out, outcome.err):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    for shown in (r"red\x1b[31m.wav", r"return\r.wav", r"line\n.wav", r"bell\x07.wav"):
        assert shown in outcome.out
    assert r"broken\x1b[2J.wav" in outcome.err
