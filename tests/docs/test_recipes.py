"""The TOML of docs/recipes.md makes recipes."""

from __future__ import annotations

import re
from pathlib import Path

from pyasd.recipes import files

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")


def test_its_examples_are_recipes(tmp_path: Path) -> None:
    named, old = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "named.toml").write_text(named, encoding="utf-8")
    (tmp_path / "old.toml").write_text(old, encoding="utf-8")
    recipe = files.read(tmp_path / "named.toml")
    assert recipe.names == ("mixed", "warped", "group-made")
    assert [member.kind for member in recipe.members] == ["mobilenet", "mobilenet", "group-made"]
    assert (recipe.combine, recipe.features.n_mels) == ("max", 64)
    assert files.read(tmp_path / "old.toml").names == ("mobilenet", "group-made")


def test_it_lists_every_shipped_recipe() -> None:
    overview = PAGE.split("```sh")[0]
    assert set(re.findall(r"^\| `([\w-]+)`", overview, re.MULTILINE)) == set(files.names())
