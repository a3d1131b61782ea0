"""Regions: found where they were put, in noise whose statistics are known; named by their form."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pyasd.detector import regions
from pyasd.detector.regions import Kind, Region
from pyasd.models.over_time import OverTime, Usual
from pyasd.ops import LogMelPlan

FRAMES, MELS = 313, 128
LEVELS = np.linspace(-30, -60, MELS)
STATISTICS: tuple[OverTime, ...] = ("mean", "deviation", "change")


def usual(quick: float = 5.0, slow: float = 1.0) -> Usual:
    """What is usual in clips of white noise, whose deviations and changes hardly differ from clip to clip."""
    each = (LEVELS, np.full(MELS, quick), np.full(MELS, quick * 2**0.5))
    scales = (slow, quick / 10, quick / 10)
    return Usual(
        dict(zip(STATISTICS, each, strict=True)),
        {name: np.full(MELS, x) for name, x in zip(STATISTICS, scales, strict=True)},
        slow,
    )


def clip(seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(LEVELS, 5, (FRAMES, MELS))


def find(log_mel: NDArray[np.float64]) -> list[Region]:
    return regions.find(log_mel, usual(), LogMelPlan())


def test_nothing_stands_out_in_normal_clips() -> None:
    assert [find(clip(seed)) for seed in range(10)] == [[]] * 10


@pytest.mark.parametrize(
    ("kind", "frames", "bands", "decibels"),
    [
        ("tone", (100, 200), (60, 62), 12),
        ("tone", (0, FRAMES), (20, 21), 12),
        ("band", (50, 90), (30, 60), 8),
        ("burst", (200, 206), (10, 100), 12),
        ("level", (0, FRAMES), (0, MELS), 6),
        ("level", (0, FRAMES), (0, MELS), -6),
        ("drop-out", (150, 180), (0, MELS), -30),
        ("quieter", (0, FRAMES), (70, 90), -8),
    ],
)
def test_a_change_is_found_and_named(
    kind: Kind, frames: tuple[int, int], bands: tuple[int, int], decibels: float
) -> None:
    x = clip()
    x[slice(*frames), slice(*bands)] += decibels
    (found,) = find(x)
    assert found.kind == kind
    length = frames[1] - frames[0]
    assert found.frames == pytest.approx(frames, abs=max(2, length // 10))
    assert found.bands == pytest.approx(bands, abs=2)
    assert found.level == pytest.approx(decibels, rel=0.2)
    assert found.deviations * decibels > 0


def test_deviations_are_those_of_such_blocks_in_normal_clips() -> None:
    """A band is off in the whole clip, and clips differ by 1 dB: as many standard deviations as dB, but for the frames'
    own variance, 25 / 313.
    """
    x = clip()
    x[:, 40] += LEVELS[40] + 10 - x[:, 40].mean()
    (found,) = find(x)
    assert found.deviations == pytest.approx(10 / np.sqrt(1 + 25 / FRAMES), rel=0.05)


def test_a_change_is_told_in_a_clip_that_is_a_little_louder() -> None:
    """A microphone's gain of 2 dB is usual, and doesn't count in what is told of the bands."""
    x = clip() + 2
    x[:, 90:] += 6
    (found,) = find(x)
    assert (found.kind, found.bands) == ("band", (90, MELS))
    assert found.level == pytest.approx(6, abs=0.3)


def test_two_changes_are_told_the_weightier_first() -> None:
    x = clip()
    x[20:60, 90:100] += 9
    x[200:300, 20:22] += 25
    first, second = find(x)
    assert (first.kind, second.kind) == ("tone", "band")
    assert abs(first.bands[0] - 20) <= 1
    assert abs(second.bands[0] - 90) <= 2


def test_what_comes_regularly_in_all_bands_is_no_burst() -> None:
    """Strokes of a pump: levels go up and down together."""
    x = clip() + 6 * np.sign(np.sin(np.arange(FRAMES)))[:, None]
    assert [y.kind for y in find(x) if y.kind != "spread"] == []


def test_spread_over_time_that_nothing_else_tells() -> None:
    x = clip()
    x[:, 30:40] = LEVELS[30:40] + 3 * (x[:, 30:40] - LEVELS[30:40])
    x[:, 30:40] -= x[:, 30:40].mean(0) - LEVELS[30:40]
    (found,) = [y for y in find(x) if y.kind == "spread"]
    assert found.bands == (30, 40)
    assert found.level == pytest.approx(3, rel=0.1)


def test_without_statistics_over_time_the_clip_s_own_serve() -> None:
    only_mean = Usual({"mean": LEVELS}, {"mean": np.ones(MELS)}, 1.0)
    x = clip()
    x[100:200, 60:62] += 12
    (found,) = regions.find(x, only_mean, LogMelPlan())
    assert (found.kind, found.bands) == ("tone", (60, 62))


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_short_clips(frames: int) -> None:
    x = clip()[:frames]
    assert regions.find(x + 40, usual(), LogMelPlan())[0].kind == "level"


def test_digital_silence() -> None:
    found = regions.find(np.full((50, MELS), -156.5), usual(), LogMelPlan())
    assert [x.level for x in found if x.kind == "level"] == [pytest.approx(-111.5, abs=0.1)]
