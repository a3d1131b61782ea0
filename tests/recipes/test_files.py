"""Recipes in files: those that come with pyasd, files of the user's own, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyasd
from pyasd.models.autoencoder import AutoencoderConfig
from pyasd.models.classifier import ClassifierConfig
from pyasd.models.group_made import GroupMadeConfig
from pyasd.ops import LogMelPlan
from pyasd.recipes import MemberRecipe, Recipe, files

HOW: dict[str, Any] = {"features": "log-mel", "device": "cpu"}


def config(recipe: Recipe, name: str) -> Any:
    return recipe[name].config


def log_mels(count: int, mels: int = 8, frames: int = 30, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(-40, 8, (count, frames, mels)).astype(np.float32))


# -- those that come with pyasd ----------------------------------------------------------------------------------


def test_the_systems_are_the_reports() -> None:
    systems = {name: files.find(name) for name in files.names()}
    assert {name: recipe.names for name, recipe in systems.items()} == {
        "report-1": ("mobilenet", "resnet", "group-made"),
        "report-2": ("mobilenet", "group-made"),
        "report-3": ("mobilenet", "arcface", "group-made"),
        "report-4": ("group-made",),
        "default": ("group-made", "spectrum", "spread", "modulation", "neighbours"),
        "fast": ("spectrum", "spread", "modulation", "neighbours"),
        "group-made": ("group-made",),
        "group-made-spectrum": ("group-made", "spectrum"),
        "autoencoder": ("autoencoder",),
        "ranking": ("nearest", "spread"),
    }
    for number in "1234":
        assert files.path_of(number) == files.path_of(f"report-{number}")
        report = systems[f"report-{number}"]
        assert (report.combine, report.statistics, {x.weight for x in report.members}) == ("mean", "training", {1.0})
        assert all(member.name == member.kind for member in report.members)
    assert systems["report-4"] == Recipe.of_kinds("group-made")
    assert systems["group-made"] == systems["report-4"].override(score="bands")
    assert systems["group-made-spectrum"].override(members=["group-made"]) == systems["group-made"]
    one, two, three = (systems[f"report-{number}"] for number in "123")
    assert two["mobilenet"] == one["mobilenet"] == three["mobilenet"]
    assert config(one, "resnet").backbone == "resnet"
    assert config(three, "arcface").loss == "arcface"
    assert (config(one, "mobilenet").mix, config(one, "mobilenet").warps) == ("power", 2)


def test_the_fast_system_is_the_default_one_without_what_learns_by_steps() -> None:
    default, fast = files.find(files.DEFAULT), files.find("fast")
    assert default.members[1:] == fast.members
    assert default.combine == fast.combine == "signed-log"
    assert (default["group-made"].weight, config(default, "group-made").steps) == (0.5, 500)


@pytest.mark.parametrize("name", files.names())
def test_each_value_of_a_shipped_recipe_has_its_source(name: str) -> None:
    lines = files.path_of(name).read_text().splitlines()
    assert lines[0].startswith("# ")
    for line in lines:
        assert line.startswith("#") or "=" not in line or "  # " in line, line


# -- of one's own ------------------------------------------------------------------------------------------------


def test_a_file_of_ones_own_works_like_those_shipped(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = files.path_of("2").read_text().replace("warps = 2 ", "ratios = [0.9, 1.1]\nwarps = 2 ")
    path.write_text(text + "[features]\nn_mels = 64\n")
    recipe = files.find(path)
    assert config(recipe, "mobilenet").ratios == (0.9, 1.1)
    assert config(recipe, "mobilenet").mix == "power"
    assert recipe.features == LogMelPlan(n_mels=64)
    assert files.find(str(path)) == recipe
    assert files.find(recipe) is recipe


def test_files_of_version_0_1_work_as_ever(tmp_path: Path) -> None:
    """A list of members' kinds, and tables of these names."""
    path = tmp_path / "old.toml"
    path.write_text(
        'members = ["mobilenet", "group-made"]\ncombine = "max"\nstatistics = "held-out"\n[features]\nn_mels = 64\n'
        '[mobilenet]\nmix = "power"\nratios = [0.9, 1.1]\n[group-made]\nscore = "bands"\n'
    )
    assert files.find(path) == Recipe(
        (
            MemberRecipe("mobilenet", "mobilenet", ClassifierConfig(mix="power", ratios=(0.9, 1.1))),
            MemberRecipe("group-made", "group-made", GroupMadeConfig(score="bands")),
        ),
        LogMelPlan(n_mels=64),
        "max",
        "held-out",
    )


