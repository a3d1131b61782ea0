"""The fitted state of one machine type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from pyasd.detector.calibration import Calibration
from pyasd.detector.conditions import Conditions
from pyasd.detector.statistics import Baseline, combine, overall
from pyasd.models import Member
from pyasd.recipes import Recipe
from pyasd.tables.table import Row
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
        conditions: what their recordings were like; `None` where that isn't known.
    """

    members: dict[str, Member] = field(default_factory=dict)
    baselines: dict[str, Baseline] = field(default_factory=dict)
    histories: dict[str, History] = field(default_factory=dict)
    calibration: Calibration | None = None
    conditions: Conditions | None = None

    def calibration_of(
        self, ids: Sequence[str], scores: Mapping[str, ArrayLike], modes: Mapping[str, str]
    ) -> Calibration:
        """Make a calibration of normal clips that were scored in one mode of each member.

        Args:
            ids: the clips' machine IDs.
            scores: by member, its own scores of the clips, `[clips]`.
            modes: each member's mode.
        """
        columns = {}
        for name, baseline in self.baselines.items():
            columns[name] = np.full((len(ids), len(baseline.modes)), np.nan)
            columns[name][:, baseline.modes.index(modes[name])] = scores[name]
        return Calibration.of(ids, columns)

    @property
    def ids(self) -> tuple[str, ...]:
        """The machine IDs it knows, sorted."""
        return next(iter(self.baselines.values())).ids

    def standardise(self, scores: Mapping[str, float], machine_id: str | None, modes: Mapping[str, str]) -> list[float]:
        """Standardise a clip's scores, by member, as of a machine ID; `None` is for all clips pooled."""
        return [self.baselines[name].standardise(x, machine_id, modes[name]) for name, x in scores.items()]

    def fill(
        self, row: Row, scores: Mapping[str, float], machine_id: str | None, modes: Mapping[str, str], recipe: Recipe
    ) -> None:
        """Put a clip's scores, by member, into its row, standardised and combined."""
        for name, value in scores.items():
            if not math.isfinite(value):
                row.status, row.error = "not-finite", f"{row.clip}: the {name} score is {value}: check the recording"
                return
        standardised = self.standardise(scores, machine_id, modes)
        row.combined = combine(standardised)
        row.score = self.overall(standardised, machine_id, recipe)
        row.members = dict(scores)

    def overall(self, standardised: Sequence[float], machine_id: str | None, recipe: Recipe) -> float:
        """Combine the members' standardised scores, in the members' order, as a recipe says."""
        weights = []
        for name, member in self.members.items():
            clips = self.baselines[name].moments.clips(machine_id)
            weights.append(recipe[name].weight * member.reliability(clips))
        return overall(standardised, recipe.combine, weights)


class Fitted(Protocol):
    """A fitted system, such as `Detector`: its recipe, and what was learnt of each machine type."""

    @property
    def recipe(self) -> Recipe:
        """Its features, members and combination."""

    @property
    def machines(self) -> Mapping[str, Machine]:
        """The fitted state of each machine type."""
