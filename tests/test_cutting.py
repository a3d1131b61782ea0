"""Cuts of recordings, against slices of arrays that were not fed block by block."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyasd.cutting import Cutter, Cutting


def cuts(samples: np.ndarray, sizes: list[int], window: float, hop: float, rate: int) -> list[tuple[int, np.ndarray]]:
    """The cuts of samples that come in blocks of such sizes, and the rest at once."""
    cutter = Cutter(Cutting(window, hop), rate)
    found = []
    for begin, end in pairwise(np.clip([0, *np.cumsum(sizes, dtype=int), len(samples)], 0, len(samples))):
        found += [(first, x.copy()) for first, x in cutter.feed(samples[begin:end])]
    assert cutter.fed == len(samples)
    return [*found, *((first, x.copy()) for first, x in cutter.end())]


@settings(deadline=None)
@given(
    length=st.integers(0, 400),
    sizes=st.lists(st.integers(0, 60), max_size=20),
    window=st.floats(0.01, 30),
    hop=st.floats(0.01, 40),
    rate=st.integers(1, 20),
)
def test_cuts_are_slices_whatever_the_blocks(
    length: int, sizes: list[int], window: float, hop: float, rate: int
) -> None:
    samples = np.arange(2 * length).reshape(length, 2)
    found = cuts(samples, sizes, window, hop, rate)
    size = max(1, round(window * rate))
    for first, cut in found:
        assert np.array_equal(cut, samples[first : first + size])
        assert len(cut) == min(size, length)
    firsts = [first for first, _ in found]
    assert firsts == sorted(set(firsts)), "none comes twice"
    if hop <= window and length:
        heard = {i for first, cut in found for i in range(first, first + len(cut))}
        if math.floor(hop * rate) >= 1 and size >= math.ceil(hop * rate):
            assert heard == set(range(length)), "all of it is heard"


def test_the_last_cut_ends_where_the_recording_ends() -> None:
    found = cuts(np.zeros((250, 1)), [7] * 40, 10.0, 10.0, 10)
    assert [first for first, _ in found] == [0, 100, 150]
    assert [first for first, _ in cuts(np.zeros((300, 1)), [], 10.0, 10.0, 10)] == [0, 100, 200]
    assert [first for first, _ in cuts(np.zeros((250, 1)), [7] * 40, 10.0, 5.0, 10)] == [0, 50, 100, 150]


def test_cuts_with_gaps_end_with_a_whole_one() -> None:
    assert [first for first, _ in cuts(np.zeros((1000, 1)), [13] * 80, 2.0, 30.0, 10)] == [0, 300, 600, 900]
    assert [first for first, _ in cuts(np.zeros((910, 1)), [13] * 80, 2.0, 30.0, 10)] == [0, 300, 600]


def test_a_short_recording_is_one_cut() -> None:
    assert [(first, len(cut)) for first, cut in cuts(np.zeros((5, 1)), [2], 10.0, 3.0, 10)] == [(0, 5)]
    assert cuts(np.zeros((0, 1)), [0, 0], 10.0, 10.0, 10) == []


def test_hops_of_no_whole_samples_do_not_add_up() -> None:
    found = cuts(np.zeros((100_000, 1)), [999] * 101, 0.5, 1 / 3, 1000)
    firsts = [first for first, _ in found][:-1]
    assert firsts == [round(i / 3 * 1000) for i in range(len(firsts))]


@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, math.inf])
def test_what_can_be_no_cutting(wrong: float) -> None:
    with pytest.raises(ValueError, match="window is a number of seconds above 0"):
        Cutting(wrong, 1.0)
    with pytest.raises(ValueError, match="hop is a number of seconds above 0"):
        Cutting(1.0, wrong)


def test_what_is_asked_for() -> None:
    assert Cutting.of(None, None) is None
    assert Cutting.of(10, None) == Cutting(10.0, 10.0)
    assert Cutting.of(10, 5) == Cutting(10.0, 5.0)
    with pytest.raises(ValueError, match="give their length too, window="):
        Cutting.of(None, 5)
