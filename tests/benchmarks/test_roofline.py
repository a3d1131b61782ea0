"""The bounds that the CPU report holds its figures against."""

from __future__ import annotations

import pytest

from benchmarks.cases import Case
from benchmarks.roofline import Roofline
from pyasd import _native
from pyasd.backends import cpu

PEAKS = Roofline(flops=100, bfloat16_flops=300, exps=10, bandwidth=1000)
CASE = Case("head", "none", 1, {}, products=600, flop=50, exp=20, bytes=1000, threads=2)


def test_a_bound_is_that_of_the_contestants_precision_and_threads() -> None:
    # 600 / 100 + 50 / 100 + 20 / 10 seconds on one thread; products of bfloat16 factors in a third of the time
    assert CASE.bound(PEAKS, "eager torch") == (8.5, "arithmetic")
    assert CASE.bound(PEAKS, "pyasd bfloat16") == (4.5, "arithmetic")
    assert CASE.bound(PEAKS, "pyasd") == (4.25, "arithmetic")  # two threads


def test_what_must_be_read_can_be_the_bound() -> None:
    slow = Roofline(flops=1e9, bfloat16_flops=1e9, exps=1e9, bandwidth=10)
    assert CASE.bound(slow, "pyasd") == (100, "memory")


def test_quick_bfloat16_products_bound_those_of_float32_too() -> None:
    tiles = Roofline(flops=100, bfloat16_flops=1200, exps=1e9, bandwidth=1e9)
    assert tiles.bound(600, 0, 0, 0, bfloat16=False) == (3, "arithmetic")  # six of them, at 1200
    assert tiles.bound(600, 0, 0, 0, bfloat16=True) == (0.5, "arithmetic")


@pytest.mark.parametrize("isa", cpu.ISAS)
def test_probes_count_what_they_do(isa: str) -> None:
    if cpu.isa_obstacle(isa) is not None:
        pytest.skip(f"{isa}: {cpu.isa_obstacle(isa)}")
    number = cpu.ISAS.index(isa)
    for probe in (_native.probe_fma, _native.probe_pairs, _native.probe_exp):
        assert probe(3, number) == 3 * probe(1, number) > 0
