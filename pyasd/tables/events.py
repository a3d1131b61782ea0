"""Events: runs of neighbouring cuts of a recording that are anomalies."""

from __future__ import annotations

import numpy as np
import pandas as pd

NEIGHBOURS = 1e-6
"""Seconds by which a cut may begin behind the end of the one before, and still be its neighbour: decimals of tables."""


def events(scores: pd.DataFrame, threshold: float | None = None) -> pd.DataFrame:
    """Join neighbouring cuts that are anomalies to events.

    Args:
        scores: what `Detector.score` returned with `window=`, or `tables.table.read` has read.
        threshold: cuts with higher scores are anomalies; `None` takes those that `false_alarms=` decided so.

    Returns:
        A row for each event, in the recordings' order: `clip`, `channel`, `machine_type`, `machine_id`; `start` and
        `end` of its cuts, in seconds; `peak`, the highest score, and `peak_start`, where that cut begins; `cuts`, how
        many there are. Cuts are neighbours where they overlap or touch.

    Raises:
        ValueError: the table has no decisions, and there is no threshold.
    """
    if threshold is None and "decision" not in scores:
        raise ValueError("the table has no decisions: score with false_alarms=, or give threshold=")
    odd = scores["decision"] == "anomaly" if threshold is None else scores["score"] > threshold
    cuts = scores[odd]
    # Clips that were given twice have their rows one behind the other: sorting keeps to the first clip's rows.
    recording = scores.groupby(["clip", "channel"], sort=False).ngroup()[odd]
    cuts = cuts.assign(_recording=recording).sort_values(["_recording", "start"], kind="stable")
    ends = cuts["start"] + cuts["duration"]
    so_far = ends.groupby(cuts["_recording"]).cummax().shift()
    begins = (cuts["_recording"] != cuts["_recording"].shift()) | (cuts["start"] > so_far + NEIGHBOURS)
    groups = cuts.assign(end=ends).groupby(begins.cumsum().to_numpy(), sort=True)
    highest = cuts.loc[groups["score"].idxmax()] if len(cuts) else cuts
    first = groups.first()
    found = first[["clip", "channel", "machine_type", "machine_id", "start"]].copy()
    found["end"] = groups["end"].max()
    found["peak"] = highest["score"].to_numpy()
    found["peak_start"] = highest["start"].to_numpy()
    found["cuts"] = groups.size().astype(np.int64)
    return found.reset_index(drop=True)
