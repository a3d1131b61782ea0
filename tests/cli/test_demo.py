"""The command `demo`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from pyasd.factory import demo
from pyasd.tables import table as results

from .conftest import Command, usage_error


def test_demo(pyasd: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.run.__kwdefaults__ or {}, "seconds", 1.0)
    outcome = pyasd("demo", "--out", tmp_path / "d", "--clips", 3, "--epochs", 1, "--seed", 3)
    assert (outcome.code, outcome.err) == (0, "")
    assert "synthetic" in outcome.out
    rows = [line.split() for line in outcome.out.splitlines() if " / " in line and "AUC" not in line]
    assert len(rows) == 3 * 4 + 1
    assert rows[0][:3] == ["conveyor", "00", "3/3"]
    assert re.search("group-made +spectrum +spread +modulation +neighbours +both +autoencoder", outcome.out)
    for name in ("model.safetensors", "scores.csv", "picture.png", "recordings/README.txt"):
        assert (tmp_path / "d" / name).is_file()
        assert str(tmp_path / "d" / Path(name).parts[0]) in outcome.out
    table = results.read(tmp_path / "d" / "scores.csv")
    assert table[["score", "score.group-made", "score.spectrum"]].notna().all(axis=None)
    assert len(table) == 54


def test_demo_without_matplotlib(pyasd: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.run.__kwdefaults__ or {}, "seconds", 1.0)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    outcome = pyasd("demo", "--out", tmp_path, "--clips", 2, "--epochs", 1)
    assert outcome.code == 0
    assert "pip install 'pyasd[pictures]'" in outcome.err
    assert not (tmp_path / "picture.png").exists()


def test_demo_keeps_off_other_folders(pyasd: Command, tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "mine.wav").write_bytes(b"mine")
    usage_error(pyasd("demo", "--out", tmp_path), tmp_path / "recordings", "choose an empty folder")
