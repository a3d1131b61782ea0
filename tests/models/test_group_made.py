from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from pyasd.models import group_made
from pyasd.models.group_made import GroupMade, GroupMadeConfig, Order, frame_degrees, hidden_degrees
from pyasd.training.data import TrainingSet
from pyasd.training.run import Run

SMALL = GroupMadeConfig(hidden=(16, 8, 16), components=3, epochs=3, batch_size=64)
ORDERS: tuple[Order, ...] = ("causal", "middle")


def scrambled(config: GroupMadeConfig, mels: int) -> GroupMade:
    """A network whose every tensor is random, batch norm's statistics too: nothing vanishes by chance."""
    made = GroupMade("group-made", config, mels, seed=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, x in made.state_dict().items():
            if name.endswith(("running_var", "band_scale")) or (".bn" in name and name.endswith("weight")):
                x.copy_(0.5 + torch.rand(x.shape, generator=generator))
            elif x.is_floating_point():
                x.copy_(0.3 * torch.randn(x.shape, generator=generator))
    return made


def clip(frames: int, mels: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(frames, mels)).astype(np.float32))


def test_degrees_are_the_positions_in_the_ordering() -> None:
    assert frame_degrees(5, "causal") == (1, 2, 3, 4, 5)
    assert frame_degrees(5, "middle") == (1, 2, 5, 3, 4)  # ordered 1, 2, 4, 5, 3


@pytest.mark.parametrize("units", [32, 128])
def test_hidden_degrees_are_sorted_and_in_equal_shares(units: int) -> None:
    degrees = hidden_degrees(units, 5)
    assert list(degrees) == sorted(degrees)
    assert [degrees.count(d) for d in range(1, 5)] == [units // 4] * 4


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("config", "mels"), [(replace(SMALL, hidden=(64, 32, 64)), 3), (GroupMadeConfig(), 128)])
def test_jacobian_has_exact_zeros_where_the_ordering_forbids(config: GroupMadeConfig, mels: int, order: Order) -> None:
    made = scrambled(replace(config, order=order), mels)
    windows = torch.stack([clip(5, mels, seed).flatten() for seed in range(4)])
    jacobian = torch.autograd.functional.jacobian(lambda x: made(x).sum(0), windows)
    jacobian = jacobian.view(5, 4, 5, mels)  # [predicted frame, window, frame of the input, band]
    position = {"causal": [1, 2, 3, 4, 5], "middle": [1, 2, 5, 3, 4]}[order]
    for out in range(5):
        for into in range(5):
            block = jacobian[out, :, into]
            if position[into] > position[out]:
                assert (block == 0).all(), (out, into)
            else:
                assert (block != 0).any(), (out, into)


@pytest.mark.parametrize("order", ORDERS)
def test_later_frames_change_no_bit_of_earlier_conditionals(order: Order) -> None:
    made = scrambled(replace(SMALL, order=order), 4)
    window = clip(5, 4).reshape(1, -1)
    before = made(window)
    for frame, degree in enumerate(made.degrees):
        changed = window.clone().view(1, 5, 4)
        changed[:, frame] = torch.tensor([1e6, -1e6, 3.0, 0.0])
        after = made(changed.view(1, -1))
        earlier = [t for t, other in enumerate(made.degrees) if other < degree]
        assert torch.equal(after[:, earlier], before[:, earlier])


