"""From scores to decisions: thresholds for a rate of false alarms, and p-values.

A clip's conformal p-value is `(1 + normal clips that score as high or higher) / (1 + normal clips)`. Where the clip is
exchangeable with those clips, it is below or equal to a rate no oftener than that rate says, for any number of clips
and any distribution of scores (Vovk, Gammerman and Shafer, 2005, "Algorithmic learning in a random world").
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyasd.detector.machine import Fitted, Machine
from pyasd.recipes import Recipe
from pyasd.tables.table import Row

CONFIDENCE = 0.95
"""Share of calibration samples whose false-alarm rate lies in the interval that is told."""


def check_rate(rate: float) -> None:
    """Check a rate of false alarms.

    Raises:
        ValueError: it isn't above 0 and below 1.
    """
    if not 0 < rate < 1:
        raise ValueError(f"a false-alarm rate is above 0 and below 1, such as 0.01 for 1 %, not {rate!r}")


def check_calibrated(detector: Fitted) -> None:
    """Check that a detector knows what normal clips score that it hasn't learnt.

    Raises:
        ValueError: it doesn't.
    """
    calibrations = [machine.calibration for machine in detector.machines.values()]
    if not any(x is not None and x.samples for x in calibrations):
        raise ValueError(
            "thresholds come from scores of normal clips that the model hasn't learnt, and it has none: calibrate it "
            "first with other normal clips (`pyasd calibrate MODEL NORMAL/ -o MODEL2`, Detector.calibrate)"
        )


def normal_scores(machine: Machine, machine_id: str, modes: Mapping[str, str], recipe: Recipe) -> NDArray[np.float64]:
    """Return the scores that a detector gives to a machine ID's calibration clips, ascending; none where it has none.

    Args:
        machine: the fitted machine type.
        machine_id: the ID.
        modes: each member's score mode.
        recipe: by which the members' scores are combined.
    """
    if machine.calibration is None or machine_id not in machine.calibration.samples:
        return np.empty(0)
    own = machine.calibration.samples[machine_id]
    columns = np.stack([own[name][:, x.modes.index(modes[name])] for name, x in machine.baselines.items()])
    known = columns[:, np.isfinite(columns).all(0)]  # the others were calibrated in another mode
    clips = (dict(zip(machine.baselines, scores, strict=True)) for scores in known.T.tolist())
    standardised = (machine.standardise(clip, machine_id, modes) for clip in clips)
    return np.sort([machine.overall(x, machine_id, recipe) for x in standardised])


def member_scores(machine: Machine, machine_id: str, member: str, mode: str) -> NDArray[np.float64]:
    """Return a member's own scores of a machine ID's calibration clips, in their order; none where it has none."""
    if machine.calibration is None or machine_id not in machine.calibration.samples:
        return np.empty(0)
    scores = machine.calibration.samples[machine_id][member][:, machine.baselines[member].modes.index(mode)]
    return scores[np.isfinite(scores)]  # the others were calibrated in another mode


class Threshold(NamedTuple):
    """The score above which a clip is an anomaly, for a rate of false alarms.

    Attributes:
        score: clips that score higher are anomalies; infinite where the calibration has too few clips for the rate.
        clips: normal clips in the calibration.
        rate: of false alarms, the mean over all such calibrations: the one asked for, rounded down to a whole number
            of clips.
        interval: in which the rate with this very calibration lies, for 95 % of calibrations. (It is beta distributed,
            whatever the scores' distribution is; only equal scores make it smaller.)
    """

    score: float
    clips: int
    rate: float
    interval: tuple[float, float]


def threshold(normal: NDArray[np.float64], rate: float) -> Threshold:
    """Choose the threshold for a rate of false alarms by the scores of normal clips, ascending."""
    from scipy.special import betaincinv  # here, as `import pyasd.detector` is to stay light

    clips = len(normal)
    above = min(math.floor(rate * (clips + 1) + 1e-9), clips)  # the rate 0.29 of 100 is 28.999999999999996
    if not above:
        return Threshold(math.inf, clips, 0.0, (0.0, 0.0))
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(betaincinv(above, clips + 1 - above, x)) for x in (tail, 1 - tail))
    return Threshold(float(normal[clips - above]), clips, above / (clips + 1), (low, high))


def p_value(score: float, normal: NDArray[np.float64]) -> float:
    """Return the conformal p-value of a score among those of normal clips, ascending."""
    clips = len(normal)
    return (1 + clips - int(np.searchsorted(normal, score))) / (clips + 1)


def remarks(machine: Machine, ids: Iterable[str], modes: Mapping[str, str], rate: float) -> list[str]:
    """Return what the user should know of the thresholds of a machine type's IDs, a sentence or two each."""
    clips = {x: min(len(member_scores(machine, x, name, modes[name])) for name in machine.members) for x in ids}
    few = few_clips(clips, rate)
    of_training = frozenset() if machine.calibration is None else machine.calibration.training
    if not any(x in of_training and clips[x] >= _needed(rate) for x in clips):
        return [few] if few else []
    return [
        *([few] if few else []),
        "thresholds come from training clips: recordings of other days or conditions may raise far more false alarms. "
        "Calibrate with normal ones of these (`pyasd calibrate`, Detector.calibrate)",
    ]


def _needed(rate: float) -> int:
    """The fewest calibration clips that carry a rate of false alarms."""
    return math.ceil(1 / rate - 1e-9) - 1


def few_clips(clips: Mapping[str, int], rate: float) -> str | None:
    """Say what a rate of false alarms lacks, by the calibration clips of each machine ID; `None` for nothing."""
    needed = _needed(rate)
    lacking = {machine_id: count for machine_id, count in clips.items() if count < needed}
    if lacking:
        most = 100 * rate if 0 in lacking.values() else math.ceil(1000 / (min(lacking.values()) + 1)) / 10
        remedy = "" if 0 in lacking.values() else f", or take a rate of {most:g} %"
        return (
            f"a false-alarm rate of {100 * rate:g} % needs {needed} calibration clips of a machine ID, and "
            f"{_counts(lacking)}: they get no threshold. Calibrate with more normal clips{remedy}"
        )
    fewest = min(clips, key=lambda machine_id: clips[machine_id])
    low, high = threshold(np.zeros(clips[fewest]), rate).interval
    if high <= 2 * rate:
        return None
    return (
        f"{_counts({fewest: clips[fewest]})} calibration clips: false alarms, {100 * rate:g} % on average over such "
        f"samples, are between {100 * low:.2g} and {100 * high:.2g} % for 95 in 100 of them. More clips narrow that"
    )


def _counts(clips: Mapping[str, int], most: int = 3) -> str:
    """Return "'00' has 3, '01' has 5 and 12 others have too few"."""
    named = [f"{machine_id!r} has {count or 'none'}" for machine_id, count in list(clips.items())[:most]]
    return ", ".join(named) + (f" and {len(clips) - most} others have too few" if len(clips) > most else "")


Decision = Literal["normal", "anomaly"]


@dataclass(frozen=True)
class DecisionRule:
    """When a clip is an anomaly, and when that is confirmed.

    Attributes:
        false_alarms: the rate of false alarms among normal clips, above 0 and below 1.
        confirm: `(m, k)`: m anomalies among the last k clips of a machine ID and channel, in the order given, confirm
            each other; `None` for no such column.

    Raises:
        ValueError: the rate or the numbers can't be ones.
    """

    false_alarms: float
    confirm: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_rate(self.false_alarms)
        if self.confirm is not None and not 1 <= self.confirm[0] <= self.confirm[1]:
            raise ValueError(
                f"confirm is m of the last k clips with 1 <= m <= k, such as 3 of 5, not {self.confirm[0]} of "
                f"{self.confirm[1]}"
            )

    @classmethod
    def of(cls, false_alarms: float | None, confirm: tuple[int, int] | None) -> DecisionRule | None:
        """Return the rule; `None` where no decisions are asked for.

        Raises:
            ValueError: there is something to confirm, but no rate; or one of them can't be.
        """
        if false_alarms is not None:
            return cls(false_alarms, confirm)
        if confirm is not None:
            raise ValueError("confirm= counts decisions, and these need false_alarms=")
        return None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table that it fills."""
        return ("p_value", "decision") if self.confirm is None else ("p_value", "decision", "confirmed")


class Decisions:
    """Decides clips of a detector, one after the other.

    Args:
        detector: the fitted system.
        modes: each member's score mode.
        rule: when a clip is an anomaly.

    Raises:
        ValueError: the detector has no calibration.
    """

    def __init__(self, detector: Fitted, modes: Mapping[str, str], rule: DecisionRule) -> None:
        check_calibrated(detector)
        self._detector = detector
        self._modes = modes
        self._rule = rule
        self._normal: dict[tuple[str, str], tuple[NDArray[np.float64], float]] = {}
        self._last: dict[tuple[str, str, str], deque[bool]] = {}
        self._warned: set[str] = set()

    def decide(self, row: Row, machine_type: str, machine_id: str | None) -> None:
        """Put p-value and decision of a clip that has a score into its row.

        A clip that is scored against all IDs (`None`) gets neither: it is not exchangeable with their normal clips.
        """
        if machine_id is None or row.score is None:
            return
        key = machine_type, machine_id
        if key not in self._normal:
            self._warn(machine_type)
            normal = normal_scores(
                self._detector.machines[machine_type], machine_id, self._modes, self._detector.recipe
            )
            self._normal[key] = normal, threshold(normal, self._rule.false_alarms).score
        normal, limit = self._normal[key]
        if len(normal):
            row.p_value = p_value(row.score, normal)
        if limit == math.inf:
            return
        anomaly = row.score > limit
        row.decision = _word(anomaly)
        if self._rule.confirm is not None:
            needed, among = self._rule.confirm
            last = self._last_of(machine_type, machine_id, row.channel, among)
            last.append(anomaly)
            row.confirmed = _word(sum(last) >= needed)

    def recall(self, machine_type: str, machine_id: str, channel: str, decision: Decision) -> None:
        """Let a clip that was decided in an earlier run count among the last ones that `confirm` looks back at."""
        if self._rule.confirm is not None:
            self._last_of(machine_type, machine_id, channel, self._rule.confirm[1]).append(decision == _word(True))

    def _last_of(self, machine_type: str, machine_id: str, channel: str, among: int) -> deque[bool]:
        return self._last.setdefault((machine_type, machine_id, channel), deque(maxlen=among))

    def _warn(self, machine_type: str) -> None:
        """Warn once of what a machine type's thresholds lack."""
        if machine_type in self._warned:
            return
        self._warned.add(machine_type)
        machine = self._detector.machines[machine_type]
        for remark in remarks(machine, machine.ids, self._modes, self._rule.false_alarms):
            warnings.warn(f"{machine_type}: {remark}" if machine_type else remark, stacklevel=2)


def _word(anomaly: bool) -> Decision:
    return "anomaly" if anomaly else "normal"
