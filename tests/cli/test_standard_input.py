"""`-`: clips' names from standard input."""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

import pytest

from pyasd.tables import table as results

from .conftest import Command, usage_error


@pytest.fixture
def clips(factory: Path, tmp_path: Path) -> list[Path]:
    """Clips with a blank, a new line and a byte that UTF-8 lacks in their names."""
    folder = tmp_path / "clips"
    folder.mkdir()
    one = next((factory / "fan" / "test").glob("normal_id_00_*.wav"))
    paths = [folder / f"normal_id_00_{name}.wav" for name in ("00000000", "0 1 ", "2\n2", os.fsdecode(b"\xff"))]
    for path in paths:
        shutil.copy(one, path)
    return paths


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize("end", [b"\0", b"\n", b"\r\n"])
def test_names_are_scored_in_their_order(
    pyasd: Command, model: Path, clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    out = tmp_path / "scores.parquet"
    wanted = [path for path in clips[::-1] if end == b"\0" or "\n" not in path.name]
    give(monkeypatch, b"".join(os.fsencode(path) + end for path in wanted))
    assert pyasd("score", clips[0], "-", clips[1], "-m", model, "-o", out, "--id", "00").code == 0
    names = [os.fsencode(path).decode("utf-8", "backslashreplace") for path in (clips[0], *wanted, clips[1])]
    assert results.read(out)["clip"].to_list() == names


def test_no_names(pyasd: Command, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (b"", b"\n\n", b"\0\0"):
        give(monkeypatch, data)
        usage_error(pyasd("score", "-", "-m", model), "standard input, and it lists none")
    monkeypatch.setattr(sys, "stdin", None)
    usage_error(pyasd("fit", "-", "-o", tmp_path / "x.safetensors"), "standard input, and it lists none")
    give(monkeypatch, b"no such file.wav\n")
    usage_error(pyasd("score", "-", "-m", model), "no such file.wav doesn't exist")


def test_a_file_that_is_called_so(
    pyasd: Command, model: Path, clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "scores.csv"
    shutil.copy(clips[0], tmp_path / "-")
    monkeypatch.chdir(tmp_path)
    assert pyasd("score", "./-", "-m", model, "-o", out, "--id", "00").code == 0
    assert len(results.read(out)) == 1
