"""The challenges' data sets, from folders and archives to figures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pyasd.factory import miniature
from pyasd.tables import evaluation
from pyasd.tables import table as results

from .conftest import Command, usage_error


@pytest.mark.parametrize(("year", "machine", "channel"), [(2021, "fan", 0), (2025, "valve", 0), (2026, "fan", 1)])
def test_later_years_from_folders_to_figures(
    pyasd: Command, tmp_path: Path, year: int, machine: str, channel: int
) -> None:
    miniature.write(tmp_path / "data", year, machines=[machine], train=3, test=2, seconds=1.0)
    folder, model, scores = tmp_path / "data" / "dev_data" / machine, tmp_path / "m.safetensors", tmp_path / "s.csv"
    sections = ["00", "01", "02"] if year == 2021 else ["00"]
    fitted = pyasd("fit", folder, "-o", model, "--epochs", 1, "--channel", channel)
    members = "group-made + spectrum + spread + modulation + neighbours"
    assert fitted.out == f"{model}: <Detector {members} ({machine}: {', '.join(sections)})>\n"
    assert pyasd("score", folder, "-m", model, "-o", scores, "--top", 0, "--channel", channel).code == 0
    assert len(results.read(scores)) == 8 * len(sections)
    evaluated = pyasd("evaluate", scores, "--rule", year)
    assert evaluated.code == 0
    title, *lines = [line.split() for line in evaluated.out.splitlines() if line.strip()]
    figures = evaluation.RULES[str(year)]
    assert title == ["by", "the", "rule", "of", str(year)]
    assert "official" in lines[0]
    assert lines[0].count("%") == len(figures) + 1
    expected = evaluation.evaluate(scores, rule=str(year))
    assert [float(x) for x in lines[2][-len(figures) :]] == pytest.approx(
        [100 * expected[name][0] for name in figures], abs=0.06
    )
    assert float(lines[-1][-1]) == pytest.approx(100 * expected["official"].iloc[-1], abs=0.06)


def test_an_evaluation_set_with_the_organisers_list(pyasd: Command, tmp_path: Path) -> None:
    miniature.write(tmp_path / "data", 2020, machines=["pump"], train=3, test=2, seconds=1.0)
    folder, model, scores = tmp_path / "data/eval_data/pump", tmp_path / "m.safetensors", tmp_path / "s.parquet"
    assert pyasd("fit", folder, "-o", model, "--epochs", 1).code == 0
    assert pyasd("score", folder, "-m", model, "-o", scores, "--top", 0).code == 0
    usage_error(pyasd("evaluate", scores), "no clip has a label", "eval_data_list_")
    outcome = pyasd("evaluate", scores, "--labels", tmp_path / "data/eval_data_list_2020.csv")
    assert outcome.code == 0
    assert [line.split()[1] for line in outcome.out.splitlines() if line.startswith(" pump")] == [
        "01",
        "03",
        "05",
        "average",
    ]
    pooled = pyasd("evaluate", scores, "--labels", tmp_path / "data/eval_data_list_2020.csv", "--rule", "pooled")
    (line,) = (line for line in pooled.out.splitlines() if line.startswith(" pump") and "pooled" in line)
    assert line.split()[:4] == ["pump", "pooled", "6", "6"]
    usage_error(pyasd("evaluate", scores, "--rule", "2023"), "eval_data_list_")
    usage_error(pyasd("evaluate", scores, "--rule", "1999"), "no rule '1999'", "2026")


def test_archives_without_unpacking(pyasd: Command, factory: Path, model: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "fan"), "zip", factory, "fan")
    packed = tmp_path / "packed.safetensors"
    fitted = pyasd("fit", archive, "-o", packed, "--epochs", 1)
    members = "group-made + spectrum + spread + modulation + neighbours"
    assert fitted.out == f"{packed}: <Detector {members} (fan: 00, 02, 04)>\n"
    tables = []
    for clips, model_file, name in ((archive, packed, "packed.csv"), (factory / "fan", model, "plain.csv")):
        assert pyasd("score", clips, "-m", model_file, "-o", tmp_path / name, "--top", 0).code == 0
        tables.append(results.read(tmp_path / name))
    assert tables[0]["score"].tolist() == tables[1]["score"].tolist()
    assert tables[0]["clip"][0] == f"{archive}/fan/test/anomaly_id_00_00000000.wav"


def test_a_miniature(pyasd: Command, tmp_path: Path) -> None:
    outcome = pyasd("demo", "--layout", "dcase2023", "--out", tmp_path / "mini", "--clips", 2)
    assert outcome == (0, f"{tmp_path / 'mini'}: 140 synthetic clips in the layout of dcase2023\n", "")
    usage_error(pyasd("demo", "--layout", "dcase2023", "--out", tmp_path / "mini"), "is not empty")
    usage_error(pyasd("demo", "--layout", "dcase1999", "--out", tmp_path / "other"), "no data set 'dcase1999'")
