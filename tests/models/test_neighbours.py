"""The member `neighbours`: its distances, leaving out, few and many clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

import pyasd
from pyasd.models import neighbours
from pyasd.models.neighbours import Neighbours, NeighboursConfig
from pyasd.recipes import Recipe
from pyasd.training.data import TrainingSet
from pyasd.training.run import Run

MELS = 8
HOW: dict[str, Any] = {"features": "log-mel", "device": "cpu"}


def log_mels(count: int, seed: int = 0, shift: float = 0.0, frames: int = 30) -> list[torch.Tensor]:
    x = np.random.default_rng(seed).normal(-40 + shift, 6, (count, frames, MELS))
    return list(torch.from_numpy(x).float())


def fitted(clips: list[torch.Tensor], ids: list[str], run: Run | None = None, **settings: Any) -> Neighbours:
    member = Neighbours("neighbours", NeighboursConfig(**settings), MELS)
    member.fit(TrainingSet(clips, ids), run or Run())
    return member


def left_out(member: Neighbours, clips: list[torch.Tensor], ids: list[str]) -> NDArray[np.float64]:
    return member.normal_scores(TrainingSet(clips, ids), Run()).scores[:, 0]


def scaled(clips: list[torch.Tensor], others: list[torch.Tensor]) -> NDArray[np.float64]:
    """Means of clips in the standard deviations of others; of one ID's variance, the prior changes nothing."""
    features, known = (np.stack([x.double().numpy().mean(0) for x in y]) for y in (clips, others))
    z: NDArray[np.float64] = features / known.std(0).clip(0.1)
    return z


def test_plain_distances_are_scikit_learns() -> None:
    clips, new = log_mels(20), log_mels(5, 1)
    member = fitted(clips, ["00"] * 20, over_time=("mean",), count=3, local=0)
    known = NearestNeighbors(n_neighbors=3).fit(scaled(clips, clips))
    scores = member.scorer().score_many(new, ["00"] * 5)[:, 0].numpy()
    expected = known.kneighbors(scaled(new, clips))[0].mean(1) / np.sqrt(MELS)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    np.testing.assert_allclose(
        left_out(member, clips, ["00"] * 20), known.kneighbors()[0].mean(1) / np.sqrt(MELS), rtol=1e-5
    )


def test_local_distances_are_divided_by_the_neighbours_own() -> None:
    clips, new = log_mels(20), log_mels(5, 1)
    member = fitted(clips, ["00"] * 20, over_time=("mean",), count=1, local=4)
    near = NearestNeighbors(n_neighbors=4).fit(scaled(clips, clips))
    radius = near.kneighbors()[0].mean(1)
    all_of_them = np.linalg.norm(scaled(new, clips)[:, None] - scaled(clips, clips), axis=2)
    scores = member.scorer().score_many(new, ["00"] * 5)[:, 0].numpy()
    np.testing.assert_allclose(scores, (all_of_them / radius).min(1), rtol=1e-5)


def test_a_clip_that_is_left_out_has_the_score_of_a_model_without_it() -> None:
    """But for the scale, which is of all clips: there the features are scaled already."""
    clips, ids = log_mels(12), ["00"] * 12
    cases: list[dict[str, Any]] = [{"count": 2, "local": 3}, {"local": 11}, {"local": 50}]
    for settings in cases:
        member = fitted(clips, ids, over_time=("mean",), **settings)
        group = member.groups[0]
        expected = []
        for i in range(12):
            others = [j for j in range(12) if j != i]
            alone = group._replace(
                clips=group.clips[others], radius=torch.ones(11, dtype=torch.float64), squares=group.squares[others]
            )
            without = fitted(clips, ids, over_time=("mean",), **settings)
            without.groups = [alone._replace(radius=without._radius(alone))]
            expected.append(float(without.scorer().score(clips[i], "00")))
        np.testing.assert_allclose(left_out(member, clips, ids), expected, rtol=1e-6)


def test_a_rare_way_of_running_is_as_normal_as_a_frequent_one() -> None:
    """40 clips lie close together, 10 wide apart: plain distances call the wide ones odd, local ones the close one that
    lies beside all others. The local outlier factor agrees.
    """
    rng = np.random.default_rng(0)
    wide = [x + torch.from_numpy(rng.normal(30, 8, MELS)).float() for x in log_mels(10, 1)]
    clips, ids = [*log_mels(40), *wide], ["00"] * 50
    rare, odd = wide[0] + torch.from_numpy(rng.normal(0, 5, MELS)).float(), log_mels(1, 5)[0] + 4.0
    plain, local = (fitted(clips, ids, over_time=("mean",), local=x).scorer() for x in (0, 4))
    assert float(plain.score(rare, "00")) > float(plain.score(odd, "00"))
    assert float(local.score(rare, "00")) < float(local.score(odd, "00"))
    factor = LocalOutlierFactor(4, novelty=True).fit(scaled(clips, clips))
    told = -factor.score_samples(scaled([rare, odd], clips))
    assert told[0] < told[1]


def test_a_clip_of_an_unknown_id_is_compared_with_all() -> None:
    clips, ids = [*log_mels(6), *log_mels(6, 1, 30.0)], ["00"] * 6 + ["01"] * 6
    scorer = fitted(clips, ids).scorer()
    for new, near in ((log_mels(1, 7)[0], "00"), (log_mels(1, 8, 30.0)[0], "01")):
        assert float(scorer.score(new)) == float(scorer.score(new, near)) == float(scorer.score(new, "07"))


