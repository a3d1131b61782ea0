"""Cutting long recordings into sections of one length, as their samples come and in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Cutting:
    """Where a recording is cut.

    Cuts begin every `hop` seconds. Where they leave no gaps, the last one is moved back so that it ends where the
    recording ends: all of it is heard, in cuts of one length. A recording shorter than `window` is one cut.

    Attributes:
        window: length of a cut, in seconds.
        hop: from the beginning of one cut to that of the next, in seconds.

    Raises:
        ValueError: one of them is not above 0, or no number.
    """

    window: float
    hop: float

    def __post_init__(self) -> None:
        for name, value in (("window", self.window), ("hop", self.hop)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is a number of seconds above 0, not {value!r}")

    @classmethod
    def of(cls, window: float | None, hop: float | None) -> Cutting | None:
        """Return where to cut; `None` where recordings are to stay whole. Without `hop`, cut follows cut.

        Raises:
            ValueError: there is a hop and no window, or one of them can't be.
        """
        if window is None:
            if hop is not None:
                raise ValueError("hop= is the distance of cuts: give their length too, window=")
            return None
        return cls(float(window), float(window if hop is None else hop))


class Cutter:
    """Cuts one recording, whose samples are fed to it in blocks of any size.

    Args:
        cutting: where.
        rate: samples a second.

    Attributes:
        fed: samples so far.
    """

    def __init__(self, cutting: Cutting, rate: int) -> None:
        self._window = max(1, round(cutting.window * rate))
        self._hop = cutting.hop
        self._rate = rate
        self._to_the_end = cutting.hop <= cutting.window
        self._kept: list[NDArray[Any]] = []  # the last samples, from `_first` on
        self._first = 0
        self._cuts = 0
        self._end = 0  # of the last cut
        self.fed = 0

    def _next(self) -> int:
        """The first sample of the next cut. Of each anew, so that hops that are no whole samples don't add up."""
        return max(round(self._cuts * self._hop * self._rate), self._cuts)

    def feed(self, block: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
        """Take samples `[n, channels]`; yield the cuts that end in them: their first sample's place, and the samples
        `[window, channels]`, a view.
        """
        self._kept.append(block)
        self.fed += len(block)
        while (first := self._next()) + self._window <= self.fed:
            self._cuts += 1
            self._end = first + self._window
            yield first, self._joined()[first - self._first : self._end - self._first]
        behind = min(first, self.fed - self._window)  # what a next or a last cut can have
        if behind > self._first + self._window:
            self._kept, self._first = [self._joined()[behind - self._first :]], behind

    def end(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield the last cut, if there is one behind those that `feed` gave."""
        if self.fed and (not self._cuts or (self._to_the_end and self._end < self.fed)):
            first = max(self.fed - self._window, 0)
            yield first, self._joined()[first - self._first :]

    def _joined(self) -> NDArray[Any]:
        """The samples kept, as one array."""
        if len(self._kept) > 1:
            self._kept = [np.concatenate(self._kept)]
        return self._kept[0]
