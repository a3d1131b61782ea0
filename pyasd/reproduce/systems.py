"""The report's systems as recipes, and what they share: each member is trained once and counts in several systems."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pyasd import config
from pyasd.config import ClassifierConfig, Combine, Recipe
from pyasd.detector import Detector, Machine

REPORT_SYSTEMS = ("1", "2", "3", "4")
"""The systems of the report, as recipes are called."""

BASELINE_SYSTEM = "autoencoder"
"""The recipe of the challenge's baseline."""

BASELINE = "baseline"
"""The baseline's row in Table 1, and its column in the table of scores."""


def recipes(systems: Sequence[str], changes: Mapping[str, Any]) -> tuple[dict[str, Recipe], Recipe]:
    """Return the recipes of some systems, and the baseline's, with settings changed in all that have them.

    Raises:
        TypeError: none of them has such a setting.
    """
    chosen = {name: config.system(name) for name in dict.fromkeys((*systems, BASELINE_SYSTEM))}
    Recipe(tuple(member_names(chosen.values()))).override(**changes)
    for setting, value in changes.items():
        for name in chosen:
            with contextlib.suppress(TypeError):  # another system has it
                chosen[name] = chosen[name].override(**{setting: value})
    baseline = chosen.pop(BASELINE_SYSTEM)
    return chosen, baseline


def member_names(recipes: Iterable[Recipe]) -> list[str]:
    """Return the names of all members of some recipes, each once."""
    return list(dict.fromkeys(name for recipe in recipes for name in recipe.members))


def can_learn(recipe: Recipe, ids: Sequence[str]) -> bool:
    """Return whether all members of a recipe can learn from clips of these machine IDs."""
    members = [recipe.settings_of(name) for name in recipe.members]
    return len(set(ids)) > 1 or all(x.variants > 1 for x in members if isinstance(x, ClassifierConfig))


def alone(systems: Mapping[str, Recipe], member: str) -> Recipe:
    """Return the recipe of one member, which is the same in all systems that have it.

    Raises:
        ValueError: systems have different settings for it.
    """
    recipes_of_it = []
    for recipe in systems.values():
        if member in recipe.members:
            settings: dict[str, Any] = {member.replace("-", "_"): recipe.settings_of(member)}
            recipes_of_it.append(Recipe((member,), recipe.features, statistics=recipe.statistics, **settings))
    if any(recipe != recipes_of_it[0] for recipe in recipes_of_it):
        raise ValueError(f"systems {', '.join(systems)} have different settings for {member}, and can't share it")
    return recipes_of_it[0]


def together(detectors: Sequence[Detector], machine_type: str) -> Detector:
    """Return one detector of a machine type that has the members of several detectors, of one member each."""
    machine = Machine({}, {}, {})
    for detector in detectors:
        learnt = detector.machines[machine_type]
        machine.members.update(learnt.members)
        machine.statistics.update(learnt.statistics)
        machine.histories.update(learnt.histories)
    recipe = detectors[0].recipe
    settings = {x.recipe.members[0].replace("-", "_"): x.recipe.settings_of(x.recipe.members[0]) for x in detectors}
    changed: dict[str, Any] = {"members": tuple(machine.members), **settings}
    return Detector(replace(recipe, **changed), {machine_type: machine})


def columns(system: str, recipe: Recipe) -> list[tuple[str, Combine]]:
    """Return a system's columns in the table, and how each combines its members: one alone has nothing to combine."""
    if len(recipe.members) == 1:
        return [(f"system {system}", "mean")]
    return [(f"system {system}, mean", "mean"), (f"system {system}, max", "max")]
