"""The registry of members, what all of them promise, and a member from a package of somebody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from pyasd.compute import Compute
from pyasd.models import Member, MemberConfig, Mode, Spectrum, kinds, member, register
from pyasd.training.data import TrainingSet
from pyasd.training.run import Run


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten with it."""
    monkeypatch.setattr(member, "_registered", dict(kinds()))


# -- the registry ------------------------------------------------------------------------------------------------


def test_the_kinds_that_come_with_pyasd() -> None:
    assert set(kinds()) == {
        "autoencoder",
        "mobilenet",
        "resnet",
        "arcface",
        "group-made",
        "modulation",
        "neighbours",
        "spectrum",
    }
    assert all(x.kind == kind and issubclass(x, Member) for kind, x in kinds().items())


def test_two_classes_of_one_kind_are_refused() -> None:
    class Other(Spectrum):
        kind = "spectrum"

    with pytest.raises(ValueError, match="two kinds of members called 'spectrum'"):
        register(Other)
    assert kinds()["spectrum"] is Spectrum
    assert register(Spectrum) is Spectrum, "the same class twice is one"


@pytest.mark.parametrize("name", ["name", "kind", "weight"])
def test_settings_that_recipes_need_themselves_are_refused(name: str) -> None:
    config: Any = dataclass(frozen=True)(type("Config", (MemberConfig,), {"__annotations__": {name: "str"}, name: "x"}))

    class Other(Spectrum):
        kind = "other"
        Config = config

    with pytest.raises(ValueError, match=f"Other's settings can't be called {name}: recipes need these"):
        register(Other)
    assert "other" not in member._registered


@pytest.mark.parametrize("name", ["kind", "Config", "MODES"])
def test_a_class_that_lacks_what_recipes_and_help_need_is_refused(name: str) -> None:
    other = type("Other", (Spectrum,), {"kind": "other", name: None})
    with pytest.raises(ValueError, match=f"Other has no {name}: see docs/extending.md"):
        register(other)
    assert "other" not in member._registered


def test_an_entry_point_that_is_no_member_is_told(tmp_path: Path) -> None:
    make_package(tmp_path, "no_member", "NUMBER = 3\n", "three = no_member:NUMBER")
    failed = run_with(tmp_path, "from pyasd.models import kinds; kinds()")
    assert failed.returncode == 1
    assert "ValueError: the entry point no_member:NUMBER of pyasd.members is no subclass of" in failed.stderr


def test_another_packages_fault_costs_its_own_member_only(tmp_path: Path) -> None:
    make_package(tmp_path, "broken_member", "import no_such_library\n", "broken = broken_member:Broken")
    done = run_with(tmp_path, "from pyasd.models import kinds; print(*kinds())")
    assert done.returncode == 0
    assert done.stdout.split() == [*kinds()]
    assert "the member broken_member:Broken of pyasd.members can't be loaded" in done.stderr
    assert "no_such_library" in done.stderr


# -- what all members promise ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(kinds()))
def test_modes_have_a_unit_and_a_meaning(kind: str) -> None:
    made = kinds()[kind](kind, kinds()[kind].Config(), 128)
    assert (made.name, made.kind, made.mels, made.seed) == (kind, kind, 128, 0)
    assert made.mode_names == tuple(mode.name for mode in made.modes)
    assert made.default_mode in made.mode_names
    for mode in made.modes:
        assert isinstance(mode, Mode)
        assert mode.unit
        assert mode.doc
        assert made.mode(mode.name) == mode
    assert made.training_compute(Compute()) == Compute()
    assert made.remarks() == []


SMALL: dict[str, dict[str, object]] = {
    "autoencoder": {"hidden": (8,), "epochs": 1},
    "group-made": {"hidden": (8, 8), "components": 2, "epochs": 1},
    "mobilenet": {"width": 0.1, "image_frames": 32, "epochs": 1},
    "arcface": {"width": 0.1, "image_frames": 32, "epochs": 1},
}


LEARN_AT_ONCE = ("modulation", "neighbours", "spectrum")
"""Members without epochs."""


@pytest.mark.parametrize("kind", [*sorted(SMALL), *LEARN_AT_ONCE])
def test_scorers_keep_their_contract(kind: str) -> None:
    """The clips' shape in, `[clips, modes]` float64 out; the modes that were asked for; state makes the same member."""
    clips = [x.float() for x in -40 + 8 * torch.randn(8, 40, 32)]
    ids = ["00", "01"] * 4
    made = kinds()[kind](kind, kinds()[kind].Config(**SMALL.get(kind, {})), 32)
    data, heard = TrainingSet(clips, ids), []
    run = Run(progress=lambda *step: heard.append(step), stage="learning")
    history = made.fit(data, run)
    assert len(history.training) == (0 if kind in LEARN_AT_ONCE else 1)
    assert heard[-1][0].startswith("learning")
    if kind in LEARN_AT_ONCE:
        assert heard == [("learning", 1, 1, "")]
    normal = made.normal_scores(data, Run())
    assert normal.scores.shape == (8, len(made.modes))
    assert list(normal.ids) == ids
    scores = made.scorer().score_many(clips[:3], ["00", "01", None])
    assert scores.shape == (3, len(made.modes))
    assert scores.dtype == torch.float64
    assert torch.equal(made.scorer().score(clips[1], "01"), scores[1])
    for column, mode in enumerate(made.mode_names):
        alone = made.scorer(modes=[mode]).score_many(clips[:3], ["00", "01", None])
        assert torch.equal(alone[:, 0], scores[:, column])
        shown = made.scorer(modes=[mode]).explain(clips[0], mode, "00")
        assert shown.shape == clips[0].shape
        assert shown.dtype == torch.float32
    again = kinds()[kind](kind, made.config, 32, seed=5)
    again.load_state(made.state())
    assert again.mode_names == made.mode_names
    assert torch.equal(again.scorer().score_many(clips[:3], ["00", "01", None]), scores)
    assert all(x.device.type == "cpu" for x in made.state().values())


