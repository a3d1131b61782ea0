"""Which clips are found, in which order, and what their names tell."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pyasd.clips import Clip, attributes, file_bytes, find, in_zip, parse


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def told(clip: Clip) -> tuple[str, str, str, int | None]:
    return clip.machine_type, clip.machine_id, clip.split, clip.label


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
        # MIMII
        ("6_dB_pump/pump/id_02/abnormal/00000001.wav", ("pump", "02", "", 1)),
        ("pump/id_02/normal/00000001.wav", ("pump", "02", "", 0)),
        # plain
        ("recordings/monday 7.wav", ("", "", "", None)),
        ("recordings/pump_normal.flac", ("", "", "", None)),
        ("recordings/anomaly/a.wav", ("", "", "", 1)),
        ("recordings/train/a.wav", ("", "", "train", None)),
        ("normal_id_01/test_id_01_notes.wav", ("", "", "", None)),
    ],
)
def test_what_paths_tell(path: str, expected: tuple) -> None:
    told = parse(Path("/data") / path)
    assert tuple(told[key] for key in ("machine_type", "machine_id", "split", "label")) == expected


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
    assert parse(Path("/data/fan/train") / name)["domain"] == domain
    assert attributes(name) == said


def test_a_relative_path_knows_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "fan/test/normal_id_00_00000000.wav")
    monkeypatch.chdir(tmp_path / "fan" / "test")
    (clip,) = find("normal_id_00_00000000.wav")
    assert clip.name == "normal_id_00_00000000.wav"
    assert told(clip) == ("fan", "00", "test", 0)


def test_a_folder_is_searched_in_order_without_what_is_hidden_or_no_audio(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b/2.wav", "b/10.FLAC", "a.wav", "a/ü ñ 音.ogg", "b/.hidden.wav", ".git/x.wav", "b/notes.txt", "b/x.zip",
    )  # fmt: skip
    names = [str(Path(clip.name).relative_to(tmp_path)) for clip in find(tmp_path)]
    assert names == ["a/ü ñ 音.ogg", "a.wav", "b/10.FLAC", "b/2.wav"]
    assert find(str(tmp_path))[0].path == tmp_path / "a" / "ü ñ 音.ogg"


def test_a_link_back_up_ends(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.wav")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert [clip.path for clip in find(tmp_path)] == [tmp_path / "a" / "1.wav"]


def test_globs(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.wav", "x/2.wav", "x/sub/3.wav", "x/notes.txt", "y/[1].wav")
    names = lambda pattern: [Path(clip.name).name for clip in find(str(tmp_path / pattern))]  # noqa: E731
    assert names("x/*.wav") == ["1.wav", "2.wav"]
    assert names("x/*") == ["1.wav", "2.wav", "3.wav"]
    assert names("**") == ["1.wav", "2.wav", "3.wav", "[1].wav"]
    assert names("?/[12].wav") == ["1.wav", "2.wav"]
    assert names("y/[1].wav") == ["[1].wav"], "a file of that very name comes before the glob"


def test_a_list_keeps_its_order_and_what_is_named_is_taken(tmp_path: Path) -> None:
    touch(tmp_path, "b.wav", "folder/2.wav", "folder/1.wav", "notes.txt")
    given = [tmp_path / "notes.txt", str(tmp_path / "b.wav"), tmp_path / "folder", tmp_path / "missing.wav"]
    assert [Path(clip.name).name for clip in find(given)] == ["notes.txt", "b.wav", "1.wav", "2.wav", "missing.wav"]
    assert [Path(clip.name).name for clip in find(tuple(given[:2]))] == ["notes.txt", "b.wav"]
    assert [Path(clip.name).name for clip in find(iter(given[:2]))] == ["notes.txt", "b.wav"]


@pytest.mark.parametrize("wrap", [str, lambda x: [x]])
@pytest.mark.parametrize("name", ["missing.wav", "missing folder", "*.wav"])
def test_the_only_path_is_missing(tmp_path: Path, name: str, wrap) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(FileNotFoundError, match="doesn't exist: check the spelling and the current folder"):
        find(wrap(str(tmp_path / name)))


def test_a_folder_without_audio(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{tmp_path.name} has no audio file: looked for \.wav, \.wave, \.flac"):
        find(tmp_path)
    touch(tmp_path, "notes.txt")
    with pytest.raises(ValueError, match="has no audio file"):
        find([tmp_path, tmp_path / "notes.txt"])
    with pytest.raises(ValueError, match=r"\*\.txt has no audio file"):
        find(str(tmp_path / "*.txt"))


@pytest.mark.parametrize("name", ["fan.tar.gz", "fan.7z", "fan.tgz"])
def test_an_archive_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name)
    with pytest.raises(ValueError, match=rf"{name} is an archive of a kind that can't be read: unpack it"):
        find(tmp_path / name)


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"x" * 10)
    return path


def test_clips_in_a_zip_archive(tmp_path: Path) -> None:
    path = zipped(
        tmp_path / "dev_data_fan.ZIP", "fan/test/anomaly_id_02_00000001.wav", "fan/train/normal_id_00_00000000.wav",
        "fan/train/.hidden.wav", "__MACOSX/fan/._a.wav", "fan/readme.txt", "fan/",
    )  # fmt: skip
    found = find(path)
    assert [told(clip) for clip in found] == [("fan", "02", "test", 1), ("fan", "00", "train", 0)]
    assert found[0].name == str(path / "fan/test/anomaly_id_02_00000001.wav")
    assert (found[0].path, found[0].member) == (path, "fan/test/anomaly_id_02_00000001.wav")
    assert [file_bytes(clip) for clip in found] == [10, 10]
    assert found == find(found) == find([found[0], found[1]]), "records are clips"
    assert [clip.name for clip in in_zip(path)] == [clip.name for clip in found]


def test_a_zip_archive_without_clips_or_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"empty\.zip has no audio file"):
        find(zipped(tmp_path / "empty.zip"))
    whole = zipped(tmp_path / "cut.zip", "fan/train/normal_id_00_00000000.wav").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=r"cut\.zip is no whole zip archive .*: copy or download it again"):
        find(tmp_path / "cut.zip")


@pytest.mark.parametrize("nothing", [[], (), np.zeros((0, 2, 5))])
def test_nothing_at_all(nothing: object) -> None:
    with pytest.raises(ValueError, match="no clips given"):
        find(nothing)


def test_a_name_that_is_not_utf_8_can_be_printed(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9/train/normal_id_00_0.wav"
    path = Path(os.fsdecode(raw))
    try:
        touch(path.parent, path.name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    (clip,) = find(tmp_path)
    assert clip.path == path
    assert clip.name.endswith(r"caf\xe9/train/normal_id_00_0.wav")
    assert clip.machine_type == r"caf\xe9"
    clip.name.encode()


def test_arrays() -> None:
    samples = [np.zeros(10, np.int16), np.zeros((2, 10), np.float64), torch.zeros(10)]
    found = find(samples, sample_rate=16000, ids=["00", "01", "02"], machine_type="fan")
    assert [clip.name for clip in found] == ["clip 0", "clip 1", "clip 2"]
    assert [clip.machine_id for clip in found] == ["00", "01", "02"]
    assert {clip.machine_type for clip in found} == {"fan"}
    assert {clip.sample_rate for clip in found} == {16000}
    assert found[0].samples is samples[0], "no copy"


def test_arrays_with_their_rates() -> None:
    found = find([(np.zeros(10, np.float32), 8000), (np.zeros(10, np.float32), 44100)])
    assert [clip.sample_rate for clip in found] == [8000, 44100]
    (alone,) = find((np.zeros(10, np.float32), 8000))
    assert alone.sample_rate == 8000
    (alone,) = find(np.zeros(10, np.float32), sample_rate=8000)
    assert alone.samples is not None
    assert alone.samples.shape == (10,)


def test_arrays_and_paths_mixed(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    found = find([tmp_path / "a.wav", np.zeros(10, np.float32)], sample_rate=16000, ids="07")
    assert [clip.machine_id for clip in found] == ["07", "07"]


def test_log_mels() -> None:
    clips = np.random.default_rng(0).standard_normal((3, 20, 128))
    found = find(clips, features="log-mel", ids="00")
    assert len(found) == 3
    assert found[1].log_mel is not None
    assert found[1].log_mel.dtype == np.float32
    assert np.array_equal(found[1].log_mel, clips[1].astype(np.float32))
    assert len(find(clips[0], features="log-mel")) == 1
    assert len(find([torch.zeros(20, 128)], features="log-mel")) == 1


def test_arrays_that_make_no_clip() -> None:
    with pytest.raises(ValueError, match="clip 0: samples need their rate"):
        find([np.zeros(10, np.float32)])
    with pytest.raises(ValueError, match=r"clip 1: samples must be \[n\].*not int32"):
        find([np.zeros(10, np.int16), np.zeros(10, np.int32)], sample_rate=16000)
    with pytest.raises(ValueError, match=r"not float32 \(1, 1, 10\)"):
        find([np.zeros((1, 1, 10), np.float32)], sample_rate=16000)
    with pytest.raises(ValueError, match="could be channels or clips"):
        find(np.zeros((4, 10), np.float32), sample_rate=16000)
    with pytest.raises(ValueError, match=r"a log-Mel must be \[frames, mels\]"):
        find([np.zeros(128)], features="log-mel")
    with pytest.raises(TypeError, match="clip 0 must be a path or an array, not float"):
        find([0.5, 0.25])
    with pytest.raises(TypeError, match="not NoneType"):
        find(None)
    with pytest.raises(ValueError, match="features must be"):
        find([np.zeros(10)], features="mfcc")  # type: ignore[arg-type]


def test_ids_of_the_wrong_number(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.wav")
    with pytest.raises(ValueError, match="3 ids for 2 clips"):
        find(tmp_path, ids=["00", "01", "02"])


def test_real_folders(real_data: Path) -> None:
    found = find(real_data / "uav")
    assert len(found) == 105 + 89 + 143
    assert {clip.machine_type for clip in found} == {"UAV"}
    assert {clip.machine_id for clip in found} == {"00", "01"}
    assert sum(clip.split == "train" for clip in found) == 105
    assert sum(clip.label == 1 for clip in found) == 143
