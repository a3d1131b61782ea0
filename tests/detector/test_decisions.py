"""False alarms come as often as asked for: exactly, for any number of clips, whatever the scores' distribution is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pyasd.detector.decisions import check_rate, few_clips, p_value, threshold

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
