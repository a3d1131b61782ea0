"""The member `spectrum`: its distances, their cross-validation, and few clips."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial import distance
from sklearn.covariance import LedoitWolf

import pyasd
from pyasd.models import kinds, spectrum
from pyasd.models.over_time import OverTime, over_time
from pyasd.models.spectrum import Spectrum, SpectrumConfig
from pyasd.recipes import Recipe, files
from pyasd.training.data import TrainingSet
from pyasd.training.run import Run

MELS = 16
RECIPE = files.find("group-made-spectrum").override(members=["spectrum"], n_mels=MELS)
HOW: dict[str, Any] = {"features": "log-mel", "device": "cpu"}


def make() -> Spectrum:
    return Spectrum("spectrum", SpectrumConfig(), MELS)


def log_mels(count: int, seed: int = 0, shift: float = 0.0, frames: int = 20) -> list[torch.Tensor]:
    """Clips whose level and tilt differ, so that bands are correlated, about a mean of their own."""
    rng = np.random.default_rng(seed)
    tilt = np.linspace(-1, 1, MELS)
    clips = -40 + 3 * rng.normal(size=(count, 1, 1)) + 2 * rng.normal(size=(count, 1, 1)) * tilt
    clips = clips + rng.normal(0, 0.5, (count, 1, MELS)) + rng.normal(0, 5, (count, frames, MELS))
    return list(torch.from_numpy(clips + shift * tilt**2).float())


def spectra(clips: list[torch.Tensor]) -> np.ndarray:
    return np.stack([x.double().numpy().mean(0) for x in clips])


@pytest.fixture(scope="module")
def fitted() -> tuple[Spectrum, list[torch.Tensor], list[str]]:
    clips, ids = log_mels(30) + log_mels(10, 1, shift=8), ["01"] * 30 + ["00"] * 10
    member = make()
    member.fit(TrainingSet(clips, ids), Run())
    return member, clips, ids


def test_score_is_the_mahalanobis_distance(fitted: tuple[Spectrum, list[torch.Tensor], list[str]]) -> None:
    """By hand: scikit-learn's covariance of standardised residuals, scipy's distance."""
    member, clips, _ = fitted
    x = spectra(clips)
    residual = np.concatenate([x[:30] - x[:30].mean(0), x[30:] - x[30:].mean(0)])
    scale = np.sqrt((residual**2).sum(0) / 38)
    shrunk = LedoitWolf(assume_centered=True).fit(residual / scale).covariance_
    inverse = np.linalg.inv((40 * shrunk + np.eye(MELS)) / 39 * np.outer(scale, scale))
    scorer = member.scorer()
    for clip in log_mels(5, 2):
        y = spectra([clip])[0]
        expected = {
            "01": distance.mahalanobis(y, x[:30].mean(0), inverse),
            "00": distance.mahalanobis(y, x[30:].mean(0), inverse),
        }
        for machine_id, value in expected.items():
            assert scorer.score(clip, machine_id).item() == pytest.approx(value / MELS**0.5, rel=1e-9)
        for unknown in (None, "07"):
            nearest = min(scorer.score(clip, x).item() for x in expected)
            assert scorer.score(clip, unknown).item() == pytest.approx(nearest, rel=1e-12)


def test_many_clips_give_their_true_covariance() -> None:
    member = make()
    member.fit(TrainingSet(log_mels(4000), ["00"] * 4000), Run())
    tilt = np.linspace(-1, 1, MELS)
    true = 9 + 4 * np.outer(tilt, tilt) + (0.25 + 25 / 20) * np.eye(MELS)
    np.testing.assert_allclose(np.linalg.inv(member.inverse_covariance), true, atol=0.8)
    scores = [member.scorer().score(x, "00").item() for x in log_mels(500, 1)]
    assert np.mean(np.square(scores)) == pytest.approx(1, abs=0.05)


def test_explained_shares_make_the_score(fitted: tuple[Spectrum, list[torch.Tensor], list[str]]) -> None:
    member, _, _ = fitted
    clip = log_mels(1, 3)[0]
    clip[:, 5] += 12
    for machine_id in ("00", "01", None):
        shares = member.scorer().explain(clip, "mahalanobis", machine_id)
        assert shares.shape == clip.shape
        assert shares.dtype == torch.float32
        assert shares.sum(1).mean().item() == pytest.approx(member.scorer().score(clip, machine_id).item(), rel=1e-5)
    assert member.scorer().explain(clip, "mahalanobis", "01").mean(0).argmax() == 5


# -- cross-validation --------------------------------------------------------------------------------------------


def test_cross_validation_leaves_clips_out_of_mean_and_covariance() -> None:
    clips, ids = log_mels(9), ["b", "a", "b", "a", "b", "b", "a", "b", "a"]
    for many, folds in ((1, 9), (7, spectrum.FOLDS)):
        found = make().cross_validate(clips * many, ids * many)
        assert found.shape == (9 * many, 1)
        order = sorted(range(9 * many), key=lambda i: ids[i % 9])
        for i in (0, 4, 9 * many - 1):
            out = {k for rank, k in enumerate(order) if rank % folds == order.index(i) % folds}
            kept = [k for k in range(9 * many) if k not in out]
            member = make()
            member.fit(TrainingSet([clips[k % 9] for k in kept], [ids[k % 9] for k in kept]), Run())
            assert found[i, 0] == pytest.approx(member.scorer().score(clips[i % 9], ids[i % 9]).item(), rel=1e-12)


def test_cross_validated_scores_are_like_those_of_new_clips() -> None:
    """Those of the clips that it learnt from are too small to standardise by."""
    member, clips, ids = make(), log_mels(24), ["00"] * 24
    member.fit(TrainingSet(clips, ids), Run())
    own, new = (np.mean([member.scorer().score(x, "00").item() for x in y]) for y in (clips, log_mels(500, 1)))
    held = member.cross_validate(clips, ids).mean()
    assert own < 0.85 * new
    assert held == pytest.approx(new, rel=0.1)


# -- few clips ---------------------------------------------------------------------------------------------------


def test_a_single_clip_of_an_id_has_the_others_statistics() -> None:
    ids = ["00"] * 4 + ["01"] * 3 + ["02"]
    with pytest.warns(UserWarning, match="'02' has a single clip"):
        detector = pyasd.fit(log_mels(8), RECIPE, ids=ids, **HOW)
    found = detector.machines[""].baselines["spectrum"].moments
    assert found.count.tolist() == [4, 3, 1]
    assert found.mean[2, 0] == pytest.approx((4 * found.mean[0, 0] + 3 * found.mean[1, 0]) / 7)
    held = make().cross_validate(log_mels(8), ids)
    typical = (4 * held[:4].var() + 3 * held[4:7].var()) / 7
    expected = [(3 * held[:4].var() + 4 * typical) / 7, (2 * held[4:7].var() + 4 * typical) / 6, typical]
    assert found.variance[:, 0] == pytest.approx(expected)
    table = detector.score(log_mels(6, 1), ids=["00", "01", "02"] * 2, **HOW)
    assert np.isfinite(table["score"]).all()


@pytest.mark.parametrize("ids", [["00"] * 3, ["00", "00", "01", "01", "01"], ["00", "01", "02", "02", "02"]])
def test_the_fewest_clips_give_finite_scores(ids: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        detector = pyasd.fit(log_mels(len(ids)), RECIPE, ids=ids, **HOW)
    table = detector.score(log_mels(3, 1), ids=ids[-1], **HOW)
    assert np.isfinite(table["score"]).all()
    assert (detector.machines[""].baselines["spectrum"].moments.variance > 1e-4).all()


def test_clips_that_are_all_alike_give_finite_scores() -> None:
    detector = pyasd.fit(log_mels(1) * 6, RECIPE, ids="00", **HOW)
    table = detector.score(log_mels(1) + log_mels(1, 1), ids="00", **HOW)
    assert np.isfinite(table["score"]).all()
    assert table["score"][0] == pytest.approx(0, abs=1e-3)
    assert table["score"][1] > 1


@pytest.mark.parametrize("ids", [["00"], ["00", "00"], ["00", "00", "01", "01"]])
def test_too_few_clips_leave_it_out(ids: list[str]) -> None:
    clips = log_mels(len(ids))
    with pytest.raises(ValueError, match=r"no machine ID has three clips, and spectrum.*fit group-made"):
        pyasd.fit(clips, RECIPE, ids=ids, **HOW)
    both = RECIPE.override(members=["spectrum", "group-made"], hidden=(8, 8), components=2, epochs=1)
    with pytest.warns(UserWarning, match="spectrum left out, group-made learnt"):
        detector = pyasd.fit(clips, both, ids=ids, **HOW)
    assert list(detector.machines[""].members) == ["group-made"]


# -- as a member -------------------------------------------------------------------------------------------------


def test_a_detector_with_it_is_saved_and_loaded(tmp_path: Path) -> None:
    recipe = files.find("group-made-spectrum").override(n_mels=MELS, hidden=(8, 8), components=2, epochs=1)
    path = tmp_path / "model.safetensors"
    ids = ["00", "ümlaut"] * 6
    detector = pyasd.fit(log_mels(12), recipe, out=path, ids=ids, **HOW)
    new = log_mels(70, 1)
    asked: dict[str, Any] = {"ids": ["00", "ümlaut"] * 35, **HOW}
    table = detector.score(new, **asked)
    assert table.attrs["modes"] == {"group-made": "bands", "spectrum": "mahalanobis"}
    assert pyasd.load(path).score(new, **asked).equals(table)
    assert detector.score(new[3:4], ids="ümlaut", **HOW)["score"][0] == table["score"][3]
    pooled = detector.score(new[:2], ids="07", unknown_ids="pool", **HOW)
    assert pooled["status"].tolist() == ["pooled"] * 2
    assert np.isfinite(pooled["score"]).all()
    shown = detector.explain(new[0], ids="00", member="spectrum", **HOW).score_map
    assert shown.sum(1).mean() == pytest.approx(table["score.spectrum"][0], rel=1e-5)


@pytest.mark.parametrize("statistics", ["held-out", "robust"])
def test_its_statistics_are_cross_validated_whatever_the_others_are(statistics: str) -> None:
    clips = log_mels(12)
    detector = pyasd.fit(clips, RECIPE, ids=["00", "01"] * 6, statistics=statistics, **HOW)
    found = detector.machines[""].baselines["spectrum"].moments
    held = make().cross_validate(clips, ["00", "01"] * 6)
    assert found.count.tolist() == [6, 6]
    middle = np.median if statistics == "robust" else np.mean
    assert found.mean[:, 0] == pytest.approx([middle(held[::2]), middle(held[1::2])])


@pytest.mark.parametrize("covariance", ["shared", "held-out"])
def test_anomalies_among_the_clips_are_not_learnt_where_some_are_expected(covariance: str) -> None:
    """Three of 30 clips are odd in the same way: learnt, they are normal; robust statistics find them."""
    clips, ids = [*log_mels(27), *log_mels(3, 1, shift=12)], ["00"] * 30
    ranks = {}
    for policy in ("training", "robust"):
        member = Spectrum("spectrum", SpectrumConfig(covariance=covariance), MELS)  # type: ignore[arg-type]
        data, run = TrainingSet(clips, ids), Run(statistics=policy)  # type: ignore[arg-type]
        member.fit(data, run)
        scores = member.normal_scores(data, run).scores[:, 0]
        ranks[policy] = sorted(scores.argsort().argsort()[-3:].tolist())
        new = float(member.scorer().score(log_mels(1, 7, shift=12)[0], "00"))
        assert (new > np.sort(scores[:27])[-1]) == (policy == "robust")
    assert ranks["robust"] == [27, 28, 29]
    assert ranks["training"] != [27, 28, 29]


def test_it_needs_few_frames_and_no_epochs() -> None:
    assert RECIPE.min_frames == 5
    with pytest.raises(ValueError, match=r"\[spectrum\] has no setting 'epochs'; it has covariance, over_time"):
        Recipe.from_dict({"members": ["spectrum"], "spectrum": {"epochs": 3}})
    with pytest.raises(TypeError, match="'epochs'"):
        pyasd.fit(log_mels(4), RECIPE, ids="00", epochs=3, **HOW)


def test_tensors_that_do_not_fit_are_refused(fitted: tuple[Spectrum, list[torch.Tensor], list[str]]) -> None:
    state = fitted[0].state()
    for wrong in ({"mean": state["mean"][:1]}, {"precision": state["precision"][:3]}, {"bias": state["mean"]}):
        with pytest.raises(ValueError, match="tensors are missing, unknown or of another shape"):
            make().load_state(state | wrong)
    with pytest.raises(ValueError, match="another shape"):
        make().load_state({name: x for name, x in state.items() if name != "ids"})


# -- more statistics, and covariances by held-out likelihood -----------------------------------------------------------

WIDE = SpectrumConfig(over_time=("mean", "deviation", "change"), covariance="held-out")


def test_statistics_over_time_are_numpys() -> None:
    clip = log_mels(1)[0]
    x = clip.double().numpy()
    expected = np.concatenate([x.mean(0), x.std(0), np.diff(x, axis=0).std(0)])
    np.testing.assert_allclose(over_time(clip, WIDE.over_time), expected, rtol=1e-12)


def test_a_band_that_sways_is_told_by_its_spread_alone() -> None:
    """Each clip's mean is that of normal ones; the last one's band 3 goes up and down."""
    normal = log_mels(40)
    odd = log_mels(1, seed=9)[0]
    odd[:, 3] += 12 * torch.tensor([1.0, -1.0]).repeat(len(odd) // 2)
    cases: list[tuple[tuple[OverTime, ...], bool]] = [(("mean",), False), (("mean", "deviation"), True)]
    for over, found in cases:
        member = Spectrum("spectrum", SpectrumConfig(over_time=over, covariance="held-out"), MELS)
        data = TrainingSet(normal, ["00"] * 40)
        member.fit(data, Run())
        held_out = member.normal_scores(data, Run()).scores[:, 0]
        score = float(member.scorer().score(odd, "00"))
        assert (score > held_out.max()) == found


def test_the_fast_system_is_saved_loaded_and_explained(tmp_path: Path) -> None:
    clips, ids = log_mels(24), ["00", "01"] * 12
    detector = pyasd.fit(clips, "fast", ids=ids, n_mels=MELS, out=tmp_path / "fast.safetensors", **HOW)
    new = log_mels(6, seed=3)
    table = detector.score(new, ids=["00", "01"] * 3, **HOW)
    loaded = pyasd.load(tmp_path / "fast.safetensors")
    pd.testing.assert_frame_equal(loaded.score(new, ids=["00", "01"] * 3, **HOW), table)
    baselines = detector.machines[""].baselines
    z = [
        [x.standardise(row[f"score.{name}"], row["machine_id"], x.modes[0]) for name, x in baselines.items()]
        for row in table.to_dict("records")
    ]
    weights = [1, 1, 0.5, 2 * 12 / (12 + 400)]  # neighbours know 12 clips of each ID
    expected = [np.average([np.sign(x) * np.log(1 + abs(x)) for x in row], weights=weights) for row in z]
    np.testing.assert_allclose(table["score"], expected, rtol=1e-12)
    np.testing.assert_allclose(table["score.mean"], np.mean(z, 1), rtol=1e-12)
    for name in ("spectrum", "spread", "modulation"):
        score_map = detector.explain(new[0], ids="00", member=name, **HOW).score_map
        assert score_map.shape == new[0].shape
        assert np.isfinite(score_map).all()
    pooled = detector.score(new, ids="07", unknown_ids="pool", **HOW)
    assert (pooled["score.spread"] <= table["score.spread"] + 1e-12).all(), "the nearest ID counts"


def test_the_explanation_of_a_spread_points_to_the_band_that_sways() -> None:
    data = TrainingSet(log_mels(40), ["00"] * 40)
    member = Spectrum("spread", WIDE, MELS)
    member.fit(data, Run())
    odd = log_mels(1, seed=9)[0]
    odd[:, 3] += 12 * torch.tensor([1.0, -1.0]).repeat(len(odd) // 2)
    shares = member.scorer().explain(odd, "mahalanobis", "00").mean(0)
    assert int(shares.argmax()) == 3


def test_a_covariance_each_is_for_some_hundred_ids() -> None:
    ids = [f"{i:04}" for i in range(300) for _ in range(3)]
    assert Spectrum("spread", SpectrumConfig(), MELS).obstacle(ids) is None
    why = Spectrum("spread", WIDE, MELS).obstacle(ids)
    assert why == 'spread keeps a covariance of each machine ID, and there are 300: take covariance="shared"'


@pytest.mark.parametrize("wrong", [{"over_time": ()}, {"over_time": ("mean", "mean")}, {"over_time": ("median",)}])
def test_statistics_that_there_are_not(wrong: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match="over_time"):
        SpectrumConfig(**wrong)  # type: ignore[arg-type]


def test_the_fewest_clips_of_the_fast_system() -> None:
    for ids in (["00"] * 3, ["00"] * 5 + ["01"]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = pyasd.fit(log_mels(len(ids)), "fast", ids=ids, n_mels=MELS, **HOW).score(
                log_mels(2, seed=5), ids="00", **HOW
            )
        assert np.isfinite(table["score"]).all()


@pytest.mark.parametrize("kind", ["spectrum", "neighbours"])
def test_usual_levels_are_those_of_the_clips(kind: str) -> None:
    """NumPy's moments of the clips' means, relative to each clip's level, and of the levels."""
    rng = np.random.default_rng(0)
    of_clips = rng.normal(0, 3, (400, 1)) + rng.normal(0, 1, (400, MELS)) + np.linspace(-30, -60, MELS)
    log_mels = [torch.from_numpy(np.repeat(x[None], 9, 0)).float() for x in of_clips]
    made = kinds()[kind]
    config: Any = made.Config
    member = made(kind, config(over_time=("mean",)), MELS)
    member.fit(TrainingSet(log_mels, ["00"] * 200 + ["02"] * 200), Run())
    for machine_id, clips in (("02", of_clips[200:]), (None, of_clips)):
        usual = member.usual(machine_id)
        assert usual is not None
        np.testing.assert_allclose(usual.mean["mean"], clips.mean(0), atol=1e-3)
        np.testing.assert_allclose(usual.scale["mean"], (clips - clips.mean(1)[:, None]).std(0), rtol=0.25)
        assert usual.level_scale == pytest.approx(clips.mean(1).std(), rel=0.1)
