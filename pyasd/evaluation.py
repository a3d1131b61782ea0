"""AUC and pAUC of a table of scores, as the DCASE challenge of 2020 counts them."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from pyasd import results
from pyasd.config import P_AUC_MAX_FPR

AVERAGE = "average"
COLUMNS = ("machine_type", "machine_id", "normal", "anomalous", "auc", "pauc")


def evaluate(
    table: pd.DataFrame | str | os.PathLike[str], *, max_fpr: float = P_AUC_MAX_FPR, score: str = "score"
) -> pd.DataFrame:
    """AUC and pAUC per machine ID, and their arithmetic means per machine type and over all types.

    Clips without a score or a label don't count. Both are scikit-learn's `roc_auc_score`: ties count half, and pAUC
    is standardised after McClish (1989), so that chance is 0.5 in both.

    Args:
        table: what `pyasd.score` returned, or its file.
        max_fpr: the p of pAUC, the largest false-positive rate that counts.
        score: the column to evaluate, such as "score.group-made".

    Returns:
        Columns `machine_type`, `machine_id`, `normal` and `anomalous` (clips), `auc` and `pauc` (0 to 1). One row per
        machine ID; one with `machine_id` "average" per machine type; and, if there are several types, one with
        "average" in both: the mean of the types' averages. The counts of averages are sums.

    Raises:
        ValueError: a column is missing, no clip has a label, or no machine ID has both kinds of clips.
    """
    frame = table if isinstance(table, pd.DataFrame) else results.read(table)
    missing = [name for name in ("machine_type", "machine_id", "label", score) if name not in frame]
    if missing:
        scores = [name for name in frame if str(name).startswith("score")]
        raise ValueError(f"the table has no column {', '.join(missing)} (scores are in {', '.join(scores) or 'none'})")
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr must be above 0 and at most 1, not {max_fpr}")
    labelled = frame[frame["label"].notna()]
    if labelled.empty:
        raise ValueError(
            "no clip has a label, so there is nothing to evaluate against: names like normal_id_00_00000000.wav and "
            "anomaly_id_00_00000000.wav carry labels, and folders called normal and abnormal or anomaly"
        )
    scored = labelled[labelled[score].notna()]
    if failed := len(labelled) - len(scored):
        clips = "clip has" if failed == 1 else "clips have"
        warnings.warn(f"{failed} labelled {clips} no score and can't count: see the table's `error`", stacklevel=2)
    # NaN is what pandas makes of empty text that it reads by itself.
    types, machine_ids = (scored[key].astype(object).where(scored[key].notna(), "") for key in COLUMNS[:2])
    rows = []
    for (machine_type, machine_id), group in scored.groupby([types, machine_ids]):
        label, values = group["label"].to_numpy(np.int64), group[score].to_numpy(np.float64)
        anomalous = int(label.sum())
        normal = len(label) - anomalous
        if normal and anomalous:
            auc, pauc = roc_auc_score(label, values), roc_auc_score(label, values, max_fpr=max_fpr)
            rows.append((machine_type, machine_id, normal, anomalous, float(auc), float(pauc)))
        else:
            only, none = ("normal", "anomalous") if normal else ("anomalous", "normal")
            warnings.warn(
                f"{machine_type} {machine_id}".strip() + f" is left out: it has {only} clips, but no {none} ones",
                stacklevel=2,
            )
    if not rows:
        raise ValueError("no machine ID has both normal and anomalous clips with a score: AUC needs both")
    each = pd.DataFrame(rows, columns=list(COLUMNS))
    parts = [part for _, ids in each.groupby("machine_type", sort=False) for part in (ids, _average(ids))]
    averages = pd.concat(parts[1::2])
    if len(averages) > 1:
        parts.append(_average(averages).assign(machine_type=AVERAGE))
    return pd.concat(parts, ignore_index=True)


def _average(rows: pd.DataFrame) -> pd.DataFrame:
    """One row: sums of the counts, arithmetic means of the rest."""
    counts, means = rows[["normal", "anomalous"]].sum(), rows[["auc", "pauc"]].mean()
    first = {"machine_type": rows["machine_type"].iloc[0], "machine_id": AVERAGE}
    return pd.DataFrame([first | counts.to_dict() | means.to_dict()], columns=list(COLUMNS))
