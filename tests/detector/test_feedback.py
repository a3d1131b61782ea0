"""Feedback: false alarms join the calibration clips, missed faults tell the rate that would have found them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import pyasd
from pyasd.detector.decisions import normal_scores
from pyasd.detector.feedback import feedback

HOW: dict[str, Any] = {"features": "log-mel"}


def log_mels(count: int, seed: int = 0, louder: float = 0.0) -> list[NDArray[np.float32]]:
    x = np.random.default_rng(seed).normal(-40 + louder, 8, (count, 30, 16))
    return list(x.astype(np.float32))


@pytest.fixture(scope="module")
def detector() -> pyasd.Detector:
    """Calibrated with 39 and 19 clips."""
    tiny: dict[str, Any] = {"n_mels": 16, "hidden": (8, 8), "components": 2, "epochs": 1, "batch_size": 64}
    fitted = pyasd.fit(log_mels(32), ids=["00"] * 20 + ["02"] * 12, validation=0.25, **tiny, **HOW)
    return fitted.calibrate(log_mels(58, seed=1), ids=["00"] * 39 + ["02"] * 19, **HOW)


@pytest.fixture(scope="module")
def scores(detector: pyasd.Detector) -> pd.DataFrame:
    """20 clips of each machine ID; of the second, 10 are louder."""
    clips = log_mels(30, seed=2) + log_mels(10, seed=3, louder=1.0)
    return detector.score(clips, ids=["00"] * 20 + ["02"] * 20, **HOW)


def normal(detector: pyasd.Detector, machine_id: str, score_mode: str | None = None) -> NDArray[np.float64]:
    return normal_scores(detector.machines[""], machine_id, detector.score_modes(score_mode), detector.recipe)


def test_healthy_clips_join_the_calibration(detector: pyasd.Detector, scores: pd.DataFrame) -> None:
    verdicts = {"clip 3": 0, "clip 7": 0, "clip 20": 0, "clip 99": 0}
    after, found = feedback(detector, scores, verdicts)
    judged = scores["score"][[3, 7]]
    np.testing.assert_allclose(normal(after, "00"), np.sort([*normal(detector, "00"), *judged]), rtol=1e-9)
    assert len(normal(after, "02")) == 20
    assert found[["machine_id", "healthy", "clips_before", "clips_after", "faulty"]].to_numpy().tolist() == [
        ["00", 2, 39, 41, 0],
        ["02", 1, 19, 20, 0],
    ]
    assert found[["rate_for_half", "rate_for_all"]].isna().all(axis=None)
    assert found.attrs["unused"] == 1
    pd.testing.assert_frame_equal(
        after.score(log_mels(3), ids="00", **HOW), detector.score(log_mels(3), ids="00", **HOW)
    )


def test_a_clip_just_over_the_threshold_raises_it(detector: pyasd.Detector, scores: pd.DataFrame) -> None:
    """The rate of 1/40 has one clip above; a normal one that scores higher takes its place, at the rate of 1/41."""
    highest = scores[scores["machine_id"] == "00"].nlargest(1, "score")
    raised, _ = feedback(detector, scores, {highest["clip"].iloc[0]: 0})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, after = detector.threshold(1 / 40, "00"), raised.threshold(1 / 40, "00")
    assert (before.clips, after.clips) == (39, 40)
    assert after.score == pytest.approx(max(before.score, highest["score"].iloc[0]), rel=1e-6)


def test_missed_faults_tell_the_rate_that_finds_them(detector: pyasd.Detector, scores: pd.DataFrame) -> None:
    """At the rates told, half and all of them are decided to be anomalies; just below, fewer are."""
    faults = dict.fromkeys(scores["clip"][30:], 1)
    after, found = feedback(detector, scores, faults | {"clip 21": 0})
    (row,) = found.to_dict("records")
    assert (row["healthy"], row["faulty"], row["clips_after"]) == (1, 10, 20)
    assert 0 < row["rate_for_half"] < row["rate_for_all"]
    clips = log_mels(10, seed=3, louder=1.0)
    for rate, expected in ((row["rate_for_half"], 5), (row["rate_for_all"], 10)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tables = [after.score(clips, ids="02", false_alarms=x, **HOW) for x in (rate, rate - 1 / 21)]
        alarms = [int((table["decision"] == "anomaly").sum()) for table in tables]
        assert alarms[0] >= expected > alarms[1]


def test_other_modes_keep_their_thresholds(detector: pyasd.Detector) -> None:
    """`fit` keeps scores in all modes: verdicts on clips scored in one mode join in that one alone."""
    tiny: dict[str, Any] = {"n_mels": 16, "hidden": (8, 8), "components": 2, "epochs": 1, "batch_size": 64}
    fitted = pyasd.fit(log_mels(32), ids="00", validation=0.5, **tiny, **HOW)
    table = fitted.score(log_mels(5, seed=4), ids="00", score_mode="joint", **HOW)
    after, _ = feedback(fitted, table, {"clip 1": 0, "clip 2": 0}, score_mode="joint")
    assert len(normal(after, "00", "joint")) == len(normal(fitted, "00", "joint")) + 2
    np.testing.assert_array_equal(normal(after, "00"), normal(fitted, "00"))


def test_of_rows_of_one_name_the_last_counts(detector: pyasd.Detector, scores: pd.DataFrame) -> None:
    twice = pd.concat([scores, scores.iloc[[5]].assign(clip="clip 3")])
    after, found = feedback(detector, twice, {"clip 3": 0})
    assert found["healthy"].tolist() == [1]
    assert np.isclose(normal(after, "00"), scores["score"][5]).any()


def test_all_cuts_of_healthy_clips_count_and_the_highest_of_faulty_ones(
    detector: pyasd.Detector, scores: pd.DataFrame
) -> None:
    names = ["a", "a", "b", "b", "b"] * 4
    cuts = scores[:20].assign(clip=names, start=range(20))
    after, found = feedback(detector, cuts, {"a": 0, "b": 1, "c": 1})
    assert found[["healthy", "faulty"]].to_numpy().tolist() == [[8, 1]]
    assert len(normal(after, "00")) == 39 + 8
    highest = scores["score"][:20][[name == "b" for name in names]].max()
    p = (1 + (normal(after, "00") >= highest).sum()) / 48
    assert found["rate_for_half"][0] == found["rate_for_all"][0] == pytest.approx(p)
    assert found.attrs["unused"] == 1


def test_verdicts_that_cannot_be_used(detector: pyasd.Detector, scores: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="none of the 2 verdicts can be used: their clips are not in the table"):
        feedback(detector, scores, {"a.wav": 0, "b.wav": 1})
    with pytest.raises(ValueError, match="none of the 1 verdicts"):
        feedback(detector, scores.assign(machine_id="77"), {"clip 3": 0})
    with pytest.raises(ValueError, match="none of the 1 verdicts"):
        feedback(detector, scores.assign(score=np.nan), {"clip 3": 0})
    with pytest.raises(ValueError, match="give the model that scored it"):
        feedback(detector, scores.assign(score=scores["score"] + 1), {"clip 3": 0})
