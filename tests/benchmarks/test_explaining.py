"""Reasons against faults that were put at known places: the strongest reason is the place in nine of ten cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import explaining
from benchmarks.explaining import FAULTS, Place
from pyasd.detector import Reason


def test_faults_are_named_where_they_are() -> None:
    """Of 24 in a synthetic pump; docs/guide.md has the figures of 200 in each kind of machine."""
    cases, normal = explaining.measure(explaining.synthetic("pump", learn=12, hosts=2), 24)
    assert len(normal) == 6
    assert [x.place.fault for x in cases[:4]] == list(FAULTS)
    assert sum(x.first for x in cases) >= 0.9 * len(cases), "\n".join(explaining.misses(cases))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_as_loud_as_it_says(fault: explaining.Fault) -> None:
    rng = np.random.default_rng(1)
    host, donor = rng.normal(0, 0.05, (2, 160000))
    made, place = explaining.inject(host, donor, fault, rng)
    inside = slice(round(place.start * 16000) + 100, round(place.end * 16000) - 100)
    outside = np.r_[0 : max(round(place.start * 16000) - 100, 0), round(place.end * 16000) + 100 : len(host)]
    np.testing.assert_allclose(made[outside], host[outside], atol=1e-6)
    if fault == "drop-out":
        np.testing.assert_allclose(made[inside], host[inside] * 10 ** (place.level / 20), rtol=1e-6)
        return
    added = np.mean(np.square((made - host)[inside]))
    width = max(50.0, 0.07 * place.low) if fault == "tone" else place.high - place.low
    below = np.mean(np.square(host)) * width / 8000  # white noise
    assert 10 * np.log10(added / below) == pytest.approx(place.level, abs=2)


@pytest.mark.parametrize(
    ("change", "right"),
    [({}, True), ({"start": 3.9}, True), ({"end": 7.1}, False), ({"high": 2450.0}, True), ({"low": 1500.0}, False)],
)
def test_what_is_right(change: dict[str, float], right: bool) -> None:
    """A third of an octave, 2 ** (1 / 3) = 1.26, and a second."""
    told = {"start": 3.0, "end": 6.0, "low": 1000.0, "high": 2000.0} | change
    reason = Reason("band", level=10.0, deviations=8.0, **told)
    assert Place("band", 3.0, 6.0, 1000.0, 2000.0, 10.0).is_right(reason) is right


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uav", "enginemix"])
def test_in_real_recordings(name: str, real_data: Path) -> None:
    cases, _ = explaining.measure(explaining.real(name, real_data), 48)
    assert sum(x.first for x in cases) >= 0.8 * len(cases), "\n".join(explaining.misses(cases))
