"""What `fit` does with machine types that classifiers can't learn, scarce clips, and precisions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import pyasd
from pyasd import storage
from pyasd.detector import fitting
from pyasd.errors import TrainingDiverged
from pyasd.features.store import LogMelStore
from pyasd.models.classifier import ClassifierConfig
from pyasd.models.group_made import GroupMadeConfig
from pyasd.ops import LogMelPlan
from pyasd.recipes import MemberRecipe, Recipe
from pyasd.training import loop

MELS = 32
SMALL = ClassifierConfig(width=0.1, image_frames=32, epochs=2, batch_size=16, validation=0.25)
MADE = MemberRecipe("group-made", "group-made", GroupMadeConfig(hidden=(8, 8), components=2, epochs=1, batch_size=64))


def classifier(**changes: Any) -> MemberRecipe:
    """Return a small MobileNetV2 with other settings."""
    return MemberRecipe("mobilenet", "mobilenet", replace(SMALL, **changes))


def made_of(*members: MemberRecipe) -> Recipe:
    return Recipe(members, LogMelPlan(n_mels=MELS))


RECIPE = made_of(classifier(), MADE)
HOW: dict[str, Any] = {"features": "log-mel", "device": "cpu"}


def log_mels(count: int, seed: int = 0, frames: int = 48) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(-40, 8, (count, frames, MELS)).astype(np.float32))


# -- one machine ID ----------------------------------------------------------------------------------------------


def test_of_one_machine_id_group_made_is_learnt_alone_and_that_is_said() -> None:
    with pytest.warns(UserWarning, match=r"all clips are of machine ID '00'.*mobilenet left out, group-made learnt"):
        fitted = pyasd.fit(log_mels(6), RECIPE, ids="00", **HOW)
    assert list(fitted.machines[""].members) == ["group-made"]
    table = fitted.score(log_mels(3, 1), ids="00", **HOW)
    assert table["score.mobilenet"].isna().all()
    assert (table["score"] == table["score.mean"]).all()
    assert fitted.explain(log_mels(1)[0], ids="00", **HOW).score_map.shape == (48, MELS)
    with pytest.raises(ValueError, match="no member 'mobilenet'; this detector has group-made"):
        fitted.explain(log_mels(1)[0], ids="00", member="mobilenet", **HOW)


def test_of_one_machine_id_warps_make_further_classes() -> None:
    recipe = made_of(classifier(warps=1), MADE)
    with pytest.warns(UserWarning, match=r"machine ID '00': mobilenet learnt to tell it from its own warps"):
        fitted = pyasd.fit(log_mels(6), recipe, ids="00", **HOW)
    assert list(fitted.machines[""].members) == ["mobilenet", "group-made"]
    assert np.isfinite(fitted.score(log_mels(2, 1), ids="00", **HOW)["score"]).all()


def test_classifiers_alone_need_something_to_tell_apart() -> None:
    with pytest.raises(ValueError, match=r"machine ID '00'.*two IDs or more.*warps=1.*group-made"):
        pyasd.fit(log_mels(6), made_of(classifier()), ids="00", **HOW)


def test_machine_types_may_have_different_members(tmp_path: Path) -> None:
    """The fan has two IDs, the pump one: its clips have no classifier's score, and are combined without it."""
    rng = np.random.default_rng(0)
    for machine, machine_ids in (("fan", ("00", "02")), ("pump", ("00",))):
        (tmp_path / machine / "train").mkdir(parents=True)
        for machine_id in machine_ids:
            for number in range(4):
                path = tmp_path / machine / "train" / f"normal_id_{machine_id}_{number:08}.wav"
                soundfile.write(path, 0.1 * rng.normal(size=20000), 16000)
    path = tmp_path / "model.safetensors"
    with pytest.warns(UserWarning, match=r"pump: all clips are of machine ID '00'.*mobilenet left out"):
        fitted = pyasd.fit(tmp_path, RECIPE, out=path, device="cpu")
    assert list(fitted.machines["fan"].members) == ["mobilenet", "group-made"]
    table = fitted.score(tmp_path)
    fan, pump = table[table["machine_type"] == "fan"], table[table["machine_type"] == "pump"]
    assert fan[["score", "score.mobilenet", "score.group-made"]].notna().all(axis=None)
    assert pump["score.mobilenet"].isna().all()
    assert pump["status"].eq("ok").all()
    assert pump["score"].tolist() == pump["score.mean"].tolist() == pump["score.max"].tolist()
    assert pyasd.load(path).score(tmp_path).equals(table)
    with pytest.raises(ValueError, match="pump has no member 'mobilenet'"):
        fitted.explain(pump["clip"].iloc[0], member="mobilenet")


