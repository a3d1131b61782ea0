"""The report's systems as recipes, and what they share: each member is trained once and counts in several systems."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pyasd.detector import Detector, Machine
from pyasd.models import kinds
from pyasd.recipes import Recipe, files
from pyasd.tables import Combination

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
    chosen = {name: files.find(name) for name in dict.fromkeys((*systems, BASELINE_SYSTEM))}
    Recipe.of_kinds(*member_names(chosen.values())).override(**changes)
    for setting, value in changes.items():
        for name in chosen:
            with contextlib.suppress(TypeError):  # another system has it
                chosen[name] = chosen[name].override(**{setting: value})
    baseline = chosen.pop(BASELINE_SYSTEM)
    return chosen, baseline


def member_names(recipes: Iterable[Recipe]) -> list[str]:
    """Return the names of all members of some recipes, each once."""
    return list(dict.fromkeys(name for recipe in recipes for name in recipe.names))


def can_learn(recipe: Recipe, ids: Sequence[str]) -> bool:
    """Return whether all members of a recipe can learn from clips of these machine IDs."""
    members = (kinds()[x.kind](x.name, x.config, recipe.features.n_mels) for x in recipe.members)
    return all(member.obstacle(ids) is None for member in members)


def alone(systems: Mapping[str, Recipe], member: str) -> Recipe:
    """Return the recipe of one member, which is the same in all systems that have it.

    Raises:
        ValueError: systems have different settings for it.
    """
    first, *others = (
        replace(recipe, members=(recipe[member],), combine="mean")
        for recipe in systems.values()
        if member in recipe.names
    )
    if any(recipe != first for recipe in others):
        raise ValueError(f"systems {', '.join(systems)} have different settings for {member}, and can't share it")
    return first


def together(detectors: Sequence[Detector], machine_type: str) -> Detector:
    """Return one detector of a machine type that has the members of several detectors, of one member each."""
    machine = Machine()
    for detector in detectors:
        learnt = detector.machines[machine_type]
        machine.members.update(learnt.members)
        machine.baselines.update(learnt.baselines)
        machine.histories.update(learnt.histories)
    members = tuple(member for detector in detectors for member in detector.recipe.members)
    return Detector(replace(detectors[0].recipe, members=members), {machine_type: machine})


def columns(system: str, recipe: Recipe) -> list[tuple[str, Combination]]:
    """Return a system's columns in the table, and how each combines its members: one alone has nothing to combine."""
    if len(recipe.members) == 1:
        return [(f"system {system}", "mean")]
    return [(f"system {system}, mean", "mean"), (f"system {system}, max", "max")]
