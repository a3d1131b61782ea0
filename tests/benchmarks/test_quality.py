"""The table of detection quality, on clips whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import quality


def clips(shift: float, seed: int = 0) -> quality.ClipSet:
    rng = np.random.default_rng(seed)

    def some(count: int, by: float = 0.0) -> list[np.ndarray]:
        level = rng.normal(-40 + by, 1, (count, 1, 128))
        return list((level + rng.normal(0, 3, (count, 20, 128))).astype(np.float32))

    test = some(20) + some(20, shift)
    return quality.ClipSet(some(40), ["00", "01"] * 20, test, ["00", "01"] * 20, np.repeat([0, 1], 20))


@pytest.mark.parametrize("name", [*quality.BASELINES, "fast"])
def test_plain_faults_are_found_and_none_at_chance(name: str) -> None:
    for shift, low, high in ((10.0, 99.9, 100.0), (0.0, 20.0, 80.0)):
        line = quality.measure(name, {"made": clips(shift)}, 1)
        assert line.figures.shape == (1, 2)
        assert low <= line.figures[0, 0] <= high


def test_regret_and_means() -> None:
    line = quality.Line("x", np.array([[90.0, 80.0], [70.0, 60.0]]), 0.5, 1.25, 99.6)
    row = list(quality.cells(line, np.array([80.0, 75.0])))
    assert row == ["x", "90.0 / 80.0", "70.0 / 60.0", "**80.0 / 70.0**", "70.0", "10.0", "0.5", "1.2", "100"]


def test_real_sets_are_whole(real_data: Path) -> None:
    loaded = quality.load("adiload", real_data)
    assert (len(loaded.train), len(loaded.test), int(loaded.labels.sum())) == (105, 195, 90)
    assert len(quality.load("toycar", real_data).train) == 222
