"""What a detector keeps of normal clips that it hasn't learnt, and the thresholds that it gives."""

from __future__ import annotations

import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from numpy.typing import NDArray

import pyasd
from pyasd import storage
from pyasd.detector.calibration import CALIBRATION_CLIPS, Calibration
from pyasd.errors import ModelFileError
from pyasd.training.data import held_out

TINY: dict[str, Any] = {"n_mels": 16, "hidden": (8, 8), "components": 2, "epochs": 2, "batch_size": 64}
OLD = Path(__file__).parents[1] / "compatibility" / "group-made-spectrum.safetensors"


def log_mels(count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    x = np.random.default_rng(seed).normal(-40, 8, (count, 30, 16))
    return list(x.astype(np.float32))


IDS = ["00"] * 20 + ["02"] * 12


@pytest.fixture(scope="module")
def detector() -> pyasd.Detector:
    return pyasd.fit(log_mels(32), ids=IDS, features="log-mel", validation=0.25, **TINY)


def quiet(detector: pyasd.Detector, *arguments: Any, **named: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return detector.threshold(*arguments, **named)


def test_clips_that_a_member_has_learnt_are_not_kept(detector: pyasd.Detector) -> None:
    """Group MADE held 5 and 3 clips out: they alone count, with the scores that the detector gives to them."""
    calibration = detector.machines[""].calibration
    assert calibration is not None
    kept = held_out(IDS, 0.25, 0)
    assert {name: len(x["group-made"]) for name, x in calibration.samples.items()} == {"00": 5, "02": 3}
    table = detector.score(log_mels(32), ids=IDS, features="log-mel", score_mode="joint")
    joint = table["score.group-made"][kept & (table["machine_id"] == "00")]
    how: dict[str, Any] = {"member": "group-made", "score_mode": "joint"}
    assert quiet(detector, 0.2, "00", **how).score == pytest.approx(joint.nlargest(1).iloc[0], rel=1e-6)
    assert quiet(detector, 0.4, "00", **how).score == pytest.approx(joint.nlargest(2).iloc[1], rel=1e-6)


def test_spectrum_knows_every_clip_by_models_of_the_others() -> None:
    clips = log_mels(21)
    fitted = pyasd.fit(clips, "fast", ids=["00"] * 20 + ["alone"], features="log-mel", n_mels=16)
    machine = fitted.machines[""]
    assert machine.calibration is not None
    assert {name: len(x["spread"]) for name, x in machine.calibration.samples.items()} == {"00": 20}
    sample = machine.baselines["spread"].sample[0, 0]
    np.testing.assert_array_equal(np.sort(machine.calibration.samples["00"]["spread"][:, 0]), sample[:20])
    with pytest.warns(UserWarning, match="'alone' has none"):
        assert fitted.threshold(0.1, "alone").score == math.inf


def test_the_combined_threshold_is_in_the_scores_own_units() -> None:
    """By hand: signed logarithms of the members' standardised scores, their weighted mean, the second largest."""
    fitted = pyasd.fit(log_mels(39), "fast", features="log-mel", n_mels=16)
    machine = fitted.machines[""]
    assert machine.calibration is not None
    z = []
    for name, baseline in machine.baselines.items():
        x = machine.calibration.samples[""][name][:, 0]
        z.append((x - baseline.moments.mean[0, 0]) / np.sqrt(baseline.moments.variance[0, 0]))
    weights = [1, 1, 0.5, 2 * 39 / (39 + 400)]  # neighbours know 39 clips
    combined = np.average(np.sign(z) * np.log1p(np.abs(z)), axis=0, weights=weights)
    assert quiet(fitted, 0.05).score == pytest.approx(np.sort(combined)[-2], rel=1e-12)
    assert quiet(fitted, 0.05).clips == 39


def test_files_keep_the_calibration(detector: pyasd.Detector, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    detector.save(path)
    loaded = pyasd.load(path)
    for machine_id in ("00", "02"):
        for mode in ("bands", "joint"):
            own = {"score_mode": mode}
            assert quiet(loaded, 0.3, machine_id, **own) == quiet(detector, 0.3, machine_id, **own)
    _, header = storage.read(path)
    assert header["format"] == 2  # what reads this format passes over the calibration
    assert header["machines"][0]["calibrated"] == ["00", "02"]


def test_a_calibration_of_another_model_is_no_calibration(detector: pyasd.Detector, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    detector.save(path)
    tensors, header = storage.read(path)
    header["machines"][0]["calibrated"] = ["00", "02", "04"]
    storage.write(path, tensors, header)
    with pytest.raises(ModelFileError, match="calibration"):
        pyasd.load(path)


def test_thresholds_from_training_clips_are_warned_of(detector: pyasd.Detector, tmp_path: Path) -> None:
    """Until that machine ID has clips of others, in files too; what lacks clips is told so alone."""
    detector.calibrate(log_mels(3, seed=5), ids="00", features="log-mel").save(tmp_path / "new.safetensors")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        detector.threshold(0.5, "00")
        assert [str(x.message)[:35] for x in seen] == ["thresholds come from training clips"]
        pyasd.load(tmp_path / "new.safetensors").threshold(0.5, "00")
        assert len(seen) == 1
        pyasd.load(tmp_path / "new.safetensors").threshold(0.5, "02")
        assert len(seen) == 2
        detector.threshold(0.01, "00")
        assert "training clips" not in str(seen[-1].message)


def test_models_without_a_calibration_say_so() -> None:
    old = pyasd.load(OLD)
    with pytest.raises(ValueError, match="calibrate it first"):
        old.threshold(0.01, "00")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"rate": 1}, "above 0 and below 1"),
        ({"machine_id": "07"}, "'00', '02'"),
        ({"machine_type": "pump"}, "no machine type 'pump'"),
        ({"member": "resnet"}, "group-made, spectrum, spread, modulation, neighbours"),
        ({"score_mode": "best"}, "no score mode 'best'"),
    ],
)
def test_what_there_is_not_is_refused(detector: pyasd.Detector, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        quiet(detector, **({"rate": 0.1, "machine_id": "00"} | arguments))


def test_of_many_clips_some_are_kept_evenly_spaced() -> None:
    count = 3 * CALIBRATION_CLIPS
    scores = np.arange(float(count))[:, None]
    kept = Calibration.of([""] * count, {"a": scores}).samples[""]["a"][:, 0]
    assert len(kept) == CALIBRATION_CLIPS
    assert (kept[0], kept[-1]) == (0, count - 1)
    assert set(np.diff(kept)) <= {3, 4}


# -- other clips -------------------------------------------------------------------------------------------------


def test_thresholds_come_from_the_new_clips_and_scores_stay(detector: pyasd.Detector, tmp_path: Path) -> None:
    clips = log_mels(99, seed=5)
    new = detector.calibrate(clips, ids="02", features="log-mel")
    scores = detector.score(clips, ids="02", features="log-mel")
    pd.testing.assert_frame_equal(new.score(clips, ids="02", features="log-mel"), scores)
    new.save(tmp_path / "new.safetensors")
    for calibrated in (new, pyasd.load(tmp_path / "new.safetensors")):
        found = quiet(calibrated, 0.05, "02")
        assert (found.clips, found.score) == (99, scores["score"].nlargest(5).iloc[-1])
        own = quiet(calibrated, 0.01, "02", member="spectrum").score
        assert own == scores["score.spectrum"].max()
        assert quiet(calibrated, 0.2, "00") == quiet(detector, 0.2, "00")  # has no new clips
        decided = calibrated.score(clips, ids="02", features="log-mel", false_alarms=0.05)
        assert (decided["decision"] == "anomaly").sum() == 4  # above the fifth
    assert quiet(detector, 0.2, "02").clips == 3  # the old one is what it was


def test_a_calibration_counts_for_its_score_mode_alone(detector: pyasd.Detector) -> None:
    new = detector.calibrate(log_mels(20, seed=5), ids="00", features="log-mel", score_mode="joint")
    assert quiet(new, 0.1, "00", score_mode="joint").clips == 20
    assert quiet(new, 0.1, "00").clips == 0
    with pytest.warns(UserWarning, match="'00' has none"):
        table = new.score(log_mels(1), ids="00", features="log-mel", false_alarms=0.1)
    assert table["decision"].tolist() == [""]
    assert table["p_value"].isna().all()


def test_an_old_model_gets_its_calibration() -> None:
    rng = np.random.default_rng(0)
    clips = list(rng.normal(-45, 4, (30, 40, 16)).astype(np.float32))
    new = pyasd.load(OLD).calibrate(clips, ids="00", features="log-mel")
    assert quiet(new, 0.1, "00").clips == 30
    assert math.isfinite(quiet(new, 0.1, "00").score)


def test_what_is_not_normal_or_cant_be_scored_is_left_out(factory: Path, tmp_path: Path) -> None:
    model = pyasd.fit(factory / "fan", **TINY)
    folder = tmp_path / "fan"
    shutil.copytree(factory / "fan" / "test", folder)
    soundfile.write(folder / "normal_id_00_00000090.wav", np.zeros(16000), 16000)
    (folder / "normal_id_00_00000091.wav").write_text("no audio")
    shutil.copy(folder / "normal_id_00_00000000.wav", folder / "normal_id_07_00000000.wav")
    with pytest.warns(UserWarning, match="6 of 15 clips are labelled anomalous"):
        new = model.calibrate(folder)
    assert [x["status"] for x in new.skipped] == ["silent", "unreadable", "unknown-id"]
    assert quiet(new, 0.1, "00").clips == quiet(new, 0.1, "02").clips == 3
    with pytest.raises(ValueError, match="none of the 1 clips"), pytest.warns(UserWarning, match="1 of 1"):
        model.calibrate(folder / "anomaly_id_00_00000000.wav")


def test_training_clips_are_not_taken_where_there_are_test_clips(factory: Path) -> None:
    model = pyasd.fit(factory / "fan", **TINY)
    with pytest.warns(UserWarning, match="6 of 12 clips are labelled anomalous"):
        assert quiet(model.calibrate(factory / "fan"), 0.1, "00").clips == 3


def test_odd_calibrations(detector: pyasd.Detector) -> None:
    """One clip, clips that are all alike, clips without a finite score, no clip."""
    how: dict[str, Any] = {"ids": "00", "features": "log-mel"}
    one = detector.calibrate(log_mels(1, seed=5), **how)
    assert quiet(one, 0.5, "00").score == one.score(log_mels(1, seed=5), **how)["score"][0]
    assert quiet(one, 0.49, "00").score == math.inf
    same = detector.calibrate(log_mels(1, seed=5) * 30, **how)
    decided = same.score(log_mels(1, seed=5), **how, false_alarms=0.1)
    assert (decided["decision"][0], decided["p_value"][0]) == ("normal", 1)
    broken = np.full((30, 16), np.nan, np.float32)
    some = detector.calibrate([broken, *log_mels(2, seed=5)], **how)
    assert quiet(some, 0.5, "00").clips == 2
    assert [x["status"] for x in some.skipped] == ["not-finite"]
    with pytest.raises(ValueError, match="none of the 1 clips can be used for thresholds"):
        detector.calibrate([broken], **how)
    with pytest.raises(ValueError, match="no clips"):
        detector.calibrate([], **how)


def test_a_single_machine_id_s_calibration_is_written_and_read() -> None:
    scores = {"a": np.array([[1.0, np.nan], [3.0, 4.0], [np.nan, np.nan]]), "b": np.array([[5.0], [6.0], [7.0]])}
    one = Calibration.of(["00"] * 3, scores, training=True)
    again = Calibration.from_tensors(["00"], {"a": ("x", "y"), "b": ("z",)}, one.tensors())
    assert again.training == {"00"}
    for name, kept in (("a", [[1.0, np.nan], [3.0, 4.0]]), ("b", [[5.0], [6.0]])):
        np.testing.assert_array_equal(again.samples["00"][name], kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores/a": torch.zeros(2, 2)}, r"the calibration of a has the shape \(2, 2\)"),
        ({"scores/b": torch.zeros(3, 2)}, r"the calibration of b has the shape \(3, 2\)"),
        ({"count": torch.tensor([3])}, "the calibration of a has the shape"),
        ({"count": torch.tensor([1, 1, 1])}, "the calibration of a has the shape"),
        ({"count": torch.tensor([3, 0])}, "the calibration of a has the shape"),
        ({"scores/b": torch.tensor([[1.0], [math.inf], [2.0]])}, "the calibration of b has infinite scores"),
    ],
)
def test_a_calibration_that_is_none_is_refused(changes: dict[str, torch.Tensor], message: str) -> None:
    scores = {"a": np.array([[1.0, np.nan], [3.0, 4.0], [5.0, 6.0]]), "b": np.array([[5.0], [6.0], [7.0]])}
    modes, ids = {"a": ("x", "y"), "b": ("z",)}, ["00", "02"]
    tensors = Calibration.of(["00", "02", "00"], scores).tensors()
    assert [len(x["b"]) for x in Calibration.from_tensors(ids, modes, tensors).samples.values()] == [2, 1]
    with pytest.raises(ValueError, match=message):
        Calibration.from_tensors(ids, modes, tensors | changes)
