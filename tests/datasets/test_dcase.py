"""The DCASE data sets' layouts, on miniatures of each year."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from pyasd import audio
from pyasd.clips.sources import ZipSource
from pyasd.datasets import dcase
from pyasd.datasets.dcase import Entry
from pyasd.factory import miniature

PARTS = ("development", "additional", "evaluation")


def write(folder: Path, year: int, **how: Any) -> Path:
    miniature.write(folder, year, **{"train": 3, "test": 2, "seconds": 0.1, **how})
    return folder


@pytest.fixture(scope="module", params=dcase.years())
def mini(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """A whole miniature of each year."""
    return request.param, write(tmp_path_factory.mktemp(f"dcase{request.param}") / "data", request.param)


def summary(entries: list[Entry]) -> list[tuple[Any, ...]]:
    return [(part, x.machine_type, x.machine_id, x.split, x.label, x.domain, Path(x.name).name) for x, part in entries]


def test_every_part_of_every_year(mini: tuple[int, Path]) -> None:
    year, folder = mini
    entries = dcase.find(folder, year)
    expected = Counter()  # type: ignore[var-annotated]
    domains = {"": 3} if year == 2020 else {"source": 2, "target": 1}
    for part, units in (("development", dcase.year(year).development), ("evaluation", dcase.year(year).evaluation)):
        for machine_type, ids in units.items():
            for machine_id in ids:
                for domain, train in domains.items():
                    training = "additional" if part == "evaluation" else part
                    expected[training, machine_type, machine_id, "train", 0, domain] += train
                    for label in (0, 1):
                        expected[part, machine_type, machine_id, "test", label, domain] += 2
    assert Counter(x[:-1] for x in summary(entries)) == expected
    assert all(audio.read(x.clip, 16000).samples.size > 500 for x in entries[:5])


def test_nothing_is_missing_in_a_whole_one(mini: tuple[int, Path]) -> None:
    year, folder = mini
    lines = dcase.shortfalls(dcase.find(folder, year), year)
    if year == 2020:
        assert len(lines) == sum(len(x) for x in dcase.year(2020).development.values()) * 2 + 18 * 2
        assert "fan 00: 3 of 911 clips are there in train/ of the development part" in lines
        assert "ToyConveyor 03: 4 of 1154 clips are there in test/ of the development part" in lines
    else:
        assert lines == []


def test_the_number_of_channels(mini: tuple[int, Path]) -> None:
    year, folder = mini
    clip = dcase.find(folder, year)[0].clip
    assert clip.source.path is not None
    samples, _ = soundfile.read(clip.source.path, always_2d=True)
    assert samples.shape[1] == dcase.year(year).channels == (2 if year == 2026 else 1)
    if year == 2026:
        assert not np.array_equal(audio.read(clip, 16000, 0).samples, audio.read(clip, 16000, 1).samples)


def test_archives_are_the_same_without_unpacking(mini: tuple[int, Path], tmp_path: Path) -> None:
    year, plain_folder = mini
    machines = [dcase.year(year).machine_types[0], dcase.year(year).machine_types[-1]]
    folder = write(tmp_path / "data", year, zipped=True, machines=machines)
    of_record = {x.name for x in dcase.year(year).archives if x.machine_type in machines}
    assert {x.name for x in folder.glob("*.zip")} == of_record
    zipped, plain = dcase.find(folder, year), dcase.find(plain_folder, year, machines)
    assert summary(zipped) == summary(plain)
    for index in (0, len(plain) // 2, -1):
        one, other = (audio.read(x[index].clip, 16000).samples for x in (zipped, plain))
        assert np.array_equal(one, other)


@pytest.mark.parametrize("raw", [True, False])
def test_folders_of_several_years_side_by_side(tmp_path: Path, raw: bool) -> None:
    for year in (2022, 2023):
        write(tmp_path / f"dcase{year}t2", year, machines=["fan", "Vacuum"], train=1, test=1, raw=raw)
    assert {x.clip.machine_id for x in dcase.find(tmp_path, 2022)} == {"00", "01", "02", "03", "04", "05"}
    assert {x.clip.machine_type for x in dcase.find(tmp_path, 2023)} == {"fan", "Vacuum"}


def test_what_the_challenge_s_scripts_copy_counts_once(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 2021, machines=["fan"], raw=True)
    once = summary(dcase.find(folder, 2021))
    for part in ("dev_data", "eval_data"):
        fan = folder / part / "raw" / "fan"
        for place in ("source_test", "target_test"):
            shutil.copytree(fan / place, fan / "test", dirs_exist_ok=True)
    assert summary(dcase.find(folder, 2021)) == once


def with_labelled_copies(folder: Path) -> Path:
    """A miniature of 2020's fans, whose evaluation part is copied as the challenge's scripts do it."""
    write(folder, 2020, machines=["fan"])
    fan = folder / "eval_data" / "fan"
    (fan / "test_rename").mkdir()
    for line in (folder / "eval_data_list_2020.csv").read_text().splitlines()[1:]:
        name, labelled, _ = line.split(",")
        shutil.copy(fan / "test" / name, fan / "test_rename" / labelled)
    return folder


def labels(entries: list[Entry]) -> Counter[tuple[str, int | None]]:
    return Counter((x.clip.machine_id, x.clip.label) for x in entries if x.part == "evaluation")


def test_a_labelled_copy_serves_where_there_is_no_list(tmp_path: Path) -> None:
    folder = with_labelled_copies(tmp_path / "data")
    listed = dcase.find(write(tmp_path / "plain", 2020, machines=["fan"]))
    assert summary(dcase.find(folder)) == summary(listed), "the list, and the names of the challenge"
    (folder / "eval_data_list_2020.csv").unlink()
    renamed = dcase.find(folder)
    assert labels(renamed) == labels(listed)
    assert {Path(x.clip.name).parent.name for x in renamed if x.part == "evaluation"} == {"test_rename"}


@pytest.mark.parametrize("listed", [True, False])
def test_labelled_copies_alone_are_the_evaluation_part(tmp_path: Path, listed: bool) -> None:
    folder = with_labelled_copies(tmp_path / "data")
    expected = dcase.find(folder)
    shutil.rmtree(folder / "eval_data/fan/test")
    if not listed:
        (folder / "eval_data_list_2020.csv").unlink()
    found = dcase.find(folder)
    assert labels(found) == labels(expected)
    assert {x.clip.split for x in found if x.part == "evaluation"} == {"test"}
    assert dcase.shortfalls(found, 2020, ["fan"]) == dcase.shortfalls(expected, 2020, ["fan"])


def test_evaluation_without_labels(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 2023, machines=["Vacuum"], labels=False)
    entries = [x for x in dcase.find(folder, 2023) if x.part == "evaluation"]
    assert len(entries) == 8
    assert {x.clip.label for x in entries} == {None}


def test_what_is_unpacked_comes_before_archives_and_parts_may_be_mixed(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 2020, machines=["fan"], parts=["development"])
    (folder / "dev_data_fan.zip").write_bytes(b"half a download")
    write(tmp_path / "zips", 2020, machines=["fan", "pump"], zipped=True)
    for path in (tmp_path / "zips").glob("eval*"):
        shutil.move(path, folder / path.name)
    entries = dcase.find(folder, machines=["fan"])
    assert Counter(x.part for x in entries) == {"development": 28, "additional": 9, "evaluation": 12}
    assert {type(x.clip.source) for x in entries if x.part == "additional"} == {ZipSource}


def test_supplements_are_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 2025, machines=["fan"])
    assert len(list(folder.rglob("supplemental/*.wav"))) == 2
    assert not [x for x in dcase.find(folder, 2025) if "supplemental" in x.clip.name]


def test_attributes(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 2023, machines=["fan"])
    found = dcase.read_attributes(folder / "dev_data/fan/attributes_00.csv")
    assert found["section_00_source_train_normal_0000_vel_21.wav"] == {"vel": "21"}
    assert len(found) == 3 + 8
    path = tmp_path / "attributes_01.csv"
    path.write_text(
        "file_name,d1p,d1v,d2p,d2v\nfan\\train\\section_01_a.wav,m-n,X,f-n,2\nfan/train/b.wav,noAttribute,,,\n"
    )
    assert dcase.read_attributes(path) == {"section_01_a.wav": {"m-n": "X", "f-n": "2"}, "b.wav": {}}
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no table of attributes"):
        dcase.read_attributes(path)


# -- what can be wrong -------------------------------------------------------------------------------------------


def test_no_such_folder_machine_type_or_data_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        dcase.find(tmp_path / "data")
    with pytest.raises(ValueError, match="DCASE 2020 has no machine type lathe: it has ToyCar, ToyConveyor, fan"):
        dcase.find(tmp_path, machines=["fan", "lathe"])
    with pytest.raises(ValueError, match="no data set 'dcase2019'; there are dcase2020, dcase2021"):
        dcase.data_set("dcase2019")
    assert dcase.data_set("DCASE2020T2") == 2020


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"folders such as dev_data/fan/train .* archives such as dev_data_ToyCar\.zip"
    ) as x:
        dcase.find(tmp_path, machines=["fan"])
    assert f"`pyasd download dcase2020 --to {tmp_path}` gets them" in str(x.value)


def test_a_corrupt_archive_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 2020, machines=["fan"], parts=["development"], zipped=True)
    path = folder / "dev_data_fan.zip"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"dev_data_fan\.zip is no whole zip archive .*copy or download it again"):
        dcase.find(folder)


def test_an_unfinished_unpacking_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 2020, machines=["fan"], parts=["development"])
    (folder / f"{dcase.UNPACKING}dev_data_pump.zip").touch()
    with pytest.raises(
        ValueError, match=r"dev_data_pump\.zip was being unpacked .* not finished: go on with `pyasd do"
    ):
        dcase.find(folder)


def test_missing_parts_are_listed(tmp_path: Path) -> None:
    folder = write(tmp_path / "data", 2021, machines=["fan", "pump"], parts=["development"])
    for path in folder.rglob("section_01*train*"):
        if "fan" in path.parts:
            path.unlink()
    shutil.rmtree(folder / "dev_data" / "pump" / "target_test")
    shutil.rmtree(folder / "dev_data" / "pump" / "source_test")
    lines = dcase.shortfalls(dcase.find(folder, 2021), 2021, ["fan", "pump"])
    assert lines == [
        "fan 01: 0 of 1 clips are there in train/ of the development part",
        "pump: no clips are there in test/ of the development part",
        *(f"{kind}: no clips are there in {split}/ of the {part} part"
          for part, split in (("additional", "train"), ("evaluation", "test")) for kind in ("fan", "pump")),
    ]  # fmt: skip
