from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyasd.detector.statistics import SAMPLE_SIZE, Baseline, combine, overall
from pyasd.models import NormalScores

IDS = ["01"] * 5 + ["00"] * 7
SCORES = np.random.default_rng(0).normal([10, -3], [2, 5], (12, 2))


@pytest.fixture
def baseline() -> Baseline:
    return Baseline.of(NormalScores(SCORES, IDS, 0.0), ("a", "b"))


def test_moments_are_those_of_each_machine_id(baseline: Baseline) -> None:
    assert baseline.ids == ("00", "01")
    assert baseline.moments.count.tolist() == [7, 5]
    np.testing.assert_allclose(baseline.moments.mean, [SCORES[5:].mean(0), SCORES[:5].mean(0)])
    np.testing.assert_allclose(baseline.moments.variance, [SCORES[5:].var(0), SCORES[:5].var(0)])


def test_standardised_training_scores_have_mean_0_and_variance_1(baseline: Baseline) -> None:
    z = [baseline.standardise(score, "00", "b") for score in SCORES[5:, 1]]
    assert np.mean(z) == pytest.approx(0, abs=1e-12)
    assert np.var(z) == pytest.approx(1, rel=1e-12)


def test_pooled_standardisation_is_by_all_clips(baseline: Baseline) -> None:
    expected = (4.0 - SCORES[:, 1].mean()) / SCORES[:, 1].std()
    assert baseline.standardise(4.0, None, "b") == pytest.approx(expected, rel=1e-12)


def test_robust_statistics_and_priors_reach_the_moments() -> None:
    robust = Baseline.of(NormalScores(SCORES, IDS, 0.0), ("a", "b"), robust=True)
    np.testing.assert_allclose(robust.moments.mean[1], np.median(SCORES[:5], 0))
    typical = np.average([SCORES[5:].var(0), SCORES[:5].var(0)], axis=0, weights=[7, 5])
    drawn = Baseline.of(NormalScores(SCORES, IDS, 4.0), ("a", "b")).moments.variance
    np.testing.assert_allclose(drawn[1], (4 * SCORES[:5].var(0) + 4 * typical) / 8)


def test_variance_has_a_floor() -> None:
    constant = Baseline.of(NormalScores(np.full((3, 1), 2.0), ["", "", ""], 0.0), ("a",))
    assert constant.standardise(2.0, "", "a") == 0
    assert np.isfinite(constant.standardise(3.0, "", "a"))


def test_sample_keeps_all_scores_or_evenly_spaced_ranks() -> None:
    many = np.random.default_rng(0).permutation(1000).astype(float)
    few = np.array([3.0, 1.0, 2.0])
    scores = np.concatenate([many, few])[:, None]
    baseline = Baseline.of(NormalScores(scores, ["many"] * 1000 + ["few"] * 3, 0.0), ("a",))
    kept_few, kept_many = baseline.sample[:, 0]
    assert kept_few[:3].tolist() == [1, 2, 3]
    assert np.isnan(kept_few[3:]).all()
    assert (kept_many[0], kept_many[-1], len(kept_many)) == (0, 999, SAMPLE_SIZE)
    assert (np.diff(kept_many) > 0).all()
    np.testing.assert_allclose(np.quantile(kept_many, [0.1, 0.5, 0.9]), np.quantile(many, [0.1, 0.5, 0.9]), atol=2)


@pytest.mark.parametrize("count", [SAMPLE_SIZE - 1, SAMPLE_SIZE, SAMPLE_SIZE + 1])
def test_a_sample_of_about_as_many_as_are_kept(count: int) -> None:
    scores = np.random.default_rng(0).permutation(count).astype(float)[:, None]
    kept = Baseline.of(NormalScores(scores, [""] * count, 0.0), ("a",)).sample[0, 0]
    assert np.isnan(kept).sum() == max(0, SAMPLE_SIZE - count)
    assert len(set(kept[~np.isnan(kept)])) == min(count, SAMPLE_SIZE)
    assert np.nanmax(kept) == count - 1


@pytest.mark.parametrize("scores", [np.empty((0, 1)), np.array([[np.nan]]), np.array([[np.inf]])])
def test_baselines_of_nothing_or_of_nan_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite"):
        Baseline.of(NormalScores(scores, [""] * len(scores), 0.0), ("a",))