def test_fit_takes_a_recipes_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'members = ["group-made", "autoencoder"]\ncombine = "max"\n[features]\nn_mels = 8\n'
        "[group-made]\nhidden = [8, 8]\ncomponents = 2\nepochs = 1\n[autoencoder]\nhidden = [4]\nepochs = 2\n"
    )
    clips = log_mels(6)
    detector = pyasd.fit(clips, path, ids="00", **HOW)
    assert detector.recipe == files.find(path)
    histories = detector.machines[""].histories
    assert [len(histories[name].training) for name in ("group-made", "autoencoder")] == [1, 2]
    again = pyasd.fit(clips, path, ids="00", epochs=1, **HOW)
    assert config(again.recipe, "autoencoder") == AutoencoderConfig(hidden=(4,), epochs=1)


TWO_OF_A_KIND = """
[features]
n_mels = 32

[[member]]
kind = "mobilenet"
name = "plain"
width = 0.1
image_frames = 32
epochs = 1
batch_size = 16

[[member]]
kind = "mobilenet"
name = "warped twice"
width = 0.1
image_frames = 32
warps = 2
epochs = 2
batch_size = 16
"""


@pytest.mark.filterwarnings("ignore:mobilenet|.* finds the machine ID|.*by heart")
def test_two_members_of_one_kind_in_one_recipe(tmp_path: Path) -> None:
    path, model = tmp_path / "two.toml", tmp_path / "model.safetensors"
    path.write_text(TWO_OF_A_KIND)
    clips, ids = log_mels(12, 32, 48), ["00", "01"] * 6
    detector = pyasd.fit(clips, path, ids=ids, out=model, **HOW)
    members = detector.machines[""].members
    assert list(members) == ["plain", "warped twice"]
    assert [x.kind for x in members.values()] == ["mobilenet", "mobilenet"]
    assert [x.config.variants for x in members.values()] == [1, 3]  # type: ignore[attr-defined]
    assert [len(x.training) for x in detector.machines[""].histories.values()] == [1, 2]
    table = detector.score(log_mels(3, 32, 48, 1), ids="00", **HOW)
    assert np.isfinite(table[["score", "score.plain", "score.warped twice"]]).all(axis=None)
    assert not (table["score.plain"] == table["score.warped twice"]).any()
    loaded = pyasd.load(model)
    assert loaded.recipe == detector.recipe == files.find(path)
    assert loaded.score(log_mels(3, 32, 48, 1), ids="00", **HOW).equals(table)
    plain, warped = (loaded.explain(clips[0], ids="00", member=name, **HOW).score_map for name in members)
    assert not np.array_equal(plain, warped)


def test_pretrained_weights_lie_beside_their_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    for text in (
        'members = ["resnet"]\n[resnet]\npretrained = "weights.safetensors"\n',
        '[[member]]\nkind = "resnet"\npretrained = "weights.safetensors"\n',
    ):
        path.write_text(text)
        assert config(files.find(path), "resnet").pretrained == str(tmp_path / "weights.safetensors")


