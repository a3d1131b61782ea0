"""The report's cases for pytest-benchmark: `pytest benchmarks --benchmark-only`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import cases


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _all() -> Iterator[object]:
    for key, make in cases.CASES.items():
        case = make(2)  # type: ignore[call-arg]
        for name, run in case.contestants.items():
            yield pytest.param(key, run, id=f"{key}-{name}")


@pytest.mark.parametrize(("group", "run"), _all())
def test_operator(benchmark: BenchmarkFixture, group: str, run: cases.Contestant) -> None:
    benchmark.group = f"{group}, 2 clips of 10 s"
    benchmark.pedantic(run, rounds=5, warmup_rounds=1)
