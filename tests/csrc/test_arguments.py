"""The bindings read every argument by its name, and say which is missing, unknown or of another type."""

from __future__ import annotations

from typing import Any

import pytest

from pyasd import _native

MIXTURE_HEAD: Any = _native.MixtureHead

HEAD: dict[str, Any] = {
    "dims": 10,
    "prefix": (0, 4),
    "components": 1,
    "hidden": 4,
    "log_scale_min": -4.6,
    "bfloat16": False,
    "isa": 0,
}


def test_whole() -> None:
    assert MIXTURE_HEAD(**HEAD).packed_size > 0


def test_each_argument_is_needed() -> None:
    for name in HEAD:
        rest = {key: value for key, value in HEAD.items() if key != name}
        with pytest.raises(TypeError, match=f"missing argument: {name}"):
            MIXTURE_HEAD(**rest)


def test_unknown_arguments_and_other_types() -> None:
    with pytest.raises(TypeError, match=r"unknown argument among .*threads"):
        MIXTURE_HEAD(**HEAD, threads=1)
    with pytest.raises(TypeError, match="argument components has another type"):
        MIXTURE_HEAD(**{**HEAD, "components": "two"})
    with pytest.raises(TypeError):
        MIXTURE_HEAD(*HEAD.values())
