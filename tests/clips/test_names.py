"""What names and folders tell of a clip."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyasd.clips.names import attributes, is_audio, parse


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        # DCASE 2020
        ("dev_data/ToyCar/train/normal_id_01_00000012.wav", ("ToyCar", "01", "train", 0)),
        ("UAV/test/anomaly_id_00_00000003.flac", ("UAV", "00", "test", 1)),
        ("eval_data/fan/test/id_05_00000000.wav", ("fan", "05", "test", None)),
        ("copied/normal_id_04_00000000.wav", ("", "04", "", 0)),
        # DCASE 2021 and later
        (
            "fan/train/section_00_source_train_normal_0012_strength_1_ambient.wav",
            ("fan", "00", "train", 0),
        ),
        ("fan/source_test/section_01_source_test_anomaly_0001.wav", ("fan", "01", "test", 1)),
        ("fan/target_test/section_02_target_test_normal_0001_noAttribute_.wav", ("fan", "02", "test", 0)),
        ("fan/test/section_03_test_0000.wav", ("fan", "03", "test", None)),
        ("fan/test/section_03_0000.wav", ("fan", "03", "test", None)),
        ("fan/supplemental/section_00_machine_0007_.wav", ("fan", "00", "supplemental", None)),
        # names that people and programs have changed
        ("fan/test/anomaly_id_00_00000000 (1).wav", ("fan", "00", "test", 1)),
        ("fan/test/Anomaly_ID_00_00000000_mono.wav", ("fan", "00", "test", 1)),
        ("fan/test/anomaly_id_00_00000000 - Copy.wav", ("fan", "00", "test", 1)),
        ("fan/train/normal_id_00_anything.wav", ("fan", "00", "train", 0)),
        ("fan/train/section_00_source_train_normal_0012 (2).wav", ("fan", "00", "train", 0)),
        # MIMII
        ("6_dB_pump/pump/id_02/abnormal/00000001.wav", ("pump", "02", "", 1)),
        ("pump/id_02/normal/00000001.wav", ("pump", "02", "", 0)),
        ("pump/id_02/new/00000001.wav", ("", "", "", None)),
        # plain
        ("recordings/monday 7.wav", ("", "", "", None)),
        ("recordings/pump_normal.flac", ("", "", "", None)),
        ("recordings/anomaly/a.wav", ("", "", "", 1)),
        ("recordings/anomaly/new/a.wav", ("", "", "", None)),
        ("recordings/train/a.wav", ("", "", "train", None)),
        ("normal_id_01/test_id_01_notes.wav", ("", "", "", None)),
    ],
)
def test_what_paths_tell(path: str, expected: tuple[str, str, str, int | None]) -> None:
    names = parse(Path("/data") / path)
    assert (names.machine_type, names.machine_id, names.split, names.label) == expected


@pytest.mark.parametrize(
    ("path", "folders", "expected"),
    [
        ("fan/anomaly/normal_id_01_00000012.wav", 1, ("", 1, "name and folder disagree")),
        ("fan/normal/anomaly_id_01_00000012.wav", 1, ("", 1, "name and folder disagree")),
        ("fan/normal/normal_id_01_00000012.wav", 1, ("", 0, "")),
        ("fan/anomaly/test/normal_id_01_00000012.wav", 1, ("test", 0, "")),
        ("fan/anomaly/test/normal_id_01_00000012.wav", 2, ("test", 1, "name and folder disagree")),
        ("fan/anomaly/id_01_00000012.wav", 1, ("", 1, "")),
        ("fan/new/section_00_source_test_normal_0012.wav", 1, ("test", 0, "")),
        ("fan/train/section_00_source_test_normal_0012.wav", 1, ("test", 0, "")),
        ("train/anomaly/a.wav", 1, ("", 1, "")),
        ("train/anomaly/a.wav", 2, ("train", 1, "")),
        ("train/a/b.wav", 9, ("train", None, "")),
        ("broken pumps/a/b.wav", 1, ("", None, "")),
        ("broken pumps/a/b.wav", 2, ("", None, "")),
        ("broken pumps/a/b.wav", 3, ("", None, "broken")),
        ("a/not broken.wav", 1, ("", None, "")),
        ("a/fault-free.wav", 1, ("", None, "")),
        ("a/fault 7.wav", 1, ("", None, "fault")),
        ("a/free of faults.wav", 1, ("", None, "faults")),
        ("a/fault no.wav", 1, ("", None, "fault")),
        ("a/fault free pump.wav", 1, ("", None, "")),
        ("a/a pump, fault free.wav", 1, ("", None, "")),
        ("a/broken pumps/b.wav", 0, ("", None, "")),
    ],
)
def test_which_folders_may_tell_and_what_is_doubtful(
    path: str, folders: int, expected: tuple[str, int | None, str]
) -> None:
    names = parse(Path("/data") / path, folders)
    assert (names.split, names.label, names.doubt) == expected


def test_a_folder_at_the_root() -> None:
    assert parse(Path("/normal/a.wav")).label == 0
    assert parse(Path("/id_00/normal/a.wav")).machine_id == "00"


@pytest.mark.parametrize(
    ("name", "domain", "said"),
    [
        ("section_00_source_train_normal_0012_strength_1_ambient.wav", "source", "strength_1_ambient"),
        ("section_00_target_test_anomaly_0012_id_C1_spd_2_mic_2.wav", "target", "id_C1_spd_2_mic_2"),
        ("section_00_source_train_normal_0000_.wav", "source", ""),
        ("section_03_target_test_0000.wav", "target", ""),
        ("section_03_test_0000.wav", "", ""),
        ("section_00_machine_0007_.wav", "", ""),
        ("normal_id_00_00000012.wav", "", ""),
    ],
)
def test_domains_and_attributes(name: str, domain: str, said: str) -> None:
    assert parse(Path("/data/fan/train") / name).domain == domain
    assert attributes(name) == said


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.wav", True), ("A.FLAC", True), ("fan/a.b.Ogg", True), ("wav", False), (".wav", False), ("a.wav.txt", False)],
)
def test_audio_is_known_by_its_extension(name: str, expected: bool) -> None:
    assert is_audio(name) == expected
