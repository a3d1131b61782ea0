"""The years' files: what each must say, what is wrong in one, and that a new year is a new file and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from pyasd.datasets import dcase, download, layouts
from pyasd.factory import miniature
from pyasd.tables import evaluation

YEAR_2027 = """
rule = "2021"
channels = 2

[naming]
domains = ["source", "target"]
train = "train/section_{id}_{domain}_train_normal_{number:04d}{attributes}.wav"
test = "test/section_{id}_{domain}_test_{label}_{number:04d}{attributes}.wav"
unlabelled = "test/section_{id}_{number:04d}.wav"
first_unlabelled = 7
supplemental = "supplemental/section_{id}_machine_{number:04d}_.wav"
attributes = "_rpm_{speed}"
attribute_tables = true

[records]
development = "1"
additional = "2"

[archive_names]
development = "dev27_{}.zip"
additional = "more27_{}.zip"
evaluation = "eval27_{}.zip"

[folders]
development = "dev_2027"
additional = "eval_2027"
evaluation = "eval_2027"

[development]
Lathe = ["00", "01"]

[evaluation]
Press = ["02"]
"""


@pytest.fixture
def folder_of_years(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that takes the place of the years' own."""
    folder = tmp_path / "years"
    folder.mkdir()
    monkeypatch.setattr(layouts, "YEARS", folder)
    return folder


# -- the files that there are ------------------------------------------------------------------------------------


def test_names_of_record() -> None:
    names = {year: {x.name: x.record for x in layouts.year(year).archives} for year in layouts.years()}
    assert {year: len(x) for year, x in names.items()} == {
        2020: 18, 2021: 21, 2022: 21, 2023: 21, 2024: 25, 2025: 23, 2026: 17,
    }  # fmt: skip
    assert names[2020]["eval_data_train_ToyCar.zip"] == "3727685"
    assert names[2021]["eval_data_gearbox_train.zip"] == "4660992"
    assert names[2022]["dev_bearing.zip"] == "6355122"
    assert names[2024]["eval_data_RoboticArm_train_r2.zip"] == "11259435"
    assert names[2024]["eval_data_RoboticArm_test.zip"] == "11363076"
    assert names[2026]["dev_ToyCar_r2.zip"] == "19336329"
    assert "dev_ToyCar.zip" not in names[2026]


def test_counts_add_up_to_the_totals_of_record() -> None:
    counts = {(kind, x): n for kind, ids in layouts.year(2020).counts.items() for x, n in ids.items()}
    development = {(kind, x) for kind, ids in layouts.year(2020).development.items() for x in ids}
    evaluation = {(kind, x) for kind, ids in layouts.year(2020).evaluation.items() for x in ids}
    assert counts.keys() == development | evaluation
    assert sum(counts[x][0] for x in development) == 20_119
    assert sum(sum(counts[x][1:]) for x in development) == 10_868
    assert sum(counts[x][0] for x in evaluation) == 16_164
    assert sum(sum(counts[x][1:]) for x in evaluation) == 7_103


def test_checksums_are_of_all_archives() -> None:
    known = {year: layouts.year(year).md5 for year in layouts.years() if layouts.year(year).md5}
    assert known.keys() == {2020, 2023}
    for year, checksums in known.items():
        assert checksums.keys() == {x.name for x in layouts.year(year).archives}
        assert len(set(checksums.values())) == len(checksums)
        assert all(len(x) == 32 and set(x) <= set("0123456789abcdef") for x in checksums.values())
    assert known[2020]["dev_data_fan.zip"] == "649bdfc06263ae7a838963f43b6641e6"


@pytest.mark.parametrize("number", layouts.years())
def test_each_year_has_a_rule_names_and_labels(number: int) -> None:
    year = layouts.year(number)
    assert year.number == number
    assert year.rule in evaluation.RULES
    assert year.naming.sections == (number > 2020)
    assert bool(year.labels_sha256) == bool(year.labels_url) == (number < 2026)
    assert year.labels_url.endswith(year.label_list) or not year.labels_url
    assert set(year.renamed.values()) <= {x.name for x in year.archives}
    assert year is layouts.year(number), "read once"


def test_no_such_year() -> None:
    with pytest.raises(ValueError, match=r"no data set 'dcase2019'; there are dcase2020, dcase2021, .*dcase2026$"):
        layouts.year(2019)


