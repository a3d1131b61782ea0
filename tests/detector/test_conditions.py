"""The column `note`: recordings unlike those that were learnt."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

import pyasd
from pyasd import audio
from pyasd.detector.conditions import Conditions
from pyasd.features.log_mels import Features

RATE = 16000


def sound(seed: int, seconds: float = 2.0) -> NDArray[np.float64]:
    """Pink noise and two tones, about -20 dB: as loud in each clip, to half a decibel."""
    rng = np.random.default_rng(seed)
    n = int(seconds * RATE)
    spectrum = np.fft.rfft(rng.normal(size=n)) / np.sqrt(1 + np.fft.rfftfreq(n, 1 / RATE) / 300)
    noise = np.fft.irfft(spectrum, n)
    time = np.arange(n) / RATE
    mixed: NDArray[np.float64] = noise / noise.std() + 0.5 * np.sin(2 * np.pi * 120 * time) + np.sin(5000 * time)
    return 0.05 * mixed * 10 ** (rng.uniform(-0.5, 0.5) / 20)


def write(path: Path, samples: NDArray[np.float64], rate: int = RATE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, "PCM_16")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("conditions")
    for i in range(12):
        write(folder / "train" / f"normal_id_00_{i:08}.wav", sound(i))
    return folder


@pytest.fixture(scope="module")
def detector(folder: Path) -> pyasd.Detector:
    return pyasd.fit(folder / "train", "fast", out=folder / "model.safetensors")


def mp3(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="MP3")
    file.seek(0)
    decoded: NDArray[np.float64] = soundfile.read(file)[0][: len(samples)]
    return decoded


CHANGES: dict[str, tuple[Any, set[str]]] = {
    "none": (lambda x: x, set()),
    "louder by 6 dB": (lambda x: 2 * x, {"level", "noise floor"}),
    "a recorder of 8 kHz": (lambda x: soxr.resample(soxr.resample(x, RATE, 8000), 8000, RATE), {"bandwidth"}),
    "MP3": (mp3, {"bandwidth"}),
    "overdriven": (lambda x: np.clip(x, -0.06, 0.06), {"clipped"}),
    "half an hour": (lambda x: np.tile(x, 900), {"duration"}),
    "cut off": (lambda x: x[: len(x) // 4], {"duration"}),
    "louder between strokes": (
        lambda x: x * (1 - 0.9 * (np.arange(len(x)) // 4000 % 2)), {"noise floor"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_recording_unlike_those_that_were_learnt_is_noted(
    detector: pyasd.Detector, tmp_path: Path, what: str
) -> None:
    change, expected = CHANGES[what]
    path = write(tmp_path / "normal_id_00_1.wav", change(sound(99)))
    (row,) = detector.score(path).to_dict("records")
    found = {x for x in row["note"].split(", ") if x}
    assert row["status"] == "ok"
    assert np.isfinite(row["score"])
    assert expected <= found
    assert bool(found) == bool(expected)


def test_clips_that_were_learnt_are_known_again(detector: pyasd.Detector, folder: Path, tmp_path: Path) -> None:
    """Under another name too; also by a model from a file."""
    again = write(tmp_path / "copy.wav", soundfile.read(folder / "train" / "normal_id_00_00000003.wav")[0])
    new = write(tmp_path / "new.wav", sound(77))
    for model in (detector, pyasd.load(folder / "model.safetensors")):
        table = model.score([again, new], ids="00")
        assert table["note"].tolist() == ["learnt", ""]
    longer = write(tmp_path / "longer.wav", np.append(soundfile.read(again)[0], 0.0))
    assert detector.score(longer, ids="00")["note"].tolist() == [""]


def test_each_machine_id_has_its_own_range_and_unknown_ones_that_of_all() -> None:
    clips = [np.full((20, 16), x, np.float32) + np.random.default_rng(0).normal(0, 1, (20, 16)).astype(np.float32)
             for x in (-60, -60, -60, -20, -20, -20)]  # fmt: skip
    for i, clip in enumerate(clips):
        clip[0] += i / 10
    how: dict[str, Any] = {"features": "log-mel", "n_mels": 16}
    fitted = pyasd.fit(clips, "fast", ids=["00"] * 3 + ["01"] * 3, **how)
    loud = [clips[0] + 39]
    assert fitted.score(loud, ids="00", features="log-mel")["note"][0] == "level, noise floor"
    assert fitted.score(loud, ids="01", features="log-mel")["note"][0] == ""
    between = [clips[0] + 20]
    assert fitted.score(between, ids="07", unknown_ids="pool", features="log-mel")["note"][0] == ""


def test_models_without_conditions_note_nothing() -> None:
    old = pyasd.load(Path(__file__).parents[1] / "compatibility" / "group-made-spectrum.safetensors")
    table = old.score([np.zeros((40, old.recipe.features.n_mels), np.float32) - 900], ids="00", features="log-mel")
    assert table["note"].tolist() == [""]


def test_a_ranking_notes_nothing(folder: Path) -> None:
    assert set(pyasd.score(folder)["note"]) == {""}


def test_the_share_of_samples_at_the_extremes(tmp_path: Path) -> None:
    x = np.sin(np.arange(16000) * 0.01)
    for top, share in ((0.5, 2 / 3), (2.0, 0.0)):
        path = write(tmp_path / "x.wav", 0.5 * np.clip(x, -top, top))
        heard = next(iter(pyasd.clips.find(path)))
        assert audio.read(heard, RATE).clipped == pytest.approx(share, abs=0.02)


def test_fingerprints_tell_clips_apart() -> None:
    rng = np.random.default_rng(0)
    clips = [rng.integers(-999, 999, 1000).astype(np.int16) for _ in range(50)]
    assert len({audio.fingerprint(x) for x in clips}) == 50
    assert audio.fingerprint(clips[0]) == audio.fingerprint(clips[0].copy())
    assert audio.fingerprint(clips[0]) != audio.fingerprint(clips[0][:-1])


@pytest.mark.parametrize("what", ["ranges", "fingerprints"])
def test_tensors_that_are_none_are_refused(what: str) -> None:
    import torch

    (clip,) = pyasd.clips.find([np.zeros(RATE)], sample_rate=RATE)
    items = [Features(i, clip, None, None, False, None, fingerprint=i, frames=9) for i in range(3)]
    known = Conditions.of([torch.randn(9, 16) for _ in range(3)], items, ["00"] * 3)
    assert Conditions.from_tensors(["00"], known.tensors()).ranges.tolist()[0][0] == known.ranges.tolist()[0][0]
    wrong = {"ranges": torch.zeros(2, 5, 2, dtype=torch.float64), "fingerprints": torch.tensor([3, 1])}
    with pytest.raises(ValueError, match=f"the training clips' {'conditions' if what == 'ranges' else what}"):
        Conditions.from_tensors(["00"], known.tensors() | {what: wrong[what]})


def test_notes_are_in_the_files_of_tables(detector: pyasd.Detector, tmp_path: Path) -> None:
    path = write(tmp_path / "normal_id_00_1.wav", 3 * sound(99))
    table = detector.score(path, out=tmp_path / "scores.csv")
    assert table["note"][0].startswith("level, noise floor")
    assert pd.read_csv(tmp_path / "scores.csv")["note"][0] == table["note"][0]
