"""How long work tells how far it is. Whoever doesn't want to know gives nothing: `silent` is the default."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called as work goes on: `done` of `total` steps of a `stage`, and a few words of `info`."""

    def __call__(self, stage: str, done: int, total: int, info: str) -> None:
        """Hear of one more step."""


def silent(stage: str, done: int, total: int, info: str) -> None:
    """Tell nobody."""


def within(progress: Progress, place: str) -> Progress:
    """Put `place` (such as "2/12 fan") before the stage of everything that `progress` hears."""

    def tell(stage: str, done: int, total: int, info: str) -> None:
        progress(f"{place}: {stage}", done, total, info)

    return tell