def test_forward_is_the_mixture_density_of_torch_distributions() -> None:
    mels, config = 4, replace(SMALL, order="middle")
    made = scrambled(config, mels)
    windows = torch.stack([clip(5, mels, seed).flatten() for seed in range(7)])
    # Everything again in float64, with explicit masks, and torch.distributions for the density.
    degrees = [torch.tensor(made.degrees).repeat_interleave(mels)]
    degrees += [torch.tensor(hidden_degrees(units, 5)) for units in config.hidden]
    z = ((windows.view(-1, 5, mels) - made.band_mean) / made.band_scale).flatten(1).double()
    x = z
    for i in range(3):
        dense, norm = made.trunk.get_submodule(f"dense{i}"), made.trunk.get_submodule(f"bn{i}")
        assert isinstance(dense, torch.nn.Linear)
        assert isinstance(norm, torch.nn.BatchNorm1d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mask = degrees[i + 1][:, None] >= degrees[i]
        x = x @ (dense.weight * mask).double().T + dense.bias
        x = (x - norm.running_mean) / (norm.running_var.double() + norm.eps).sqrt() * norm.weight + norm.bias
        x = x.clamp(min=0)
    mask = (degrees[0][:, None] > degrees[-1]).repeat_interleave(config.components, 0).repeat(3, 1)
    out = (x @ (made.head_weight * mask).double().T + made.head_bias).view(7, 3, 5 * mels, config.components)
    logit, mean, log_scale = out.unbind(1)
    density = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logit),
        torch.distributions.Normal(mean, log_scale.clamp(min=config.log_scale_min).exp()),
    )
    expected = (density.log_prob(z).view(7, 5, mels) - made.band_scale.double().log()).sum(-1)
    torch.testing.assert_close(made(windows), expected.float(), rtol=1e-5, atol=1e-4)


def test_density_in_db_integrates_to_one() -> None:
    made = scrambled(GroupMadeConfig(frames=2, hidden=(4, 4), components=2), 1)
    made.band_mean.fill_(-40)
    made.band_scale.fill_(7)
    axis = torch.linspace(-140, 60, 801)
    grid = torch.cartesian_prod(axis, axis)
    total = made(grid).double().sum(1).exp().sum() * (axis[1] - axis[0]).double() ** 2
    assert total.item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("order", ORDERS)
def test_scorer_gives_the_networks_own_likelihoods_in_all_modes(order: Order) -> None:
    made = scrambled(replace(SMALL, order=order), 6)
    log_mel = clip(23, 6)
    windows = log_mel.unfold(0, 5, 1).transpose(1, 2).reshape(19, -1)
    nll = -made(windows).double()  # batch norm unfolded
    conditional = nll[:, 1:].sum(1)  # frame 1 is first in both orderings
    expected = torch.stack([nll.sum(1), nll[:, 2], conditional], 1).mean(0)
    scores = made.scorer().score(log_mel)
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=0)


@pytest.fixture(scope="module")
def learnt() -> GroupMade:
    """Eight bands of noise. How much band 0 wanders differs from clip to clip, band 5's level between machine IDs."""
    made = GroupMade("group-made", replace(SMALL, epochs=2), 8)
    made.fit(TrainingSet([noise(60, i, level=3.0 * (i % 2)) for i in range(24)], ["00", "02"] * 12), Run())
    return made


def noise(frames: int, seed: int, level: float = 0.0) -> Tensor:
    generator = np.random.default_rng(seed)
    log_mel = generator.normal(-40, 3, (frames, 8)) + generator.normal(0, 1)
    log_mel[:, 0] += generator.normal(0, 25 * generator.random(), frames)
    log_mel[:, 5] += level
    return torch.from_numpy(log_mel.astype(np.float32))


