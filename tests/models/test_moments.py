from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import median_abs_deviation

from pyasd.models.moments import Moments, group_by_id

IDS = ["01"] * 5 + ["00"] * 7
SCORES = np.random.default_rng(0).normal([10, -3], [2, 5], (12, 2))


def test_moments_are_those_of_each_machine_id() -> None:
    moments = Moments.of(SCORES, IDS)
    assert moments.ids == ("00", "01")
    assert moments.count.tolist() == [7, 5]
    np.testing.assert_allclose(moments.mean, [SCORES[5:].mean(0), SCORES[:5].mean(0)])
    np.testing.assert_allclose(moments.variance, [SCORES[5:].var(0), SCORES[:5].var(0)])
    for row, name in enumerate(moments.ids):
        mean, variance = moments.of_id(name)
        assert mean.tolist() == moments.mean[row].tolist()
        assert variance.tolist() == moments.variance[row].tolist()


def test_clips_are_counted_of_each_machine_id_and_of_all() -> None:
    moments = Moments.of(SCORES, IDS)
    assert (moments.clips("00"), moments.clips("01"), moments.clips(None)) == (7, 5, 12)


def test_pooled_moments_are_those_of_all_clips() -> None:
    mean, variance = Moments.of(SCORES, IDS).of_id(None)
    np.testing.assert_allclose(mean, SCORES.mean(0), rtol=1e-12)
    np.testing.assert_allclose(variance, SCORES.var(0), rtol=1e-12)


def test_robust_moments_do_not_see_a_few_anomalies() -> None:
    spoilt = SCORES.copy()
    spoilt[[5, 6], 0] += 1e6
    robust = Moments.of(spoilt, IDS, robust=True)
    np.testing.assert_allclose(robust.mean[1], np.median(SCORES[:5], 0))
    np.testing.assert_allclose(robust.variance[0] ** 0.5, median_abs_deviation(spoilt[5:], scale="normal"))
    assert robust.variance[0, 0] < 100


def test_an_id_with_a_single_clip_has_the_others_spread() -> None:
    scores = np.array([1.0, 3.0, 10.0, 14.0, 18.0, 7.0])[:, None]  # variances 1 and 32/3
    moments = Moments.of(scores, ["a", "a", "b", "b", "b", "c"])
    assert moments.mean[:, 0].tolist() == [2, 14, 7]
    assert moments.variance[:, 0] == pytest.approx([1, 32 / 3, (2 * 1 + 3 * 32 / 3) / 5])


def test_a_prior_draws_variances_to_their_mean() -> None:
    """By hand: (own variance x (clips - 1) + mean variance x prior) / (clips - 1 + prior)."""
    scores = np.array([1.0, 3.0, 10.0, 14.0, 18.0, 7.0])[:, None]  # variances 1 and 32/3
    moments = Moments.of(scores, ["a", "a", "b", "b", "b", "c"], prior=4)
    typical = (2 * 1 + 3 * 32 / 3) / 5
    expected = [(1 * 1 + 4 * typical) / 5, (2 * 32 / 3 + 4 * typical) / 6, typical]
    assert moments.variance[:, 0] == pytest.approx(expected)
    assert moments.mean[:, 0].tolist() == [2, 14, 7]


def test_without_a_prior_variances_are_the_clips_own_to_the_bit() -> None:
    assert np.array_equal(Moments.of(SCORES, IDS).variance, [SCORES[5:].var(0), SCORES[:5].var(0)])


@pytest.mark.parametrize("scores", [np.empty((0, 1)), np.array([[np.nan]]), np.array([[np.inf]])])
def test_moments_of_nothing_or_of_nan_are_refused(scores: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite"):
        Moments.of(scores, [""] * len(scores))


def test_rows_are_grouped_by_id_in_order() -> None:
    values = np.arange(8.0).reshape(4, 2)
    assert [x.tolist() for x in group_by_id(values, ["b", "a", "b", ""])] == [
        [[6, 7]], [[2, 3]], [[0, 1], [4, 5]],
    ]  # fmt: skip


def test_moments_that_can_be_some() -> None:
    moments = Moments.of(SCORES, IDS)
    assert moments.check("it", 2) is moments
    assert Moments.of(np.zeros((1, 2)), ["00"]).check("it", 2).count.tolist() == [1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": ()}, "it: the tensors aren't those of 0 machine IDs and 2 columns"),
        ({"ids": (), "count": np.zeros(0), "mean": np.zeros((0, 2)), "variance": np.zeros((0, 2))}, "of 0 machine IDs"),
        ({"count": np.ones(3)}, "of 2 machine IDs and 2 columns"),
        ({"count": np.ones((2, 2))}, "of 2 machine IDs and 2 columns"),
        ({"mean": np.ones((2, 3))}, "of 2 machine IDs and 2 columns"),
        ({"variance": np.ones((1, 2))}, "of 2 machine IDs and 2 columns"),
        ({"mean": np.array([[0, 0], [0, np.inf]])}, "it: a mean or a variance is not finite"),
        ({"variance": np.array([[0, 0], [np.nan, 0]])}, "it: a mean or a variance is not finite"),
        ({"variance": np.array([[0, -1e-9], [1, 1]])}, "it: a variance is negative, or a machine ID has no clip"),
        ({"count": np.array([3, 0])}, "it: a variance is negative, or a machine ID has no clip"),
    ],
)
def test_moments_that_can_be_none(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Moments.of(SCORES, IDS), **changes).check("it", 2)
