"""AUC and pAUC against hand counts and scikit-learn."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from pyasd import results
from pyasd.evaluation import evaluate


def rows(machine_type: str, machine_id: str, scores: list[float], labels: list[int | None]) -> list[dict]:
    return [
        {"clip": f"{i}.wav", "machine_type": machine_type, "machine_id": machine_id, "score": s, "label": y,
         "score.m": -s, "status": "ok"}
        for i, (s, y) in enumerate(zip(scores, labels, strict=True))
    ]  # fmt: skip


def table(*parts: list[dict]) -> pd.DataFrame:
    return results.table([row for part in parts for row in part], ["m"])


def test_auc_counts_pairs_and_ties_half() -> None:
    found = evaluate(table(rows("fan", "00", [1.0, 2.0, 2.0, 3.0], [0, 0, 1, 1])))
    assert found.loc[0].to_dict() == {
        "machine_type": "fan", "machine_id": "00", "normal": 2, "anomalous": 2, "auc": 3.5 / 4,
        "pauc": pytest.approx(29 / 38),
    }  # fmt: skip


def test_pauc_is_mc_clish_standardised() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    scores = np.round(rng.standard_normal(500) + labels, 1)
    found = evaluate(table(rows("fan", "00", scores.tolist(), labels.tolist())))
    # The area under the ROC up to FPR 0.1, by hand, and McClish's formula.
    fpr, tpr, _ = roc_curve(labels, scores)
    below = fpr < 0.1
    x = np.append(fpr[below], 0.1)
    y = np.append(tpr[below], np.interp(0.1, fpr, tpr))
    area, chance = np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2), 0.1**2 / 2
    assert found["pauc"][0] == pytest.approx((1 + (area - chance) / (0.1 - chance)) / 2, abs=1e-12)
    assert found["auc"][0] == roc_auc_score(labels, scores)
    other = evaluate(table(rows("fan", "00", scores.tolist(), labels.tolist())), max_fpr=0.5)
    assert other["pauc"][0] == roc_auc_score(labels, scores, max_fpr=0.5)


def test_averages_are_arithmetic_per_type_and_then_over_types() -> None:
    found = evaluate(
        table(
            rows("pump", "00", [0, 1], [0, 1]),
            rows("fan", "02", [0, 1], [1, 0]),
            rows("fan", "00", [0, 1, 2], [0, 1, 0]),
        )
    )
    assert list(zip(found["machine_type"], found["machine_id"], found["auc"], strict=True)) == [
        ("fan", "00", 0.5), ("fan", "02", 0.0), ("fan", "average", 0.25),
        ("pump", "00", 1.0), ("pump", "average", 1.0),
        ("average", "average", 0.625),
    ]  # fmt: skip
    assert found["normal"].tolist() == [2, 1, 3, 1, 1, 4]
    assert found["anomalous"].tolist() == [1, 1, 2, 1, 1, 3]


def test_one_machine_type_has_no_overall_average() -> None:
    found = evaluate(table(rows("", "", [0, 1], [0, 1])))
    assert found["machine_id"].tolist() == ["", "average"]


def test_a_member_s_own_scores() -> None:
    assert evaluate(table(rows("fan", "00", [0, 1], [0, 1])), score="score.m")["auc"][0] == 0.0


@pytest.mark.parametrize("extension", [".csv", ".parquet"])
def test_a_file_gives_the_same(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"scores{extension}"
    data = rows("fan", "00", [0.5, 1.0, 2.0], [0, 1, 0]) + rows("", "", [0.0, 1.0], [0, 1])
    with results.Writer(path, ["m"]) as writer:
        writer.write(data)
    pd.testing.assert_frame_equal(evaluate(path), evaluate(table(data)))
    # pandas' own reading makes numbers of machine IDs and NaN of empty text.
    if extension == ".csv":
        assert evaluate(pd.read_csv(path))["auc"].tolist() == evaluate(path)["auc"].tolist()


def test_an_id_with_one_class_is_left_out_with_a_warning() -> None:
    data = table(rows("fan", "00", [0, 1], [0, 1]), rows("fan", "02", [0, 1], [0, 0]))
    with pytest.warns(UserWarning, match="fan 02 is left out: it has normal clips, but no anomalous ones"):
        found = evaluate(data)
    assert found["machine_id"].tolist() == ["00", "average"]


def test_failed_and_unlabelled_clips_do_not_count() -> None:
    data = rows("fan", "00", [0.0, 1.0, np.nan, 9.0], [0, 1, 0, None])
    with pytest.warns(UserWarning, match="1 labelled clip has no score"):
        found = evaluate(table(data))
    assert found.loc[0, ["normal", "anomalous", "auc"]].tolist() == [1, 1, 1.0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(table([data[0], data[1], data[3]]))


def test_no_labels_at_all() -> None:
    with pytest.raises(ValueError, match=r"no clip has a label.*names like normal_id_00_00000000\.wav"):
        evaluate(table(rows("fan", "00", [0, 1], [None, None])))


def test_no_id_with_both_classes() -> None:
    with pytest.warns(UserWarning, match="no normal ones"), pytest.raises(ValueError, match="AUC needs both"):
        evaluate(table(rows("fan", "00", [0, 1], [1, 1])))


def test_missing_columns_are_named() -> None:
    data = table(rows("fan", "00", [0, 1], [0, 1]))
    with pytest.raises(
        ValueError, match=r"no column score\.other \(scores are in score, score\.mean, score\.max, score\.m\)"
    ):
        evaluate(data, score="score.other")
    with pytest.raises(ValueError, match="no column machine_id, label"):
        evaluate(data.drop(columns=["machine_id", "label"]))


def test_max_fpr_must_be_a_rate() -> None:
    with pytest.raises(ValueError, match="max_fpr must be"):
        evaluate(table(rows("fan", "00", [0, 1], [0, 1])), max_fpr=10)
