"""The report's Table 1: its figures as far as they are known, ours beside them, and the challenge's own files."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pyasd.reproduce.systems import BASELINE
from pyasd.tables import evaluation
from pyasd.tables.markdown import markdown as markdown_table

MACHINES = ("ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve")

Pairs = dict[str, tuple[float, float]]
"""AUC and pAUC in per cent by machine type."""


class Published(NamedTuple):
    """Figures to compare with, and where they stand."""

    source: str
    figures: Pairs


def _row(text: str) -> Pairs:
    numbers = [float(x) for x in text.split()]
    return {machine: (numbers[2 * i], numbers[2 * i + 1]) for i, machine in enumerate(MACHINES)}


_SYSTEM_1 = "95.57 91.54  79.74 64.88  82.23 77.87  87.87 82.38  96.84 87.72  98.46 94.87"
_SYSTEM_3 = "95.27 90.23  79.10 64.02  83.06 79.55  87.04 79.52  97.43 88.91  99.07 96.20"
_SYSTEM_4 = "80.51 71.89  76.03 60.70  70.10 53.62  75.68 68.97  93.29 83.46  89.68 70.95"
_README = "80.09 67.22  72.68 60.66  65.16 52.59  72.59 60.00  84.99 66.93  66.46 50.60"

PUBLISHED = {
    BASELINE: Published("baseline's README", _row(_README)),
    "system 1, max": Published("report", _row(_SYSTEM_1)),
    "system 3, max": Published("report", _row(_SYSTEM_3)),
    "system 4": Published("report", _row(_SYSTEM_4)),
}
"""Development set of 2020, arithmetic means over machine IDs. The report (Giri et al., 2020) has them in Table 1, whose
other rows are not known here. Its systems' label augmentation was chosen on the labels of these very test clips. The
baseline's are what github.com/y-kawagu/dcase2020_task2_baseline prints; the report's own run of it differs by about a
point (ToyCar: 78.77 and 67.58)."""

AVERAGE = "average"


def figures(scores: pd.DataFrame, rows: Sequence[str], rule: str = "2020") -> pd.DataFrame:
    """Return AUC and pAUC by machine type and on average, for each row of Table 1: mean and deviation over seeds.

    Args:
        scores: all units' tables, restricted to one part; clips without a label don't count.
        rows: columns of `scores`.
        rule: "2020" or "pooled"; see `evaluation.evaluate`.

    Returns:
        Columns `row`, `machine_type`, `auc`, `pauc` (0 to 1, means over seeds), `auc_deviation`, `pauc_deviation` (the
        sample's standard deviation; NaN for one seed), and `seeds`. A row's average is over the machine types that all
        its seeds have.
    """
    figures_of_rows = []
    for row in rows:
        by_seed = {}
        for seed, table in scores.groupby("seed"):
            if table.loc[table["label"].notna(), row].notna().any():
                by_seed[seed] = _averages(table, row, rule)
        for machine_type in sorted({x for pairs in by_seed.values() for x in pairs}, key=_order):
            values = [pairs[machine_type] for pairs in by_seed.values() if machine_type in pairs]
            figures_of_rows.append(_over_seeds(row, machine_type, values))
        complete = set.intersection(*map(set, by_seed.values())) if by_seed else set()
        if complete:
            means = [np.mean([pairs[x] for x in complete], axis=0) for pairs in by_seed.values()]
            figures_of_rows.append(_over_seeds(row, AVERAGE, means))
    names = ["row", "machine_type", "auc", "pauc", "auc_deviation", "pauc_deviation", "seeds"]
    return pd.DataFrame(figures_of_rows, columns=names)


def _averages(table: pd.DataFrame, row: str, rule: str) -> dict[str, Any]:
    """Return AUC and pAUC of each machine type, for one seed."""
    evaluated = _evaluated(table, row, rule)
    of_type = (evaluated["machine_id"] == evaluation.AVERAGE) & (evaluated["machine_type"] != evaluation.AVERAGE)
    return {x["machine_type"]: (x["auc"], x["pauc"]) for x in evaluated[of_type].to_dict("records")}


def _evaluated(table: pd.DataFrame, row: str, rule: str = "2020") -> pd.DataFrame:
    """Return `evaluation.evaluate`'s table, without rows where no machine ID has both kinds of clips."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # failed clips are reported once, not for each row
        try:
            return evaluation.evaluate(table, score=row, rule=rule)
        except ValueError:
            return pd.DataFrame(columns=list(evaluation.COLUMNS))


def _over_seeds(row: str, machine_type: str, values: Sequence[Any]) -> tuple[Any, ...]:
    array = np.array(values)
    deviation = array.std(axis=0, ddof=1) if len(array) > 1 else np.full(2, np.nan)
    return row, machine_type, *array.mean(axis=0), *deviation, len(array)


def _order(machine_type: str) -> tuple[int, str]:
    return (MACHINES.index(machine_type) if machine_type in MACHINES else len(MACHINES), machine_type)


class Line(NamedTuple):
    """One line of the printed table: its name, and a cell for each column; `first` of a row's lines."""

    name: str
    cells: list[str]
    first: bool


def lines(figures: pd.DataFrame, compare: bool) -> tuple[list[str], list[Line]]:
    """Return the printed table's columns and lines: ours, the deviation over seeds, the published figures and the
    difference.

    Args:
        figures: what the function `figures` returns.
        compare: whether the published figures are of the same clips.
    """
    machines = [x for x in sorted(figures["machine_type"].unique(), key=_order) if x != AVERAGE] + [AVERAGE]
    printed = []
    for row in figures["row"].unique():
        by_type = {x["machine_type"]: x for x in figures[figures["row"] == row].to_dict("records")}
        ours = {x: (100 * by_type[x]["auc"], 100 * by_type[x]["pauc"]) for x in by_type}
        printed.append(Line(row, [_cell(ours.get(x)) for x in machines], True))
        seeds = max(x["seeds"] for x in by_type.values())
        if seeds > 1:
            deviations = {x: (100 * y["auc_deviation"], 100 * y["pauc_deviation"]) for x, y in by_type.items()}
            printed.append(Line(f"  deviation, {seeds} seeds", [_cell(deviations.get(x)) for x in machines], False))
        if compare:
            printed += _comparison(row, ours, machines)
    return machines, printed


def _comparison(row: str, ours: Mapping[str, tuple[float, float]], machines: Sequence[str]) -> list[Line]:
    """Return the lines that compare a row with the published figures."""
    if row not in PUBLISHED:
        return [Line("  report", ["not known here"] + [""] * (len(machines) - 1), False)]
    theirs: dict[str, Any] = dict(PUBLISHED[row].figures)
    if set(machines) == {*MACHINES, AVERAGE}:  # an average over fewer is another figure
        theirs[AVERAGE] = tuple(np.mean(list(theirs.values()), axis=0))
    difference = {x: np.subtract(ours[x], theirs[x]) for x in ours if x in theirs}
    return [
        Line(f"  {PUBLISHED[row].source}", [_cell(theirs.get(x)) for x in machines], False),
        Line("  difference", [_cell(difference.get(x), "+") for x in machines], False),
    ]


def _cell(pair: Any, sign: str = "") -> str:
    if pair is None or np.isnan(pair).any():
        return "-"
    return f"{pair[0]:{sign}.2f} ({pair[1]:{sign}.2f})"


def markdown(figures: pd.DataFrame, compare: bool) -> str:
    """Return the printed table as Markdown; the arguments are those of `lines`."""
    machines, rows = lines(figures, compare)
    names = (f"**{x.name}**" if x.first else f"&nbsp;&nbsp;{x.name.strip()}" for x in rows)
    cells = ([name, *line.cells] for name, line in zip(names, rows, strict=True))
    return markdown_table(["AUC (pAUC), %", *machines], cells)


def challenge_files(folder: Path, scores: pd.DataFrame, row: str) -> None:
    """Write the challenge's own files for one row, seed and part.

    They are `anomaly_score_<machine type>_id_<ID>.csv`, and where clips have labels `result.csv`. A clip without a
    score is in neither (the challenge's baseline would count it as 0).
    """
    folder.mkdir(parents=True, exist_ok=True)
    scored = scores[scores[row].notna()]
    scored = scored.assign(name=[Path(x).name for x in scored["clip"]])
    for (machine_type, machine_id), clips in scored.groupby(["machine_type", "machine_id"]):
        # As the challenge's baseline lists them: normal clips first, each kind sorted by name.
        clips = clips.sort_values(["label", "name"])
        path = folder / f"anomaly_score_{machine_type}_id_{machine_id}.csv"
        _write_csv(path, zip(clips["name"], clips[row], strict=True))
    evaluated = _evaluated(scored, row)
    blocks: list[list[Any]] = []
    for machine_type, ids in evaluated[evaluated["machine_type"] != evaluation.AVERAGE].groupby("machine_type"):
        blocks += [[machine_type], ["id", "AUC", "pAUC"]]
        for x in ids.to_dict("records"):  # the last one is their average
            name = "Average" if x["machine_id"] == evaluation.AVERAGE else x["machine_id"]
            blocks.append([name, x["auc"], x["pauc"]])
        blocks.append([])
    if blocks:
        _write_csv(folder / "result.csv", blocks)


def _write_csv(path: Path, rows: Any) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
