from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import median_abs_deviation

from pyasd.config import SAMPLE_SIZE
from pyasd.ensemble import Statistics, combine

IDS = ["01"] * 5 + ["00"] * 7
SCORES = np.random.default_rng(0).normal([10, -3], [2, 5], (12, 2))


@pytest.fixture
def statistics() -> Statistics:
    return Statistics.of(SCORES, IDS, ("a", "b"))


def test_statistics_are_those_of_each_machine_id(statistics: Statistics) -> None:
    assert statistics.ids == ("00", "01")
    assert statistics.count.tolist() == [7, 5]
    np.testing.assert_allclose(statistics.mean, [SCORES[5:].mean(0), SCORES[:5].mean(0)])
    np.testing.assert_allclose(statistics.variance, [SCORES[5:].var(0), SCORES[:5].var(0)])


def test_standardised_training_scores_have_mean_0_and_variance_1(statistics: Statistics) -> None:
    own = [statistics.standardise(score, "00", "b") for score in SCORES[5:, 1]]
    assert np.mean(own) == pytest.approx(0, abs=1e-12)
    assert np.var(own) == pytest.approx(1, rel=1e-12)


def test_pooled_statistics_are_those_of_all_clips(statistics: Statistics) -> None:
    expected = (4.0 - SCORES[:, 1].mean()) / SCORES[:, 1].std()
    assert statistics.standardise(4.0, None, "b") == pytest.approx(expected, rel=1e-12)


def test_robust_statistics_do_not_see_a_few_anomalies() -> None:
    spoilt = SCORES.copy()
    spoilt[[5, 6], 0] += 1e6
    robust = Statistics.of(spoilt, IDS, ("a", "b"), robust=True)
    np.testing.assert_allclose(robust.mean[1], np.median(SCORES[:5], 0))
    np.testing.assert_allclose(robust.variance[0] ** 0.5, median_abs_deviation(spoilt[5:], scale="normal"))
    assert robust.variance[0, 0] < 100


def test_an_id_with_a_single_clip_has_the_others_spread() -> None:
    scores = np.array([1.0, 3.0, 10.0, 14.0, 18.0, 7.0])[:, None]  # variances 1 and 32/3
    statistics = Statistics.of(scores, ["a", "a", "b", "b", "b", "c"], ("x",))
    assert statistics.mean[:, 0].tolist() == [2, 14, 7]
    assert statistics.variance[:, 0] == pytest.approx([1, 32 / 3, (2 * 1 + 3 * 32 / 3) / 5])


def test_a_prior_draws_variances_to_their_mean() -> None:
    """By hand: (own variance x (clips - 1) + mean variance x prior) / (clips - 1 + prior)."""
    scores = np.array([1.0, 3.0, 10.0, 14.0, 18.0, 7.0])[:, None]  # variances 1 and 32/3
    statistics = Statistics.of(scores, ["a", "a", "b", "b", "b", "c"], ("x",), prior=4)
    typical = (2 * 1 + 3 * 32 / 3) / 5
    expected = [(1 * 1 + 4 * typical) / 5, (2 * 32 / 3 + 4 * typical) / 6, typical]
    assert statistics.variance[:, 0] == pytest.approx(expected)
    assert statistics.mean[:, 0].tolist() == [2, 14, 7]


def test_without_a_prior_variances_are_the_clips_own_to_the_bit() -> None:
    found = Statistics.of(SCORES, IDS, ("a", "b")).variance
    assert np.array_equal(found, [SCORES[5:].var(0), SCORES[:5].var(0)])


def test_variance_has_a_floor() -> None:
    constant = Statistics.of(np.full((3, 1), 2.0), ["", "", ""], ("a",))
    assert constant.standardise(2.0, "", "a") == 0
    assert np.isfinite(constant.standardise(3.0, "", "a"))


def test_sample_keeps_all_scores_or_evenly_spaced_ranks() -> None:
    many = np.random.default_rng(0).permutation(1000).astype(float)
    few = np.array([3.0, 1.0, 2.0])
    statistics = Statistics.of(np.concatenate([many, few])[:, None], ["many"] * 1000 + ["few"] * 3, ("a",))
    kept_few, kept_many = statistics.sample[:, 0]
    assert kept_few[:3].tolist() == [1, 2, 3]
    assert np.isnan(kept_few[3:]).all()
    assert (kept_many[0], kept_many[-1], len(kept_many)) == (0, 999, SAMPLE_SIZE)
    assert (np.diff(kept_many) > 0).all()
    np.testing.assert_allclose(np.quantile(kept_many, [0.1, 0.5, 0.9]), np.quantile(many, [0.1, 0.5, 0.9]), atol=2)


@pytest.mark.parametrize("scores", [np.empty((0, 1)), np.array([[np.nan]]), np.array([[np.inf]])])
def test_statistics_of_nothing_or_of_nan_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite"):
        Statistics.of(scores, [""] * len(scores), ("a",))


def test_combine_takes_the_mean_or_the_largest() -> None:
    assert combine([1.0, 4.0]) == {"mean": 2.5, "max": 4.0}
    assert combine([-3.0]) == {"mean": -3.0, "max": -3.0}


def test_an_ensemble_by_hand() -> None:
    """Two members, two machine IDs: every step with pencil and paper (report section 2.3)."""
    ids = ["a", "a", "b", "b"]
    members = {"x": [1.0, 3.0, 10.0, 30.0], "y": [-1.0, -1.5, 0.0, 2.0]}
    # means 2, 20 and -1.25, 1; standard deviations (of the population) 1, 10 and 0.25, 1
    fitted = {name: Statistics.of(np.array(x)[:, None], ids, (name,)) for name, x in members.items()}
    for machine_id, x, y, z_x, z_y in (("a", 5.0, -1.0, 3.0, 1.0), ("b", 5.0, 4.5, -1.5, 3.5)):
        z = [fitted["x"].standardise(x, machine_id, "x"), fitted["y"].standardise(y, machine_id, "y")]
        assert z == pytest.approx([z_x, z_y])
        assert combine(z) == pytest.approx({"mean": (z_x + z_y) / 2, "max": max(z_x, z_y)})
