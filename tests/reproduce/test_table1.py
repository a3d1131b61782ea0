"""Figures over seeds, beside the published ones."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pyasd.reproduce import table1


def scores_of(values: dict[tuple[int, str], tuple[list[float], list[float]]]) -> pd.DataFrame:
    """A table by seed and machine type: scores of normal and of anomalous clips of one machine ID."""
    rows = [
        {"seed": seed, "machine_type": kind, "machine_id": "00", "clip": f"{label}{i}.wav", "label": label, "s": value}
        for (seed, kind), both in values.items()
        for label, own in enumerate(both)
        for i, value in enumerate(own)
    ]
    return pd.DataFrame(rows)


def test_means_and_deviations_over_seeds() -> None:
    scores = scores_of({
        (0, "fan"): ([0, 1], [2, 3]), (1, "fan"): ([0, 2], [1, 3]), (2, "fan"): ([2, 3], [0, 1]),
        (0, "pump"): ([0], [1]), (1, "pump"): ([0], [0]), (2, "pump"): ([0], [1]),
    })  # fmt: skip
    found = table1.figures(scores, ["s"]).set_index("machine_type")
    assert found.loc["fan", "auc"] == pytest.approx(np.mean([1, 0.75, 0]))
    assert found.loc["fan", "auc_deviation"] == pytest.approx(np.std([1, 0.75, 0], ddof=1))
    each = [(1 + 1) / 2, (0.75 + 0.5) / 2, (0 + 1) / 2]
    assert found.loc["average", "auc"] == pytest.approx(np.mean(each))
    assert found.loc["average", "auc_deviation"] == pytest.approx(np.std(each, ddof=1))
    assert found["seeds"].tolist() == [3, 3, 3]


def test_an_average_is_over_what_all_seeds_have() -> None:
    scores = scores_of({(0, "fan"): ([0], [1]), (1, "fan"): ([0], [1]), (0, "pump"): ([1], [0])})
    found = table1.figures(scores, ["s"]).set_index("machine_type")
    assert found["seeds"].to_dict() == {"fan": 2, "pump": 1, "average": 2}
    assert found.loc["average", "auc"] == 1


def test_published_figures_have_the_published_averages() -> None:
    averages = {
        name: pytest.approx(np.mean(list(x.figures.values()), axis=0), abs=0.006)
        for name, x in table1.PUBLISHED.items()
    }
    assert averages["system 4"] == [80.88, 68.27]
    assert averages["system 1, max"] == [90.12, 83.21]
    assert averages["system 3, max"] == [90.16, 83.07]
    assert {len(x.figures) for x in table1.PUBLISHED.values()} == {6}


def figures_of(rows: list[tuple[str, dict[str, tuple[float, float]]]], seeds: int = 1) -> pd.DataFrame:
    return pd.DataFrame([
        {"row": row, "machine_type": kind, "auc": auc / 100, "pauc": pauc / 100, "auc_deviation": 0.01,
         "pauc_deviation": 0.02, "seeds": seeds}
        for row, pairs in rows for kind, (auc, pauc) in pairs.items()
    ])  # fmt: skip


def test_the_table_has_the_report_and_the_difference_beside() -> None:
    ours = dict.fromkeys((*table1.MACHINES, "average"), (80.0, 70.0))
    machines, lines = table1.lines(figures_of([("system 4", ours), ("system 1, mean", ours)], seeds=4), compare=True)
    assert machines == ["ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve", "average"]
    assert [(x.name.strip(), x.cells[0], x.cells[-1]) for x in lines] == [
        ("system 4", "80.00 (70.00)", "80.00 (70.00)"),
        ("deviation, 4 seeds", "1.00 (2.00)", "1.00 (2.00)"),
        ("report", "80.51 (71.89)", "80.88 (68.27)"),
        ("difference", "-0.51 (-1.89)", "-0.88 (+1.73)"),
        ("system 1, mean", "80.00 (70.00)", "80.00 (70.00)"),
        ("deviation, 4 seeds", "1.00 (2.00)", "1.00 (2.00)"),
        ("report", "not known here", ""),
    ]


def test_an_average_over_fewer_machine_types_is_not_compared() -> None:
    ours = {"fan": (80.0, 70.0), "average": (80.0, 70.0)}
    _, lines = table1.lines(figures_of([("system 4", ours)]), compare=True)
    assert [x.cells for x in lines] == [
        ["80.00 (70.00)", "80.00 (70.00)"], ["70.10 (53.62)", "-"], ["+9.90 (+16.38)", "-"],
    ]  # fmt: skip
