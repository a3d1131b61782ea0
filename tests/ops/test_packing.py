"""Settings as one string and back."""

from __future__ import annotations

import math

import pytest

from pyasd.backends.contract import LogMelPlan, MixtureShape
from pyasd.ops.packing import pack, unpack


@pytest.mark.parametrize(
    "settings",
    [
        LogMelPlan(),
        LogMelPlan(22050, 2048, 441, 64, 1e-3, 7999.25, "constant", "add"),
        MixtureShape((), 0, 1, -4.605170185988091),
        MixtureShape((3,), 5, 2, -math.inf),
    ],
)
def test_what_was_packed_comes_back(settings: LogMelPlan | MixtureShape) -> None:
    packed = pack(settings)
    assert unpack(type(settings), packed) == settings
    assert unpack(type(settings), packed) is unpack(type(settings), "".join(packed)), "made once"


def test_strings_with_the_same_values_are_different_settings_of_different_types() -> None:
    with pytest.raises(TypeError):
        unpack(MixtureShape, pack(LogMelPlan()))
