"""Recipes as values: members by name, settings, and the plain dictionaries that they are written as."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from pyasd.models import kinds
from pyasd.models.autoencoder import AutoencoderConfig
from pyasd.models.classifier import ClassifierConfig
from pyasd.models.group_made import GroupMadeConfig
from pyasd.models.neighbours import NeighboursConfig
from pyasd.models.spectrum import SpectrumConfig
from pyasd.ops import LogMelPlan
from pyasd.recipes import MemberRecipe, Recipe, files

DOCS = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"


def config(recipe: Recipe, name: str) -> Any:
    return recipe[name].config


def test_members_are_found_by_name() -> None:
    first, second = MemberRecipe.of_kind("mobilenet"), MemberRecipe.of_kind("mobilenet", "warped")
    recipe = Recipe((first, second))
    assert recipe.names == ("mobilenet", "warped")
    assert recipe["warped"] is second
    assert Recipe.of_kinds("group-made", "spectrum").names == ("group-made", "spectrum")
    assert [x.kind for x in Recipe.of_kinds("group-made", "spectrum").members] == ["group-made", "spectrum"]


@pytest.mark.parametrize("names", [(), ("a", "a")])
def test_members_need_names_of_their_own(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="needs members, each by a name of its own"):
        Recipe(tuple(MemberRecipe.of_kind("mobilenet", name) for name in names))


@pytest.mark.parametrize("name", ["", "a/b", "a,b", "a\nb"])
def test_names_that_columns_and_tensors_can_not_have(name: str) -> None:
    with pytest.raises(ValueError, match="a member's name"):
        MemberRecipe(name, "mobilenet", ClassifierConfig())


def test_settings_reach_all_that_have_them() -> None:
    recipe = Recipe.of_kinds("group-made", "autoencoder")
    recipe = recipe.override(epochs=7, order="middle", pad="constant", combine="max", seed=None)
    assert (config(recipe, "group-made").epochs, config(recipe, "autoencoder").epochs) == (7, 7)
    assert (config(recipe, "group-made").order, recipe.features.pad, recipe.combine) == ("middle", "constant", "max")
    assert files.find("4") == Recipe.of_kinds("group-made")  # the report's system 4 is Group MADE alone
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_settings_reach_both_of_one_kind() -> None:
    recipe = Recipe((MemberRecipe.of_kind("mobilenet"), MemberRecipe.of_kind("mobilenet", "b"))).override(epochs=3)
    assert [x.config.epochs for x in recipe.members] == [3, 3]  # type: ignore[attr-defined]


def test_members_are_chosen_among_ones_own_or_kinds() -> None:
    """A name that the recipe has keeps its settings; any other is a kind with default settings."""
    recipe = Recipe((MemberRecipe("warped", "mobilenet", ClassifierConfig(warps=3)), MemberRecipe.of_kind("spectrum")))
    chosen = recipe.override(members=["autoencoder", "warped"])
    assert chosen.names == ("autoencoder", "warped")
    assert config(chosen, "warped").warps == 3
    assert config(chosen, "autoencoder") == AutoencoderConfig()
    with pytest.raises(ValueError, match=r"member must be one of .*'transformer'"):
        recipe.override(members=["transformer"])


def test_unknown_settings_name_near_matches() -> None:
    with pytest.raises(TypeError, match=r"'epoch'; did you mean epochs"):
        Recipe.of_kinds("group-made").override(epoch=3)
    with pytest.raises(TypeError, match="'epochs'"):
        Recipe.of_kinds("spectrum").override(epochs=3)


def test_settings_that_a_kind_can_not_have_are_named() -> None:
    with pytest.raises(ValueError, match="epochs must be a whole number"):
        Recipe.of_kinds("group-made").override(epochs=2.5)
    with pytest.raises(ValueError, match="combine must be one of mean, max"):
        replace(Recipe.of_kinds("group-made"), combine="median")  # type: ignore[arg-type]


def test_what_members_need_of_clips() -> None:
    assert Recipe.of_kinds("spectrum").min_frames == 5
    assert Recipe.of_kinds("mobilenet").min_frames == 5
    assert Recipe.of_kinds("group-made", "autoencoder").override(frames=7).min_frames == 7
    assert Recipe.of_kinds("group-made").repeats_below == 0
    assert Recipe.of_kinds("group-made", "mobilenet").override(image_frames=32).repeats_below == 32
    recipe = Recipe(
        (
            MemberRecipe("a", "mobilenet", ClassifierConfig(ratios=(0.9, 1.1))),
            MemberRecipe("b", "mobilenet", ClassifierConfig(ratios=(1.1, 1.25))),
            MemberRecipe.of_kind("group-made"),
        )
    )
    assert recipe.speeds == (0.9, 1.1, 1.25)


def test_dictionaries_and_json_give_the_recipe_back() -> None:
    recipe = Recipe(
        (MemberRecipe("a", "mobilenet", ClassifierConfig(ratios=(0.9,))), MemberRecipe.of_kind("spectrum", "level")),
        LogMelPlan(n_mels=64),
        "max",
        "robust",
    )
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


def test_headers_of_version_0_1_are_read() -> None:
    """They list the members' kinds, and have a table for every kind, member or not, with underscores."""
    tables: dict[str, Any] = {kind.replace("-", "_"): asdict(x.Config()) for kind, x in kinds().items()}
    tables["group_made"] |= {"epochs": 7, "hidden": [16, 8, 16]}
    tables["mobilenet"] |= {"warps": 2, "ratios": [0.9]}
    tables["arcface"] |= {"scale": 12.0}
    header = {
        "members": ["mobilenet", "arcface", "group-made"],
        "combine": "max",
        "statistics": "held-out",
        "features": asdict(LogMelPlan(n_mels=64)),
        **tables,
    }
    recipe = Recipe.from_dict(json.loads(json.dumps(header)))
    assert recipe.names == ("mobilenet", "arcface", "group-made")
    assert (recipe.combine, recipe.statistics, recipe.features) == ("max", "held-out", LogMelPlan(n_mels=64))
    assert config(recipe, "group-made") == GroupMadeConfig(epochs=7, hidden=(16, 8, 16))
    assert config(recipe, "mobilenet") == ClassifierConfig(warps=2, ratios=(0.9,))
    assert config(recipe, "arcface") == kinds()["arcface"].Config(loss="arcface", scale=12.0)  # type: ignore[call-arg]
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_the_documentation_has_every_key_and_its_default() -> None:
    text = DOCS.read_text(encoding="utf-8")
    for part in (LogMelPlan, GroupMadeConfig, AutoencoderConfig, ClassifierConfig, SpectrumConfig, NeighboursConfig):
        defaults = part()
        for key in fields(part):
            value = getattr(defaults, key.name)
            shown = "none" if value is None else f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"
            assert f"| `{key.name}` | {shown} |" in text, (part.__name__, key.name, shown)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"components": 10**7}, "weights"),
        ({"hidden": (10**9,)}, "weights"),
        ({"frames": 10**8}, "units"),
        ({"n_mels": 10**8}, "n_mels from 1 to"),
        ({"n_fft": 2**30}, "n_fft must be"),
    ],
)
def test_settings_that_no_machine_has_room_for_are_told(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Recipe.of_kinds("group-made").override(**changes)


@pytest.mark.parametrize(
    "changes", [{"width": 1e6}, {"image_frames": 10**8}, {"warps": 10**6}, {"ratios": [0.5] * 999}]
)
def test_classifiers_that_no_machine_has_room_for_are_told(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="up to"):
        Recipe.of_kinds("mobilenet").override(**changes)
