"""Files that earlier versions wrote go on working: models give the same scores, recipes the same systems."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import safetensors

import pyasd

from .files import FOLDER, IDS, MODELS, RECIPE, SCORES, log_mels, scores

KEY = ("mode", "clip", "machine_id", "column")

TOLERANCE = {"classifier-spectrum": 1e-4}
"""Other instruction sets and math libraries round sums otherwise: the error of a score, relative to its size and to the
standard deviations that it is counted in; 1e-6 where no other is named. oneDNN's convolutions for SSE 4.1, AVX2 and
AVX-512 sum in other orders, which moves a classifier's score by up to 2e-5 (the recorded ones come from AVX2)."""


def expected(name: str) -> dict[tuple[str, ...], float]:
    with open(SCORES, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == name]
    return {tuple(row[x] for x in KEY): float(row["value"]) for row in rows}


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("name", MODELS)
def test_an_old_model_gives_the_same_scores(name: str, backend: str) -> None:
    detector = pyasd.load(FOLDER / f"{name}.safetensors")
    wanted = expected(name)
    actual = {tuple(row[x] for x in KEY): row["value"] for row in scores(detector, name, backend)}
    assert actual.keys() == wanted.keys()
    values, reference = np.array([actual[key] for key in wanted]), np.array(list(wanted.values()))
    tolerance = TOLERANCE.get(name, 1e-6)
    np.testing.assert_allclose(values, reference, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_an_old_model_saved_again_is_the_same_model(name: str, tmp_path: Path) -> None:
    old = pyasd.load(FOLDER / f"{name}.safetensors")
    old.save(tmp_path / "again.safetensors")
    again = pyasd.load(tmp_path / "again.safetensors")
    assert again.recipe == old.recipe
    assert again.versions == old.versions
    how: dict[str, Any] = {"ids": "01", "features": "log-mel", "device": "cpu"}
    clips = log_mels(3, seed=2)
    pd.testing.assert_frame_equal(again.score(clips, **how), old.score(clips, **how), check_exact=True)


@pytest.mark.parametrize("name", MODELS)
def test_an_old_model_explains_its_scores(name: str) -> None:
    detector = pyasd.load(FOLDER / f"{name}.safetensors")
    for column in detector.score(log_mels(1, seed=1), ids="00", features="log-mel", device="cpu"):
        member = column.removeprefix("score.")
        if column.startswith("score.") and member not in ("mean", "max"):
            told = detector.explain(log_mels(1, seed=1), ids="00", features="log-mel", member=member, device="cpu")
            assert told.log_mel.shape == told.score_map.shape == (40, 16)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_old_recipe_is_read() -> None:
    """Members in their order, with their settings, and what the recipe says of combination and statistics."""
    clips, ids = log_mels(12, seed=0), [*IDS] * 6
    detector = pyasd.fit(clips, RECIPE, ids=ids, features="log-mel", device="cpu")
    table = detector.score(clips, ids=ids, features="log-mel", device="cpu")
    assert [x for x in table if x.startswith("score")] == [
        "score", "score.mean", "score.max", "score.mobilenet", "score.spectrum",
    ]  # fmt: skip
    assert table["score"].tolist() == table["score.max"].tolist()
    assert (table["status"] == "ok").all()
    epochs = {name: len(history.training) for name, history in detector.machines[""].histories.items()}
    assert epochs["mobilenet"] == 2
    assert detector.recipe == pyasd.load(FOLDER / "classifier-spectrum.safetensors").recipe


def test_the_files_are_old_and_small() -> None:
    """Nobody wrote them anew by mistake: a later version would write its own header."""
    sizes = []
    for name in MODELS:
        path = FOLDER / f"{name}.safetensors"
        sizes.append(path.stat().st_size)
        with safetensors.safe_open(path, "np") as file:
            header = json.loads(file.metadata()["pyasd"])
        assert header["format"] == 1
        assert isinstance(header["recipe"]["members"][0], str)
        assert header["versions"]["pyasd"] == "0.1.0"
    assert sum(sizes) < 320_000
