"""Names that help texts list, read from where they are defined: new members, recipes and years need no edit here.

Help texts have placeholders for them (see `command.Command`). Each function loads what it needs when it is called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import get_args


def listed(names: Iterable[str], last: str = "or") -> str:
    """Return "a, b or c"."""
    *others, end = names
    return f"{', '.join(others)} {last} {end}" if others else end


def modes_by_kind() -> dict[str, tuple[str, ...]]:
    """Return the score modes of each kind of member."""
    from pyasd import models

    return {kind: tuple(mode.name for mode in member.MODES) for kind, member in models.kinds().items()}


def _modes() -> str:
    kinds: dict[tuple[str, ...], list[str]] = {}
    for kind, modes in modes_by_kind().items():
        kinds.setdefault(modes, []).append(kind)
    return "; ".join(f"{listed(modes)} ({', '.join(who)})" for modes, who in kinds.items())


def _group_made_modes() -> str:
    return listed(modes_by_kind()["group-made"])


def _systems() -> str:
    from pyasd.recipes import files

    members = {name: files.find(name).names for name in files.names()}
    return ", ".join(name if x == (name,) else f"{name} ({' + '.join(x)})" for name, x in members.items())


def _statistics() -> str:
    from pyasd.training.run import StatisticsPolicy

    return listed(get_args(StatisticsPolicy))


def _orders() -> str:
    from pyasd.models.group_made import Order

    return listed(get_args(Order))


def _pooling() -> str:
    from pyasd.models.pooling import Pooling

    return listed(get_args(Pooling))


def _backends() -> str:
    from pyasd import backends

    return listed(backends.NAMES)


def _data_sets() -> str:
    from pyasd.datasets import dcase

    return listed(f"dcase{year}" for year in dcase.years())


def _parts() -> str:
    from pyasd.datasets import dcase

    return ", ".join(dcase.PARTS)


def _rules() -> str:
    from pyasd.tables import evaluation

    return listed(sorted(evaluation.RULES))


OPTIONS: set[str] = set()
"""The names of all commands' options, as parameters: `command` adds them."""

_SAID = re.compile(r"""(?<![\w/.=-])([a-z][a-z_]*)=(?:(["'])([\w-]*)\2|([\w.%]*))""")
"""An argument as messages of the library have it: `ids=`, `unknown_ids="pool"`, `warps=1`."""

_REFUSED = re.compile(r"^([a-z_]+)(?= must be )")
"""An argument whose value is refused: `max_fpr must be`."""

_OTHER_NAMES = {"ids": "id", "score_mode": "score"}
"""Options that are called otherwise than the argument."""


def with_options(message: str) -> str:
    """Return a message of the library in the words of the command line: `--id` for `ids=`, `--unknown-ids pool` for
    `unknown_ids="pool"`, and for a setting without an option, `validation in a recipe`.
    """

    def said(match: re.Match[str]) -> str:
        name, value = match[1], match[3] or match[4] or ""
        option = _OTHER_NAMES.get(name, name)
        if option in OPTIONS:
            return f"--{option.replace('_', '-')} {value}".rstrip()
        if name in _settings():
            return f"{name}{f' = {value}' if value else ''} in a recipe"
        return match[0]

    def refused(match: re.Match[str]) -> str:
        return f"--{match[1].replace('_', '-')}" if match[1] in OPTIONS else match[0]

    return _REFUSED.sub(refused, _SAID.sub(said, message))


@lru_cache(maxsize=None)
def _settings() -> frozenset[str]:
    from pyasd import models, settings

    return frozenset(name for member in models.kinds().values() for name in settings.field_names(member.Config))


WORDS: dict[str, Callable[[], str]] = {
    "backends": _backends,
    "data sets": _data_sets,
    "group-made modes": _group_made_modes,
    "modes": _modes,
    "orders": _orders,
    "parts": _parts,
    "pooling": _pooling,
    "rules": _rules,
    "statistics": _statistics,
    "systems": _systems,
}
"""The meaning of each placeholder in a help text."""
