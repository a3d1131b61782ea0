"""False alarms come as often as asked for: exactly, for any number of clips, whatever the scores' distribution is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

import pyasd
from pyasd.detector.decisions import check_rate, few_clips, p_value, threshold
from pyasd.tables import table as results

RATES = st.fractions(min_value="1/1000", max_value="999/1000", max_denominator=1000)
SCORES = st.lists(st.integers(-30, 30), min_size=2, max_size=40)


@given(st.sets(st.integers(-(10**6), 10**6), min_size=2, max_size=40), RATES)
def test_exchangeable_clips_raise_exactly_the_alarms_asked_for(scores: set[int], rate: float) -> None:
    """Each of n + 1 clips in turn is the new one, and the others the calibration: all orders are equally likely."""
    values = np.array(sorted(scores), float)
    others = [np.delete(values, i) for i in range(len(values))]
    p_values = [p_value(x, normal) for x, normal in zip(values, others, strict=True)]
    assert sorted(p_values) == pytest.approx([(i + 1) / len(values) for i in range(len(values))])  # uniform
    wanted = math.floor(rate * len(values))  # a Fraction: exact
    assert sum(p <= float(rate) + 1e-12 for p in p_values) == wanted
    chosen = [threshold(normal, float(rate)) for normal in others]
    assert sum(x > t.score for x, t in zip(values, chosen, strict=True)) == wanted
    assert all(t.rate == pytest.approx(wanted / len(values)) for t in chosen)


@given(SCORES, RATES)
def test_equal_scores_never_raise_more_alarms(scores: list[int], rate: float) -> None:
    values = np.sort(np.array(scores, float))
    others = [np.delete(values, i) for i in range(len(values))]
    for x, normal in zip(values, others, strict=True):
        assert (x > threshold(normal, float(rate)).score) == (p_value(x, normal) <= float(rate) + 1e-12)
    alarms = sum(x > threshold(normal, float(rate)).score for x, normal in zip(values, others, strict=True))
    assert alarms <= math.floor(rate * len(values))


@pytest.mark.parametrize("draw", ["normal", "exponential", "standard_cauchy"])
def test_the_rate_holds_on_simulated_scores(draw: str) -> None:
    rng = np.random.default_rng(0)
    draws, clips, rate = 4000, 39, 0.05
    scores = getattr(rng, draw)(size=(draws, clips + 1))
    alarms = [row[0] > threshold(np.sort(row[1:]), rate).score for row in scores]
    assert abs(np.mean(alarms) - rate) < 4 * math.sqrt(rate * (1 - rate) / draws)


def test_the_interval_holds_the_rate_of_19_calibrations_in_20() -> None:
    rng = np.random.default_rng(1)
    rates, inside = [], []
    for _ in range(2000):
        chosen = threshold(np.sort(rng.normal(size=150)), 0.05)
        rates.append(stats.norm.sf(chosen.score))
        inside.append(chosen.interval[0] <= rates[-1] <= chosen.interval[1])
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)
    assert np.mean(rates) == pytest.approx(chosen.rate, abs=0.002)
    assert chosen.interval == pytest.approx(stats.beta(7, 144).interval(0.95))


def test_too_few_clips_have_no_threshold() -> None:
    assert threshold(np.arange(98.0), 0.01) == (math.inf, 98, 0.0, (0.0, 0.0))
    assert threshold(np.arange(99.0), 0.01).score == 98
    assert threshold(np.empty(0), 0.5).score == math.inf
    assert p_value(3.0, np.empty(0)) == 1


def test_equal_scores_alone_raise_no_alarm_for_another_like_them() -> None:
    same = np.full(200, 2.5)
    assert threshold(same, 0.01).score == 2.5
    assert (p_value(2.5, same), p_value(2.6, same)) == (1, 1 / 201)


def test_words_for_too_few_clips() -> None:
    said = few_clips({"00": 9, "02": 120}, 0.01)
    assert said is not None
    assert "1 % needs 99 calibration clips" in said
    assert "'00' has 9: they get no threshold" in said
    assert "take a rate of 10 %" in said
    none = few_clips({"00": 0}, 0.01)
    assert none is not None
    assert "'00' has none" in none
    assert "take a rate" not in none
    wide = few_clips({"00": 105, "02": 500}, 0.01)
    assert wide is not None
    assert wide.startswith("'00' has 105 calibration clips")
    assert "between 0.024 and 3.5 %" in wide
    assert few_clips({"00": 5000}, 0.01) is None
    many = few_clips({str(i): 3 for i in range(10)}, 0.01)
    assert many is not None
    assert "and 7 others have too few" in many
    for count in range(1, 200):  # the rate that is recommended can be carried
        words = few_clips({"": count}, 1e-6)
        assert words is not None
        assert threshold(np.arange(float(count)), float(words.split("rate of ")[-1].split()[0]) / 100).score < math.inf


@pytest.mark.parametrize("rate", [0.0, 1.0, 5, -0.1, math.nan])
def test_a_rate_is_a_share(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        check_rate(rate)


# -- clips decided -----------------------------------------------------------------------------------------------


def log_mels(count: int, seed: int = 0, shift: float = 0.0) -> list[NDArray[np.float32]]:
    x = np.random.default_rng(seed).normal(-40 + shift, 8, (count, 30, 16))
    return list(x.astype(np.float32))


@pytest.fixture(scope="module")
def detector() -> pyasd.Detector:
    """Knows 39 unlearnt clips of machine ID 00, and 12 of 02."""
    ids = ["00"] * 39 + ["02"] * 12
    return pyasd.fit(log_mels(51), "fast", ids=ids, features="log-mel", n_mels=16)


@pytest.mark.filterwarnings("ignore:.*calibration clips")
def test_clips_are_decided_by_the_threshold_and_keep_their_scores(detector: pyasd.Detector) -> None:
    clips, ids = [*log_mels(30, seed=1), *log_mels(4, seed=2, shift=9.0)], ["00"] * 32 + ["02"] * 2
    plain = detector.score(clips, ids=ids, features="log-mel")
    table = detector.score(clips, ids=ids, features="log-mel", false_alarms=0.1)
    pd.testing.assert_frame_equal(table.drop(columns=["p_value", "decision"]), plain)
    assert list(table)[list(table).index("p_value") - 1 :][:4] == ["score.neighbours", "p_value", "decision", "label"]
    for machine_id in ("00", "02"):
        own = table[table["machine_id"] == machine_id]
        limit = detector.threshold(0.1, machine_id).score
        assert (
            (own["decision"] == "anomaly").tolist()
            == (own["score"] > limit).tolist()
            == (own["p_value"] <= 0.1).tolist()
        )
    assert table["decision"][30:].tolist() == ["anomaly"] * 4
    assert table["p_value"][30:].tolist() == pytest.approx([1 / 40, 1 / 40, 1 / 13, 1 / 13])
    assert (table["decision"][:30] == "normal").sum() > 20


def test_what_has_no_threshold_has_no_decision(detector: pyasd.Detector) -> None:
    """Too few clips for the rate: p-values, but no decision. Unknown IDs: neither. Broken clips: neither."""
    clips = [*log_mels(3, seed=1), np.full((30, 16), np.nan, np.float32)]
    how: dict[str, Any] = {"features": "log-mel", "unknown_ids": "pool", "false_alarms": 0.05}
    with pytest.warns(UserWarning, match="'02' has 12: they get no threshold"):
        table = detector.score(clips, ids=["00", "02", "07", "00"], **how)
    assert table["status"].tolist() == ["ok", "ok", "pooled", "not-finite"]
    assert table["decision"].tolist() == ["normal", "", "", ""]
    assert table["p_value"].notna().tolist() == [True, True, False, False]


@pytest.mark.filterwarnings("ignore:.*calibration clips")
def test_alarms_are_confirmed_by_the_last_clips_of_each_machine(detector: pyasd.Detector) -> None:
    """2 of the last 3; clips of another ID in between, and one that can't be scored, don't count."""
    good, bad, broken = log_mels(1, seed=1)[0], log_mels(1, seed=2, shift=9.0)[0], np.full((30, 16), np.nan, np.float32)
    clips = [bad, good, bad, broken, good, good, bad, bad]
    ids, other = ["00"] * 8, log_mels(2, seed=2, shift=9.0)
    how: dict[str, Any] = {"features": "log-mel", "false_alarms": 0.1, "confirm": (2, 3)}
    table = detector.score([*clips[:1], other[0], *clips[1:]], ids=["00", "02", *ids[1:]], **how)
    own = table[table["machine_id"] == "00"]
    assert own["decision"].str[:1].tolist() == ["a", "n", "a", "", "n", "n", "a", "a"]
    assert own["confirmed"].str[:1].tolist() == ["n", "n", "a", "", "n", "n", "n", "a"]
    assert table["confirmed"][1] == "normal"
    among_others = [*log_mels(70, seed=3), bad, *log_mels(70, seed=3), bad]  # batches of 64
    ids = ["00"] * 70 + ["02"] + ["00"] * 70 + ["02"]
    assert detector.score(among_others, ids=ids, **how)["confirmed"].iloc[-1] == "anomaly"


def test_decisions_are_in_the_files_of_tables(detector: pyasd.Detector, tmp_path: Path) -> None:
    clips = [*log_mels(2, seed=1), *log_mels(1, seed=2, shift=9.0)]
    for name in ("scores.csv", "scores.parquet"):
        how: dict[str, Any] = {"ids": "00", "features": "log-mel", "false_alarms": 0.5, "confirm": (1, 2)}
        table = detector.score(clips, out=tmp_path / name, **how)
        pd.testing.assert_frame_equal(results.read(tmp_path / name), table, check_dtype=False)
        assert table["confirmed"].iloc[-1] == "anomaly"


def test_what_cant_be_decided_is_refused(detector: pyasd.Detector) -> None:
    old = pyasd.load(Path(__file__).parents[1] / "compatibility" / "group-made-spectrum.safetensors")
    with pytest.raises(ValueError, match="calibrate it first"):
        old.score(log_mels(1), ids="00", features="log-mel", false_alarms=0.01)
    for how, said in (
        ({"confirm": (3, 5)}, "need false_alarms"),
        ({"false_alarms": 0.1, "confirm": (6, 5)}, "not 6 of 5"),
        ({"false_alarms": 1.0}, "above 0 and below 1"),
    ):
        with pytest.raises(ValueError, match=said):
            detector.score(log_mels(1), ids="00", features="log-mel", **how)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="need a model"):
        pyasd.score(log_mels(8), features="log-mel", false_alarms=0.1)
