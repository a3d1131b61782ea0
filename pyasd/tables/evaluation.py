"""AUC and pAUC of a table of scores, by the rules of the DCASE challenges, year by year."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

import numpy as np
import pandas as pd
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score

from pyasd.tables import table as results
from pyasd.tables.labels import Truth, label_key, read_labels

P_AUC_MAX_FPR = 0.1
"""The p of pAUC: the largest false-positive rate that counts (challenge rules, 2020 to 2025)."""

Labels = str | os.PathLike[str] | Mapping[tuple[str, str], Truth]
"""The organisers' list of labels: its file, or what `tables.labels.read_labels` makes of it."""

AVERAGE = "average"
POOLED = "pooled"
COLUMNS = ("machine_type", "machine_id", "normal", "anomalous", "auc", "pauc")

RULES = {
    "2020": ("auc", "pauc"),
    POOLED: ("auc", "pauc"),
    "2021": ("auc_source", "auc_target", "pauc_source", "pauc_target"),
    **dict.fromkeys(("2022", "2023", "2024", "2025", "2026"), ("auc_source", "auc_target", "pauc")),
}
"""The rules, and what each counts of a machine ID (section)."""


def evaluate(
    table: pd.DataFrame | str | os.PathLike[str],
    *,
    max_fpr: float = P_AUC_MAX_FPR,
    score: str = "score",
    rule: str | None = None,
    labels: Labels | None = None,
    without_learnt: bool = False,
) -> pd.DataFrame:
    """Compute AUC and pAUC per machine ID, and their means per machine type and over all types.

    Clips without a score or a label don't count. All are scikit-learn's `roc_auc_score`: ties count half, and pAUC is
    standardised after McClish (1989), so that chance is 0.5 in both.

    Rules:
        "2020": AUC and pAUC of each machine ID; arithmetic means of these.
        "pooled": the scores of all IDs of a machine type in one ROC curve, as some publications count them. It is not
            the challenge's, and differs from it by several points in both directions.
        "2021": AUC and pAUC of each section and domain; harmonic means.
        "2022" to "2026": AUC of a domain's normal clips against the section's anomalies of both domains; one pAUC of
            all clips of both; harmonic means. (2026 as 2025: its evaluator wasn't out yet.)

    Args:
        table: what `pyasd.score` returned, or its file.
        max_fpr: the p of pAUC, the largest false-positive rate that counts.
        score: the column to evaluate, such as "score.group-made".
        rule: see above; `None` takes the one that clips' names tell, see `rule_of`.
        without_learnt: leave out clips that the model has learnt, as their `note` says. They are warned of else.
        labels: the organisers' list of labels of an evaluation set, `eval_data_list_....csv`, for clips whose names
            tell none; see `tables.labels.read_labels`, whose result is taken too.

    Returns:
        Columns `machine_type`, `machine_id`, `normal` and `anomalous` (clips), `auc` and `pauc` (0 to 1). One row per
        machine ID; one with `machine_id` "average" per machine type; and, if there are several types, one with
        "average" in both: the mean of the types' averages. The counts of averages are sums.
        By the rules from 2021 on, `auc` is two columns, `auc_source` and `auc_target` (in 2021 `pauc` as well), and
        averages have a column `official`: the harmonic mean of all those figures of all sections that they average.

    Raises:
        ValueError: a column is missing, no clip has a label, no machine ID has both kinds of clips, or clips have no
            domain where the rule needs it.
    """
    table = table if isinstance(table, pd.DataFrame) else results.read(table)
    rule = rule or rule_of(table)
    if rule not in RULES:
        raise ValueError(f"no rule {rule!r}; there are {', '.join(RULES)}")
    if not 0 < max_fpr <= 1:
        raise ValueError(f"max_fpr must be above 0 and at most 1, not {max_fpr}")
    harmonic = rule not in ("2020", POOLED)
    frame = _labelled(results.unlearnt(table) if without_learnt else table, score, labels, harmonic)
    if not without_learnt and (learnt := len(frame) - len(results.unlearnt(table.loc[frame.index]))):
        warnings.warn(
            f"{learnt} of {len(frame)} clips were learnt by the model, whose scores of them say nothing of new clips: "
            "without_learnt=True leaves them out",
            stacklevel=2,
        )
    if harmonic and (frame["domain"] == "").any():
        first = frame.loc[frame["domain"] == "", "clip"].iloc[0]
        raise ValueError(
            f"the rule of {rule} needs each clip's domain, and {first} tells none: names like section_00_source_test_"
            "normal_0000.wav do, and for the evaluation set the organisers' list, labels=eval_data_list_....csv"
        )
    if rule == POOLED:
        frame = frame.assign(machine_id=POOLED)
    rows = [
        {"machine_type": machine_type, "machine_id": machine_id} | row
        for (machine_type, machine_id), group in frame.groupby(["machine_type", "machine_id"])
        for row in _figures(group, f"{machine_type} {machine_id}".strip(), rule, max_fpr)
    ]
    if not rows:
        raise ValueError("no machine ID has both normal and anomalous clips with a score: AUC needs both")
    each = pd.DataFrame(rows)
    parts = [part for _, ids in each.groupby("machine_type", sort=False) for part in (ids, _average(ids, harmonic))]
    averages = pd.concat(parts[1::2])
    if len(averages) > 1:
        overall = _average(averages, harmonic).assign(machine_type=AVERAGE)
        if harmonic:
            overall["official"] = _harmonic(each[list(RULES[rule])].to_numpy())
        parts.append(overall)
    return pd.concat(parts, ignore_index=True)


