"""Which clips are found, in which order and how lazily; which of them are for fitting and for scoring."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pyasd.clips import Clip, find, sources
from pyasd.clips.find import in_archive
from pyasd.clips.names import Names
from pyasd.clips.sources import ArraySource, FileSource, Source, ZipSource, open_zip
from pyasd.errors import ClipError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def known(clip: Clip) -> tuple[str, str, str, int | None]:
    return clip.machine_type, clip.machine_id, clip.split, clip.label


def test_a_relative_path_knows_its_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "fan/test/normal_id_00_00000000.wav")
    monkeypatch.chdir(tmp_path / "fan" / "test")
    (clip,) = find("normal_id_00_00000000.wav")
    assert clip.name == "normal_id_00_00000000.wav"
    assert known(clip) == ("fan", "00", "test", 0)


def test_a_folder_is_searched_in_order_without_what_is_hidden_or_no_audio(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b/2.wav", "b/10.FLAC", "a.wav", "a/ü ñ 音.ogg", "b/.hidden.wav", ".git/x.wav", "b/notes.txt", "b/x.zip",
    )  # fmt: skip
    names = [str(Path(clip.name).relative_to(tmp_path)) for clip in find(tmp_path)]
    assert names == ["a/ü ñ 音.ogg", "a.wav", "b/10.FLAC", "b/2.wav"]
    assert next(find(str(tmp_path))).source == FileSource(tmp_path / "a" / "ü ñ 音.ogg")


def test_a_link_back_up_ends(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.wav")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert [clip.source.path for clip in find(tmp_path)] == [tmp_path / "a" / "1.wav"]


def test_globs(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.wav", "x/2.wav", "x/sub/3.wav", "x/notes.txt", "y/[1].wav")

    def names(pattern: str) -> list[str]:
        return [Path(clip.name).name for clip in find(str(tmp_path / pattern))]

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
def test_the_only_path_is_missing(tmp_path: Path, name: str, wrap: Callable[[str], Any]) -> None:
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


@pytest.mark.parametrize("name", ["fan.tar.zst", "fan.7z", "fan.RAR"])
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
    found = list(find(path))
    assert [known(clip) for clip in found] == [("fan", "02", "test", 1), ("fan", "00", "train", 0)]
    assert found[0].name == str(path / "fan/test/anomaly_id_02_00000001.wav")
    assert found[0].source == ZipSource(path, "fan/test/anomaly_id_02_00000001.wav", 0)
    assert [clip.source.size() for clip in found] == [10, 10]
    assert found == list(find(found)) == list(find([found[0], found[1]])), "records are clips"
    assert [clip.name for clip in in_archive(path)] == [clip.name for clip in found]


def test_a_glob_of_archives(tmp_path: Path) -> None:
    for name in ("b.zip", "a.zip", "c.zip"):
        zipped(tmp_path / name, f"{name[0]}.wav")
    touch(tmp_path, "d.wav")
    names = [f"{tmp_path}/{x}.zip/{x}.wav" for x in "abc"]
    assert [clip.name for clip in find(str(tmp_path / "*.zip"))] == names
    (tmp_path / "b.zip").write_bytes(b"no archive")
    first, damaged, last = find(str(tmp_path / "*.zip"))
    assert [first.name, last.name] == [names[0], names[2]]
    with pytest.raises(ClipError, match=r"b\.zip is no whole zip archive"):
        damaged.source.open()
    with pytest.raises(ValueError, match="no whole zip archive"):
        find(str(tmp_path / "b*.zip"))


def test_a_clip_in_an_archive_by_the_name_that_tables_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped(tmp_path / "a.zip", "fan/test/anomaly_id_02_1.wav", "b.wav")
    monkeypatch.chdir(tmp_path)
    first, second = find("a.zip")
    for clip in (first, second):
        (found,) = find(clip.name)
        assert (found.name, found.source, known(found)) == (clip.name, clip.source, known(clip))
        assert [x.name for x in find([clip.name, tmp_path / clip.name])] == [clip.name, str(tmp_path / clip.name)]
    (missing,) = find("a.zip/c.wav")
    with pytest.raises(ClipError, match=r"c\.wav doesn't exist: the archive has no such clip"):
        missing.source.open()
    with pytest.raises(FileNotFoundError):
        find("b.zip/c.wav")


def test_an_archive_that_cannot_be_opened_has_a_row_beside_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(path: Path) -> list[Source]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(sources, "_archives", dict(sources._archives))
    sources.register(".7z", locked)
    touch(tmp_path, "a.wav", "b.7z")
    _, bad = find([tmp_path / "a.wav", tmp_path / "b.7z"])
    with pytest.raises(ClipError, match=r"b\.7z can't be opened \(Permission denied\): check its rights"):
        bad.source.open()
    with pytest.raises(PermissionError):
        find(tmp_path / "b.7z")


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
    assert clip.source.path == path
    assert clip.name.endswith(r"caf\xe9/train/normal_id_00_0.wav")
    assert clip.machine_type == r"caf\xe9"
    clip.name.encode()


def test_arrays() -> None:
    samples = [np.zeros(10, np.int16), np.zeros((2, 10), np.float64), torch.zeros(10)]
    found = list(find(samples, sample_rate=16000, ids=["00", "01", "02"], machine_type="fan"))
    assert [clip.name for clip in found] == ["clip 0", "clip 1", "clip 2"]
    assert [clip.machine_id for clip in found] == ["00", "01", "02"]
    assert {clip.machine_type for clip in found} == {"fan"}
    arrays = [clip.source for clip in found if isinstance(clip.source, ArraySource)]
    assert [source.sample_rate for source in arrays] == [16000] * 3
    assert arrays[0].samples is samples[0], "no copy"
    assert [source.size() for source in arrays] == [0] * 3
    assert {clip.log_mel for clip in found} == {None}


def test_arrays_with_their_rates() -> None:
    def rates(given: object, sample_rate: int | None = None) -> list[int]:
        clips = find(given, sample_rate=sample_rate)
        return [clip.source.sample_rate for clip in clips if isinstance(clip.source, ArraySource)]

    samples = np.zeros(10, np.float32)
    assert rates([(samples, 8000), (samples, 44100)]) == [8000, 44100]
    assert rates((samples, 8000)) == [8000]
    assert rates(samples, sample_rate=8000) == [8000]


def test_arrays_and_paths_mixed(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    found = find([tmp_path / "a.wav", np.zeros(10, np.float32)], sample_rate=16000, ids="07")
    assert [clip.machine_id for clip in found] == ["07", "07"]


def test_log_mels() -> None:
    clips = np.random.default_rng(0).standard_normal((3, 20, 128))
    found = list(find(clips, features="log-mel", ids="00"))
    assert len(found) == 3
    assert found[1].log_mel is not None
    assert found[1].log_mel.dtype == np.float32
    assert np.array_equal(found[1].log_mel, clips[1].astype(np.float32))
    assert len(list(find(clips[0], features="log-mel"))) == 1
    assert len(list(find([torch.zeros(20, 128)], features="log-mel"))) == 1


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


@pytest.mark.parametrize("count", [0, 1, 3])
def test_ids_of_the_wrong_number(tmp_path: Path, count: int) -> None:
    touch(tmp_path, "a.wav", "b.wav")
    ids = ["00", "01", "02"][:count]
    message = f"{count} ids for 2 clips: give one per clip, or a single string for all"
    listed = find(tmp_path, ids=ids)
    with pytest.raises(ValueError, match=message):
        list(listed)
    with pytest.raises(ValueError, match=message):
        find([tmp_path / "a.wav", np.zeros(10, np.int16)], sample_rate=16000, ids=ids)


def test_ids_in_the_order_of_the_clips(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.wav", "a/2.wav", "b.wav")
    given = [tmp_path / "b.wav", tmp_path / "a"]
    assert [(Path(clip.name).name, clip.machine_id) for clip in find(given, ids=("x", "y", "z"))] == [
        ("b.wav", "x"), ("1.wav", "y"), ("2.wav", "z"),
    ]  # fmt: skip


# -- laziness ----------------------------------------------------------------------------------------------------


def test_the_first_clip_comes_before_the_walk_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"line {folder:02d}/{number:03d}.wav" for folder in range(50) for number in range(100)))
    listed: list[str] = []
    scandir = os.scandir

    def spy(path: Path) -> object:
        listed.append(path.name)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", spy)
    clips = find([tmp_path, tmp_path / "line 07"], machine_type="pump", ids=["00"] * 5100)
    assert Path(next(clips).name) == tmp_path / "line 00" / "000.wav"
    assert listed == [tmp_path.name, "line 00", "line 07"], "each place up to its first clip"
    names = [clip.name for clip in clips]
    assert len(names) == 5099
    assert names[:4999] == sorted(names[:4999])
    assert len(listed) == 52


def test_the_clips_of_one_folder_are_looked_at_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"{number:04d}.wav" for number in range(5000)))
    parsed: list[Path] = []

    def spy(path: Path, folders: int) -> Names:
        parsed.append(path)
        return Names()

    monkeypatch.setattr(import_module("pyasd.clips.find"), "parse", spy)
    for place in (tmp_path, f"{tmp_path}/*.wav"):
        parsed.clear()
        assert next(find(place)).name == str(tmp_path / "0000.wav")
        assert len(parsed) == 1


def test_the_order_is_that_of_sorted_paths(tmp_path: Path) -> None:
    touch(tmp_path, "a/z.wav", "a.b/1.wav", "a b.wav", "a.wav", "A/1.wav", "a/b/c.wav", "a/b.wav", "a/b c/1.wav")
    paths = [clip.source.path for clip in find(tmp_path)]
    assert paths == sorted(tmp_path.rglob("*.wav"))
    assert [clip.source.path for clip in find(f"{tmp_path}/**")] == paths


def test_a_link_renames_no_machine(tmp_path: Path) -> None:
    touch(tmp_path, "fan/train/normal_id_00_0.wav", "fan/test/normal_id_00_1.wav")
    (tmp_path / "a latest").symlink_to(tmp_path / "fan")
    assert [known(clip)[0] for clip in find(tmp_path / "a latest")] == ["fan", "fan"]
    assert [known(clip)[0] for clip in find(tmp_path)] == ["fan", "fan"]
    assert [clip.name for clip in find(tmp_path)] == [str(x) for x in sorted((tmp_path / "fan").rglob("*.wav"))]


def test_what_is_left_out_of_a_folder_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "1.wav", "2.m4a", "sub/3.WEBM", "4.zip", "notes.txt")
    with pytest.warns(UserWarning, match="left out") as told:
        assert len(list(find(tmp_path))) == 1
    said = sorted(str(x.message) for x in told)
    assert len(said) == 2
    assert "1 archives in the folder are left out: give them by name" in said[0]
    assert "2 files of audio that can't be read are left out: convert them" in said[1]


def test_a_zip_archive_with_paths_of_windows(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", "fan\\train\\normal_id_00_0.wav", "fan\\test\\anomaly_id_00_1.wav")
    assert [known(clip) for clip in find(path)] == [("fan", "00", "test", 1), ("fan", "00", "train", 0)]
    assert [clip.source.open().read() for clip in find(path)] == [b"x" * 10] * 2


def test_members_outside_a_zip_archive_and_of_one_name_have_rows_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name, content in (("../x.wav", b"1"), ("/y.wav", b"2"), ("z.wav", b"3"), ("Z.wav", b"4")):
            file.writestr(name, content)
    path.write_bytes(path.read_bytes().replace(b"Z.wav", b"z.wav"))
    found = list(find(path))
    assert [clip.name for clip in found] == [f"{path}/{x}" for x in ("../x.wav", "/y.wav", "z.wav", "z.wav")]
    assert [clip.source.open().read() for clip in found] == [b"1", b"2", b"3", b"4"]


def test_real_folders(real_data: Path) -> None:
    found = list(find(real_data / "uav"))
    assert len(found) == 105 + 89 + 143
    assert {clip.machine_type for clip in found} == {"UAV"}
    assert {clip.machine_id for clip in found} == {"00", "01"}
    assert sum(clip.split == "train" for clip in found) == 105
    assert sum(clip.label == 1 for clip in found) == 143


# -- places that can't be read ------------------------------------------------------------------------------------


def test_an_empty_path_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.wav", "b.wav")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="an empty path was given"):
        find("")
    first, empty = find(["a.wav", ""])
    assert (first.name, empty.name) == ("a.wav", "")
    with pytest.raises(ClipError, match="leave it out") as caught:
        empty.source.open()
    assert caught.value.status == "missing"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (clip,) = find(tmp_path)
    with pytest.raises(ClipError, match="is not a file") as caught:
        clip.source.open()
    assert caught.value.status == "unreadable"


def test_links_to_themselves_and_names_that_no_file_has_cost_their_own_rows(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "self.wav").symlink_to("self.wav")
    assert [Path(x.name).name for x in find(tmp_path)] == ["a.wav", "self.wav"]
    for name in ("x" * 300 + ".wav", "a\0.wav", str(tmp_path / "self")):
        good, bad = find([tmp_path / "a.wav", name])
        assert good.name == str(tmp_path / "a.wav")
        with pytest.raises(ClipError) as caught:
            bad.source.open()
        assert caught.value.status in ("missing", "unreadable")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can list every folder")
def test_a_folder_that_cant_be_listed_is_told_and_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "locked/b.wav")
    (tmp_path / "locked").chmod(0)
    with pytest.warns(UserWarning, match=r"locked can't be listed \(Permission denied\): it is left out"):
        assert [Path(x.name).name for x in find(tmp_path)] == ["a.wav"]
    (tmp_path / "locked").chmod(0o700)


def test_a_damaged_archive_beside_a_good_one_has_a_row(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as file:
        file.writestr("a.wav", b"x")
    (tmp_path / "bad.zip").write_bytes(b"PK\3\4 and no more")
    bad, good = find([tmp_path / "bad.zip", tmp_path / "good.zip"])
    assert good.name == str(tmp_path / "good.zip" / "a.wav")
    assert bad.name == str(tmp_path / "bad.zip")
    with pytest.raises(ClipError, match="no whole zip archive") as caught:
        bad.source.open()
    assert caught.value.status == "unreadable"
    with pytest.raises(ValueError, match="no whole zip archive"):
        find(tmp_path / "bad.zip")


def test_columns_of_tables_and_records_of_data_sets(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.wav")
    paths = [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    for given in (pd.Series(paths), pd.Index(paths), np.array(paths), np.array(paths, object)):
        assert [x.name for x in find(given)] == paths
    record = {"array": np.zeros(100, np.float32), "sampling_rate": 8000, "path": "x.wav"}
    for given in (record, [record]):
        (clip,) = find(given)
        assert isinstance(clip.source, ArraySource)
        assert clip.source.sample_rate == 8000
    with pytest.raises(TypeError, match="not dict: give a list of its values"):
        find({"a": paths[0]})


def test_samples_as_soundfile_reads_them() -> None:
    with pytest.raises(ValueError, match=r"looks like \[n, channels\]: give \[channels, n\], as samples.T"):
        find([np.zeros((16000, 2), np.float32)], sample_rate=16000)
    assert len(list(find([np.zeros((2, 16000), np.float32)], sample_rate=16000))) == 1


def test_a_forked_process_opens_an_archive_anew(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a.wav", b"x" * 100)
    handle = open_zip(tmp_path / "a.zip")
    assert open_zip(tmp_path / "a.zip") is handle
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, b"1" if open_zip(tmp_path / "a.zip") is not handle else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"
