"""The training loop: its epochs, balanced groups, the epoch that is kept, and divergence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pyasd.errors import TrainingDiverged
from pyasd.models.autoencoder import Autoencoder, AutoencoderConfig
from pyasd.models.group_made import GroupMade, GroupMadeConfig
from pyasd.training import loop
from pyasd.training.data import TrainingSet, WindowSet
from pyasd.training.loop import Sampler, balanced
from pyasd.training.run import History, Run

CPU = torch.device("cpu")
SMALL = AutoencoderConfig(hidden=(8, 2, 8), epochs=6, batch_size=32)


def clips(count: int = 6, frames: int = 40, mels: int = 4, seed: int = 0) -> list[Tensor]:
    x = np.random.default_rng(seed).normal(-40, 8, (count, frames, mels)).astype(np.float32)
    return list(torch.from_numpy(x))


def data(seed: int = 0) -> TrainingSet:
    return TrainingSet(clips(), ["00"] * 6, seed)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- epochs and their windows ------------------------------------------------------------------------------------


def test_every_window_is_met_once_an_epoch_in_nearly_equal_batches() -> None:
    seen: list[list[int]] = []
    module = torch.nn.Linear(10, 1)

    def loss(starts: Tensor) -> Tensor:
        batch = windows.gather(starts)
        if module.training:
            seen.append(batch[:, 0].int().tolist())
        value: Tensor = module(batch).square().mean() * 0
        return value

    log_mel = torch.arange(69.0)[:, None].expand(69, 2).contiguous()
    windows = WindowSet([log_mel], 5, np.array([False]), CPU)
    loop.fit(module, loss, Sampler(windows), replace(SMALL, epochs=2), Run())
    assert [len(batch) for batch in seen] == [22, 22, 21] * 2
    epochs = [[x for batch in batches for x in batch] for batches in (seen[:3], seen[3:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(65))
    assert epochs[0] != epochs[1]


def test_windows_that_hop_begin_elsewhere_in_each_clip_and_epoch() -> None:
    windows = WindowSet([torch.zeros(n, 2) for n in (24, 40, 9, 30)], 5, np.array([False, False, True, False]), CPU)
    sampler = Sampler(windows, hop=5)
    firsts = []
    for seed in range(30):
        starts = windows.training[sampler.order(seed)]
        assert torch.equal(starts.sort().values, windows.training[sampler.order(seed).sort().values])
        for index in (0, 1, 3):
            of_clip = windows.offsets(starts[windows.clips(starts) == index]).sort().values
            assert of_clip.diff().eq(5).all()
            assert of_clip[-1] + 5 > (24, 40, 9, 30)[index] - 5  # the clip's end is reached
            firsts.append(int(of_clip[0]))
    assert set(firsts) == {0, 1, 2, 3, 4}
    assert len({tuple(firsts[i : i + 3]) for i in range(0, 90, 3)}) > 20  # not the same one in all clips
    assert torch.equal(sampler.order(3), sampler.order(3))
    assert [windows.offsets(x).tolist() for x in sampler.validation_sets] == [[0]]
    assert sampler.batches(9) == 2  # 20 + 36 + 26 windows, a fifth of them
    short = WindowSet([torch.zeros(5, 2)] * 3, 5, np.zeros(3, bool), CPU)
    one = WindowSet([torch.zeros(9, 2)], 5, np.zeros(1, bool), CPU)
    for seed in range(10):
        assert sorted(Sampler(short, hop=5).order(seed).tolist()) == [0, 1, 2]  # no clip is left out
        assert len(Sampler(one, hop=5).order(seed)) == 5  # one window makes no batch


def scripted(validation: list[float], patience: int, epochs: int = 10) -> tuple[History, Tensor, list[float]]:
    """A training whose validation losses are given; its history, the weight it ends with, and the one of each epoch."""
    module = torch.nn.Linear(1, 1)
    losses = iter(validation)
    weights: list[float] = []

    def loss(starts: Tensor) -> Tensor:
        if module.training:
            value: Tensor = module(windows.gather(starts)[:, :1]).mean()
            return value
        weights.append(module.weight.item())
        return torch.tensor(next(losses))

    windows = WindowSet(clips(2), 5, np.array([False, True]), CPU)
    config = replace(SMALL, epochs=epochs, patience=patience, batch_size=64)
    history = loop.fit(module, loss, Sampler(windows), config, Run())
    return history, module.weight, weights


def test_best_epoch_is_kept_and_training_ends_when_patience_does() -> None:
    history, weight, weights = scripted([3.0, 1.0, 2.0, 1.5, 1.2, 0.5], patience=3)
    assert history.kept == 1
    assert len(history.training) == 5
    assert weight.item() == weights[1] != weights[4]


def test_all_epochs_are_run_while_the_loss_sinks() -> None:
    history, _, _ = scripted([3.0, 2.0, 1.0, 0.5], patience=1, epochs=4)
    assert (history.kept, len(history.training)) == (3, 4)


def test_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    def fitted(seed: int) -> dict[str, Tensor]:
        model = Autoencoder("autoencoder", SMALL, 4, seed)
        model.fit(data(seed), Run(seed))
        return model.state()

    assert equal(fitted(1), fitted(1))
    assert not equal(fitted(1), fitted(2))


def test_progress_counts_every_batch() -> None:
    heard: list[tuple[str, int, int, str]] = []
    run = Run(progress=lambda *what: heard.append(what), stage="training x")
    Autoencoder("autoencoder", SMALL, 4).fit(data(), run)
    assert [done for _, done, _, _ in heard] == list(range(1, 6 * 6 + 1))  # 5 clips of 36 windows: 6 batches
    assert {(stage, total) for stage, _, total, _ in heard} == {("training x", 36)}
    assert "epoch 6/6, loss" in heard[-1][3]
    assert "validation" in heard[-1][3]


# -- balanced groups --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [[200, 22], [5, 5, 5], [1, 1, 90], [7], [10, 9]])
def test_balanced_windows_come_equally_often(counts: list[int]) -> None:
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)) * 3, counts))
    drawn = balanced(groups, torch.Generator().manual_seed(1)).numpy()
    assert len(drawn) == sum(counts)
    of_group = np.bincount(groups[drawn] // 3, minlength=len(counts))
    assert of_group.max() - of_group.min() <= 1
    times = np.bincount(drawn, minlength=len(groups))
    for group in np.unique(groups):
        assert np.ptp(times[groups == group]) <= 1
    assert np.array_equal(drawn, balanced(groups, torch.Generator().manual_seed(1)))
    assert np.array_equal(drawn, np.arange(len(groups))) == (np.ptp(counts) <= 1), "balanced groups stay as they are"


def test_groups_are_balanced_in_training_and_in_validation() -> None:
    """Of 8 clips of one group and 2 of the other, 2 and 1 are held out: epochs keep their length, and validation
    is the mean of both groups' means.
    """
    log_mels, mask = clips(10), np.zeros(10, bool)
    mask[[0, 1, 8]] = True
    windows = WindowSet(log_mels, 5, mask, CPU)
    autoencoder = Autoencoder("autoencoder", replace(SMALL, epochs=1), 4)
    seen: list[int] = []

    def group_of(starts: Tensor) -> Tensor:
        return (windows.clips(starts) >= 8).long()

    def loss(starts: Tensor) -> Tensor:
        if autoencoder.training:
            seen.extend(group_of(starts).tolist())
        batch = windows.gather(starts)
        value: Tensor = (autoencoder(batch) - batch).square().mean()
        return value

    history = loop.fit(autoencoder, loss, Sampler(windows, group_of), autoencoder.config, Run())
    assert np.bincount(seen).tolist() == [126, 126]
    held = windows.gather(windows.validation)
    with torch.no_grad():
        error = (autoencoder(held) - held).square().mean(1)
    means = [error[group_of(windows.validation) == group].mean().item() for group in (0, 1)]
    assert history.validation == pytest.approx([np.mean(means)], rel=1e-5)


# -- divergence -------------------------------------------------------------------------------------------------


def test_nan_loss_stops_at_once_and_says_where() -> None:
    module = torch.nn.Linear(20, 1)
    calls = 0

    def loss(starts: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        value: Tensor = module(windows.gather(starts)).square().mean()
        return value * float("nan") if calls == 10 else value

    windows = WindowSet(clips(), 5, np.array([False] * 6), CPU)  # 7 batches an epoch
    with pytest.raises(TrainingDiverged, match=r"nan in epoch 2, batch 3.*learning_rate"):
        loop.fit(module, loss, Sampler(windows), SMALL, Run())
    assert calls == 14


def test_absurd_learning_rate_of_group_made_diverges_with_a_clear_error(tmp_path: Path) -> None:
    config = GroupMadeConfig(hidden=(8, 8), components=2, learning_rate=1e30, epochs=3, batch_size=32)
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(TrainingDiverged, match="smaller learning_rate"):
        GroupMade("group-made", config, 4).fit(data(), Run(checkpoint=checkpoint))
    assert not checkpoint.exists()
