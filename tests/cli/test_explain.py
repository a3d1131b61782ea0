"""`pyasd explain`: words, a picture, clips that fail, wrong usage."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import pyasd as library

from .conftest import Command, usage_error


def test_words(pyasd: Command, factory: Path, model: Path) -> None:
    """Each clip's score is that of `pyasd score`, and its reasons those of the library."""
    outcome = pyasd("explain", factory / "fan/test", "-m", model)
    assert (outcome.code, outcome.err) == (0, "")
    detector = library.load(model)
    table, told = detector.score(factory / "fan/test"), detector.reasons(factory / "fan/test")
    lines = outcome.out.splitlines()
    heads = [i for i, line in enumerate(lines) if not line.startswith(" ")]
    assert [lines[i] for i in heads] == table["clip"].tolist() == [x.clip for x in told]
    for clip, first, last, score in zip(told, heads, [*heads[1:], len(lines)], table["score"], strict=True):
        assert lines[first + 1].startswith(f"  fan {clip.machine_id}: score {score:.2f}; in standard deviations: ")
        for reason in clip.reasons:
            assert f"  {reason}" in lines[first:last]


def test_a_picture(pyasd: Command, factory: Path, model: Path, tmp_path: Path) -> None:
    clips = sorted((factory / "fan/test").glob("anomaly*"))[:2]
    out = tmp_path / "a.png"
    outcome = pyasd("explain", *clips, "-m", model, "-o", out, "--member", "spectrum")
    assert (outcome.code, outcome.err) == (0, f"pyasd: {out}: drawn\n")
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_broken_clip_is_told(pyasd: Command, factory: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    clip = next((factory / "fan/test").glob("normal*"))
    outcome = pyasd("explain", tmp_path / "broken.wav", clip, "-m", model, "-o", tmp_path / "a.svg", "--id", "00")
    assert outcome.code == 1
    assert "broken.wav\n  no score (" in outcome.out
    assert (tmp_path / "a.svg").exists()


def test_wrong_usage(
    pyasd: Command, factory: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = next((factory / "fan/test").glob("normal*"))
    usage_error(pyasd("explain", factory / "fan/test", "-m", model, "-o", tmp_path / "a.png"), "room for 6 clips", "12")
    usage_error(pyasd("explain", tmp_path / "nowhere.wav", "-m", model), "nowhere.wav")
    usage_error(pyasd("explain", clip, "-m", tmp_path / "no.safetensors"), "no.safetensors")
    usage_error(pyasd("explain", clip, "-m", model, "--member", "spectrum"), "--out clip.png")
    usage_error(pyasd("explain", clip, "-m", model, "--member", "x", "-o", tmp_path / "a.png"), "no member 'x'")
    assert "--model" in pyasd("explain", clip).err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    outcome = pyasd("explain", clip, "-m", model, "-o", tmp_path / "a.png")
    assert outcome.code == 2
    assert "pip install 'pyasd[pictures]'" in outcome.err
