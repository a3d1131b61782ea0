"""The table of false alarms, on scores whose distribution is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import false_alarms, real_sets


def test_random_halves_keep_the_promise_and_drift_breaks_it() -> None:
    rng = np.random.default_rng(0)
    scores, ids = rng.standard_cauchy(400), np.array(["00", "02"] * 200)
    count = false_alarms.by_random_halves(scores, ids, 0.05, splits=50)
    assert count.clips == 50 * 200
    assert count.promised / count.clips == pytest.approx(5 / 101)
    assert count.alarms / count.clips == pytest.approx(5 / 101, abs=0.01)
    assert count.inside is not None
    assert count.inside >= 0.95
    assert false_alarms.by_halves(scores, ids, 0.05).alarms < 30
    assert false_alarms.by_halves(np.arange(400.0), ids, 0.05).alarms == 200  # ever higher


def test_too_few_clips_have_no_figure() -> None:
    count = false_alarms.by_random_halves(np.arange(20.0), np.array([""] * 20), 0.05, splits=3)
    assert (count.clips, count.inside, count.cell()) == (0, None, "-")
    assert false_alarms.Count(3, 60, 2.4, 0.956).cell() == "5.0 (4.0, 96 % inside)"


@pytest.mark.filterwarnings("ignore:.*calibration clips")
def test_a_system_is_measured_as_fitted_and_calibrated() -> None:
    rng = np.random.default_rng(0)

    def some(count: int) -> list[np.ndarray]:
        return list((rng.normal(-40, 1, (count, 1, 128)) + rng.normal(0, 3, (count, 20, 128))).astype(np.float32))

    ids = ["00", "01"] * 40
    clips = real_sets.ClipSet(some(80), ids, some(80), ids, np.repeat([0, 1], 40))
    ways = dict(false_alarms.measure("fast", clips))
    assert ways["as fitted"].counts[0].cell() == "-"
    fitted = ways["as fitted"].counts[2]
    assert fitted.clips == 40
    assert fitted.promised == pytest.approx(40 * 4 / 41)
    assert fitted.alarms < 15
    assert ways["earlier half"].counts[2].clips == 20
    assert ways["random halves"].counts[2].clips == 200 * 20
    assert ways["earlier half"].drift == ways["random halves"].drift == [None, None]


def test_drift_has_a_cell() -> None:
    known, new = np.random.default_rng(0).standard_normal((2, 60))
    assert false_alarms.drifted(known, new) is None
    after = false_alarms.drifted(known, new + 3)
    assert after is not None
    assert after < 10
    assert false_alarms.drifted(known[:0], known) is None
    assert false_alarms.drift_cell([None, 7, 12]) == "2 of 3, after 7, 12"
    assert false_alarms.drift_cell([None]) == "0 of 1"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_real_bearing_under_a_load_it_was_not_trained_under(real_data: Path) -> None:
    """Thresholds from training clips fail there; those from clips under that load keep the rate."""
    ways = dict(false_alarms.measure("fast", real_sets.load("adiload", real_data)))
    fitted, halves = ways["as fitted"].counts[2], ways["random halves"].counts[2]
    assert fitted.alarms > 5 * fitted.promised
    assert abs(halves.alarms - halves.promised) < 0.005 * halves.clips
    assert halves.inside is not None
    assert halves.inside >= 0.95
    assert all(after is not None and after < 20 for after in ways["as fitted"].drift)
    assert ways["random halves"].drift == [None] * 3
