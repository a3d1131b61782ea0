"""Adapting: mean, spread and thresholds take further normal clips in; models, other IDs and other modes stay."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import pyasd
from pyasd.detector.calibration import Calibration
from pyasd.detector.statistics import SAMPLE_SIZE, Baseline
from pyasd.models import NormalScores

HOW: dict[str, Any] = {"features": "log-mel"}
COUNTS = {"00": 20, "02": 12}


def log_mels(count: int, seed: int = 0, louder: float = 0.0) -> list[NDArray[np.float32]]:
    x = np.random.default_rng(seed).normal(-40 + louder, 8, (count, 30, 16))
    return list(x.astype(np.float32))


@pytest.fixture(scope="module")
def detector() -> pyasd.Detector:
    ids = [machine_id for machine_id, count in COUNTS.items() for _ in range(count)]
    tiny: dict[str, Any] = {"n_mels": 16, "hidden": (8, 8), "components": 2, "epochs": 1, "batch_size": 64}
    return pyasd.fit(log_mels(32), ids=ids, validation=0.25, **tiny, **HOW)


def adapt(detector: pyasd.Detector, clips: Any, **named: Any) -> pyasd.Detector:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return detector.adapt(clips, **named, **HOW)


def own_scores(detector: pyasd.Detector, clips: list[Any], member: str, machine_id: str = "00") -> NDArray[Any]:
    return np.asarray(detector.score(clips, ids=machine_id, **HOW)[f"score.{member}"])


@pytest.mark.parametrize("memory", [None, 5, 10**6])
def test_mean_and_spread_are_those_of_all_clips(detector: pyasd.Detector, memory: int | None) -> None:
    """By hand, from the clips' own scores: what is known counts for the clips it is of, or for five."""
    new = log_mels(30, seed=1, louder=0.5)
    after = adapt(detector, new, ids="00", memory=memory)
    known = 5 if memory == 5 else COUNTS["00"]
    for name, baseline in detector.machines[""].baselines.items():
        mode = detector.score_modes()[name]
        mean, spread = baseline.usual("00", mode)
        scores = own_scores(detector, new, name)
        expected = np.average([mean, scores.mean()], weights=[known, 30])
        square = np.average([spread**2 + mean**2, np.mean(scores**2)], weights=[known, 30])
        changed = after.machines[""].baselines[name]
        assert changed.usual("00", mode) == pytest.approx((expected, (square - expected**2) ** 0.5), rel=1e-9)
        assert changed.usual("02", mode) == baseline.usual("02", mode)
        for other in set(baseline.modes) - {mode}:
            assert changed.usual("00", other) == baseline.usual("00", other)


def test_what_clips_were_learnt_stays(detector: pyasd.Detector) -> None:
    """So members' weights do, and the second of two adaptations counts as the first did."""
    clips = log_mels(200, seed=2)
    twice = adapt(adapt(detector, clips, ids="00"), clips, ids="00")
    for name, baseline in twice.machines[""].baselines.items():
        assert baseline.moments.clips("00") == COUNTS["00"], name
    table = adapt(detector, clips, ids="00").score(clips[:3], ids="00", **HOW)
    before = detector.score(clips[:3], ids="00", **HOW)
    members = [name for name in table if name.startswith("score.") and name not in ("score.mean", "score.max")]
    pd.testing.assert_frame_equal(table[members], before[members])
    assert (table["score"] != before["score"]).all()


def test_scores_of_what_was_taken_in_are_usual_then(detector: pyasd.Detector) -> None:
    new, later = log_mels(100, seed=3, louder=3.0), log_mels(100, seed=4, louder=3.0)
    before = detector.score(later, ids="00", **HOW)["score"]
    after = adapt(detector, new, ids="00", memory=1).score(later, ids="00", **HOW)["score"]
    assert before.mean() > 0.3
    assert abs(after.mean()) < 0.15


