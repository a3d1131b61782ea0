"""What people's verdicts on scored clips change: false alarms join the calibration clips; missed faults tell which rate
of false alarms would have found them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyasd.detector.decisions import normal_scores, p_value
from pyasd.detector.detector import Detector
from pyasd.detector.drift import check_scored_by
from pyasd.detector.machine import Machine
from pyasd.detector.scoring import known_type
from pyasd.tables.table import SCORE_PREFIX

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = (
    "machine_type", "machine_id", "healthy", "clips_before", "clips_after", "faulty", "rate_for_half", "rate_for_all"
)  # fmt: skip


def feedback(
    detector: Detector, scores: DataFrame, verdicts: Mapping[str, int], *, score_mode: str | None = None
) -> tuple[Detector, DataFrame]:
    """Return the detector with thresholds that know people's verdicts, and what these change.

    Healthy clips join the calibration clips of their machine ID. They are not a random sample: where only false alarms
    are judged, thresholds become too high, and fewer false alarms come than asked for.

    Args:
        detector: the one that scored the clips.
        scores: the table of their scores. Of rows of one cut, or of a whole clip, the last counts; of a faulty clip's
            cuts and channels the one that scores highest.
        verdicts: by a clip's name, 0 for healthy or 1 for faulty; see `tables.verdicts`.
        score_mode: the one that clips were scored by, if not the recipe's.

    Returns:
        The detector; and a row for each machine ID with verdicts: how many clips or cuts are `healthy`; calibration
        clips before and after; how many clips are `faulty`, and at which rate of false alarms half of these, or all,
        are anomalies, by the thresholds after (NaN where none is known). `attrs["unused"]` counts the other verdicts:
        of clips that the table lacks, that have no score, or whose machine ID the detector doesn't know.

    Raises:
        ValueError: no verdict can be used, or the detector isn't the one that scored the clips.
    """
    import pandas as pd

    modes = detector.score_modes(score_mode)
    judged = scores[scores["score"].notna() & scores["clip"].isin(verdicts)]
    judged = judged.drop_duplicates([name for name in ("clip", "channel", "start") if name in judged], keep="last")
    machines, rows, used = dict(detector.machines), [], set[str]()
    for (machine_type, machine_id), clips in judged.groupby(["machine_type", "machine_id"], sort=True):
        name = known_type(detector, machine_type)
        if name not in machines or machine_id not in machines[name].ids:
            continue
        check_scored_by(detector, machines[name], machine_id, modes, clips)
        used.update(clips["clip"])
        faulty = clips["clip"].map(verdicts).to_numpy() == 1
        faults = clips[faulty].groupby("clip")["score"].max().to_numpy()
        before = normal_scores(machines[name], machine_id, modes, detector.recipe)
        machines[name] = _with(machines[name], machine_id, modes, clips[~faulty])
        after = normal_scores(machines[name], machine_id, modes, detector.recipe)
        rates = _rates(faults, after)
        counts = (int((~faulty).sum()), len(before), len(after), len(faults))
        rows.append((machine_type, machine_id, *counts, *rates))
    if not rows:
        raise ValueError(
            f"none of the {len(verdicts)} verdicts can be used: their clips are not in the table, by the names that it "
            "has, have no score there, or are of machine IDs that the model doesn't know"
        )
    found = pd.DataFrame(rows, columns=list(COLUMNS))
    found.attrs["unused"] = len(verdicts) - len(used)
    return Detector(detector.recipe, machines, versions=detector.versions), found


def _with(machine: Machine, machine_id: str, modes: Mapping[str, str], clips: DataFrame) -> Machine:
    """The machine with these clips among a machine ID's calibration clips."""
    if clips.empty:
        return machine
    scores = {name: clips[f"{SCORE_PREFIX}{name}"] for name in machine.baselines}
    new = machine.calibration_of([machine_id] * len(clips), scores, modes)
    return replace(machine, calibration=new if machine.calibration is None else machine.calibration.joined(new))


def _rates(faults: NDArray[np.float64], normal: NDArray[np.float64]) -> tuple[float, float]:
    """The rates of false alarms at which half of some faults, and all of them, are anomalies."""
    if not len(faults) or not len(normal):
        return np.nan, np.nan
    needed = np.sort([p_value(score, normal) for score in faults])
    return float(needed[(len(needed) - 1) // 2]), float(needed[-1])