def test_no_file_and_no_large_library_is_needed_to_import(tmp_path: Path) -> None:
    program = (
        "import sys, builtins, pathlib\n"
        "read = []\n"
        "real = pathlib.Path.read_text\n"
        "pathlib.Path.read_text = lambda self, *a, **k: read.append(self) or real(self, *a, **k)\n"
        "import pyasd.datasets.download, pyasd.datasets.dcase\n"
        "print(len(read), *{'torch', 'pandas', 'soundfile', 'sklearn', 'requests'} & sys.modules.keys())\n"
        "pyasd.datasets.dcase.year(2023)\n"
        "print(*(path.name for path in read))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["0", "2023.toml"]


# -- another one -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_a_new_year_is_one_file_and_nothing_else(folder_of_years: Path, tmp_path: Path, zipped: bool) -> None:
    (folder_of_years / "2027.toml").write_text(YEAR_2027)
    assert dcase.years() == (2027,)
    number = dcase.data_set("dcase2027")
    miniature.write(tmp_path / "data", number, train=3, test=2, seconds=0.1, zipped=zipped)
    entries = dcase.find(tmp_path / "data", number)
    assert Counter((x.part, x.clip.machine_type, x.clip.split) for x in entries) == {
        ("development", "Lathe", "train"): 2 * 3,
        ("development", "Lathe", "test"): 2 * 2 * 4,
        ("additional", "Press", "train"): 3,
        ("evaluation", "Press", "test"): 2 * 4,
    }
    names = {Path(x.clip.name).name for x in entries}
    assert {"section_01_target_test_anomaly_0001_rpm_25.wav", "section_02_0007.wav", "section_02_0014.wav"} <= names
    assert dcase.shortfalls(entries, number) == []
    if not zipped:
        assert len(list(tmp_path.rglob("dev_2027/Lathe/supplemental/*.wav"))) == 2
        (table,) = (tmp_path / "data" / "eval_2027").rglob("attributes_*.csv")
        read = dcase.read_attributes(table)
        assert read["section_02_target_train_normal_0000_rpm_25.wav"] == {"rpm": "25"}
    table = pd.DataFrame(
        {
            "clip": [x.clip.name for x in entries],
            "machine_type": [x.clip.machine_type for x in entries],
            "machine_id": [x.clip.machine_id for x in entries],
            "label": pd.array([x.clip.label for x in entries], "Int64"),
            "score": [float(x.clip.label or 0) for x in entries],
        }
    )  # fmt: skip
    tested = table[[x.clip.split == "test" for x in entries]]
    labels = tmp_path / "data" / layouts.year(number).label_list
    result = evaluation.evaluate(tested, rule=dcase.year(number).rule, labels=labels)
    assert list(result["machine_type"]) == ["Lathe"] * 3 + ["Press"] * 2 + ["average"]
    assert (result[["auc_source", "auc_target", "pauc_source", "pauc_target"]] == 1).all(axis=None)


def test_a_part_without_a_record_is_not_downloaded(
    folder_of_years: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder_of_years / "2027.toml").write_text(YEAR_2027.replace('development = "1"\nadditional = "2"\n', ""))
    monkeypatch.setattr(download, "ZENODO", "http://nowhere.invalid")
    assert download.download(2027, tmp_path / "data") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('rule = "2021"\n', ""), r"2027\.toml: \[2027\] lacks rule"),
        (("channels = 2", "chanels = 2"), r"\[2027\] has no setting 'chanels'; did you mean channels"),
        (("channels = 2", "channels = 0"), "channels must be at least 1, not 0"),
        (("channels = 2", 'channels = "two"'), "channels must be a whole number, not 'two'"),
        (('Lathe = ["00", "01"]', 'Lathe = "00"'), r"development\.Lathe must be a list, not '00'"),
        (
            ("[development]\nLathe", "[development]\n1 = []\n[development.Press]\nLathe"),
            r"development\.Press must be a l",
        ),
        (('evaluation = "eval27_{}.zip"\n', ""), "archive_names lacks evaluation"),
        (('additional = "2"', 'extra = "2"'), "a key of records must be one of development, additional, evaluation"),
        (("{label}", "{labell}"), r"\[naming\] test is no pattern of paths \(KeyError: 'labell'\)"),
        (("unlabelled = ", "unlabeled = "), r"\[naming\] has no setting 'unlabeled'; did you mean unlabelled"),
        (("[naming]", "[names]"), r"\[naming\] lacks train, test, unlabelled"),
        (("rule = ", "rule "), "is not TOML"),
    ],
)
def test_what_is_wrong_in_a_file(folder_of_years: Path, change: tuple[str, str], message: str) -> None:
    path = folder_of_years / "2027.toml"
    path.write_text(YEAR_2027.replace(*change))
    with pytest.raises(ValueError, match=message) as caught:
        layouts.year(2027)
    assert str(path) in str(caught.value)