# -- from another package ----------------------------------------------------------------------------------------


def make_package(folder: Path, name: str, code: str, entry_point: str) -> None:
    """Write a package of one file as pip would install it: with metadata that has an entry point."""
    (folder / f"{name}.py").write_text(code)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[pyasd.members]\n{entry_point}\n")


def run_with(folder: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own that has the packages in `folder`, and this pyasd."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


LOUDNESS = '''
"""How far a clip's level lies from the loudest normal clip of its machine ID."""

from dataclasses import dataclass

import numpy as np
import torch

from pyasd.models import Member, MemberConfig, Mode, NormalScores, Scorer
from pyasd.training.run import History


@dataclass(frozen=True)
class LoudnessConfig(MemberConfig):
    tolerance: float = 1.0


class Loudness(Member):
    kind = "loudness"
    Config = LoudnessConfig
    MODES = (Mode("level", "dB", "how far the mean level lies from the normal one"),)

    def fit(self, data, run):
        levels = torch.stack([x.double().mean() for x in data.log_mels])
        self.level = levels.mean().reshape(1)
        run.progress(run.stage, 1, 1, "")
        return History()

    def normal_scores(self, data, run):
        scores = self.scorer(run.compute).score_many(list(data.log_mels), data.ids)
        return NormalScores(scores.cpu().numpy(), data.ids, 0.0)

    def scorer(self, compute=None, modes=None):
        return LoudnessScorer(self.level, self.config.tolerance)

    def state(self):
        return {"level": self.level}

    def load_state(self, state):
        if set(state) != {"level"}:
            raise ValueError("tensors are missing, unknown or of another shape")
        self.level = state["level"]


class LoudnessScorer(Scorer):
    def __init__(self, level, tolerance):
        self.level, self.tolerance = level, tolerance

    def score_many(self, log_mels, machine_ids):
        levels = torch.stack([x.double().mean() for x in log_mels])
        return ((levels - self.level.to(levels.device)).abs() / self.tolerance)[:, None]

    def explain(self, log_mel, mode, machine_id=None):
        return ((log_mel - self.level.to(log_mel.device)) / self.tolerance).float()
'''

USE = """
import sys, warnings
import numpy as np
import pyasd
folder = sys.argv[1]
rng = np.random.default_rng(0)
clips = list(rng.normal(-40, 8, (6, 30, 8)).astype(np.float32))
how = {"features": "log-mel", "device": "cpu"}
detector = pyasd.fit(clips, f"{folder}/loud.toml", ids=["00", "01"] * 3, out=f"{folder}/model.safetensors", **how)
assert list(detector.machines[""].members) == ["level", "half", "spectrum"], detector.machines
new = [clips[0], clips[1] + 20]
table = detector.score(new, ids="00", **how)
assert table["status"].tolist() == ["ok", "ok"], table
assert table["score.level"][1] > table["score.level"][0] + 15, table
np.testing.assert_allclose(table["score.half"], table["score.level"] / 2)
loaded = pyasd.load(f"{folder}/model.safetensors")
assert loaded.recipe["half"].config.tolerance == 2
assert loaded.score(new, ids="00", **how).equals(table)
assert loaded.mode("level", "level").unit == "dB"
shown = loaded.explain(new[1], ids="00", member="level", **how).score_map
np.testing.assert_allclose(abs(shown.mean()), table["score.level"][1], rtol=1e-4)
print("learnt, saved, loaded, scored and explained")
"""

RECIPE = """
[features]
n_mels = 8

[[member]]
kind = "loudness"
name = "level"

[[member]]
kind = "loudness"
name = "half"
tolerance = 2

[[member]]
kind = "spectrum"
"""


def test_a_member_of_another_package_takes_part_by_its_entry_point(tmp_path: Path) -> None:
    make_package(tmp_path, "pyasd_loudness", LOUDNESS, "loudness = pyasd_loudness:Loudness")
    (tmp_path / "loud.toml").write_text(RECIPE)
    done = run_with(tmp_path, USE, str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "learnt, saved, loaded, scored and explained"
    assert "loudness" not in kinds()
