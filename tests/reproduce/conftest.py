"""Miniatures of DCASE 2020, and what was reproduced with them by tiny trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pyasd.factory import miniature
from pyasd.reproduce.report import Result
from pyasd.reproduce.reproduce import Settings, reproduce
from pyasd.reproduce.units import Hardware

MACHINES = ("fan", "pump")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two machine types, all parts."""
    folder = tmp_path_factory.mktemp("dcase2020") / "data"
    miniature.write(folder, machines=MACHINES, train=3, test=2, seconds=1.0)
    return folder


@pytest.fixture(scope="session")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Systems 2 and 4, one epoch."""
    out = tmp_path_factory.mktemp("reproduced")
    return out, group_made(data, out, systems=("2", "4"))


CPU = Hardware("cpu")


def group_made(data: Path, out: Path, jobs: int | None = None, **changes: object) -> Result:
    """System 4, one seed, one epoch; `changes` are those of `Settings` and of its recipe."""
    names = {"systems", "machines", "seeds", "quick", "labels"}
    settings: dict[str, Any] = {"systems": ("4",), "seeds": 1} | {k: v for k, v in changes.items() if k in names}
    recipe = {"epochs": 1} | {k: v for k, v in changes.items() if k not in names}
    return reproduce(data, out, Settings(**settings, recipe=recipe), CPU, jobs=jobs)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)