# -- what is wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('members = ["group-made"]\n[group-made]\nepoch = 3', ["[group-made]", "'epoch'", "epochs"]),
        ('members = ["group-made"]\ncombined = "max"', ["'combined'", "combine"]),
        ('members = ["mobilenet"]\n[mobilnet]\nepochs = 3', ["'mobilnet'", "mobilenet"]),
        ('members = ["mobilenet"]\n[mobilenet]\nmix = "linear"', ["[mobilenet] mix", "none, power, log", "'linear'"]),
        ('members = ["mobilenet"]\n[mobilenet]\nepochs = 0', ["[mobilenet] epochs", "at least 1"]),
        ('members = ["mobilenet"]\n[mobilenet]\nepochs = "9"', ["[mobilenet] epochs", "a whole number", "'9'"]),
        ('members = ["mobilenet"]\n[mobilenet]\nepochs = 2.5', ["[mobilenet] epochs", "a whole number"]),
        ('members = ["mobilenet"]\n[mobilenet]\nepochs = true', ["[mobilenet] epochs", "a whole number"]),
        ('members = ["mobilenet"]\n[mobilenet]\nbalance = 1', ["[mobilenet] balance", "true or false", "1"]),
        ('members = ["mobilenet"]\n[mobilenet]\nlearning_rate = nan', ["learning_rate", "a number"]),
        ('members = ["mobilenet"]\n[mobilenet]\nratios = 0.9', ["[mobilenet] ratios", "a list"]),
        ('members = ["mobilenet"]\n[mobilenet]\nratios = [9.0]', ["[mobilenet] ratios", "0.25 and 4"]),
        ('members = ["mobilenet"]\nmobilenet = 3', ["[mobilenet] must be a table"]),
        ('members = ["mobilnet"]', ["mobilenet", "'mobilnet'"]),
        ("members = []", ["needs members"]),
        ('combine = "max"', ["members are missing", "group-made"]),
        ('members = ["group-made"]\n[resnet]\nepochs = 2', ["[resnet]", "add it to members"]),
        ('members = ["group-made"]\ncombine = "median"', ["combine", "mean, max", "'median'"]),
        ("members = ]", ["is not TOML", "line 1"]),
        ('members = "group-made"', ["members must be a list", "'group-made'"]),
        (
            'members = ["spectrum"]\n[spectrum]\nepochs = 3',
            ["[spectrum] has no setting 'epochs'; it has covariance, over_time"],
        ),
        ("[[member]]\nepochs = 3", ["[[member]] has no kind", "group-made", "spectrum"]),
        ('[[member]]\nkind = "transformer"', ["member must be one of", "spectrum", "'transformer'"]),
        ('[[member]]\nkind = "mobilenet"\nepoch = 3', ["[mobilenet]", "'epoch'", "epochs"]),
        ('[[member]]\nkind = "mobilenet"\nname = "x"\nepochs = 0', ["[x] epochs", "at least 1"]),
        ('[[member]]\nkind = "mobilenet"\nname = "a/b"', ["a member's name", "'a/b'"]),
        ('[[member]]\nkind = "mobilenet"\nname = "max"', ["a member's name", "score.max"]),
        ('[[member]]\nkind = "mobilenet"\n[[member]]\nkind = "mobilenet"', ["by a name of its own", "mobilenet"]),
        ('member = "mobilenet"', ["must be tables [[member]]", "'mobilenet'"]),
        ('members = ["spectrum"]\n[[member]]\nkind = "spectrum"', ["'members'", "member"]),
        ('[[member]]\nkind = "spectrum"\n[mobilenet]\nepochs = 3', ["'mobilenet'"]),
    ],
)
def test_what_is_wrong_with_a_recipe_is_told(text: str, parts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.toml") as caught:
        files.find(path)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["3", '["x"]', "true"])
@pytest.mark.parametrize("key", ["kind", "name"])
def test_names_and_kinds_are_texts(key: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[[member]]\n" + ("" if key == "kind" else 'kind = "spectrum"\n') + f"{key} = {name}\n")
    with pytest.raises(ValueError, match=r"mine\.toml.*(member|name) must be"):
        files.find(path)


def test_recipes_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.toml.*pyasd recipes"):
        files.find(tmp_path / "gone.toml")
    with pytest.raises(ValueError, match=r"report-3, report-4, or a recipe's \.toml file, not '5'"):
        files.find("5")