def rule_of(table: pd.DataFrame) -> str:
    """Return the rule of the challenge whose names the clips of a table of scores have: "2022", which all years since
    follow, for sections and domains; "2021", where these lie in folders for each domain; else "2020".
    """
    if "clip" not in table:
        return "2020"
    paths = [PurePosixPath(name.replace("\\", "/")) for name in table["clip"].astype(str)]
    if not any(path.name.startswith("section_") for path in paths):
        return "2020"
    return "2021" if {"source_test", "target_test"} & {path.parent.name for path in paths} else "2022"


def count_decisions(
    table: pd.DataFrame | str | os.PathLike[str], *, column: str = "decision", labels: Labels | None = None
) -> pd.DataFrame:
    """Count false alarms and faults found per machine ID, where clips were decided.

    Clips without a decision or a label don't count.

    Args:
        table: what `pyasd.score` returned with `false_alarms=`, or its file.
        column: "decision" or "confirmed".
        labels: see `evaluate`.

    Returns:
        One row per machine ID: `machine_type`, `machine_id`, `normal` and `anomalous` (clips), `false_alarm_rate` (of
        the normal ones), and `precision`, `recall` and `f1` as scikit-learn counts them; NaN for what has no clips.

    Raises:
        ValueError: a column is missing, or no clip has a label.
    """
    frame = table if isinstance(table, pd.DataFrame) else results.read(table)
    if column not in frame:
        raise ValueError(f"the table has no column {column}: score with false_alarms=0.01")
    decided = _text(frame, column)
    frame = _labelled(frame[decided != ""], "score", labels, False)
    alarms = (decided == "anomaly").loc[frame.index]
    rows = []
    for (machine_type, machine_id), group in frame.groupby(["machine_type", "machine_id"]):
        label, alarm = group["label"].to_numpy(np.int64), alarms.loc[group.index].to_numpy(np.int64)
        precision, recall, f1, _ = precision_recall_fscore_support(label, alarm, average="binary", zero_division=np.nan)
        counts = {"normal": int((label == 0).sum()), "anomalous": int((label == 1).sum())}
        rate = alarm[label == 0].mean() if counts["normal"] else np.nan
        figures = {"false_alarm_rate": rate, "precision": precision, "recall": recall, "f1": f1}
        rows.append({"machine_type": machine_type, "machine_id": machine_id} | counts | figures)
    return pd.DataFrame(rows)


