"""Checkpoints: a training that was stopped ends with the same bits as an unbroken one."""

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

from pyasd import storage
from pyasd.models.autoencoder import Autoencoder, AutoencoderConfig
from pyasd.models.group_made import GroupMade, GroupMadeConfig
from pyasd.progress import Progress
from pyasd.training import loop
from pyasd.training.data import TrainingSet
from pyasd.training.run import Run

SMALL = AutoencoderConfig(hidden=(8, 2, 8), epochs=6, batch_size=32)


def clips(count: int = 6, frames: int = 40, mels: int = 4, seed: int = 0) -> list[Tensor]:
    x = np.random.default_rng(seed).normal(-40, 8, (count, frames, mels)).astype(np.float32)
    return list(torch.from_numpy(x))


def data() -> TrainingSet:
    return TrainingSet(clips(), ["00"] * 6)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Interrupt(Exception):
    """Stands for whatever ends a training."""


def stop_at(step: int) -> Progress:
    def progress(stage: str, done: int, total: int, info: str) -> None:
        if done == step:
            raise Interrupt

    return progress


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)


MODELS: list[Callable[[], Autoencoder | GroupMade]] = [
    lambda: Autoencoder("autoencoder", SMALL, 4),
    lambda: GroupMade("group-made", GroupMadeConfig(hidden=(8, 8), components=2, epochs=6, batch_size=32), 4),
]


@pytest.mark.parametrize("build", MODELS, ids=["autoencoder", "group-made"])
@pytest.mark.usefixtures("every_epoch")
@pytest.mark.parametrize("step", [13, 36], ids=["mid-epoch", "last-batch"])
def test_stopped_training_resumes_to_the_same_bits(
    tmp_path: Path, build: Callable[[], Autoencoder | GroupMade], step: int
) -> None:
    unbroken = build()
    whole = unbroken.fit(data(), Run())
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Interrupt):
        build().fit(data(), Run(checkpoint=checkpoint, progress=stop_at(step)))
    steps: list[int] = []
    resumed = build()

    def progress(stage: str, done: int, total: int, info: str) -> None:
        if stage == "training":  # and not what follows it
            steps.append(done)

    run = Run(checkpoint=checkpoint, progress=progress)
    assert resumed.fit(data(), run) == whole
    assert steps[0] == 6 * ((step - 1) // 6) + 1  # no epoch is done twice
    assert equal(unbroken.state(), resumed.state())
    again = build()
    steps.clear()
    assert again.fit(data(), run) == whole  # a finished training has nothing left to do
    assert not steps
    assert equal(unbroken.state(), again.state())


@pytest.mark.usefixtures("every_epoch")
@pytest.mark.parametrize("change", ["clips", "settings", "seed"])
def test_checkpoint_of_another_training_is_not_taken(tmp_path: Path, change: str) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Interrupt):
        Autoencoder("autoencoder", SMALL, 4).fit(data(), Run(checkpoint=checkpoint, progress=stop_at(20)))
    config = replace(SMALL, learning_rate=2e-3) if change == "settings" else SMALL
    seed = int(change == "seed")
    changed = TrainingSet(clips(seed=int(change == "clips")), ["00"] * 6, seed)
    fresh, other = Autoencoder("autoencoder", config, 4), Autoencoder("autoencoder", config, 4)
    fresh.fit(changed, Run(seed))
    with pytest.warns(UserWarning, match="starts anew"):
        other.fit(changed, Run(seed, checkpoint=checkpoint))
    assert equal(fresh.state(), other.state())


@pytest.mark.usefixtures("every_epoch")
def test_broken_checkpoint_is_not_taken(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    with pytest.raises(Interrupt):
        Autoencoder("autoencoder", SMALL, 4).fit(data(), Run(checkpoint=checkpoint, progress=stop_at(20)))
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="starts anew.*truncated"):
        Autoencoder("autoencoder", SMALL, 4).fit(data(), Run(checkpoint=checkpoint))


KILLED = """
import os, signal, sys, numpy as np, pyasd
from pyasd.training import loop
loop.CHECKPOINT_SECONDS = 0.0
def progress(stage, done, total, info):
    if stage.startswith("training group-made") and done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
rng = np.random.default_rng(0)
clips = [rng.normal(-40, 8, (40, 8)).astype(np.float32) for _ in range(8)]
pyasd.fit(clips, "group-made", out=sys.argv[1], ids=["00", "01"] * 4, features="log-mel", n_mels=8, hidden=(8, 8),
          components=2, epochs=5, batch_size=32, members=("autoencoder", "group-made"), progress=progress)
"""


def test_fit_killed_in_mid_training_ends_with_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
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
