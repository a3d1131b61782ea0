"""AUC and pAUC against hand counts and scikit-learn."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from pyasd.tables import evaluation
from pyasd.tables import table as results
from pyasd.tables.evaluation import evaluate
from pyasd.tables.labels import read_labels
from pyasd.tables.table import Row
from pyasd.tables.writer import Writer


def rows(machine_type: str, machine_id: str, scores: list[float], labels: list[int | None]) -> list[Row]:
    return [
        Row(f"{i}.wav", machine_type, machine_id, score=s, members={"m": -s}, label=y)
        for i, (s, y) in enumerate(zip(scores, labels, strict=True))
    ]


def table(*parts: list[Row]) -> pd.DataFrame:
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
    with Writer(path, ["m"]) as writer:
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
    known = r"no column score\.other \(scores are in score, score\.mean, score\.max, score\.m\)"
    with pytest.raises(ValueError, match=known):
        evaluate(data, score="score.other")
    with pytest.raises(ValueError, match="no column machine_id, label"):
        evaluate(data.drop(columns=["machine_id", "label"]))


@pytest.mark.parametrize("max_fpr", [10, 1 + 1e-9, 0, -0.1, math.nan])
def test_max_fpr_must_be_a_rate(max_fpr: float) -> None:
    with pytest.raises(ValueError, match="max_fpr must be above 0 and at most 1, not"):
        evaluate(table(rows("fan", "00", [0, 1], [0, 1])), max_fpr=max_fpr)


def test_up_to_a_rate_of_1_the_partial_area_is_the_whole() -> None:
    found = evaluate(table(rows("fan", "00", [0, 3, 1, 2], [0, 0, 1, 1])), max_fpr=1)
    assert found["pauc"][0] == found["auc"][0] == 0.5


# -- the rules of other years ------------------------------------------------------------------------------------


def section(number: str, scores: dict[tuple[str, str], list[float]], machine_type: str = "fan") -> list[Row]:
    """Rows of a section: scores by domain and "normal" or "anomaly"."""
    return [
        Row(
            f"{machine_type}/test/section_{number}_{domain}_test_{label}_{i:04d}.wav", machine_type, number, "test",
            domain, score=value, label=int(label == "anomaly"),
        )
        for (domain, label), values in scores.items()
        for i, value in enumerate(values)
    ]  # fmt: skip


FIRST = section(
    "00",
    {("source", "normal"): [0, 1], ("source", "anomaly"): [2, 0.5], ("target", "normal"): [3, 1],
     ("target", "anomaly"): [1, 4]},
)  # fmt: skip
SECOND = section(
    "01",
    {("source", "normal"): [0, 1], ("source", "anomaly"): [1, 1], ("target", "normal"): [0, 2],
     ("target", "anomaly"): [3, 1]},
)  # fmt: skip


def harmonic(*values: float) -> float:
    return len(values) / sum(1 / x for x in values)


def test_the_rule_of_2021_keeps_domains_apart() -> None:
    found = evaluate(table(FIRST, SECOND), rule="2021")
    # Pairs by hand: (2 > 0, 1; 0.5 > 0), ties half.
    assert found["auc_source"].tolist() == pytest.approx([3 / 4, 3 / 4, 3 / 4])
    assert found["auc_target"].tolist() == pytest.approx([2.5 / 4, 3 / 4, harmonic(2.5 / 4, 3 / 4)])
    assert found["normal"].tolist() == [4, 4, 8]
    each = found[["auc_source", "auc_target", "pauc_source", "pauc_target"]].to_numpy()[:2].ravel()
    assert found["official"][2] == pytest.approx(harmonic(*each))
    assert found["official"][:2].isna().all()


@pytest.mark.parametrize("rule", ["2022", "2023", "2024", "2025", "2026"])
def test_from_2022_on_a_domain_s_normal_clips_meet_all_anomalies(rule: str) -> None:
    found = evaluate(table(FIRST, SECOND), rule=rule)
    assert found["auc_source"].tolist()[:2] == pytest.approx([(3 + 1.5 + 2) / 8, (1.5 + 1.5 + 2 + 1.5) / 8])
    assert found["auc_target"].tolist()[:2] == pytest.approx([(1 + 0 + 0.5 + 2) / 8, (1 + 1 + 2 + 1) / 8])
    for i, rows_ in enumerate((FIRST, SECOND)):
        labels, scores = [x.label for x in rows_], [x.score for x in rows_]
        assert found["pauc"][i] == roc_auc_score(labels, scores, max_fpr=0.1)
    each = found[["auc_source", "auc_target", "pauc"]].to_numpy()[:2].ravel()
    assert found["official"][2] == pytest.approx(harmonic(*each))


def test_means_over_machine_types_are_harmonic_too() -> None:
    pump = section(
        "00",
        {("source", "normal"): [0, 1, 2], ("source", "anomaly"): [2, 3], ("target", "normal"): [0],
         ("target", "anomaly"): [1]},
        "pump",
    )  # fmt: skip
    found = evaluate(table(FIRST, SECOND, pump), rule="2023")
    assert list(zip(found["machine_type"], found["machine_id"], strict=True)) == [
        ("fan", "00"), ("fan", "01"), ("fan", "average"), ("pump", "00"), ("pump", "average"), ("average", "average"),
    ]  # fmt: skip
    columns = ["auc_source", "auc_target", "pauc"]
    sections = found.loc[[0, 1, 3], columns].to_numpy().ravel()
    assert found["official"][5] == pytest.approx(harmonic(*sections))
    for name in columns:
        assert found[name][5] == pytest.approx(harmonic(found[name][2], found[name][4]))


@pytest.mark.filterwarnings("error")
def test_a_figure_of_zero_makes_a_harmonic_mean_of_zero() -> None:
    worst = section("00", {("source", "normal"): [5], ("source", "anomaly"): [0], ("target", "normal"): [0]})
    with pytest.warns(UserWarning, match="fan 00 has no p?auc_target"):
        found = evaluate(table(worst), rule="2021")
    assert found["auc_source"].tolist() == [0, 0]
    assert np.isnan(found["auc_target"]).all()
    assert found["official"][1] == 0


def test_pooled_is_one_curve_per_machine_type() -> None:
    parts = [
        rows("fan", "00", [0, 1, 2, 3], [0, 1, 0, 1]),
        rows("fan", "02", [10, 11, 12, 12], [0, 1, 0, 1]),
        rows("pump", "00", [0, 1], [0, 1]),
    ]
    found = evaluate(table(*parts), rule="pooled")
    assert found["machine_id"].tolist() == ["pooled", "average", "pooled", "average", "average"]
    labels, scores = zip(*((x.label, x.score) for x in parts[0] + parts[1]), strict=True)
    assert found["auc"][0] == roc_auc_score(labels, scores)
    assert found["pauc"][0] == roc_auc_score(labels, scores, max_fpr=0.1)
    assert found["auc"][4] == (found["auc"][0] + 1) / 2
    assert found["auc"][0] < evaluate(table(*parts))["auc"][2], "here pooling costs: the IDs' scores lie apart"


def test_every_rule_agrees_with_the_organisers_way_of_counting() -> None:
    """Scores with many ties; the selections as the challenge's own evaluator makes them, clip by clip."""
    rng = np.random.default_rng(3)
    data = [
        x
        for kind in ("fan", "valve")
        for number in ("00", "01", "02")
        for x in section(
            number,
            {(d, y): np.round(rng.standard_normal(50) + (y == "anomaly"), 1).tolist()
             for d in ("source", "target") for y in ("normal", "anomaly")},
            kind,
        )
    ]  # fmt: skip
    per_domain, across = evaluate(table(data), rule="2021"), evaluate(table(data), rule="2024")
    for (kind, number), i in {("fan", "01"): 1, ("valve", "02"): 6}.items():
        own = [x for x in data if (x.machine_type, x.machine_id) == (kind, number)]
        y_true, y_pred = [x.label for x in own], [x.score for x in own]
        domains = ["source" if "source" in x.clip else "target" for x in own]
        for domain in ("source", "target"):
            mine = [j for j in range(len(own)) if domains[j] == domain or y_true[j] == 1]
            assert across[f"auc_{domain}"][i] == roc_auc_score([y_true[j] for j in mine], [y_pred[j] for j in mine])
            mine = [j for j in range(len(own)) if domains[j] == domain]
            for name, largest in (("auc", None), ("pauc", 0.1)):
                expected = roc_auc_score([y_true[j] for j in mine], [y_pred[j] for j in mine], max_fpr=largest)
                assert per_domain[f"{name}_{domain}"][i] == expected
        assert across["pauc"][i] == roc_auc_score(y_true, y_pred, max_fpr=0.1)


