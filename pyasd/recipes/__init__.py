"""Recipes: what a detector is made of, and the TOML files that say so."""

from __future__ import annotations

from pyasd.recipes.recipe import MemberRecipe, Recipe

__all__ = ["MemberRecipe", "Recipe"]
