"""Recipes: those that come with pyasd, files of the user's own, and what is wrong with them."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

import pyasd
from pyasd import config
from pyasd.config import SYSTEMS, AutoencoderConfig, ClassifierConfig, GroupMadeConfig, LogMelConfig, Recipe

DOCS = Path(__file__).resolve().parents[1] / "docs" / "recipes.md"


def test_the_systems_are_the_reports() -> None:
    assert {name: recipe.members for name, recipe in SYSTEMS.items()} == {
        "1": ("mobilenet", "resnet", "group-made"),
        "2": ("mobilenet", "group-made"),
        "3": ("mobilenet", "arcface", "group-made"),
        "4": ("group-made",),
        "group-made": ("group-made",),
        "group-made-spectrum": ("group-made", "spectrum"),
        "autoencoder": ("autoencoder",),
    }
    assert SYSTEMS["4"] == Recipe()
    assert SYSTEMS["group-made"] == SYSTEMS["4"].override(score="bands")
    assert replace(SYSTEMS["group-made-spectrum"], members=("group-made",)) == SYSTEMS["group-made"]
    assert {(x.combine, x.statistics) for x in SYSTEMS.values()} == {("mean", "training")}
    assert SYSTEMS["2"].mobilenet == SYSTEMS["1"].mobilenet == SYSTEMS["3"].mobilenet
    assert (SYSTEMS["1"].resnet.backbone, SYSTEMS["3"].arcface.loss) == ("resnet", "arcface")
    assert (SYSTEMS["1"].mobilenet.mix, SYSTEMS["1"].mobilenet.warps) == ("power", 2)


@pytest.mark.parametrize("name", SYSTEMS)
def test_each_value_of_a_shipped_recipe_has_its_source(name: str) -> None:
    lines = config.recipe_path(name).read_text().splitlines()
    assert lines[0].startswith("# ")
    for line in lines:
        assert line.startswith("#") or "=" not in line or "  # " in line, line


def test_a_file_of_ones_own_works_like_those_shipped(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(config.recipe_path("2").read_text() + "ratios = [0.9, 1.1]\n[features]\nn_mels = 64\n")
    recipe = config.system(path)
    assert recipe.mobilenet.ratios == (0.9, 1.1)
    assert recipe.mobilenet.mix == "power"
    assert recipe.features == LogMelConfig(n_mels=64)
    assert config.system(str(path)) == recipe
    assert config.system(recipe) is recipe
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_fit_takes_a_recipes_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'members = ["group-made", "autoencoder"]\ncombine = "max"\n[features]\nn_mels = 8\n'
        "[group-made]\nhidden = [8, 8]\ncomponents = 2\nepochs = 1\n[autoencoder]\nhidden = [4]\nepochs = 2\n"
    )
    clips = list(np.random.default_rng(0).normal(-40, 8, (6, 30, 8)).astype(np.float32))
    detector = pyasd.fit(clips, path, ids="00", features="log-mel")
    assert detector.recipe == config.system(path)
    histories = detector.machines[""].histories
    assert [len(histories[name].training) for name in ("group-made", "autoencoder")] == [1, 2]
    assert pyasd.fit(clips, path, ids="00", features="log-mel", epochs=1).recipe.autoencoder.epochs == 1


def test_pretrained_weights_lie_beside_their_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('members = ["resnet"]\n[resnet]\npretrained = "weights.safetensors"\n')
    assert config.system(path).resnet.pretrained == str(tmp_path / "weights.safetensors")


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
        ('combine = "max"', ["members is missing", "group-made"]),
        ('members = ["group-made"]\n[resnet]\nepochs = 2', ["[resnet]", "add it to members"]),
        ('members = ["group-made"]\ncombine = "median"', ["combine", "mean, max", "'median'"]),
        ("members = ]", ["is not TOML", "line 1"]),
    ],
)
def test_what_is_wrong_with_a_recipe_is_told(text: str, parts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.toml") as caught:
        config.system(path)
    for part in parts:
        assert part in str(caught.value)


def test_recipes_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.toml.*pyasd recipes"):
        config.system(tmp_path / "gone.toml")
    with pytest.raises(ValueError, match=r"group-made, 1, 2, 3, 4, or a recipe's \.toml file, not '5'"):
        config.system("5")


def test_the_documentation_has_every_key_and_its_default() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for part in (LogMelConfig, GroupMadeConfig, AutoencoderConfig, ClassifierConfig):
        defaults = part()
        for key in fields(part):
            value = getattr(defaults, key.name)
            shown = "none" if value is None else f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"
            assert f"| `{key.name}` | {shown} |" in text, (part.__name__, key.name, shown)