def test_labels_and_domains_from_the_organisers_list(tmp_path: Path) -> None:
    path = tmp_path / "eval_data_list_2023.csv"
    lines = ["fan"]
    data = []
    for i, row in enumerate(FIRST):
        lines.append(f"section_00_{i:04d}.wav,{Path(row.clip).name}")
        data.append(replace(row, clip=f"x/fan/test/section_00_test_{i:04d}.wav", domain="", label=None))
    path.write_text("\n".join(lines) + "\n")
    expected = evaluate(table(FIRST), rule="2023")
    pd.testing.assert_frame_equal(evaluate(table(data), rule="2023", labels=path), expected)
    pd.testing.assert_frame_equal(evaluate(table(data), rule="2023", labels=read_labels(path)), expected)
    with pytest.raises(ValueError, match="no clip has a label"):
        evaluate(table(data), rule="2023")
    other = [replace(row, machine_type="pump") for row in data]
    with pytest.raises(ValueError, match="the list of labels has none of the table's clips"):
        evaluate(table(other), rule="2023", labels=read_labels(path))
    with pytest.raises(ValueError, match="none of the table's clips: is it the list of another year"):
        evaluate(table(other), rule="2023", labels=path)


def test_domains_come_from_their_column_not_from_names() -> None:
    swapped = [replace(row, domain={"source": "target", "target": "source"}[row.domain]) for row in FIRST]
    found, other = evaluate(table(FIRST), rule="2023"), evaluate(table(swapped), rule="2023")
    assert found["auc_source"][0] == other["auc_target"][0]
    assert found["auc_target"][0] == other["auc_source"][0] != other["auc_target"][0]


