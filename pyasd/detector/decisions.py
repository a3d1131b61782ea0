"""From scores to decisions: thresholds for a rate of false alarms, and p-values.

A clip's conformal p-value is `(1 + normal clips that score as high or higher) / (1 + normal clips)`. Where the clip is
exchangeable with those clips, it is below or equal to a rate no oftener than that rate says, for any number of clips
and any distribution of scores (Vovk, Gammerman and Shafer, 2005, "Algorithmic learning in a random world").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyasd.detector.machine import Fitted, Machine
from pyasd.detector.statistics import overall
from pyasd.recipes.recipe import Combine

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


def normal_scores(machine: Machine, machine_id: str, modes: Mapping[str, str], how: Combine) -> NDArray[np.float64]:
    """Return the scores that a detector gives to a machine ID's calibration clips, ascending; none where it has none.

    Args:
        machine: the fitted machine type.
        machine_id: the ID.
        modes: each member's score mode.
        how: the members' scores are combined.
    """
    own = []
    for name, baseline in machine.baselines.items():
        scores = member_scores(machine, machine_id, name, modes[name]).tolist()
        own.append([baseline.standardise(x, machine_id, modes[name]) for x in scores])
    return np.sort([overall(clip, how) for clip in zip(*own, strict=True)])


def member_scores(machine: Machine, machine_id: str, member: str, mode: str) -> NDArray[np.float64]:
    """Return a member's own scores of a machine ID's calibration clips, in their order; none where it has none."""
    if machine.calibration is None or machine_id not in machine.calibration.samples:
        return np.empty(0)
    scores = machine.calibration.samples[machine_id][member][:, machine.baselines[member].modes.index(mode)]
    return scores if np.isfinite(scores).all() else np.empty(0)  # calibrated in another mode


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


def few_clips(clips: Mapping[str, int], rate: float) -> str | None:
    """Say what a rate of false alarms lacks, by the calibration clips of each machine ID; `None` for nothing."""
    needed = math.ceil(1 / rate - 1e-9) - 1
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