def test_ids_of_few_clips_are_compared_together() -> None:
    clips = [*log_mels(5), *log_mels(2, 1, 30.0), *log_mels(2, 2, 60.0)]
    member = fitted(clips, ["00"] * 5 + ["01"] * 2 + ["02"] * 2)
    assert (member.ids, member.group) == (("00", "01", "02"), (0, 1, 1))
    assert [len(x.clips) for x in member.groups] == [5, 4]
    few = fitted(clips[:7], ["00"] * 5 + ["01"] * 2)
    assert few.group == (0, -1)  # too few even together: compared with the others
    scores = left_out(few, clips[:7], ["00"] * 5 + ["01"] * 2)
    assert scores[5:].min() > scores[:5].max()


def test_it_needs_three_clips() -> None:
    with pytest.raises(ValueError, match="neighbours compares clips with each other: give three or more"):
        pyasd.fit([x.numpy() for x in log_mels(2)], Recipe.of_kinds("neighbours").override(n_mels=MELS), **HOW)
    one_each = fitted(log_mels(3), ["00", "01", "02"])
    assert one_each.group == (0, 0, 0)
    assert np.isfinite(left_out(one_each, log_mels(3), ["00", "01", "02"])).all()


def test_equal_clips_give_finite_scores() -> None:
    clips, ids = log_mels(1) * 6, ["00"] * 6
    member = fitted(clips, ids)
    assert left_out(member, clips, ids).max() < 0.05  # what float32 rounds
    assert 0 < float(member.scorer().score(log_mels(1, 1)[0], "00")) < np.inf


def test_of_many_clips_some_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly spaced; all are scored without themselves, in passes."""
    monkeypatch.setattr(neighbours, "MAX_CLIPS", 7)
    monkeypatch.setattr(neighbours, "ROWS_PER_PASS", 4)
    clips, ids = log_mels(20), ["00"] * 20
    member = fitted(clips, ids, local=2)
    assert len(member.groups[0].clips) == 7
    scores = left_out(member, clips, ids)
    scorer = member.scorer()
    forgotten = 1  # ranks 0, 3, 6, ... are remembered
    assert scores[forgotten] == pytest.approx(float(scorer.score(clips[forgotten], "00")))
    assert float(scorer.score(clips[0], "00")) < 1e-2 < scores[0]


def test_anomalies_among_the_clips_are_forgotten_where_some_are_expected() -> None:
    clips, ids = [*log_mels(27), *log_mels(3, 1, 15.0)], ["00"] * 30
    new = log_mels(1, 5, 15.0)[0]
    learnt, trimmed = fitted(clips, ids), fitted(clips, ids, Run(statistics="robust"))
    many = fitted(clips, ids, Run(statistics="robust"), count=10)
    assert [len(x.groups[0].clips) for x in (learnt, trimmed, many)] == [30, 23, 30]
    assert float(trimmed.scorer().score(new, "00")) > left_out(trimmed, clips[:27], ids[:27]).max()


def test_it_weighs_the_more_the_more_clips_it_knows() -> None:
    member = Neighbours("neighbours", NeighboursConfig(), MELS)
    weights = [member.reliability(x) for x in (1, 20, 400, 10**9)]
    assert weights == sorted(weights)
    assert weights[2:] == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize("settings", [{"over_time": ("mean",)}, {"count": 3}, {"local": 0}])
def test_the_explanation_adds_up_to_the_score(settings: dict[str, Any]) -> None:
    clips, ids = [*log_mels(10), *log_mels(10, 1, 5.0)], ["00"] * 10 + ["01"] * 10
    scorer = fitted(clips, ids, **settings).scorer()
    for new, machine_id in ((log_mels(1, 7)[0], "00"), (log_mels(1, 8)[0], None)):
        shown = scorer.explain(new, "distance", machine_id)
        assert shown.shape == new.shape
        assert float(shown.double().sum(1).mean()) == pytest.approx(float(scorer.score(new, machine_id)), rel=1e-5)
    loud = log_mels(1, 7)[0]
    loud[5, 3] += 40
    assert divmod(int(scorer.explain(loud, "distance", "00").sum(0).argmax()), MELS)[1] == 3


def test_scores_have_the_same_bits_alone_and_together_and_from_a_file(tmp_path: Path) -> None:
    clips, ids = log_mels(24), ["00", "01"] * 12
    path = tmp_path / "model.safetensors"
    detector = pyasd.fit(
        [x.numpy() for x in clips], Recipe.of_kinds("neighbours").override(n_mels=MELS), ids=ids, out=path, **HOW
    )
    new = [x.numpy() for x in log_mels(6, 3)]
    table = detector.score(new, ids="00", **HOW)
    alone = [detector.score(x, ids="00", **HOW)["score"][0] for x in new]
    assert table["score"].tolist() == alone
    pd.testing.assert_frame_equal(pyasd.load(path).score(new, ids="00", **HOW), table)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"radius": torch.zeros(9, dtype=torch.float64)}, "radius must be positive"),
        ({"spectra": torch.zeros(8, 3 * MELS)}, "spectra has the shape"),
        ({"mean": torch.full((1, 3 * MELS), torch.nan, dtype=torch.float64)}, "mean is not finite"),
        ({"band_scale": torch.zeros(1, 3 * MELS, dtype=torch.float64)}, "band_scale must be positive"),
        ({"group": torch.tensor([4])}, "not those of 1 machine IDs"),
        ({"extra": torch.zeros(1)}, "missing or unknown: extra"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change: dict[str, torch.Tensor], said: str) -> None:
    state = fitted(log_mels(9), ["00"] * 9).state()
    with pytest.raises(ValueError, match=said):
        Neighbours("neighbours", NeighboursConfig(), MELS).load_state(state | change)


@pytest.mark.parametrize("settings", [{"count": 0}, {"local": -1}, {"over_time": ()}, {"over_time": ("mean", "mean")}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"need count from 1|over_time needs"):
        NeighboursConfig(**settings)
