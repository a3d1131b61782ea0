"""The figures of a run, by hand, and the files that it writes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pyasd.reproduce.report import Result

from .conftest import MACHINES


def test_figures_are_the_challenge_s_and_the_pooled_ones(done: tuple[Path, Result]) -> None:
    result = done[1]
    titles = list(result.tables)
    assert titles[0].startswith("Development set, per machine ID")
    assert [x.split(",")[0] for x in titles] == [
        "Development set",
        "Development set",
        "Evaluation set",
        "Evaluation set",
    ]
    for title, found in result.tables.items():
        part = title.split()[0].lower()
        own = result.scores[result.scores["part"] == part]
        for row in ("baseline", "system 2, max"):
            figures = found[found["row"] == row].set_index("machine_type")
            by_type = {}
            for machine_type, clips in own.groupby("machine_type"):
                ids = [clips] if "pooled" in title else [x for _, x in clips.groupby("machine_id")]
                pairs = [[roc_auc_score(x["label"].astype(int), x[row], max_fpr=p) for p in (None, 0.1)] for x in ids]
                by_type[machine_type] = np.mean(pairs, axis=0)
                assert figures.loc[machine_type, ["auc", "pauc"]].tolist() == pytest.approx(by_type[machine_type])
            average = np.mean(list(by_type.values()), axis=0)
            assert figures.loc["average", ["auc", "pauc"]].tolist() == pytest.approx(average)
            assert (figures["seeds"] == 1).all()
            assert figures["auc_deviation"].isna().all()


def test_the_challenge_s_own_files(done: tuple[Path, Result]) -> None:
    out, result = done
    folder = out / "challenge" / "development" / "system-2-max" / "seed0"
    ids = ("00", "02", "04", "06")
    assert sorted(x.name for x in folder.iterdir()) == sorted(
        [f"anomaly_score_{kind}_id_{x}.csv" for kind in MACHINES for x in ids] + ["result.csv"]
    )
    own = result.scores[(result.scores["part"] == "development") & (result.scores["machine_type"] == "fan")]
    lines = list(csv.reader((folder / "anomaly_score_fan_id_02.csv").read_text().splitlines()))
    assert [x[0] for x in lines] == [
        "normal_id_02_00000000.wav", "normal_id_02_00000001.wav", "anomaly_id_02_00000000.wav",
        "anomaly_id_02_00000001.wav",
    ]  # fmt: skip
    by_name = {Path(x["clip"]).name: x["system 2, max"] for x in own.to_dict("records")}
    assert all(float(value) == by_name[name] for name, value in lines)
    blocks = (folder / "result.csv").read_text().split("\n\n")
    rows = list(csv.reader(blocks[0].splitlines()))
    assert rows[:2] == [["fan"], ["id", "AUC", "pAUC"]]
    assert [x[0] for x in rows[2:]] == [*ids, "Average"]
    assert float(rows[-1][1]) == pytest.approx(np.mean([float(x[1]) for x in rows[2:-1]]))
    assert blocks[1].startswith("pump\nid,AUC,pAUC\n00,")
    hidden = out / "challenge" / "evaluation" / "baseline" / "seed0" / "anomaly_score_pump_id_03.csv"
    assert [x.split(",")[0] for x in sorted(hidden.read_text().splitlines())] == [
        f"id_03_{i:08d}.wav" for i in range(4)
    ]


def test_the_markdown_report(done: tuple[Path, Result]) -> None:
    text = done[1].report.read_text()
    assert "| AUC (pAUC), % | fan | pump | average |" in text
    assert "| **system 2, max** |" in text
    assert "- these recordings are synthetic" in text
    assert "- not there: ToyCar, ToyConveyor, slider, valve" in text
    assert "- system 2: mobilenet + group-made" in text
    assert "QUICK" not in text
