"""`reproduce` on miniatures of DCASE 2020, with tiny trainings: its scores, and what can go wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import pyasd
from pyasd import detector
from pyasd.clips import Clip
from pyasd.datasets import dcase
from pyasd.detector import Detector
from pyasd.factory import miniature
from pyasd.recipes import Recipe
from pyasd.reproduce import units
from pyasd.reproduce.report import Result
from pyasd.reproduce.reproduce import Settings, reproduce

from .conftest import CPU, group_made, same


def test_every_test_clip_has_all_scores(data: Path, done: tuple[Path, Result]) -> None:
    out, result = done
    columns = ["score.mobilenet", "score.group-made", "baseline", "system 2, mean", "system 2, max", "system 4"]
    assert np.isfinite(result.scores[columns]).all(axis=None)
    test = [x for x in dcase.find(data) if x.clip.split == "test"]
    told = {(x.part, x.clip.name, x.clip.label) for x in test}
    assert set(zip(result.scores["part"], result.scores["clip"], result.scores["label"], strict=True)) == told
    assert len(result.scores) == len(test) == 2 * (4 + 3) * 4
    same(pd.read_parquet(out / "scores.parquet"), result.scores)
    assert result.failed == 0


def test_systems_are_the_members_scores_standardised_and_combined(done: tuple[Path, Result]) -> None:
    out, result = done
    scores = result.scores
    fan = scores[scores["machine_type"] == "fan"].reset_index(drop=True)
    z = {}
    for name, mode in (("mobilenet", "log-probability"), ("group-made", "joint")):
        baseline = pyasd.load(out / f"units/fan-seed0/{name}.safetensors").machines["fan"].baselines[name]
        row = [baseline.ids.index(x) for x in fan["machine_id"]]
        column = baseline.modes.index(mode)
        mean, variance = baseline.moments.mean[row, column], baseline.moments.variance[row, column]
        z[name] = (fan[f"score.{name}"] - mean) / np.sqrt(np.maximum(variance, 1e-12))
    both = np.stack(list(z.values()))
    assert np.allclose(fan["system 2, mean"], both.mean(0), rtol=1e-12)
    assert np.allclose(fan["system 2, max"], both.max(0), rtol=1e-12)
    assert np.allclose(fan["system 4"], z["group-made"], rtol=1e-12)


def test_the_same_as_fit_and_score(data: Path, done: tuple[Path, Result]) -> None:
    entries = [x for x in dcase.find(data, machines=["pump"])]
    detector = pyasd.fit([x.clip for x in entries if x.clip.split == "train"], "2", epochs=1, device="cpu")
    table = detector.score([x.clip for x in entries if x.clip.split == "test"], device="cpu").set_index("clip")
    ours = done[1].scores.set_index("clip").loc[table.index]
    for name, column in (("score.mean", "system 2, mean"), ("score.max", "system 2, max")):
        assert ours[column].tolist() == table[name].tolist()


def test_who_learns_what(done: tuple[Path, Result]) -> None:
    unit = done[0] / "units" / "fan-seed0"
    ids = {path.stem: pyasd.load(path).machines["fan"].ids for path in unit.glob("*.safetensors")}
    everything = ("00", "01", "02", "03", "04", "05", "06")
    assert ids == {
        "mobilenet": everything, "group-made": everything,
        "baseline-development": ("00", "02", "04", "06"), "baseline-evaluation": ("01", "03", "05"),
    }  # fmt: skip


def test_archives_give_the_same(data: Path, tmp_path: Path) -> None:
    miniature.write(tmp_path / "zips", machines=["fan"], train=3, test=2, seconds=1.0, zipped=True)
    one = group_made(tmp_path / "zips", tmp_path / "one").scores
    other = group_made(data, tmp_path / "other", machines=["fan"]).scores
    assert one["system 4"].tolist() == other["system 4"].tolist()


def test_quick_says_so_and_takes_few_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    miniature.write(tmp_path / "data", machines=["valve"], train=4, test=3, seconds=1.0)
    monkeypatch.setattr("pyasd.reproduce.reproduce.QUICK_TRAIN", 2)
    monkeypatch.setattr("pyasd.reproduce.reproduce.QUICK_TEST", 1)
    result = reproduce(tmp_path / "data", tmp_path / "out", Settings(["4"], quick=True), CPU)
    assert len(result.scores) == (4 + 3) * 2
    assert "NO reproduction" in result.report.read_text()
    history = pyasd.load(tmp_path / "out/units/valve-seed0/group-made.safetensors").machines["valve"].histories
    assert len(history["group-made"].training) == 2


@pytest.fixture
def fan(data: Path, tmp_path: Path) -> Path:
    """A copy of the fan's clips, to be spoilt."""
    for part in ("dev_data", "eval_data"):
        shutil.copytree(data / part / "fan", tmp_path / "fan data" / part / "fan")
    shutil.copy(data / "eval_data_list_2020.csv", tmp_path / "fan data")
    return tmp_path / "fan data"