def test_bands_are_compared_with_those_of_the_machine_ids_training_clips(learnt: GroupMade) -> None:
    def nll(log_mel: Tensor) -> np.ndarray:
        windows = len(log_mel) - 4
        counted = [sum(0 <= t - place < windows for place in range(1, 5)) for t in range(len(log_mel))]
        share = learnt.scorer().explain(log_mel, "conditional").double().nan_to_num().numpy()
        scores: np.ndarray = np.array(counted) @ share / windows
        return scores

    train = {
        name: np.array([nll(noise(60, i, level=3.0 * (i % 2))) for i in range(24)][first::2])
        for first, name in enumerate(("00", "02"))
    }
    prior = np.mean([x.var(0).mean() for x in train.values()])
    clip_ = noise(75, 100)
    for name, own in train.items():
        z = (nll(clip_) - own.mean(0)) / np.sqrt((12 * own.var(0) + prior) / 13)
        expected = np.sqrt(np.square(np.maximum(z, 0)).mean())
        assert learnt.scorer(modes=["bands"]).score(clip_, name).item() == pytest.approx(expected, rel=1e-4)
    variance = np.mean([(12 * x.var(0) + prior) / 13 for x in train.values()], 0)
    means = np.array([x.mean(0) for x in train.values()])
    z = (nll(clip_) - means.mean(0)) / np.sqrt(variance + means.var(0))
    for unknown in (None, "04"):
        score = learnt.scorer(modes=["bands"]).score(clip_, unknown).item()
        assert score == pytest.approx(np.sqrt(np.square(np.maximum(z, 0)).mean()), rel=1e-4)


