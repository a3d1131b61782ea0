"""docs/ranking.py draws the README's picture from what `pyasd demo` leaves."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image

from pyasd.factory import demo

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "ranking.py"


@pytest.mark.slow
def test_it_draws(tmp_path: Path) -> None:
    demo.run(tmp_path / "demo", clips=4, epochs=1, seconds=1.0)
    runpy.run_path(str(SCRIPT))["main"](tmp_path / "demo", tmp_path / "ranking.png")
    with Image.open(tmp_path / "ranking.png") as picture:
        assert picture.size == (880, 368)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50
