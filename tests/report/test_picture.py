"""Pictures: they are drawn, small, honest about frequencies, and say what they need."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest

from pyasd.detector import Detector, Reason, fit
from pyasd.errors import ClipError
from pyasd.ops import LogMelPlan
from pyasd.recipes import Recipe
from pyasd.report import picture


@pytest.fixture(scope="module")
def log_mels() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(-40, 5, (30, 128)).astype(np.float32) for _ in range(4)]


@pytest.fixture(scope="module")
def detector(log_mels: list[np.ndarray]) -> Detector:
    recipe = Recipe.of_kinds("group-made", "autoencoder").override(epochs=1)
    return fit(log_mels, recipe, ids="00", features="log-mel")


def size_of(png: Path) -> tuple[int, int]:
    data = png.read_bytes()
    assert data.startswith(b"\x89PNG\r\n")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


@pytest.mark.parametrize("member", [None, "autoencoder"])
def test_draw(detector: Detector, log_mels: list[np.ndarray], tmp_path: Path, member: str | None) -> None:
    clips = {"healthy, id_00 $x_1": log_mels[0], "faulty": log_mels[1]}
    told = {"faulty": [Reason("tone", 0.2, 0.8, 1000.0, 1050.0, 9.0, 6.0)]}
    out = picture.draw(detector, clips, tmp_path / "out.png", member=member, reasons=told, features="log-mel")
    assert out == tmp_path / "out.png"
    width, height = size_of(out)
    assert 600 < width < 1200
    assert 300 < height < 600
    assert out.stat().st_size < 400_000


def test_three_clips_make_a_wider_picture(detector: Detector, log_mels: list[np.ndarray], tmp_path: Path) -> None:
    widths = []
    for count in (1, 3):
        clips = {str(i): log_mels[i] for i in range(count)}
        widths.append(size_of(picture.draw(detector, clips, tmp_path / f"{count}.png", features="log-mel"))[0])
    assert widths[0] < widths[1]


def test_middle_frames_alone_can_be_drawn(detector: Detector, log_mels: list[np.ndarray], tmp_path: Path) -> None:
    """Frames that a score mode doesn't count are masked: they must not spoil the colours."""
    explained = {"a": detector.explain(log_mels[0], features="log-mel", score_mode="middle")}
    assert np.ma.getmaskarray(explained["a"].score_map).any()
    assert np.isfinite(picture._limits(explained, "score_map")).all()
    picture.draw(detector, {"a": log_mels[0]}, tmp_path / "m.svg", features="log-mel", score_mode="middle")
    assert "<svg" in (tmp_path / "m.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("features", [LogMelPlan(), LogMelPlan(n_mels=64, sample_rate=8000, f_min=100.0)])
def test_ticks_stand_at_their_frequencies(features: LogMelPlan) -> None:
    bands, hertz = picture._ticks(features)
    centres = librosa.mel_frequencies(
        features.n_mels + 2, fmin=features.f_min, fmax=features.sample_rate / 2, htk=False
    )[1:-1]
    assert len(bands) >= 4
    for band, text in zip(bands, hertz, strict=True):
        assert np.interp(float(text), centres, np.arange(features.n_mels)) == pytest.approx(band, abs=1)


def test_without_matplotlib(detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'pyasd\[pictures\]'"):
        picture.draw(detector, {"a": "a.wav"}, tmp_path / "a.png")


def test_reasons_are_outlined_where_they_are() -> None:
    """A rectangle's edges lie at its frequencies on the axis of bands, and at its seconds."""
    features = LogMelPlan()
    outline = picture._outline(Reason("band", 2.0, 5.0, 1000.0, 3000.0, 9.0, 6.0), features)
    assert (outline.get_x(), outline.get_width()) == (2.0, 3.0)
    centres = librosa.mel_frequencies(features.n_mels + 2, fmin=0, fmax=8000, htk=False)[1:-1]
    for band, hz in ((outline.get_y(), 1000.0), (outline.get_y() + outline.get_height(), 3000.0)):
        assert np.interp(hz, centres, np.arange(features.n_mels)) == pytest.approx(band, abs=0.1)


def test_what_cannot_be_drawn(detector: Detector, log_mels: list[np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no clips"):
        picture.draw(detector, {}, tmp_path / "a.png")
    with pytest.raises(FileNotFoundError, match=r"nope\.wav"):
        picture.draw(detector, {"a": tmp_path / "nope.wav"}, tmp_path / "a.png")
    with pytest.raises(ClipError):
        picture.draw(detector, {"a": log_mels[0][:2]}, tmp_path / "a.png", features="log-mel")
    with pytest.raises(OSError, match="nowhere"):
        picture.draw(detector, {"a": log_mels[0]}, tmp_path / "nowhere" / "a.png", features="log-mel")
