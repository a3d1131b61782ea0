"""Units are done once: what is finished is not done again, whatever changes or dies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyasd import detector
from pyasd.clips import Clip
from pyasd.detector import Detector
from pyasd.recipes import Recipe
from pyasd.reproduce import units
from pyasd.reproduce.report import Result

from .conftest import group_made, same


def test_what_is_finished_is_not_done_again(
    data: Path, done: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, first = done
    monkeypatch.setattr(units, "fit", lambda *_, **__: pytest.fail("trained again"))
    again = group_made(data, out, systems=("2", "4"))
    same(again.scores, first.scores)
    assert again.notes == first.notes


def test_a_further_system_trains_its_own_members_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group_made(data, tmp_path, machines=["fan"])
    trained: list[tuple[str, ...]] = []
    real = detector.fit

    def fit(clips: list[Clip], recipe: Recipe, **how: Any) -> Detector:
        trained.append(recipe.names)
        return real(clips, recipe, **how)

    monkeypatch.setattr(units, "fit", fit)
    result = group_made(data, tmp_path, systems=("2",), machines=["fan"])
    assert trained == [("mobilenet",)]
    assert "system 2, max" in result.scores


def test_other_settings_are_learnt_anew(data: Path, tmp_path: Path) -> None:
    first = group_made(data, tmp_path, machines=["fan"])
    second = group_made(data, tmp_path, machines=["fan"], learning_rate=3e-3)
    assert any("group-made.safetensors came of other clips or settings" in x for x in second.notes)
    fresh = group_made(data, tmp_path / "fresh", machines=["fan"], learning_rate=3e-3)
    same(second.scores, fresh.scores)
    assert not second.scores["system 4"].equals(first.scores["system 4"])


def test_clips_that_could_not_be_learnt_are_counted_not_read_from_a_warning(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = detector.fit

    def fit(clips: list[Clip], recipe: Recipe, **how: Any) -> Detector:
        detector = real(clips, recipe, **how)
        detector.skipped.append({"clip": "a.wav", "status": "empty", "error": "a.wav: in other words"})
        return detector

    monkeypatch.setattr(units, "fit", fit)
    assert group_made(data, tmp_path, machines=["fan"]).failed == 1
    notes = json.loads((tmp_path / "units/fan-seed0/group-made.safetensors.notes").read_text())
    assert notes == {"warnings": [], "skipped": 1}
    monkeypatch.undo()
    assert group_made(data, tmp_path, machines=["fan"]).failed == 1, "what was found is not forgotten"


@pytest.mark.parametrize(("texts", "failed"), [([], 0), (["1 of 9 clips were not learnt from; the first: a.wav"], 1)])
def test_notes_of_the_first_version(data: Path, tmp_path: Path, texts: list[str], failed: int) -> None:
    """They were a list of warnings."""
    first = group_made(data, tmp_path, machines=["fan"])
    (tmp_path / "units/fan-seed0/group-made.safetensors.notes").write_text(json.dumps(texts))
    again = group_made(data, tmp_path, machines=["fan"])
    assert again.failed == first.failed + failed
    assert again.notes == first.notes + [f"fan, seed 0: {text}" for text in texts]