# -- few clips ---------------------------------------------------------------------------------------------------


def test_an_id_with_a_single_clip_is_standardised_by_the_others_spread() -> None:
    with pytest.warns(UserWarning, match="machine ID '01' has a single clip.*give more"):
        fitted = pyasd.fit(log_mels(7), RECIPE, ids=["00"] * 6 + ["01"], **HOW)
    for baseline in fitted.machines[""].baselines.values():
        assert baseline.moments.count.tolist() == [6, 1]
        assert baseline.moments.variance[1].tolist() == baseline.moments.variance[0].tolist()
    assert fitted.score(log_mels(4, 1), ids="01", **HOW)["score"].abs().max() < 100


def test_further_ids_join_a_machine_type_that_is_tested_without_them(tmp_path: Path) -> None:
    """As the challenge's additional training set does: folders given together are one machine type."""
    rng = np.random.default_rng(0)
    for folder, machine_ids in (("dev", ("01", "02")), ("additional", ("05",))):
        (tmp_path / folder / "fan" / "train").mkdir(parents=True)
        for machine_id in machine_ids:
            for number in range(3):
                path = tmp_path / folder / "fan" / "train" / f"normal_id_{machine_id}_{number:08}.wav"
                soundfile.write(path, 0.1 * rng.normal(size=20000), 16000)
    fitted = pyasd.fit([tmp_path / "dev", tmp_path / "additional"], RECIPE, device="cpu")
    assert fitted.machines["fan"].ids == ("01", "02", "05")
    assert fitted.machines["fan"].members["mobilenet"].ids == ("01", "02", "05")  # type: ignore[attr-defined]


def test_a_classifier_that_only_guesses_is_told_of() -> None:
    ids = ["00", "01"] * 12
    recipe = made_of(classifier(learning_rate=1e-9, epochs=1))
    with pytest.warns(UserWarning, match=r"mobilenet finds the machine ID of \d+% of the held-out images.*about 50%"):
        pyasd.fit(log_mels(24), recipe, ids=ids, **HOW)


# -- divergence, and a kill --------------------------------------------------------------------------------------


def test_nan_keeps_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is NaN in the second epoch: the first one's checkpoint stays, and a new try begins with it."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    real = torch.nn.functional.kl_div
    calls = 0

    def kl_div(*args: Any, **how: Any) -> torch.Tensor:
        nonlocal calls
        calls += torch.is_grad_enabled()
        value = real(*args, **how)
        return value * float("nan") if calls > batches + 1 else value

    recipe = made_of(classifier(epochs=4))
    batches = 2  # of 9 clips with 3 images each
    monkeypatch.setattr(torch.nn.functional, "kl_div", kl_div)
    out = tmp_path / "model.safetensors"
    with pytest.raises(TrainingDiverged, match=r"nan in epoch 2, batch 2.*learning_rate"):
        pyasd.fit(log_mels(12), recipe, ids=["00", "01"] * 6, out=out, **HOW)
    checkpoint = tmp_path / "model.safetensors.checkpoint" / "machine.mobilenet.safetensors"
    tensors, header = storage.read(checkpoint)
    assert len(header["history"]["training"]) == 1
    assert all(torch.isfinite(x).all() for x in tensors.values())
    monkeypatch.setattr(torch.nn.functional, "kl_div", real)
    again = pyasd.fit(log_mels(12), recipe, ids=["00", "01"] * 6, out=out, **HOW)
    whole = pyasd.fit(log_mels(12), recipe, ids=["00", "01"] * 6, **HOW)
    assert again.machines[""].histories == whole.machines[""].histories
    assert not checkpoint.exists()


