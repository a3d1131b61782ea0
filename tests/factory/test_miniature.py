"""Miniatures of the data sets; tests/datasets reads them back."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest

from pyasd.factory import miniature


def write(folder: Path, year: int, **options: Any) -> Path:
    miniature.write(folder, year, **{"train": 3, "test": 2, "seconds": 0.1, **options})
    return folder


def test_a_miniature_keeps_off_other_folders(tmp_path: Path) -> None:
    (tmp_path / "mine.wav").touch()
    with pytest.raises(FileExistsError, match="not empty"):
        miniature.write(tmp_path)


def test_a_miniature_clip_depends_on_its_name_and_seed_alone(tmp_path: Path) -> None:
    one, two = (write(tmp_path / name, 2020, machines=["valve"], train=n) for name, n in (("a", 1), ("b", 2)))
    other = write(tmp_path / "c", 2020, machines=["valve"], train=1, seed=5)
    name = "dev_data/valve/train/normal_id_06_00000000.wav"
    assert (one / name).read_bytes() == (two / name).read_bytes() != (other / name).read_bytes()
    assert (one / "README.txt").read_text().startswith("SYNTHETIC RECORDINGS")


def test_zipped_miniatures_are_whole(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 2024, zipped=True, machines=["3DPrinter"])
    with zipfile.ZipFile(folder / "eval_data_3DPrinter_test.zip") as file:
        assert file.testzip() is None
        assert "3DPrinter/test/section_00_0001.wav" in file.namelist()
        assert "3DPrinter/test/section_00_0000.wav" not in file.namelist()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"parts": ["training"]}, ValueError, "parts must be one of development, additional, evaluation"),
        ({"train": 1.5}, ValueError, "train must be a whole number"),
        ({"clips": 3}, TypeError, "clips"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        miniature.write(tmp_path / "data", 2020, **options)
    assert not (tmp_path / "data").exists()


def test_progress_hears_of_each_clip(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int, str]] = []
    how = {"machines": ["fan"], "parts": ["additional"], "train": 2, "seconds": 0.1}
    made = miniature.write(tmp_path / "data", 2020, progress=lambda *step: steps.append(step), **how)
    assert steps == [("synthesising", i + 1, len(made), "fan") for i in range(6)]
