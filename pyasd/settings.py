"""Settings as frozen dataclasses: checked against their own type hints, with errors that name what is allowed.

TOML and JSON give lists, whole numbers and strings; a field takes what its type hint says. pydantic would do this too,
with a compiled dependency, another way to write a dataclass, and messages of several lines.
"""

from __future__ import annotations

import difflib
import math
import numbers
import os
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields, replace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Settings = TypeVar("Settings")


def check_types(settings: Any) -> None:
    """Give each field of a frozen dataclass a value of its type: lists become tuples, whole numbers floats.

    Call it first in `__post_init__`.

    Raises:
        ValueError: a field can't have its value; the message names the field and what it can have.
    """
    hints = get_type_hints(type(settings))
    for name in (field.name for field in fields(settings)):
        object.__setattr__(settings, name, _of_type(name, getattr(settings, name), hints[name]))


def one_of(what: str, value: Any, choices: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`, which the message lists."""
    if value not in choices:
        raise ValueError(f"{what} must be one of {', '.join(choices)}, not {value!r}")


def field_names(settings: Any) -> set[str]:
    """Return the names of a dataclass's fields."""
    return {field.name for field in fields(settings)}


def unknown(what: str, name: str, known: Collection[str]) -> str:
    """Return a message for a setting that `what` hasn't: near matches, or all that it has."""
    near = difflib.get_close_matches(name, sorted(known), 3)
    hint = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(sorted(known)) or 'none'}"
    return f"{what} has no setting {name!r}; {hint}"


def from_table(settings: Settings, what: str, table: Mapping[str, Any]) -> Settings:
    """Return `settings` with the values of a TOML or JSON table `[what]`.

    Raises:
        ValueError: it isn't a table, has an unknown key, or a key can't have its value.
    """
    _check_keys(settings, what, table)
    try:
        return replace(settings, **table)  # type: ignore[type-var]
    except ValueError as error:
        raise ValueError(f"[{what}] {error}") from None


def new(kind: type[Settings], what: str, table: Mapping[str, Any]) -> Settings:
    """Make a `kind` of a TOML or JSON table `[what]`, which must have every setting that has no default.

    Raises:
        ValueError: it isn't a table, has an unknown key, lacks one, or a key can't have its value.
    """
    _check_keys(kind, what, table)
    required = [x.name for x in fields(kind) if x.default is MISSING and x.default_factory is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in table]:
        raise ValueError(f"[{what}] lacks {', '.join(missing)}")
    try:
        return kind(**table)
    except ValueError as error:
        raise ValueError(f"[{what}] {error}") from None


def _check_keys(settings: Any, what: str, table: Mapping[str, Any]) -> None:
    if not isinstance(table, Mapping):
        raise ValueError(f"[{what}] must be a table, not {table!r}")
    known = field_names(settings)
    for name in table:
        if name not in known:
            raise ValueError(unknown(f"[{what}]", name, known))


def _of_type(name: str, value: Any, hint: Any) -> Any:
    kinds = get_args(hint)
    if get_origin(hint) is Literal:
        one_of(name, value, kinds)
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{name} must be a list, not {value!r}")
        return tuple(_of_type(name, x, kinds[0]) for x in value)
    if get_origin(hint) is Mapping:
        if not isinstance(value, Mapping):
            raise ValueError(f"{name} must be a table, not {value!r}")
        items = value.items()
        return {_of_type(f"a key of {name}", k, kinds[0]): _of_type(f"{name}.{k}", x, kinds[1]) for k, x in items}
    if type(None) in kinds:
        return None if value is None else _of_type(name, value, kinds[0])
    if hint is str and isinstance(value, str | os.PathLike):
        return os.fspath(value)
    if hint is bool and not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, not {value!r}")
    number = not isinstance(value, bool) and isinstance(value, numbers.Real) and math.isfinite(value)
    if hint is int and number and isinstance(value, numbers.Integral):
        return int(value)
    if hint is float and number:
        return float(value)
    if hint in (int, float, str):
        wanted = {int: "a whole number", float: "a number", str: "a text"}[hint]
        raise ValueError(f"{name} must be {wanted}, not {value!r}")
    return value  # a part of its own, which checks itself