KILLED = """
import os, signal, sys, numpy as np, pyasd, torch
from pyasd.training import loop
torch.set_num_threads(1)
loop.CHECKPOINT_SECONDS = 0.0
def progress(stage, done, total, info):
    if stage.startswith("training arcface") and done > total // 2 and sys.argv[2] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
rng = np.random.default_rng(0)
clips = [rng.normal(-40, 8, (56, 32)).astype(np.float32) for _ in range(16)]
pyasd.fit(clips, "3", out=sys.argv[1], ids=["00", "01"] * 8, features="log-mel", n_mels=32, width=0.1, image_frames=32,
          hidden=(8, 8), components=2, epochs=4, batch_size=16, device="cpu", progress=progress)
"""


def test_classifiers_killed_in_mid_training_end_with_the_same_file(tmp_path: Path) -> None:
    broken, unbroken = tmp_path / "broken.safetensors", tmp_path / "unbroken.safetensors"

    def run(*arguments: object) -> int:
        return subprocess.run(
            [sys.executable, "-c", KILLED, *map(str, arguments)], env=os.environ, check=False
        ).returncode

    assert run(broken, "kill") == -signal.SIGKILL
    names = [f"machine.{name}.safetensors" for name in ("arcface", "mobilenet")]
    assert sorted(x.name for x in (tmp_path / "broken.safetensors.checkpoint").iterdir()) == names
    _, header = storage.read(tmp_path / "broken.safetensors.checkpoint" / names[0])
    assert 0 < len(header["history"]["training"]) < 4
    assert run(broken, "") == run(unbroken, "") == 0
    assert broken.read_bytes() == unbroken.read_bytes()


# -- texts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "ids", "settings", "words"),
    [
        (("mobilenet", "group-made"), ["00"] * 6, {}, "mobilenet left out, group-made learnt"),
        (("mobilenet", "group-made"), ["00"] * 6, {"warps": 1}, "learnt to tell it from its own warps"),
        (("spectrum", "mobilenet", "group-made"), ["00", "00"], {}, "spectrum, mobilenet left out"),
        (("mobilenet",), ["00", "01"] * 8, {"learning_rate": 1e-9, "epochs": 1}, "finds the machine ID"),
        (("mobilenet",), ["00"] * 6 + ["01"], {}, "by heart"),
        (("group-made",), ["00"] * 5 + ["01"], {}, "has a single fan clip"),
    ],
)
def test_texts_name_the_machine_type_once(
    members: tuple[str, ...], ids: list[str], settings: dict[str, Any], words: str
) -> None:
    recipe = RECIPE.override(members=members, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pyasd.fit(log_mels(len(ids)), recipe, ids=ids, machine_type="fan", **HOW)
    texts = [str(x.message) for x in caught]
    assert any(words in text for text in texts)
    for text in texts:
        assert text.count("fan") == 1, text
        assert "  " not in text


@pytest.mark.parametrize("members", [("mobilenet",), ("spectrum",), ("spectrum", "mobilenet")])
def test_where_nothing_can_be_learnt_the_machine_type_is_named_once(members: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"^fan: .*; or fit group-made$") as caught:
        pyasd.fit(log_mels(2), RECIPE.override(members=members), ids="00", machine_type="fan", **HOW)
    assert str(caught.value).count("fan") == 1


def test_without_a_machine_type_texts_begin_with_what_they_say() -> None:
    with pytest.warns(UserWarning, match=r"^all clips are of machine ID '00'"):
        pyasd.fit(log_mels(6), RECIPE, ids="00", **HOW)


# -- many clips --------------------------------------------------------------------------------------------------


def test_clips_beyond_the_stores_size_are_learnt_from_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With log-Mels in a memory-mapped file, as with log-Mels in memory."""
    recipe = made_of(classifier(), MADE, MemberRecipe.of_kind("spectrum"))
    paths = tmp_path / "memory.safetensors", tmp_path / "file.safetensors"
    stores: list[LogMelStore] = []

    def small() -> LogMelStore:
        stores.append(LogMelStore(memory_bytes=10_000))
        return stores[-1]

    for path in paths:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            pyasd.fit(log_mels(12), recipe, ids=["00", "01"] * 6, out=path, **HOW)
        monkeypatch.setattr(fitting, "LogMelStore", small)
    assert len(stores) == 1
    assert stores[0]._file is not None
    assert paths[0].read_bytes() == paths[1].read_bytes()
