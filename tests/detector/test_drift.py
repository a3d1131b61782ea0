"""Drift is found soon where there is some, and no oftener than asked for where there is none."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats

import pyasd
from pyasd.detector.drift import SHIFTS, drift, log_capital, noticed


def place_of(normal: NDArray[np.float64], scores: NDArray[np.float64]) -> int | None:
    """Where drift is noticed at a rate of 1 %."""
    return noticed(log_capital(np.sort(normal), scores), 0.01)


def test_a_bet_is_fair_and_is_the_likelihood_ratio_of_a_shift() -> None:
    normal, scores = np.arange(10.0), np.array([20.0])
    place = (10 + np.random.default_rng(0).random()) / 11  # above all, somewhere in the last of eleven parts
    z = stats.norm.ppf(place)
    ratios = [stats.norm.pdf(z, x) / stats.norm.pdf(z) for x in SHIFTS]
    assert log_capital(normal, scores) == pytest.approx([math.log(np.mean(ratios))])


def test_the_capital_stays_one_on_average() -> None:
    rng = np.random.default_rng(3)
    ends = [math.exp(log_capital(np.sort(x[:5]), x[5:], seed)[-1]) for seed, x in enumerate(rng.random((4000, 10)))]
    assert abs(np.mean(ends) - 1) < 4 * np.std(ends) / math.sqrt(len(ends))


@pytest.mark.parametrize("draw", ["standard_normal", "standard_cauchy"])
@pytest.mark.parametrize("decimals", [8, 0])  # 0: many equal scores
def test_a_thousand_weeks_without_drift(draw: str, decimals: int) -> None:
    rng = np.random.default_rng(0)
    weeks = [np.round(getattr(rng, draw)(99 + 168), decimals) for _ in range(1000)]
    alarms = sum(place_of(x[:99], x[99:]) is not None for x in weeks)
    assert alarms <= stats.binom(1000, 0.01).ppf(0.9999)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_shift_of_one_standard_deviation_is_found_within_thirty_clips(sign: int) -> None:
    rng, delays = np.random.default_rng(1), []
    for _ in range(200):
        scores = rng.standard_normal(399 + 300)
        scores[-200:] += sign
        place = place_of(scores[:399], scores[399:])
        assert place is not None
        if place >= 100:
            delays.append(place - 99)
    assert len(delays) >= 190
    assert np.median(delays) <= 30


def noise(count: int, seed: int, gain: float = 1.0) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return [(gain * 0.05 * rng.standard_normal(8000)).astype(np.float32) for _ in range(count)]


@pytest.fixture(scope="module")
def detector() -> pyasd.Detector:
    """Two machine IDs, calibrated with clips of one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = pyasd.fit(noise(24, 0), "fast", ids=["00", "01"] * 12, sample_rate=16000)
        return fitted.calibrate(noise(60, 1), ids="00", sample_rate=16000)


def scored(detector: pyasd.Detector, clips: list[NDArray[np.float32]], machine_id: str = "00") -> pd.DataFrame:
    return detector.score(clips, ids=machine_id, sample_rate=16000)


def test_a_louder_machine(detector: pyasd.Detector) -> None:
    (same,) = drift(detector, scored(detector, noise(40, 2))).to_dict("records")
    assert (same["drifted"], same["since"], same["noticed"], same["clips"]) == (False, "", "", 40)
    assert same["calibration_clips"] == 60
    assert same["p_value"] > 0.01
    assert abs(same["shift"]) < 1
    table = scored(detector, noise(40, 2) + noise(30, 3, gain=1.1))
    (louder,) = drift(detector, table).to_dict("records")
    assert louder["drifted"]
    assert louder["p_value"] < 0.01
    assert louder["shift"] > 1
    names = table["clip"].to_list()
    assert 35 <= names.index(louder["since"]) <= 45
    assert 40 <= names.index(louder["noticed"]) <= 60


def test_machine_ids_are_tested_apart_and_anomalies_left_out(detector: pyasd.Detector) -> None:
    table = pd.concat([scored(detector, noise(10, 2)), scored(detector, noise(10, 3), "01")], ignore_index=True)
    assert list(drift(detector, table)["machine_id"]) == ["00", "01"]
    table["label"] = pd.array([1] * 4 + [0] * 16, "Int64")
    table.loc[10, "note"] = "level, learnt"
    found = drift(detector, table)
    assert list(found["clips"]) == [6, 9]
    assert found.attrs["unused"] == 5
    table["label"] = pd.array([1] * 20, "Int64")
    with pytest.raises(ValueError, match="none of the 20 rows can be tested for drift"):
        drift(detector, table)


def test_another_model_s_table_is_refused(detector: pyasd.Detector) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = pyasd.fit(noise(24, 5, gain=2.0), "fast", ids=["00", "01"] * 12, sample_rate=16000)
    table = scored(other, noise(3, 2))
    with pytest.raises(ValueError, match=r"and this model makes .* give the model that scored it"):
        drift(detector, table)
    with pytest.raises(ValueError, match=r"lacks score\.spectrum, .*: give the model that scored its clips"):
        drift(detector, table.drop(columns="score.neighbours"))
    with pytest.raises(ValueError, match="a false-alarm rate is above 0"):
        drift(detector, table, false_alarms=0)