def test_tensors_give_the_baseline_back(baseline: Baseline) -> None:
    again = Baseline.from_tensors(baseline.ids, baseline.modes, baseline.tensors())
    assert (again.ids, again.modes) == (baseline.ids, baseline.modes)
    for name in ("count", "mean", "variance"):
        assert np.array_equal(getattr(again.moments, name), getattr(baseline.moments, name))
    assert np.array_equal(again.sample, baseline.sample, equal_nan=True)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_mean_outside_the_scores_that_it_is_of_is_refused(baseline: Baseline, sign: int) -> None:
    """But for what rounding may make of it: a millionth of the mean and of the range."""
    tensors, scores = baseline.tensors(), SCORES[5:, 1]
    extreme = scores.max() if sign > 0 else scores.min()
    slack = 1e-6 * (abs(extreme) + scores.max() - scores.min())
    for share in (-1, 0, 0.9):
        tensors["mean"][0, 1] = mean = extreme + sign * share * slack
        assert Baseline.from_tensors(baseline.ids, baseline.modes, tensors).moments.mean[0, 1] == mean
    tensors["mean"][0, 1] = extreme + sign * 1.5 * slack
    with pytest.raises(ValueError, match="statistics: a mean lies outside the scores that it is of"):
        Baseline.from_tensors(baseline.ids, baseline.modes, tensors)


def test_a_variance_of_zero_is_of_equal_scores() -> None:
    for scores, ok in (
        ([2.0] * 5, True),
        ([2.0, 2.0, 2.0, 2.0, 9.0], True),
        ([1.0, 1.0, 2.0, 2.0, 2.0], False),
        ([2.0, 2.0, 2.0, 3.0, 3.0], False),
    ):
        tensors = Baseline.of(NormalScores(np.array(scores)[:, None], [""] * 5, 0.0), ("a",)).tensors()
        tensors["variance"][:] = 0
        if ok:
            assert Baseline.from_tensors([""], ["a"], tensors).moments.variance.tolist() == [[0]]
        else:
            with pytest.raises(ValueError, match="statistics: a variance is 0, and its scores differ"):
                Baseline.from_tensors([""], ["a"], tensors)


@pytest.mark.parametrize(
    ("place", "value"), [((0, 0, 0), np.nan), ((1, 1, 0), np.nan), ((0, 0, 3), -1e9), ((0, 0, 6), np.inf)]
)
def test_a_sample_that_is_none_is_refused(baseline: Baseline, place: tuple[int, ...], value: float) -> None:
    tensors = baseline.tensors()
    tensors["sample"][place] = value
    with pytest.raises(ValueError, match="the sample of normal scores is not one"):
        Baseline.from_tensors(baseline.ids, baseline.modes, tensors)


def test_a_sample_of_another_shape_is_refused(baseline: Baseline) -> None:
    tensors = {**baseline.tensors(), "sample": torch.zeros(2, 2, 3)}
    with pytest.raises(ValueError, match=r"the sample of normal scores has the shape \(2, 2, 3\)"):
        Baseline.from_tensors(baseline.ids, baseline.modes, tensors)


def test_combinations_by_hand() -> None:
    z = [math.e - 1, -(math.e**3 - 1), 0.0]
    assert overall(z, "signed-log", [1, 1, 1]) == pytest.approx((1 - 3 + 0) / 3, rel=1e-12)
    assert overall(z, "signed-log", [2, 1, 1]) == pytest.approx((2 - 3 + 0) / 4, rel=1e-12)
    assert overall([1.0, 4.0], "mean", [3, 1]) == 1.75
    assert overall([1.0, 4.0], "max", [3, 1]) == 4.0


def test_combine_takes_the_mean_or_the_largest() -> None:
    assert combine([1.0, 4.0]) == {"mean": 2.5, "max": 4.0}
    assert combine([-3.0]) == {"mean": -3.0, "max": -3.0}


def test_an_ensemble_by_hand() -> None:
    """Two members, two machine IDs: every step with pencil and paper (report section 2.3)."""
    ids = ["a", "a", "b", "b"]
    members = {"x": [1.0, 3.0, 10.0, 30.0], "y": [-1.0, -1.5, 0.0, 2.0]}
    # means 2, 20 and -1.25, 1; standard deviations (of the population) 1, 10 and 0.25, 1
    fitted = {name: Baseline.of(NormalScores(np.array(x)[:, None], ids, 0.0), (name,)) for name, x in members.items()}
    for machine_id, x, y, z_x, z_y in (("a", 5.0, -1.0, 3.0, 1.0), ("b", 5.0, 4.5, -1.5, 3.5)):
        z = [fitted["x"].standardise(x, machine_id, "x"), fitted["y"].standardise(y, machine_id, "y")]
        assert z == pytest.approx([z_x, z_y])
        assert combine(z) == pytest.approx({"mean": (z_x + z_y) / 2, "max": max(z_x, z_y)})
