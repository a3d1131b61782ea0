"""The processor's cases: each is measured only after its operator's tests pass, so those must be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cases
from pyasd.features import log_mels

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("key", cases.CASES)
def test_the_tests_of_a_case_are_there(key: str) -> None:
    assert (ROOT / cases.CASES[key](1).tests).is_file()


def test_calls_are_as_large_as_the_pipeline_makes_them() -> None:
    assert log_mels.BATCH_CLIPS["cpu"] == cases.BATCH_CLIPS
