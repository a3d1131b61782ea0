"""`reproduce` on miniatures of DCASE 2020, with tiny trainings: its figures by hand, and what can go wrong."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

import pyasd
from pyasd import fitting
from pyasd.cli import app as cli
from pyasd.datasets import dcase
from pyasd.factory import miniature
from pyasd.reproduce import table1
from pyasd.reproduce.report import Result
from pyasd.reproduce.reproduce import Settings, reproduce
from pyasd.reproduce.units import Hardware

MACHINES = ("fan", "pump")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two machine types, all parts."""
    folder = tmp_path_factory.mktemp("dcase2020") / "data"
    miniature.write(folder, machines=MACHINES, train=3, test=2, seconds=1.0)
    return folder


@pytest.fixture(scope="session")
def done(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Systems 2 and 4, one epoch."""
    out = tmp_path_factory.mktemp("reproduced")
    return out, group_made(data, out, systems=("2", "4"))


CPU = Hardware("cpu")


def group_made(data: Path, out: Path, jobs: int | None = None, **changes: object) -> Result:
    """System 4, one seed, one epoch; `changes` are those of `Settings` and of its recipe."""
    names = {"systems", "machines", "seeds", "quick", "labels"}
    settings: dict[str, Any] = {"systems": ("4",), "seeds": 1} | {k: v for k, v in changes.items() if k in names}
    recipe = {"epochs": 1} | {k: v for k, v in changes.items() if k not in names}
    return reproduce(data, out, Settings(**settings, recipe=recipe), CPU, jobs=jobs)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)


# -- scores ------------------------------------------------------------------------------------------------------


def test_every_test_clip_has_all_scores(data: Path, done: tuple[Path, Result]) -> None:
    out, result = done
    columns = ["score.mobilenet", "score.group-made", "baseline", "system 2, mean", "system 2, max", "system 4"]
    assert np.isfinite(result.scores[columns]).all(axis=None)
    test = [x for x in dcase.find(data) if x.clip.split == "test"]
    told = {(x.part, x.clip.name, x.clip.label) for x in test}
    assert set(zip(result.scores["part"], result.scores["clip"], result.scores["label"], strict=True)) == told
    assert len(result.scores) == len(test) == 2 * (4 + 3) * 4
    same(pd.read_parquet(out / "scores.parquet"), result.scores)
    assert result.failed == 0


def test_systems_are_the_members_scores_standardised_and_combined(done: tuple[Path, Result]) -> None:
    out, result = done
    scores = result.scores
    fan = scores[scores["machine_type"] == "fan"].reset_index(drop=True)
    z = {}
    for name, mode in (("mobilenet", "log-probability"), ("group-made", "joint")):
        statistics = pyasd.load(out / f"units/fan-seed0/{name}.safetensors").machines["fan"].statistics[name]
        row = [statistics.ids.index(x) for x in fan["machine_id"]]
        column = statistics.modes.index(mode)
        mean, variance = statistics.mean[row, column], statistics.variance[row, column]
        z[name] = (fan[f"score.{name}"] - mean) / np.sqrt(np.maximum(variance, 1e-12))
    both = np.stack(list(z.values()))
    assert np.allclose(fan["system 2, mean"], both.mean(0), rtol=1e-12)
    assert np.allclose(fan["system 2, max"], both.max(0), rtol=1e-12)
    assert np.allclose(fan["system 4"], z["group-made"], rtol=1e-12)


def test_the_same_as_fit_and_score(data: Path, done: tuple[Path, Result]) -> None:
    entries = [x for x in dcase.find(data, machines=["pump"])]
    detector = pyasd.fit([x.clip for x in entries if x.clip.split == "train"], "2", epochs=1, device="cpu")
    table = detector.score([x.clip for x in entries if x.clip.split == "test"], device="cpu").set_index("clip")
    ours = done[1].scores.set_index("clip").loc[table.index]
    for name, column in (("score.mean", "system 2, mean"), ("score.max", "system 2, max")):
        assert ours[column].tolist() == table[name].tolist()


def test_who_learns_what(done: tuple[Path, Result]) -> None:
    unit = done[0] / "units" / "fan-seed0"
    ids = {path.stem: pyasd.load(path).machines["fan"].ids for path in unit.glob("*.safetensors")}
    everything = ("00", "01", "02", "03", "04", "05", "06")
    assert ids == {
        "mobilenet": everything, "group-made": everything,
        "baseline-development": ("00", "02", "04", "06"), "baseline-evaluation": ("01", "03", "05"),
    }  # fmt: skip


# -- figures -----------------------------------------------------------------------------------------------------


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


# -- files -------------------------------------------------------------------------------------------------------


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


# -- going on ----------------------------------------------------------------------------------------------------


def test_what_is_finished_is_not_done_again(
    data: Path, done: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, first = done
    monkeypatch.setattr(fitting, "fit", lambda *_, **__: pytest.fail("trained again"))
    again = group_made(data, out, systems=("2", "4"))
    same(again.scores, first.scores)
    assert again.notes == first.notes


def test_a_further_system_trains_its_own_members_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group_made(data, tmp_path, machines=["fan"])
    trained = []
    real = fitting.fit
    monkeypatch.setattr(
        fitting, "fit", lambda clips, recipe, **how: trained.append(recipe.members) or real(clips, recipe, **how)
    )
    result = group_made(data, tmp_path, systems=("2",), machines=["fan"])
    assert trained == [("mobilenet",)]
    assert "system 2, max" in result.scores


def test_other_settings_are_learnt_anew(data: Path, tmp_path: Path) -> None:
    first = group_made(data, tmp_path, machines=["fan"])
    second = group_made(data, tmp_path, machines=["fan"], learning_rate=3e-3)
    assert any("group-made.safetensors came of other clips or settings" in x for x in second.notes)
    fresh = group_made(data, tmp_path / "fresh", machines=["fan"], learning_rate=3e-3)
    same(second.scores, fresh.scores)
    assert not second.scores["system 4"].equals(first.scores["system 4"])


def test_archives_give_the_same(data: Path, tmp_path: Path) -> None:
    miniature.write(tmp_path / "zips", machines=["fan"], train=3, test=2, seconds=1.0, zipped=True)
    one = group_made(tmp_path / "zips", tmp_path / "one").scores
    other = group_made(data, tmp_path / "other", machines=["fan"]).scores
    assert one["system 4"].tolist() == other["system 4"].tolist()


def test_quick_says_so_and_takes_few_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    miniature.write(tmp_path / "data", machines=["valve"], train=4, test=3, seconds=1.0)
    monkeypatch.setattr("pyasd.reproduce.reproduce.QUICK_TRAIN", 2)
    monkeypatch.setattr("pyasd.reproduce.reproduce.QUICK_TEST", 1)
    result = reproduce(tmp_path / "data", tmp_path / "out", Settings(["4"], quick=True), CPU)
    assert len(result.scores) == (4 + 3) * 2
    assert "NO reproduction" in result.report.read_text()
    history = pyasd.load(tmp_path / "out/units/valve-seed0/group-made.safetensors").machines["valve"].histories
    assert len(history["group-made"].training) == 2


# -- what can be wrong -------------------------------------------------------------------------------------------


@pytest.fixture
def fan(data: Path, tmp_path: Path) -> Path:
    """A copy of the fan's clips, to be spoilt."""
    for part in ("dev_data", "eval_data"):
        shutil.copytree(data / part / "fan", tmp_path / "fan data" / part / "fan")
    shutil.copy(data / "eval_data_list_2020.csv", tmp_path / "fan data")
    return tmp_path / "fan data"


def test_without_the_additional_and_the_evaluation_set(fan: Path, tmp_path: Path) -> None:
    shutil.rmtree(fan / "eval_data")
    result = group_made(fan, tmp_path / "out")
    assert any("fan: no additional training set: the systems learn 4 machine IDs" in x for x in result.notes)
    assert set(result.scores["part"]) == {"development"}
    assert result.failed == 0


def test_an_evaluation_set_of_which_nothing_was_learnt(fan: Path, tmp_path: Path) -> None:
    shutil.rmtree(fan / "eval_data" / "fan" / "train")
    result = group_made(fan, tmp_path / "out")
    assert any("evaluation set is left out, as nothing is learnt of its machine IDs" in x for x in result.notes)
    assert set(result.scores["part"]) == {"development"}


def test_an_evaluation_set_without_labels_is_scored(fan: Path, tmp_path: Path) -> None:
    (fan / "eval_data_list_2020.csv").unlink()
    result = group_made(fan, tmp_path / "out")
    assert any("evaluation set has no labels: it is scored, but not evaluated" in x for x in result.notes)
    assert list(result.tables) == [x for x in result.tables if x.startswith("Development")]
    assert (tmp_path / "out/challenge/evaluation/system-4/seed0/anomaly_score_fan_id_05.csv").is_file()
    assert not (tmp_path / "out/challenge/evaluation/system-4/seed0/result.csv").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_machine_type_that_lacks_a_folder(fan: Path, tmp_path: Path, split: str) -> None:
    shutil.rmtree(fan / "dev_data" / "fan" / split)
    with pytest.raises(
        ValueError, match=rf"fan has no clips in {split}/ of the development set: unpack dev_data_fan\.zip"
    ):
        group_made(fan, tmp_path / "out")


def test_a_machine_type_that_is_not_there(fan: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pump has no clips in train/ and test/ of the development set"):
        group_made(fan, tmp_path / "out", machines=["fan", "pump"])


def test_a_damaged_clip_costs_itself_alone(fan: Path, tmp_path: Path) -> None:
    for name in ("train/normal_id_00_00000000.wav", "test/anomaly_id_00_00000001.wav"):
        path = fan / "dev_data" / "fan" / name
        path.write_bytes(path.read_bytes()[:1000])
    result = group_made(fan, tmp_path / "out")
    assert result.failed == 2
    assert any("1 clips have no score" in x and "is cut off" in x for x in result.notes)
    assert any("of 21 clips were not learnt from" in x for x in result.notes)
    assert result.scores["system 4"].isna().sum() == 1
    again = group_made(fan, tmp_path / "out")
    assert (again.failed, again.notes) == (result.failed, result.notes), "what was found is not forgotten"


def test_a_machine_type_with_one_id(fan: Path, tmp_path: Path) -> None:
    shutil.rmtree(fan / "eval_data")
    for path in fan.rglob("*_id_0[246]_*"):
        path.unlink()
    result = group_made(fan, tmp_path / "out", systems=["2"])
    assert any(
        "all fan clips are of machine ID '00': mobilenet learnt to tell it from its own" in x for x in result.notes
    )
    assert result.scores["system 2, mean"].notna().all()


def test_a_machine_type_with_one_id_and_classifiers_that_need_two(data: Path, fan: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "dev_data" / "pump", fan / "dev_data" / "pump")
    for path in [*fan.rglob("fan/train/*_id_0[1-6]_*"), *fan.rglob("fan/test/*_id_0[1-6]_*")]:
        path.unlink()
    result = group_made(fan, tmp_path / "out", systems=["2", "4"], warps=0)
    assert any("fan has one machine ID, 00, and classifiers tell IDs apart: no system 2" in x for x in result.notes)
    both = result.scores.groupby("machine_type")[["system 2, mean", "system 4"]].count()
    assert (both.loc["fan"] > 0).tolist() == [False, True]
    assert (both.loc["pump"] > 0).all()
    assert result.failed == 0
    with pytest.raises(ValueError, match="fan has one machine ID, 00: only system 4 can be made"):
        group_made(fan, tmp_path / "out", systems=["2"], warps=0)


def test_a_unit_that_fails_does_not_stop_the_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fitting.fit

    def fit(clips, recipe, **how):  # type: ignore[no-untyped-def]
        if clips[0].machine_type == "fan":
            raise ValueError("the loss became nan in epoch 1, batch 2")
        return real(clips, recipe, **how)

    monkeypatch.setattr(fitting, "fit", fit)
    result = group_made(data, tmp_path)
    assert set(result.scores["machine_type"]) == {"pump"}
    assert result.failed == 1
    assert any("fan, seed 0 gave no scores: the loss became nan in epoch 1, batch 2" in x for x in result.notes)


def test_two_runs_in_one_folder(data: Path, tmp_path: Path) -> None:
    import fcntl

    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match="is in use by another run"):
            group_made(data, tmp_path)


def test_arguments_that_make_no_sense(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no system 5: the report has 1, 2, 3, 4"):
        Settings(systems=["1", "5"])
    with pytest.raises(ValueError, match="seeds must be at least 1"):
        Settings(seeds=0)
    with pytest.raises(TypeError, match="has no setting 'epoch'; did you mean epochs"):
        group_made(data, tmp_path, epoch=3)


# -- the command -------------------------------------------------------------------------------------------------


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.app([str(x) for x in arguments], prog_name="pyasd")
    return int(stop.value.code or 0), *capsys.readouterr()


def test_the_command(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    code, out, err = command(
        capsys, "reproduce", "dcase2020", "--data", data, "--systems", 4, "--machines", "fan", "pump", "--quick",
        "--out", tmp_path, "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    assert err.count("NO reproduction") == 2
    assert "note: these recordings are synthetic" in err
    lines = [x for x in out.splitlines() if x.strip()]
    assert lines[0].startswith("Development set, per machine ID and averaged")
    assert lines[1].split() == ["AUC", "(pAUC),", "%", "fan", "pump", "average"]
    names = ["baseline", "baseline's README", "difference", "system 4", "report", "difference"]
    assert all(line.strip().startswith(name) for line, name in zip(lines[3:9], names, strict=True))
    assert lines[-1] == f"{tmp_path / 'report.md'}: the report"


def test_what_the_command_refuses(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (["dcase2019", "--data", data], "no data set 'dcase2019'"),
        (["dcase2021", "--data", data], "the report's Table 1 is of dcase2020"),
        (["dcase2020", "--data", tmp_path / "none"], "there is no folder"),
        (["dcase2020", "--data", data, "--systems", "1", "7"], "no system 7"),
        (["dcase2020", "--data", data, "--machines", "lathe"], "no machine type lathe"),
    ):
        code, out, err = command(capsys, "reproduce", *arguments, "-o", tmp_path / "out")
        assert (code, out) == (2, "")
        assert err.startswith("pyasd: error: ")
        assert message in err
    assert not (tmp_path / "out").exists()


def test_ctrl_c_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "fit", interrupted)
    code, _, err = command(capsys, "reproduce", "dcase2020", "--data", data, "--systems", 4, "-o", tmp_path)
    assert code == 130
    assert err == f"pyasd: stopped; the same command goes on with what is in {tmp_path}\n"


# -- long ones ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_in_parallel_it_is_the_same(data: Path, tmp_path: Path) -> None:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = group_made(data, tmp_path / "one", seeds=2, jobs=1)
        two = group_made(data, tmp_path / "two", seeds=2, jobs=2)
    finally:
        torch.set_num_threads(threads)
    assert set(two.scores["seed"]) == {0, 1}
    if len(os.sched_getaffinity(0)) in (2, 3):  # then a worker has one thread, too
        same(one.scores, two.scores)
    else:
        assert np.allclose(one.scores["system 4"], two.scores["system 4"], rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_killed_and_started_again_it_ends_with_the_same(data: Path, tmp_path: Path, jobs: int) -> None:
    """All four systems, killed again and again as soon as there is something new."""

    def start(out: Path) -> subprocess.Popen[bytes]:
        code = "from pyasd.cli.app import main; main()"
        arguments = ["reproduce", "dcase2020", "--data", data, "--quick", "--jobs", jobs, "--device", "cpu", "-o", out]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)], env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def made(out: Path) -> int:
        return len(list(out.rglob("*.safetensors"))) + len(list(out.rglob("units/*/scores.parquet")))

    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    whole = start(unbroken).communicate()[0].decode()
    kills = 0
    for _ in range(3):
        before, process = made(broken), start(broken)
        while process.poll() is None and made(broken) < before + 3:
            time.sleep(0.05)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        time.sleep(1.5)  # workers notice
    last = start(broken)
    text = last.communicate()[0].decode()
    assert last.returncode == 0
    assert kills == 3
    assert text.replace(str(broken), "") == whole.replace(str(unbroken), "")
    same(pd.read_parquet(broken / "scores.parquet"), pd.read_parquet(unbroken / "scores.parquet"))
    assert "system 1, max" in text
    assert "system 3, mean" in text
