"""The processor's cases: each is measured only after its operator's tests pass, so those must be there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import cases, gpu

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("key", cases.CASES)
def test_the_tests_of_a_case_are_there(key: str) -> None:
    assert (ROOT / cases.CASES[key](1).tests).is_file()


@pytest.mark.parametrize("operator", gpu.OPERATORS)
def test_the_tests_of_an_operator_are_there(operator: str) -> None:
    assert (ROOT / f"tests/ops/test_{operator}.py").is_file()