def test_clips_held_out_are_compared_with_the_bands_of_the_others(learnt: GroupMade) -> None:
    """Their own likelihoods would hide in means and variances that they are part of: by hand, without them."""
    ids, log_mels = ["00", "02"] * 12, [noise(60, i, level=3.0 * (i % 2)) for i in range(24)]
    data = TrainingSet(log_mels, ids)
    normal = learnt.normal_scores(data, Run())
    assert normal.unlearnt is not None
    held_out = data.held_out(learnt.config.validation)
    assert np.isnan(normal.unlearnt[~held_out]).all()
    np.testing.assert_array_equal(normal.unlearnt[held_out, :3], normal.scores[held_out, :3])
    nll = learnt.scorer().band_nll(log_mels, ids).numpy()
    prior = np.mean([nll[i::2].var(0).mean() for i in (0, 1)])
    for place in np.flatnonzero(held_out):
        others = np.delete(nll[place % 2 :: 2], place // 2, axis=0)
        z = (nll[place] - others.mean(0)) / np.sqrt((11 * others.var(0) + prior) / 12)
        expected = np.sqrt(np.square(np.maximum(z, 0)).mean())
        assert normal.unlearnt[place, 3] == pytest.approx(expected, rel=1e-5)
        assert expected > normal.scores[place, 3]
    robust = learnt.normal_scores(data, Run(statistics="robust"))
    assert robust.unlearnt is not None
    np.testing.assert_array_equal(robust.unlearnt[held_out], robust.scores[held_out])


def test_bands_find_what_is_loud_in_one_band_alone(learnt: GroupMade) -> None:
    scorer = learnt.scorer(modes=["conditional", "bands"])
    clips = [noise(60, i) for i in range(100, 180)]
    for odd in clips[40:]:
        odd[:, 2] += 3 * torch.randn(60, generator=torch.Generator().manual_seed(0))
    scores = scorer.score_many(clips, ["00"] * 80)
    conditional, bands = (roc_auc_score([0] * 40 + [1] * 40, x) for x in scores.T)
    assert bands > conditional + 0.1
    share = scorer.explain(odd, "bands", "00")
    assert share.nanmean(0).argmax() == 2


def test_modes_asked_for_have_the_same_bits_alone_or_together_and_in_pieces(
    learnt: GroupMade, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, ids = [noise(n, n) for n in (5, 40, 211, 60)], ["00", None, "02", "00"]
    together = learnt.scorer().score_many(clips, ids)
    assert torch.isfinite(together).all()
    for column, mode in enumerate(learnt.mode_names):
        alone = learnt.scorer(modes=[mode])
        assert torch.equal(alone.score_many(clips, ids)[:, 0], together[:, column])
        assert torch.equal(torch.cat([alone.score(x, i) for x, i in zip(clips, ids, strict=True)]), together[:, column])
    hopping = GroupMade("group-made", replace(learnt.config, window_hop=3), 8)
    hopping.load_state(learnt.state())
    in_one = hopping.scorer().score_many(clips, ids)
    monkeypatch.setitem(group_made.BAND_WINDOWS_PER_PASS, "cpu", 50)
    each = {(55, 20, 54, 7): [[54], [5, 20], [54], [7]], (5, 54): [[5], [54]], (49, 9): [[49, 9]]}
    for lengths, passes in each.items():
        pieces = learnt.scorer()._passes([noise(n, n) for n in lengths], 1)
        assert [[len(x) for x in some] for some in pieces] == passes
    torch.testing.assert_close(learnt.scorer().score_many(clips, ids), together, rtol=1e-12, atol=0)
    torch.testing.assert_close(hopping.scorer().score_many(clips, ids), in_one, rtol=1e-12, atol=0)


def test_same_clip_has_the_same_bits_wherever_it_lies_and_with_any_number_of_threads() -> None:
    made = scrambled(GroupMadeConfig(), 128)
    log_mel = clip(313, 128)
    first = made.scorer().score(log_mel)
    around = torch.randn(700, 128)
    around[101:414] = log_mel
    assert torch.equal(made.scorer().score(around[101:414]), first)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(made.scorer().score(log_mel), first)
    finally:
        torch.set_num_threads(threads)


def test_training_starts_at_the_marginals_of_the_training_clips() -> None:
    generator = np.random.default_rng(0)
    two_levels = generator.choice([-60.0, -20.0], (4000, 2)) + generator.normal(0, [1.0, 3.0], (4000, 2))
    clips = list(torch.from_numpy(two_levels.astype(np.float32)).split(400))
    made = GroupMade("group-made", replace(SMALL, components=10, validation=0.0), 2)
    made._start_from(clips)
    np.testing.assert_allclose(made.band_mean, two_levels.mean(0), rtol=1e-5)
    np.testing.assert_allclose(made.band_scale, two_levels.std(0), rtol=1e-5)
    first = -made(clips[0].unfold(0, 5, 1).transpose(1, 2).reshape(-1, 10))[:, 0].double().mean().item()
    best = sum(math.log(2) + 0.5 * math.log(2 * math.pi * math.e) + math.log(s) for s in (1.0, 3.0))  # its entropy
    gaussian = sum(0.5 * math.log(2 * math.pi * math.e) + math.log(s) for s in two_levels.std(0))
    assert best < first < (best + gaussian) / 2


def test_training_starts_from_the_clips_that_are_not_held_out() -> None:
    config = replace(SMALL, validation=0.5, epochs=1, learning_rate=1e-20)
    clips, held_out = [noise(40, n) for n in range(8)], TrainingSet([], ["00"] * 8, 0).held_out(0.5)
    assert held_out.sum() == 4
    data = TrainingSet([x + 30 * h for x, h in zip(clips, held_out, strict=True)], ["00"] * 8, 0)
    made, other = GroupMade("group-made", config, 8), GroupMade("group-made", config, 8)
    made.fit(data, Run())
    other._start_from([x for x, h in zip(clips, held_out, strict=True) if not h])
    for name in ("band_mean", "band_scale", "head_bias"):
        torch.testing.assert_close(getattr(made, name), getattr(other, name), rtol=0, atol=1e-12)


def test_fit_learns_how_frames_follow_each_other() -> None:
    generator = np.random.default_rng(0)

    def chain(steady: bool) -> Tensor:
        """Frames that repeat with little change, or are drawn anew; the same marginals."""
        steps = generator.normal(size=(100, 4))
        if steady:
            for t in range(1, len(steps)):
                steps[t] = 0.95 * steps[t - 1] + math.sqrt(1 - 0.95**2) * steps[t]
        return torch.from_numpy((10 * steps - 30).astype(np.float32))

    config = replace(SMALL, hidden=(32, 16, 32), epochs=15)
    made = GroupMade("group-made", config, 4)
    history = made.fit(TrainingSet([chain(True) for _ in range(20)], ["00"] * 20), Run())
    assert history.validation[-1] < history.validation[0]
    scorer = made.scorer()
    normal = torch.stack([scorer.score(chain(True)) for _ in range(5)])
    odd = torch.stack([scorer.score(chain(False)) for _ in range(5)])
    for mode in range(3):
        assert odd[:, mode].min() > normal[:, mode].max()
    # 16 of 20 dimensions follow from others, and have 1.16 nats less each than their marginals, at best.
    marginal = 20 * (0.5 * math.log(2 * math.pi * math.e) + math.log(10))
    assert normal[:, 0].mean() < marginal - 0.4 * 16 * 1.16


def test_the_likelihood_of_clips_held_out_does_not_explode() -> None:
    """Batch norm divides by the spread that a unit had in training. Rectified units that are almost always zero, as
    many are after a long training, have next to none, and windows of other clips that wake them exploded.
    """
    config = replace(SMALL, hidden=(16,) * 9, validation=0.5, epochs=4, learning_rate=1e-9)
    made = GroupMade("group-made", config, 4)
    with torch.no_grad():
        for i in range(9):
            norm = made.trunk.get_submodule(f"bn{i}")
            assert isinstance(norm, torch.nn.BatchNorm1d)
            norm.bias.fill_(-2.5)  # wakes once in 160 windows
    clips = [clip(200, 4, seed) for seed in range(20)]
    history = made.fit(TrainingSet(clips, ["00"] * 20), Run())
    assert max(history.validation) < max(history.training) + 0.1  # without the floor: 1e4 against 1.5
    # What is kept scores as it was validated.
    scores = made.scorer(modes=["joint"]).score_many(clips, ["00"] * 20).mean().item() / 20
    assert scores == pytest.approx(np.mean([history.training[-1], history.validation[-1]]), abs=0.02)


@pytest.mark.parametrize("hop", [2, 5])
def test_windows_hop_in_scores(hop: int, learnt: GroupMade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_made, "MIN_WINDOWS", 1)
    clips = [noise(n, n) for n in (5, 40, 211, 60)]
    hopping = GroupMade("group-made", replace(learnt.config, window_hop=hop), 8)
    hopping.load_state(learnt.state())
    scores = hopping.scorer(modes=["conditional", "bands"]).score_many(clips, ["00"] * 4)
    for log_mel, got in zip(clips, scores, strict=True):
        first_frames = range(0, len(log_mel) - 4, hop)
        one_by_one = torch.stack([log_mel[t : t + 5] for t in first_frames])
        each = learnt.scorer(modes=["conditional"]).score_many(list(one_by_one), [None] * len(one_by_one))
        assert got[0].item() == pytest.approx(each.mean().item(), rel=1e-12)
    alone = torch.stack([hopping.scorer(modes=["conditional", "bands"]).score(x, "00") for x in clips])
    assert torch.equal(alone, scores)


def test_short_clips_hop_less_far(learnt: GroupMade) -> None:
    hopping = GroupMade("group-made", replace(learnt.config, window_hop=5), 8)
    hopping.load_state(learnt.state())
    for frames, hop in ((5, 1), (123, 1), (124, 2), (303, 4), (304, 5), (2000, 5)):
        log_mel = noise(frames, frames)
        expected = GroupMade("group-made", replace(learnt.config, window_hop=hop), 8)
        expected.load_state(learnt.state())
        nll = hopping.scorer().band_nll([log_mel], ["00"])
        first_frames = range(0, frames - 4, hop)
        each = learnt.scorer().band_nll([log_mel[t : t + 5] for t in first_frames], ["00"] * len(first_frames))
        torch.testing.assert_close(nll[0], each.mean(0), rtol=1e-10, atol=1e-10)


CONDITIONED = replace(SMALL, hidden=(32, 16, 32), condition="machine-id")


@pytest.mark.parametrize("order", ORDERS)
def test_conditioned_jacobian_has_exact_zeros_and_all_frames_see_the_machine_id(order: Order) -> None:
    """Units of degree 0 see the ID alone; they, and frames, reach those that come later in the ordering."""
    made = GroupMade("group-made", replace(CONDITIONED, order=order), 4)
    made.id_weight = torch.nn.Parameter(torch.zeros(3, 32))
    source = scrambled(made.config, 4).state_dict()
    generator = torch.Generator().manual_seed(2)
    made.load_state_dict({**source, "id_weight": torch.randn(3, 32, generator=generator)})
    ids = torch.tensor([0, 1, 2, 0])
    windows = torch.stack([clip(5, 4, seed).flatten() for seed in range(4)])
    jacobian = torch.autograd.functional.jacobian(lambda x: made(x, ids=ids).sum(0), windows).view(5, 4, 5, 4)
    for out in range(5):
        for into in range(5):
            is_seen = made.degrees[into] < made.degrees[out]
            own = into == out  # the density of a frame depends on the frame
            assert bool((jacobian[out, :, into] != 0).any()) == (is_seen or own), (out, into)
    first = made.degrees.index(1)
    same = windows[:1].expand(3, -1)
    by_id = made(same, ids=torch.arange(3))
    assert (by_id.diff(dim=0).abs() > 1e-4).all()  # every frame's density is another one for each ID
    assert not torch.equal(by_id[0, first], by_id[1, first])
    # The first units of each layer, and these alone, depend on the ID and on no frame.
    z = windows.clone().requires_grad_()
    hidden = made.trunk(z, made.id_weight[ids])
    free = made.config.hidden_degrees(32).count(0)
    assert free == 4
    gradient = torch.autograd.grad(hidden[:, :free].sum(), z)[0]
    assert (gradient == 0).all()
    assert (hidden[:, :free].std(0) > 0).any()


def two_machines(count: int, seed: int) -> tuple[list[Tensor], list[str]]:
    """Clips of two machine IDs: what is normal to one is the other's fault."""
    clips = [noise(60, seed + i) for i in range(count)]
    for i, log_mel in enumerate(clips):
        log_mel += 12 * (i % 2)
    return clips, ["00", "02"] * (count // 2)


def test_the_machine_id_conditions_the_density() -> None:
    clips, ids = two_machines(24, 0)
    config = replace(SMALL, hidden=(32, 16, 32), epochs=8, score="conditional")
    test, test_ids = two_machines(20, 100)
    swapped = ["02", "00"] * 10
    areas = []
    for condition in ("none", "machine-id"):
        made = GroupMade("group-made", replace(config, condition=condition), 8)
        made.fit(TrainingSet(clips, ids), Run())
        scorer = made.scorer(modes=["joint", "conditional"])
        right, wrong = scorer.score_many(test, test_ids), scorer.score_many(test, swapped)
        areas.append(roc_auc_score([0] * 20 + [1] * 20, torch.cat([right, wrong])[:, 0]))
    assert areas[0] == pytest.approx(0.5)  # pooled, another healthy machine's sound is normal
    assert areas[1] > 0.95
    # In batches of several IDs, alone, and from a file: the same bits. Unknown IDs are compared with the nearest.
    scorer = made.scorer()
    together = scorer.score_many(test, test_ids)
    alone = torch.stack([scorer.score(x, y) for x, y in zip(test, test_ids, strict=True)])
    assert torch.equal(together, alone)
    other = GroupMade("group-made", made.config, 8)
    other.load_state(made.state())
    assert torch.equal(other.scorer().score_many(test, test_ids), together)
    as_each = torch.stack([scorer.score_many(test, [x] * 20) for x in ("00", "02")])
    assert torch.equal(scorer.score_many(test, [None, "07"] * 10), as_each.amin(0))
    for machine_id in ("00", "02"):
        share = scorer.explain(test[0], "joint", machine_id)
        assert torch.isfinite(share).all()
    nearest = scorer.explain(test[0], "joint", None)
    assert torch.equal(nearest, scorer.explain(test[0], "joint", "00"))
    windows = test[1].unfold(0, 5, 1).transpose(1, 2).reshape(-1, 40)
    own = made(windows, ids=torch.full((len(windows),), 1)).sum(1).double().mean().item()
    assert scorer.score(test[1], "02")[0].item() == pytest.approx(-own, rel=1e-5)
    with pytest.raises(ValueError, match="id_weight"):
        other.load_state(made.state() | {"id_weight": torch.zeros(3, 32)})


def test_silence_and_far_tails_have_large_finite_scores() -> None:
    made = GroupMade("group-made", replace(SMALL, epochs=1), 4)
    floor = torch.full((50, 4), -156.5)
    made.fit(TrainingSet([floor, floor], ["00", "00"]), Run())
    scorer = made.scorer()
    assert torch.isfinite(scorer.score(floor)).all()
    far = scorer.score(torch.full((50, 4), 200.0))
    assert torch.isfinite(far).all()
    assert far[0] > 1e4


def test_explanation_shares_the_score_out_over_frames_and_bands() -> None:
    made = scrambled(replace(SMALL, order="middle"), 6)
    scorer = made.scorer()
    one_window = clip(5, 6)
    for number, mode in enumerate(made.mode_names):
        share = scorer.explain(one_window, mode)
        assert torch.nansum(share.double()).item() == pytest.approx(scorer.score(one_window)[number].item(), rel=1e-5)
    longer = scorer.explain(clip(30, 6), "middle")
    assert longer.shape == (30, 6)
    unseen = torch.isnan(longer).all(1)
    assert unseen.nonzero().flatten().tolist() == [0, 1, 28, 29]  # never the middle of a window


def test_state_round_trip_and_misfits() -> None:
    made, other = scrambled(SMALL, 4), GroupMade("group-made", SMALL, 4)
    other.load_state(made.state())
    log_mel = clip(20, 4)
    assert torch.equal(other.scorer().score(log_mel), made.scorer().score(log_mel))
    with pytest.raises(ValueError, match="head_bias"):
        GroupMade("group-made", SMALL, 5).load_state(made.state())
    partial = made.state()
    del partial["band_mean"]
    with pytest.raises(ValueError, match="band_mean"):
        other.load_state(partial)


def test_state_round_trip_of_the_bands(learnt: GroupMade) -> None:
    other = GroupMade("group-made", learnt.config, 8)
    other.load_state(learnt.state())
    for machine_id in ("00", "02", None):
        assert torch.equal(
            other.scorer().score(noise(30, 1), machine_id), learnt.scorer().score(noise(30, 1), machine_id)
        )
    with pytest.raises(ValueError, match="bands"):
        GroupMade("group-made", learnt.config, 8).load_state(learnt.state() | {"bands.mean": torch.zeros(2, 7)})
    without = {name: x for name, x in learnt.state().items() if not name.startswith("bands.") and name != "ids"}
    other = GroupMade("group-made", learnt.config, 8)
    other.load_state(without)
    assert other.mode_names == ("joint", "middle", "conditional")


@pytest.mark.parametrize(
    "wrong",
    [{"frames": 1}, {"hidden": (16, 3, 16)}, {"components": 0}, {"order": "backwards"}, {"score": "best"},
     {"condition": "site"}, {"window_hop": 0}, {"window_hop": 6}, {"variance_floor": -0.1},
     {"epochs": 0}, {"validation": 1.0}, {"pooling": "median"}, {"learning_rate": 0.0}],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong)))):
        replace(SMALL, **wrong)


def test_seed_decides_the_initial_weights() -> None:
    a, b, c = (
        GroupMade("group-made", SMALL, 4, seed=1),
        GroupMade("group-made", SMALL, 4, seed=1),
        GroupMade("group-made", SMALL, 4, seed=2),
    )
    assert all(torch.equal(x, y) for x, y in zip(a.state().values(), b.state().values(), strict=True))
    assert not torch.equal(a.head_weight, c.head_weight)
    assert a.head_weight.abs().max() <= group_made.HEAD_WEIGHT_BOUND