def test_without_the_additional_and_the_evaluation_set(fan: Path, tmp_path: Path) -> None:
    shutil.rmtree(fan / "eval_data")
    result = group_made(fan, tmp_path / "out")
    assert any("fan: no additional training set: the systems learn 4 machine IDs" in x for x in result.notes)
    assert set(result.scores["part"]) == {"development"}
    assert result.failed == 0


def test_an_evaluation_set_of_which_nothing_was_learnt(fan: Path, tmp_path: Path) -> None:
    shutil.rmtree(fan / "eval_data" / "fan" / "train")
    result = group_made(fan, tmp_path / "out")
    assert any("evaluation set is left out, as nothing is learnt of its machine IDs" in x for x in result.notes)
    assert set(result.scores["part"]) == {"development"}


def test_an_evaluation_set_without_labels_is_scored(fan: Path, tmp_path: Path) -> None:
    (fan / "eval_data_list_2020.csv").unlink()
    result = group_made(fan, tmp_path / "out")
    assert any("evaluation set has no labels: it is scored, but not evaluated" in x for x in result.notes)
    assert list(result.tables) == [x for x in result.tables if x.startswith("Development")]
    assert (tmp_path / "out/challenge/evaluation/system-4/seed0/anomaly_score_fan_id_05.csv").is_file()
    assert not (tmp_path / "out/challenge/evaluation/system-4/seed0/result.csv").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_machine_type_that_lacks_a_folder(fan: Path, tmp_path: Path, split: str) -> None:
    shutil.rmtree(fan / "dev_data" / "fan" / split)
    with pytest.raises(
        ValueError, match=rf"fan has no clips in {split}/ of the development set: unpack dev_data_fan\.zip"
    ):
        group_made(fan, tmp_path / "out")


def test_a_machine_type_that_is_not_there(fan: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pump has no clips in train/ and test/ of the development set"):
        group_made(fan, tmp_path / "out", machines=["fan", "pump"])


def test_a_damaged_clip_costs_itself_alone(fan: Path, tmp_path: Path) -> None:
    for name in ("train/normal_id_00_00000000.wav", "test/anomaly_id_00_00000001.wav"):
        path = fan / "dev_data" / "fan" / name
        path.write_bytes(path.read_bytes()[:1000])
    result = group_made(fan, tmp_path / "out")
    assert result.failed == 2
    assert any("1 clips have no score" in x and "is cut off" in x for x in result.notes)
    assert any("of 21 clips were not learnt from" in x for x in result.notes)
    assert result.scores["system 4"].isna().sum() == 1
    again = group_made(fan, tmp_path / "out")
    assert (again.failed, again.notes) == (result.failed, result.notes), "what was found is not forgotten"


def test_a_machine_type_with_one_id(fan: Path, tmp_path: Path) -> None:
    shutil.rmtree(fan / "eval_data")
    for path in fan.rglob("*_id_0[246]_*"):
        path.unlink()
    result = group_made(fan, tmp_path / "out", systems=["2"])
    assert any(
        "fan: all clips are of machine ID '00': mobilenet learnt to tell it from its own" in x for x in result.notes
    )
    assert result.scores["system 2, mean"].notna().all()


def test_a_machine_type_with_one_id_and_classifiers_that_need_two(data: Path, fan: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "dev_data" / "pump", fan / "dev_data" / "pump")
    for path in [*fan.rglob("fan/train/*_id_0[1-6]_*"), *fan.rglob("fan/test/*_id_0[1-6]_*")]:
        path.unlink()
    result = group_made(fan, tmp_path / "out", systems=["2", "4"], warps=0)
    assert any("fan has one machine ID, 00, and classifiers tell IDs apart: no system 2" in x for x in result.notes)
    both = result.scores.groupby("machine_type")[["system 2, mean", "system 4"]].count()
    assert (both.loc["fan"] > 0).tolist() == [False, True]
    assert (both.loc["pump"] > 0).all()
    assert result.failed == 0
    with pytest.raises(ValueError, match="fan has one machine ID, 00: only system 4 can be made"):
        group_made(fan, tmp_path / "out", systems=["2"], warps=0)


def test_a_unit_that_fails_does_not_stop_the_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = detector.fit

    def fit(clips: list[Clip], recipe: Recipe, **how: Any) -> Detector:
        if clips[0].machine_type == "fan":
            raise ValueError("the loss became nan in epoch 1, batch 2")
        return real(clips, recipe, **how)

    monkeypatch.setattr(units, "fit", fit)
    result = group_made(data, tmp_path)
    assert set(result.scores["machine_type"]) == {"pump"}
    assert result.failed == 1
    assert any("fan, seed 0 gave no scores: the loss became nan in epoch 1, batch 2" in x for x in result.notes)


def test_two_runs_in_one_folder(data: Path, tmp_path: Path) -> None:
    import fcntl

    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="is in use by another run"):
            group_made(data, tmp_path)


def test_arguments_that_make_no_sense(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no system 5: the report has 1, 2, 3, 4"):
        Settings(systems=["1", "5"])
    with pytest.raises(ValueError, match="seeds must be at least 1"):
        Settings(seeds=0)
    with pytest.raises(TypeError, match="has no setting 'epoch'; did you mean epochs"):
        group_made(data, tmp_path, epoch=3)