def _labelled(table: pd.DataFrame, score: str, labels: Labels | None, domains: bool) -> pd.DataFrame:
    """Return the clips that count, with the columns `clip`, `machine_type`, `machine_id`, `domain`, `label` and
    `score`. A table that lacks `domain` gets it only if `domains` are wanted.
    """
    missing = [name for name in ("machine_type", "machine_id", "label", score) if name not in table]
    if missing:
        scores = [name for name in table if str(name).startswith("score")]
        raise ValueError(f"the table has no column {', '.join(missing)} (scores are in {', '.join(scores) or 'none'})")
    if domains and "clip" in table:
        table = results.with_names(table)
    text = {name: _text(table, name) for name in ("clip", "machine_type", "machine_id", "domain")}
    frame = pd.DataFrame(text | {"label": table["label"].astype("Float64"), "score": table[score]})
    if labels is not None:
        frame = _with_labels(frame, labels)
    labelled = frame[frame["label"].notna()]
    if labelled.empty:
        raise ValueError(
            "no clip has a label, so there is nothing to evaluate against: names like normal_id_00_00000000.wav and "
            "anomaly_id_00_00000000.wav carry labels, and folders called normal and abnormal or anomaly; for a "
            "challenge's evaluation set give the organisers' list, labels=eval_data_list_....csv"
        )
    scored = labelled[labelled["score"].notna()]
    if failed := len(labelled) - len(scored):
        count = "clip has" if failed == 1 else "clips have"
        warnings.warn(f"{failed} labelled {count} no score and can't count: see the table's `error`", stacklevel=3)
    return scored


def _text(table: pd.DataFrame, name: str) -> pd.Series:
    """Return a column of text, "" where it is empty or not there: pandas reads empty text as NaN."""
    if name not in table:
        return pd.Series("", table.index, dtype=object)
    return table[name].astype(object).where(table[name].notna(), "")


def _with_labels(frame: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """Return the clips with the labels and domains of the organisers' list where they have none."""
    truth = labels if isinstance(labels, Mapping) else read_labels(labels)
    listed = [
        truth.get((machine_type, label_key(str(clip))))
        for machine_type, clip in zip(frame["machine_type"], frame["clip"], strict=True)
    ]
    if not any(listed):
        place = "the list of labels" if isinstance(labels, Mapping) else labels
        raise ValueError(f"{place} has none of the table's clips: is it the list of another year?")
    label = pd.Series([x.label if x else pd.NA for x in listed], frame.index, dtype="Float64")
    domain = pd.Series([x.domain if x else "" for x in listed], frame.index, dtype=object)
    return frame.assign(label=frame["label"].fillna(label), domain=frame["domain"].mask(frame["domain"] == "", domain))


def _figures(group: pd.DataFrame, name: str, rule: str, max_fpr: float) -> Iterator[dict[str, float]]:
    """Yield the figures of one machine ID's clips, in one row; none where it has no normal or no anomalous ones."""
    label, values = group["label"].to_numpy(np.int64), group["score"].to_numpy(np.float64)
    anomalous = int(label.sum())
    normal = len(label) - anomalous
    if not (normal and anomalous):
        only, none = ("normal", "anomalous") if normal else ("anomalous", "normal")
        warnings.warn(f"{name} is left out: it has {only} clips, but no {none} ones", stacklevel=3)
        return

    def area(chosen: np.ndarray, largest: float | None) -> float:
        if len(set(label[chosen])) < 2:
            return np.nan
        return float(roc_auc_score(label[chosen], values[chosen], max_fpr=largest))

    row: dict[str, float] = {"normal": normal, "anomalous": anomalous}
    for column in RULES[rule]:
        kind, _, domain = column.partition("_")
        chosen = np.ones(len(label), bool)
        if domain:
            chosen = group["domain"].to_numpy() == domain
            if rule != "2021":
                chosen |= label == 1
        row[column] = area(chosen, max_fpr if kind == "pauc" else None)
        if np.isnan(row[column]):
            warnings.warn(f"{name} has no {column}: it lacks normal or anomalous clips for it", stacklevel=3)
    yield row


def _average(rows: pd.DataFrame, harmonic: bool) -> pd.DataFrame:
    """Return the average of rows, as one row: sums of the counts, means of the rest."""
    counts = rows[["normal", "anomalous"]].sum()
    figures = rows.drop(columns=["machine_type", "machine_id", "normal", "anomalous", "official"], errors="ignore")
    first = {"machine_type": rows["machine_type"].iloc[0], "machine_id": AVERAGE}
    if not harmonic:
        return pd.DataFrame([first | counts.to_dict() | figures.mean().to_dict()])
    means = {name: _harmonic(figures[name].to_numpy()) for name in figures}
    return pd.DataFrame([first | counts.to_dict() | means | {"official": _harmonic(figures.to_numpy())}])


def _harmonic(figures: np.ndarray) -> float:
    """Return the harmonic mean of the figures that aren't NaN: 0 where one is 0."""
    known = figures[~np.isnan(figures)]
    if not len(known):
        return np.nan
    return 0.0 if (known == 0).any() else float(len(known) / np.sum(1 / known))