def test_a_table_of_an_older_version_gives_the_same() -> None:
    old = table(FIRST, SECOND).drop(columns=["split", "domain"])
    pd.testing.assert_frame_equal(evaluate(old, rule="2023"), evaluate(table(FIRST, SECOND), rule="2023"))


def test_tables_that_name_no_clip_have_their_domains_in_a_column() -> None:
    whole = evaluate(table(FIRST, SECOND), rule="2021")
    pd.testing.assert_frame_equal(evaluate(table(FIRST, SECOND).drop(columns="clip"), rule="2021"), whole)
    with pytest.raises(ValueError, match="needs each clip's domain"):
        evaluate(table(FIRST, SECOND).drop(columns=["clip", "domain"]), rule="2021")


def test_a_rule_with_domains_needs_them() -> None:
    with pytest.raises(ValueError, match=r"needs each clip's domain, and 0\.wav tells none.*eval_data_list"):
        evaluate(table(rows("fan", "00", [0, 1], [0, 1])), rule="2022")
    with pytest.raises(ValueError, match="no rule '2019'; there are 2020, pooled, 2021"):
        evaluate(table(FIRST), rule="2019")


# -- clips that were learnt, and whose names they are ------------------------------------------------------------


def noted(*notes: str) -> pd.DataFrame:
    """Clips of one machine ID, the first half normal: the scores of those that were learnt are perfect."""
    count = len(notes)
    scores = [0.0 if "learnt" in note and i < count // 2 else float(1 + i % 2) for i, note in enumerate(notes)]
    labels = pd.array([0] * (count // 2) + [1] * (count - count // 2), dtype="Int64")
    return pd.DataFrame(
        {"clip": "x", "machine_type": "fan", "machine_id": "00", "label": labels, "score": scores, "note": notes}
    )


def test_clips_that_were_learnt_are_warned_of_and_left_out_on_request() -> None:
    table = noted("learnt", "level, learnt", "", "level", "", "")
    with pytest.warns(UserWarning, match="2 of 6 clips were learnt by the model.*without_learnt=True"):
        rows = evaluation.evaluate(table)
    assert rows["normal"].tolist()[0] == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = evaluation.evaluate(table, without_learnt=True)
        evaluation.evaluate(noted("", "level", "", ""))
        evaluation.evaluate(table.drop(columns="note"))
    assert rows[["normal", "anomalous"]].to_numpy().tolist()[0] == [1, 3]


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (["fan/test/normal_id_00_00000000.wav"], "2020"),
        (["a.wav", "b.wav"], "2020"),
        (["fan/source_test/section_00_source_test_normal_0000.wav"], "2021"),
        (["fan\\target_test\\section_00_target_test_normal_0000.wav"], "2021"),
        (["fan/test/section_00_source_test_normal_0000_vel_6.wav"], "2022"),
        (["fan/test/section_00_0012.wav"], "2022"),
    ],
)
def test_the_rule_follows_from_the_names(names: list[str], rule: str) -> None:
    assert evaluation.rule_of(pd.DataFrame({"clip": names})) == rule


def test_without_a_rule_the_names_rule_counts() -> None:
    names = [f"fan/test/section_00_{domain}_test_{label}_{i:04}_vel_6.wav" for domain in ("source", "target")
             for label in ("normal", "anomaly") for i in range(3)]  # fmt: skip
    table = pd.DataFrame(
        {
            "clip": names, "machine_type": "fan", "machine_id": "00", "score": np.arange(12.0),
            "label": pd.array([int("anomaly" in x) for x in names], dtype="Int64"),
        }
    )  # fmt: skip
    pd.testing.assert_frame_equal(evaluation.evaluate(table), evaluation.evaluate(table, rule="2022"))
    assert "auc_source" in evaluation.evaluate(table)
    assert "auc" in evaluation.evaluate(table, rule="2020")
