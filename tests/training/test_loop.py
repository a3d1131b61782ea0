from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pyasd import storage, training
from pyasd.config import AutoencoderConfig, GroupMadeConfig
from pyasd.errors import TrainingDiverged
from pyasd.models import Autoencoder, GroupMade
from pyasd.progress import Progress
from pyasd.training import History, Run, WindowSet, held_out

CPU = torch.device("cpu")
SMALL = AutoencoderConfig(hidden=(8, 2, 8), epochs=6, batch_size=32)


def clips(count: int = 6, frames: int = 40, mels: int = 4, seed: int = 0) -> list[Tensor]:
    x = np.random.default_rng(seed).normal(-40, 8, (count, frames, mels)).astype(np.float32)
    return list(torch.from_numpy(x))


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Interrupt(Exception):
    """Stands for whatever ends a training."""


def stop_at(step: int) -> Progress:
    def progress(stage: str, done: int, total: int, info: str) -> None:
        if done == step:
            raise Interrupt

    return progress


# -- which clips and windows -------------------------------------------------------------------------------------


def test_held_out_takes_its_share_of_each_machine_id() -> None:
    ids = ["00"] * 40 + ["01"] * 15 + ["02"] * 2 + ["03"]
    mask = held_out(ids, 0.1, seed=0)
    counts = {x: sum(m for m, own in zip(mask, ids, strict=True) if own == x) for x in set(ids)}
    assert counts == {"00": 4, "01": 2, "02": 1, "03": 0}
    assert np.array_equal(mask, held_out(ids, 0.1, seed=0))
    assert not np.array_equal(mask, held_out(ids, 0.1, seed=1))
    assert not held_out(ids, 0.0, seed=0).any()


def test_windows_stay_within_clips_and_splits() -> None:
    lengths = [5, 12, 4, 7]  # the third is too short for a window
    log_mels = [torch.full((n, 2), float(i)) for i, n in enumerate(lengths)]
    windows = WindowSet(log_mels, 5, np.array([False, True, False, False]), CPU)
    assert windows.gather(windows.training)[:, 0].tolist() == [0, 3, 3, 3]
    assert windows.gather(windows.validation)[:, 0].tolist() == [1] * 8
    every = torch.cat([windows.gather(windows.training), windows.gather(windows.validation)])
    assert (every == every[:, :1]).all()  # none reaches into another clip


