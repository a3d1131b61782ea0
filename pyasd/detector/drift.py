"""Whether normal clips still score as those did that thresholds come from: a conformal test martingale.

Each new score's place among all earlier ones, the calibration clips' and the new clips', is uniformly distributed as
long as nothing changes, whatever the scores' distribution is. A martingale bets against that (Vovk, Gammerman and
Shafer, 2005, chapter 7): its capital reaches 100 with a probability of 1 % at most, however long it is watched (Ville,
1939). Where scores shift, it grows from clip to clip.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyasd.detector.decisions import check_calibrated, check_rate, normal_scores
from pyasd.detector.machine import Fitted, Machine
from pyasd.detector.scoring import known_type, score_modes
from pyasd.tables.table import SCORE_PREFIX, unlearnt

if TYPE_CHECKING:
    from pandas import DataFrame

SHIFTS = (-1.0, -0.5, 0.0, 0.5, 1.0)
"""The bets: by how many standard deviations scores, made normally distributed by their places, may have shifted."""

JUMP = 0.01
"""Share of the capital that is laid on all bets anew before each clip: so the bet on a late shift isn't lost by then.
Of 0.003, 0.01 and 0.03 the one that finds shifts soonest in simulated normal scores."""

SAME = 1e-6
"""Relative difference up to which two scores are the same: a table's may have been computed on another machine."""

COLUMNS = (
    "machine_type", "machine_id", "clips", "calibration_clips", "p_value", "drifted", "shift", "since", "noticed"
)  # fmt: skip


def log_capital(normal: NDArray[np.float64], scores: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Compute the logarithm of the martingale's capital after each new score; it begins with a capital of 1.

    Args:
        normal: `[n]` scores of calibration clips, ascending.
        scores: `[clips]` of the new ones, in the order of time.
        seed: a place among equal scores is drawn.

    Returns:
        `[clips]`.
    """
    from scipy.special import ndtri  # here, as `import pyasd.detector` is to stay light

    known, rng = normal.tolist(), np.random.default_rng(seed)
    places = np.empty(len(scores))
    for i, score in enumerate(scores.tolist()):
        lower, not_higher = bisect_left(known, score), bisect_right(known, score)
        places[i] = (lower + rng.random() * (not_higher - lower + 1)) / (len(known) + 1)
        known.insert(not_higher, score)
    shifts = np.array(SHIFTS)
    gains = np.exp(np.outer(ndtri(places.clip(1e-12, 1 - 1e-12)), shifts) - shifts**2 / 2)
    shares, total, logs = np.full(len(shifts), 1 / len(shifts)), 0.0, []
    for gain in gains:
        shares = ((1 - JUMP) * shares + JUMP / len(shifts)) * gain
        total += math.log(shares.sum())
        shares /= shares.sum()
        logs.append(total)
    return np.array(logs)


def noticed(logs: NDArray[np.float64], false_alarms: float) -> int | None:
    """Return at which clip drift is noticed, by `log_capital`; `None` where it isn't."""
    over = np.flatnonzero(logs >= -math.log(false_alarms))
    return int(over[0]) if len(over) else None


def drift(
    detector: Fitted, scores: DataFrame, *, false_alarms: float = 0.01, score_mode: str | None = None
) -> DataFrame:
    """Test whether each machine ID's normal clips still score as its calibration clips did.

    Clips labelled anomalous, those that the model has learnt, and those without a score are left out. An anomaly among
    many normal clips matters little; a fault that stays is drift too, and only somebody who listens can tell.

    Args:
        detector: the system that scored the clips.
        scores: a table of scores, its rows in the order of time.
        false_alarms: the probability that a machine ID's clips are found to have drifted, at any time, although they
            haven't.
        score_mode: the one that clips were scored by, if not the recipe's.

    Returns:
        A row for each machine ID: `clips` that were tested, `calibration_clips`, `p_value` (valid whenever one stops:
        one over the highest capital so far), `drifted`, and then the clip at which that was `noticed` and the one that
        it probably began with, `since`; `shift`: by how much mean scores since then (of all clips where there is no
        drift) lie above the calibration clips', in standard deviations of these. `attrs["unused"]` counts the other
        rows.

    Raises:
        ValueError: no clip can be tested, the detector has no calibration, or it isn't the one that scored them.
    """
    import pandas as pd

    check_rate(false_alarms)
    check_calibrated(detector)
    modes = score_modes(detector, score_mode)
    wanted = unlearnt(scores[scores["score"].notna() & ~scores["label"].eq(1).fillna(False)])
    rows, used = [], 0
    for (machine_type, machine_id), clips in wanted.groupby(["machine_type", "machine_id"], sort=True):
        machine = detector.machines.get(known_type(detector, machine_type))
        if machine is None or machine_id not in machine.ids:
            continue
        normal = normal_scores(machine, machine_id, modes, detector.recipe)
        if not len(normal):
            continue
        check_scored_by(detector, machine, machine_id, modes, clips)
        used += len(clips)
        rows.append((machine_type, machine_id, len(clips), len(normal), *_tested(normal, clips, false_alarms)))
    if not rows:
        raise ValueError(
            f"none of the {len(scores)} rows can be tested for drift: they have no score, are labelled anomalous, were "
            "learnt, or are of machine IDs without calibration clips"
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table.attrs["unused"] = len(scores) - used
    return table


def check_scored_by(
    detector: Fitted, machine: Machine, machine_id: str, modes: dict[str, str], clips: DataFrame
) -> None:
    """Check that a machine ID's clips were scored by this detector: that the members' scores give the score.

    Raises:
        ValueError: they don't.
    """
    columns = {name: f"{SCORE_PREFIX}{name}" for name in machine.members}
    if not set(columns.values()) <= set(clips):
        raise ValueError(f"the table lacks {', '.join(columns.values())}: give the model that scored its clips")
    for row in clips[["clip", "score", *columns.values()]].to_dict("records"):
        members = {name: row[column] for name, column in columns.items()}
        expected = machine.overall(machine.standardise(members, machine_id, modes), machine_id, detector.recipe)
        if not math.isclose(row["score"], expected, rel_tol=SAME, abs_tol=SAME):
            raise ValueError(
                f"{row['clip']} has the score {row['score']:.6g}, and this model makes {expected:.6g} of its members' "
                "scores: give the model that scored it, and the score_mode= of then"
            )


def _tested(normal: NDArray[np.float64], clips: DataFrame, false_alarms: float) -> tuple[float, bool, float, str, str]:
    """A machine ID's `p_value`, `drifted`, `shift`, `since` and `noticed`."""
    values, names = clips["score"].to_numpy(), clips["clip"].to_list()
    logs = log_capital(normal, values)
    p_value = math.exp(-max(0.0, float(logs.max())))
    place = noticed(logs, false_alarms)
    since = 0 if place is None else int(np.argmin(np.r_[0.0, logs[:place]]))  # it has only risen since
    shift = float((values[since:].mean() - normal.mean()) / max(float(normal.std()), 1e-9))
    if place is None:
        return p_value, False, shift, "", ""
    return p_value, True, shift, names[since], names[place]