def test_thresholds_are_of_new_clips_and_earlier_calibrations(detector: pyasd.Detector) -> None:
    """Not of training clips, nor of those that were scored in another mode."""

    def clips(found: pyasd.Detector, machine_id: str) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return found.threshold(0.2, machine_id).clips

    assert clips(adapt(detector, log_mels(30, seed=1), ids="00"), "00") == 30
    calibrated = detector.calibrate(log_mels(40, seed=2), ids="00", **HOW)
    both = adapt(calibrated, log_mels(30, seed=1), ids="00")
    assert (clips(both, "00"), clips(both, "02")) == (70, clips(detector, "02"))
    assert clips(adapt(calibrated, log_mels(30, seed=1), ids="00", memory=10), "00") == 40
    joint = detector.calibrate(log_mels(40, seed=2), ids="00", score_mode="joint", **HOW)
    assert clips(adapt(joint, log_mels(30, seed=1), ids="00"), "00") == 30
    scores = both.score([*log_mels(30, seed=1), *log_mels(40, seed=2)], ids="00", **HOW)["score"]
    assert both.threshold(0.2, "00").score == pytest.approx(np.sort(scores)[-14], rel=1e-6)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "thresholds come from training clips")
        both.threshold(0.2, "00")


def test_a_file_keeps_it(detector: pyasd.Detector, tmp_path: Path) -> None:
    after = adapt(detector, log_mels(300, seed=1, louder=2.0), ids="00", memory=2)
    after.save(tmp_path / "new.safetensors")
    loaded = pyasd.load(tmp_path / "new.safetensors")
    assert loaded.digest() == after.digest() != detector.digest()


def test_clips_far_from_what_is_known_are_warned_of(detector: pyasd.Detector) -> None:
    with pytest.warns(UserWarning, match=r"'00': the new clips score \d+\.\d standard deviations above those known"):
        detector.adapt(log_mels(30, seed=1, louder=20.0), ids="00", **HOW)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "'0")
        detector.adapt(log_mels(30, seed=1), ids="00", **HOW)


@pytest.mark.parametrize("memory", [0, -1])
def test_memory_is_a_number_of_clips(detector: pyasd.Detector, memory: int) -> None:
    with pytest.raises(ValueError, match="memory must be a number of clips from 1 on"):
        detector.adapt(log_mels(3), ids="00", memory=memory, **HOW)


@pytest.mark.parametrize("robust", [False, True])
@pytest.mark.parametrize("count", [7, 5000])
@pytest.mark.parametrize("memory", [None, 1, 3])
def test_a_baseline_stays_one(robust: bool, count: int, memory: int | None) -> None:
    """Whatever is taken in, a file of it can be read: the mean lies among the scores, which are in order."""
    rng = np.random.default_rng(count)
    scores = rng.gamma(2.0, size=(count, 2))
    baseline = Baseline.of(NormalScores(scores, ["a"] * count, 0.0), ("x", "y"), robust)
    for new in (np.array([1e3]), np.array([-5.0] * 4), rng.gamma(2.0, size=600), np.array([8.0])):
        baseline = baseline.adapted("a", "y", new, memory, robust)
        read = Baseline.from_tensors(["a"], ("x", "y"), baseline.tensors())
        assert read.usual("a", "y") == baseline.usual("a", "y")
        assert np.isfinite(baseline.sample[0, 1]).sum() <= SAMPLE_SIZE
    assert baseline.usual("a", "x") == Baseline.of(NormalScores(scores, ["a"] * count, 0.0), ("x", "y"), robust).usual(
        "a", "x"
    )


def test_robust_statistics_take_medians() -> None:
    """Of 100 clips kept as they are: the median of all, to the bit; a few odd clips hardly matter."""
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=100), rng.normal(3.0, size=300)
    baseline = Baseline.of(NormalScores(old[:, None], ["a"] * 100, 0.0), ("x",), True)
    mean, spread = baseline.adapted("a", "x", new, None, True).usual("a", "x")
    both = np.concatenate([old, new])
    assert mean == np.median(both)
    assert spread == pytest.approx(1.482602 * np.median(np.abs(both - mean)), rel=1e-6)
    odd = baseline.adapted("a", "x", np.array([1e6] * 3), None, True).usual("a", "x")
    assert odd == pytest.approx(baseline.usual("a", "x"), abs=0.2)


def test_nothing_new_changes_nothing() -> None:
    fitted = pyasd.fit(log_mels(10), "fast", n_mels=16, **HOW)
    machine = fitted.machines[""]
    from pyasd.detector.adaptation import adapted, remarks

    calibration = machine.calibration or Calibration({})
    same = adapted(machine, calibration, fitted.score_modes(), None, False)
    assert not list(remarks(machine, calibration, fitted.score_modes()))
    assert pyasd.Detector(fitted.recipe, {"": same}).digest() == fitted.digest()