@pytest.mark.parametrize("counts", [[200, 22], [5, 5, 5], [1, 1, 90], [7], [10, 9]])
def test_balanced_windows_come_equally_often(counts: list[int]) -> None:
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)) * 3, counts))
    drawn = training.balanced(groups, torch.Generator().manual_seed(1)).numpy()
    assert len(drawn) == sum(counts)
    of_group = np.bincount(groups[drawn] // 3, minlength=len(counts))
    assert of_group.max() - of_group.min() <= 1
    times = np.bincount(drawn, minlength=len(groups))
    for group in np.unique(groups):
        assert np.ptp(times[groups == group]) <= 1
    assert np.array_equal(drawn, training.balanced(groups, torch.Generator().manual_seed(1)))
    assert np.array_equal(drawn, np.arange(len(groups))) == (np.ptp(counts) <= 1), "balanced groups stay as they are"


def test_groups_are_balanced_in_training_and_in_validation() -> None:
    """Of 8 clips of one group and 2 of the other, 2 and 1 are held out: epochs keep their length, and validation
    is the mean of both groups' means.
    """
    log_mels, mask = clips(10), np.zeros(10, bool)
    mask[[0, 1, 8]] = True
    windows = WindowSet(log_mels, 5, mask, CPU)
    autoencoder = Autoencoder(replace(SMALL, epochs=1), 4)
    seen: list[int] = []

    def group_of(starts: Tensor) -> Tensor:
        return (windows.clips(starts) >= 8).long()

    def loss(starts: Tensor) -> Tensor:
        if autoencoder.training:
            seen.extend(group_of(starts).tolist())
        batch = windows.gather(starts)
        return (autoencoder(batch) - batch).square().mean()

    history = training.fit(autoencoder, loss, windows, autoencoder.config, Run(), group_of=group_of)
    assert np.bincount(seen).tolist() == [126, 126]
    held = windows.gather(windows.validation)
    with torch.no_grad():
        error = (autoencoder(held) - held).square().mean(1)
    means = [error[group_of(windows.validation) == group].mean().item() for group in (0, 1)]
    assert history.validation == pytest.approx([np.mean(means)], rel=1e-5)


def test_gathered_windows_are_five_frames_in_time_order() -> None:
    log_mel = torch.arange(24.0).view(8, 3)
    windows = WindowSet([log_mel], 5, np.array([False]), CPU)
    np.testing.assert_array_equal(windows.gather(torch.tensor([2])), np.arange(6.0, 21.0)[None])


def test_too_few_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        WindowSet([torch.zeros(5, 2), torch.zeros(3, 2)], 5, np.array([False, False]), CPU)


# -- the loop ----------------------------------------------------------------------------------------------------


def test_every_window_is_met_once_an_epoch_in_nearly_equal_batches() -> None:
    seen: list[list[int]] = []
    module = torch.nn.Linear(10, 1)

    def loss(starts: Tensor) -> Tensor:
        batch = windows.gather(starts)
        if module.training:
            seen.append(batch[:, 0].int().tolist())
        return module(batch).square().mean() * 0

    log_mel = torch.arange(69.0)[:, None].expand(69, 2).contiguous()
    windows = WindowSet([log_mel], 5, np.array([False]), CPU)
    training.fit(module, loss, windows, replace(SMALL, epochs=2), Run())
    assert [len(batch) for batch in seen] == [22, 22, 21] * 2
    epochs = [[x for batch in batches for x in batch] for batches in (seen[:3], seen[3:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(65))
    assert epochs[0] != epochs[1]


def scripted(validation: list[float], patience: int, epochs: int = 10) -> tuple[History, Tensor, list[float]]:
    """A training whose validation losses are given; its history, the weight it ends with, and the one of each epoch."""
    module = torch.nn.Linear(1, 1)
    losses, weights = iter(validation), []

    def loss(starts: Tensor) -> Tensor:
        if module.training:
            return module(windows.gather(starts)[:, :1]).mean()
        weights.append(module.weight.item())
        return torch.tensor(next(losses))

    windows = WindowSet(clips(2), 5, np.array([False, True]), CPU)
    config = replace(SMALL, epochs=epochs, patience=patience, batch_size=64)
    history = training.fit(module, loss, windows, config, Run())
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
        model = Autoencoder(SMALL, 4, seed)
        model.fit(clips(), ["00"] * 6, Run(seed))
        return model.state()

    assert equal(fitted(1), fitted(1))
    assert not equal(fitted(1), fitted(2))


def test_progress_counts_every_batch() -> None:
    heard: list[tuple[str, int, int, str]] = []
    run = Run(progress=lambda *what: heard.append(what), stage="training x")
    Autoencoder(SMALL, 4).fit(clips(), ["00"] * 6, run)
    assert [done for _, done, _, _ in heard] == list(range(1, 6 * 6 + 1))  # 5 clips of 36 windows: 6 batches
    assert {(stage, total) for stage, _, total, _ in heard} == {("training x", 36)}
    assert "epoch 6/6, loss" in heard[-1][3]
    assert "validation" in heard[-1][3]


# -- divergence --------------------------------------------------------------------------------------------------


def test_nan_loss_stops_at_once_and_says_where() -> None:
    module = torch.nn.Linear(20, 1)
    calls = 0

    def loss(starts: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        value = module(windows.gather(starts)).square().mean()
        return value * float("nan") if calls == 10 else value

    windows = WindowSet(clips(), 5, np.array([False] * 6), CPU)  # 7 batches an epoch
    with pytest.raises(TrainingDiverged, match=r"nan in epoch 2, batch 3.*learning_rate"):
        training.fit(module, loss, windows, SMALL, Run())
    assert calls == 14


def test_absurd_learning_rate_of_group_made_diverges_with_a_clear_error(tmp_path: Path) -> None:
    config = GroupMadeConfig(hidden=(8, 8), components=2, learning_rate=1e30, epochs=3, batch_size=32)
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(TrainingDiverged, match="smaller learning_rate"):
        GroupMade(config, 4).fit(clips(), ["00"] * 6, Run(checkpoint=checkpoint))
    assert not checkpoint.exists()


# -- checkpoints -------------------------------------------------------------------------------------------------


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)


MODELS: list[Callable[[], Autoencoder | GroupMade]] = [
    lambda: Autoencoder(SMALL, 4),
    lambda: GroupMade(GroupMadeConfig(hidden=(8, 8), components=2, epochs=6, batch_size=32), 4),
]


@pytest.mark.parametrize("build", MODELS, ids=["autoencoder", "group-made"])
@pytest.mark.usefixtures("every_epoch")
@pytest.mark.parametrize("step", [13, 36], ids=["mid-epoch", "last-batch"])
def test_stopped_training_resumes_to_the_same_bits(
    tmp_path: Path, build: Callable[[], Autoencoder | GroupMade], step: int
) -> None:
    unbroken = build()
    whole = unbroken.fit(clips(), ["00"] * 6, Run())
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Interrupt):
        build().fit(clips(), ["00"] * 6, Run(checkpoint=checkpoint, progress=stop_at(step)))
    steps: list[int] = []
    resumed = build()

    def progress(stage: str, done: int, total: int, info: str) -> None:
        if stage == "training":  # and not what follows it
            steps.append(done)

    run = Run(checkpoint=checkpoint, progress=progress)
    assert resumed.fit(clips(), ["00"] * 6, run) == whole
    assert steps[0] == 6 * ((step - 1) // 6) + 1  # no epoch is done twice
    assert equal(unbroken.state(), resumed.state())
    again = build()
    steps.clear()
    assert again.fit(clips(), ["00"] * 6, run) == whole  # a finished training has nothing left to do
    assert not steps
    assert equal(unbroken.state(), again.state())


@pytest.mark.usefixtures("every_epoch")
@pytest.mark.parametrize("change", ["clips", "settings", "seed"])
def test_checkpoint_of_another_training_is_not_taken(tmp_path: Path, change: str) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Interrupt):
        Autoencoder(SMALL, 4).fit(clips(), ["00"] * 6, Run(checkpoint=checkpoint, progress=stop_at(20)))
    config = replace(SMALL, learning_rate=2e-3) if change == "settings" else SMALL
    data = clips(seed=1) if change == "clips" else clips()
    seed = int(change == "seed")
    fresh, other = Autoencoder(config, 4), Autoencoder(config, 4)
    fresh.fit(data, ["00"] * 6, Run(seed))
    with pytest.warns(UserWarning, match="starts anew"):
        other.fit(data, ["00"] * 6, Run(seed, checkpoint=checkpoint))
    assert equal(fresh.state(), other.state())


@pytest.mark.usefixtures("every_epoch")
def test_broken_checkpoint_is_not_taken(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Interrupt):
        Autoencoder(SMALL, 4).fit(clips(), ["00"] * 6, Run(checkpoint=checkpoint, progress=stop_at(20)))
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="starts anew.*truncated"):
        Autoencoder(SMALL, 4).fit(clips(), ["00"] * 6, Run(checkpoint=checkpoint))


KILLED = """
import os, signal, sys, numpy as np, pyasd
from pyasd import training
from pyasd.errors import TrainingDiverged
from pyasd.progress import Progress
training.CHECKPOINT_SECONDS = 0.0
def progress(stage, done, total, info):
    if stage.startswith("training group-made") and done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
rng = np.random.default_rng(0)
clips = [rng.normal(-40, 8, (40, 8)).astype(np.float32) for _ in range(8)]
pyasd.fit(clips, out=sys.argv[1], ids=["00", "01"] * 4, features="log-mel", n_mels=8, hidden=(8, 8), components=2,
          epochs=5, batch_size=32, members=("autoencoder", "group-made"), progress=progress)
"""


def test_fit_killed_in_mid_training_ends_with_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    broken, unbroken = tmp_path / "broken.safetensors", tmp_path / "unbroken.safetensors"
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(broken), "20"], env={**os.environ, **threads}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert not broken.exists()
    assert sorted(x.name for x in (tmp_path / "broken.safetensors.checkpoint").iterdir()) == [
        "machine.autoencoder.safetensors",
        "machine.group-made.safetensors",
    ]
    _, header = storage.read(tmp_path / "broken.safetensors.checkpoint" / "machine.group-made.safetensors")
    assert 0 < len(header["history"]["training"]) < 5
    for out in (broken, unbroken):
        monkeypatch.setattr(sys, "argv", ["fit", str(out), "-1"])
        exec(KILLED, {})
    assert broken.read_bytes() == unbroken.read_bytes()
    assert sorted(x.name for x in tmp_path.iterdir()) == ["broken.safetensors", "unbroken.safetensors"]
