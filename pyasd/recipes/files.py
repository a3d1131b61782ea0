"""Recipes in TOML files: those that come with pyasd, and a user's own (docs/recipes.md)."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pyasd.models.member import kinds
from pyasd.recipes.recipe import Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEFAULT = "default"
"""The recipe of `pyasd fit`."""

RANKING = "ranking"
"""The recipe of `pyasd score` without a model."""

FOLDER = Path(__file__).parent
"""The folder of the recipes that come with pyasd: `<name>.toml`."""

REPORT = "report-"
"""What the recipes of the report's systems are called by; their numbers alone name them too."""


def names() -> list[str]:
    """Return the names of the recipes that come with pyasd. "report-1" to "report-4" are the report's systems (section
    2.3), the last of which is Group MADE alone; "autoencoder" is its baseline row.
    """
    return [path.stem for path in sorted(FOLDER.glob("*.toml"))]


def path_of(name: str) -> Path:
    """Return the file of a recipe that comes with pyasd.

    Raises:
        ValueError: there is no such recipe; the message lists those there are.
    """
    full = REPORT + name if name.isdecimal() else name
    if full not in names():
        raise ValueError(f"system must be one of {', '.join(names())}, or a recipe's .toml file, not {name!r}")
    return FOLDER / f"{full}.toml"


def find(system: str | os.PathLike[str] | Recipe) -> Recipe:
    """Return the recipe of that name, or in the file of that name, which ends in ".toml"; a recipe stands for itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no such recipe (the message lists those there are), or a file has none in it.
    """
    if isinstance(system, Recipe):
        return system
    if Path(system).suffix == ".toml":
        return read(system)
    return _built_in(os.fspath(system))


@lru_cache(maxsize=None)
def _built_in(name: str) -> Recipe:
    return read(path_of(name))


def read(path: str | os.PathLike[str]) -> Recipe:
    """Read the recipe in a TOML file. Files that its settings name are taken from its folder.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it isn't TOML, has an unknown key, or a key can't have its value; the message names the file, the
            key, and what is allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no recipe {path}: `pyasd recipes NAME` prints one to begin with")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        if "members" not in values and "member" not in values:
            raise ValueError(f"members are missing: give a [[member]] with a kind, one of {', '.join(kinds())}")
        recipe = Recipe.from_dict(values)
        for table in values.keys() & kinds().keys() - set(recipe.names):
            raise ValueError(f"[{table}] is no member of this recipe: add it to members, or leave its table out")
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    members = [replace(x, config=x.config.relative_to(str(path.parent))) for x in recipe.members]
    return replace(recipe, members=tuple(members))
