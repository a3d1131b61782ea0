"""Settings as one string: `torch.library` takes scalars and lists of them, but no dataclass.

`torch.compile` follows `pack`, so that a graph holds the settings as a constant, which means the same in any process.
"""

from __future__ import annotations

import ast
from typing import Any, TypeVar

Settings = TypeVar("Settings")

_unpacked: dict[tuple[type, str], Any] = {}


def pack(settings: object) -> str:
    """Return the fields of a dataclass of numbers, strings, `None` and tuples of them as one string."""
    names: tuple[str, ...] = settings.__match_args__  # type: ignore[attr-defined]
    return str(tuple([getattr(settings, name) for name in names]))  # not `vars`, which older compilers can't follow


def unpack(kind: type[Settings], packed: str) -> Settings:
    """Return the `kind` that `pack` made a string of: the same object each time."""
    settings: Settings | None = _unpacked.get((kind, packed))
    if settings is None:
        values = ast.literal_eval(packed.replace("inf", "1e999"))  # which Python reads as infinity
        settings = _unpacked[kind, packed] = kind(*values)
    return settings
