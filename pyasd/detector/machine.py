"""The fitted state of one machine type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from pyasd.detector.calibration import Calibration
from pyasd.detector.statistics import Baseline
from pyasd.models import Member
from pyasd.recipes import Recipe
from pyasd.training.run import History


@dataclass(frozen=True)
class Machine:
    """The fitted state of one machine type, by member's name.

    Attributes:
        members: the fitted members.
        baselines: how they score normal clips.
        histories: how their training went.
        calibration: their scores of normal clips that they have not learnt, for thresholds; `None` where there are
            none, as in files of version 0.1.
    """

    members: dict[str, Member] = field(default_factory=dict)
    baselines: dict[str, Baseline] = field(default_factory=dict)
    histories: dict[str, History] = field(default_factory=dict)
    calibration: Calibration | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The machine IDs it knows, sorted."""
        return next(iter(self.baselines.values())).ids


class Fitted(Protocol):
    """A fitted system, such as `Detector`: its recipe, and what was learnt of each machine type."""

    @property
    def recipe(self) -> Recipe:
        """Its features, members and combination."""

    @property
    def machines(self) -> Mapping[str, Machine]:
        """The fitted state of each machine type."""
