"""Settings: values of their types, and errors that say what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from pyasd import settings


@dataclass(frozen=True)
class Part:
    width: int = 3


@dataclass(frozen=True)
class Sample:
    """One field of each type that settings have."""

    many: ClassVar[int] = 5
    count: int = 1
    rate: float = 0.5
    name: str = "x"
    on: bool = False
    kind: Literal["a", "b"] = "a"
    widths: tuple[int, ...] = (1, 2)
    limit: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    part: Part = field(default_factory=Part)

    def __post_init__(self) -> None:
        settings.check_types(self)
        if self.count < 0:
            raise ValueError(f"count must not be negative, got {self.count}")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("count", np.int64(4), 4),
        ("rate", 2, 2.0),
        ("rate", np.float32(0.25), 0.25),
        ("name", Path("a/b"), "a/b"),
        ("on", True, True),
        ("widths", [3, 4], (3, 4)),
        ("widths", [], ()),
        ("limit", 7, 7.0),
        ("limit", None, None),
        ("kind", "b", "b"),
        ("weights", {"a": 1}, {"a": 1.0}),
        ("part", Part(9), Part(9)),
    ],
)
def test_values_become_those_of_their_types(name: str, given: object, expected: object) -> None:
    value = getattr(Sample(**{name: given}), name)  # type: ignore[arg-type]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("count", 1.5, "count must be a whole number, not 1.5"),
        ("count", True, "count must be a whole number, not True"),
        ("count", "4", "count must be a whole number, not '4'"),
        ("rate", math.nan, "rate must be a number, not nan"),
        ("rate", math.inf, "rate must be a number, not inf"),
        ("rate", True, "rate must be a number, not True"),
        ("name", 3, "name must be a text, not 3"),
        ("on", 1, "on must be true or false, not 1"),
        ("kind", "c", "kind must be one of a, b, not 'c'"),
        ("kind", ["a"], "kind must be one of a, b, not ['a']"),
        ("widths", 3, "widths must be a list, not 3"),
        ("widths", [1, 2.5], "widths must be a whole number, not 2.5"),
        ("limit", "none", "limit must be a number, not 'none'"),
        ("weights", [1], "weights must be a table, not [1]"),
        ("weights", {3: 1.0}, "a key of weights must be a text, not 3"),
        ("weights", {"a": "b"}, "weights.a must be a number, not 'b'"),
    ],
)
def test_values_of_other_types_are_refused(name: str, given: object, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole message is compared)
        Sample(**{name: given})  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_what_belongs_to_the_class_is_no_setting() -> None:
    assert "many" not in vars(Sample()).keys() | settings.field_names(Sample)


def test_what_has_no_default_must_be_given() -> None:
    @dataclass(frozen=True)
    class Place:
        row: int
        column: int
        part: Part = field(default_factory=Part)
        name: str = ""

    place = settings.new(Place, "place", {"row": 1, "column": 2})
    assert (place.row, place.column, place.part, place.name) == (1, 2, Part(), "")
    for table, message in (
        ({"column": 2}, "[place] lacks row"),
        ({}, "[place] lacks row, column"),
        ({"row": 1, "column": 2, "colour": 3}, "[place] has no setting 'colour'; did you mean column?"),
        (3, "[place] must be a table, not 3"),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 (the whole message is compared)
            settings.new(Place, "place", table)  # type: ignore[arg-type]
        assert str(caught.value) == message
    with pytest.raises(ValueError, match=r"^\[x\] count must be a whole number, not 'a'$"):
        settings.new(Sample, "x", {"count": "a"})


def test_names_of_fields() -> None:
    assert settings.field_names(Part) == settings.field_names(Part()) == {"width"}


def test_unknown_names_have_near_matches_or_all_there_are() -> None:
    known = {"epochs", "batch_size"}
    assert settings.unknown("[x]", "epoch", known) == "[x] has no setting 'epoch'; did you mean epochs?"
    assert settings.unknown("[x]", "zzz", known) == "[x] has no setting 'zzz'; it has batch_size, epochs"
    near = {f"epochs{i}" for i in range(5)}
    assert settings.unknown("x", "epochs", near) == "x has no setting 'epochs'; did you mean epochs4, epochs3, epochs2?"
    assert settings.unknown("[x]", "zzz", ()) == "[x] has no setting 'zzz'; it has none"


def test_tables_are_read_over_defaults() -> None:
    assert settings.from_table(Sample(count=7), "x", {"widths": [1], "rate": 3}) == Sample(7, 3.0, widths=(1,))
    assert settings.from_table(Sample(), "x", {}) == Sample()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"counts": 3}, "[x] has no setting 'counts'; did you mean count?"),
        ({"many": 3}, "[x] has no setting 'many'"),
        ({"count": "3"}, "[x] count must be a whole number"),
        ({"count": -1}, "[x] count must not be negative"),
        (3, "[x] must be a table, not 3"),
        ([1], "[x] must be a table, not [1]"),
    ],
)
def test_errors_name_the_table(table: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared)
        settings.from_table(Sample(), "x", table)
    assert str(caught.value).startswith(message)


def test_one_of() -> None:
    settings.one_of("fruit", "apple", ("apple", "pear"))
    with pytest.raises(ValueError, match="fruit must be one of apple, pear, not 'plum'"):
        settings.one_of("fruit", "plum", ("apple", "pear"))
