"""Open clips from files, archives and arrays; show that a further kind of archive is one function."""

from __future__ import annotations

import io
import pickle
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import soundfile

from pyasd import audio
from pyasd.clips import find, sources
from pyasd.clips.names import printable
from pyasd.clips.sources import ArraySource, FileSource, LogMelSource, Source, ZipSource, open_zip
from pyasd.errors import ClipError

RATE = 16000


def noise(seed: int) -> np.ndarray:
    return (3000 * np.random.default_rng(seed).standard_normal(RATE)).astype(np.int16)


def wav(seed: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, noise(seed), RATE, format="WAV")
    return file.getvalue()


@dataclass(frozen=True, slots=True)
class OtherSource(Source):
    """A member of another kind of archive, for the test below: all that it needs."""

    path: Path
    member: str
    offset: int
    bytes: int

    @property
    def where(self) -> str:
        return printable(self.path / self.member)

    def open(self) -> BinaryIO:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return io.BytesIO(file.read(self.bytes))

    def size(self) -> int:
        return self.bytes


def other_members(path: Path) -> Iterator[Source]:
    with tarfile.open(path) as file:
        for info in file:
            yield OtherSource(path, info.name, info.offset_data, info.size)


def test_a_further_kind_of_archive_is_registered_in_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shard 1.7Z"
    with tarfile.open(path, "w") as file:
        for seed, name in enumerate(["fan/train/normal_id_00_00000001.wav", "fan/notes.txt", "fan/test/id_02_0.wav"]):
            info = tarfile.TarInfo(name)
            info.size = len(wav(seed))
            file.addfile(info, io.BytesIO(wav(seed)))
    with pytest.raises(ValueError, match="an archive of a kind that can't be read"):
        find(path)
    monkeypatch.setattr(sources, "_archives", dict(sources._archives))
    sources.register(".7z", other_members)
    clips = list(find([path]))
    assert [(clip.machine_type, clip.machine_id, clip.split) for clip in clips] == [
        ("fan", "00", "train"), ("fan", "02", "test"),
    ]  # fmt: skip
    assert clips[0].name == str(path / "fan/train/normal_id_00_00000001.wav")
    assert [clip.source.size() for clip in clips] == [len(wav(0))] * 2
    for seed, clip in zip((0, 2), clips, strict=True):
        assert np.array_equal(audio.read(clip, RATE).samples, noise(seed))
    with pytest.raises(FileNotFoundError):
        find(tmp_path / "missing.7z")
    with pytest.raises(ValueError, match="unpack it, or make it a zip archive"):
        find(tmp_path / "other.rar")


def no_members(path: Path) -> Iterator[Source]:
    return iter(())


def test_the_longest_suffix_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_archives", {})
    sources.register(".gz", no_members)
    sources.register(".tar.gz", other_members)
    assert sources.archive_members("A.TAR.GZ") is other_members
    assert sources.archive_members("a.gz") is no_members
    assert sources.archive_members("a.zip") is None


def test_a_file(tmp_path: Path) -> None:
    source = FileSource(tmp_path / "a.wav")
    assert (source.where, source.path, source.member) == (str(tmp_path / "a.wav"), tmp_path / "a.wav", "")
    assert source.size() == 0
    with pytest.raises(ClipError, match=r"a\.wav doesn't exist") as caught:
        source.open()
    assert caught.value.status == "missing"
    source.path.write_bytes(b"12345")
    assert source.size() == 5
    with source.open() as stream:
        assert stream.read() == b"12345"


def test_a_member_of_a_zip_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("fan/1.wav", bytes(1000))
    source = ZipSource(path, "fan/1.wav", 0)
    assert source.where == str(path / "fan/1.wav")
    assert source.size() == 1000
    with source.open() as stream:
        assert stream.read() == bytes(1000)
    other = ZipSource(path, "fan/2.wav", 0)
    assert other.size() == 0
    with pytest.raises(ClipError, match=r"fan/2\.wav can't be unpacked .*copy or download .*a\.zip again") as caught:
        other.open()
    assert caught.value.status == "unreadable"


def test_a_zip_archive_is_opened_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for content in (b"one", b"another"):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("1.wav", content)
        assert open_zip(path) is open_zip(path)
        with ZipSource(path, "1.wav", 0).open() as stream:
            assert stream.read() == content


def test_a_damaged_lzma_member_costs_its_own_row(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("a.wav", wav(0))
        file.writestr("b.wav", wav(1))
    content = bytearray(path.read_bytes())
    content[200:600] = b"\xff" * 400
    path.write_bytes(content)
    first, second = (clip.source for clip in find(path))
    with pytest.raises(ClipError, match=r"a\.wav can't be unpacked"):
        first.open()
    assert second.open().read() == wav(1)


METHODS = pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])


@METHODS
def test_a_member_that_lies_about_its_size_is_not_unpacked_to_its_end(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as file, file.open("1.wav", "w") as stream:
        for _ in range(10):
            stream.write(bytes(5_000_000))
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\1\2") + 24
    content[place : place + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ClipError, match=r"can't be unpacked .*copy or download .*a\.zip again"):
            ZipSource(path, "1.wav", 0).open()
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@METHODS
@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_members_are_unpacked_whole(tmp_path: Path, method: int, size: int) -> None:
    path, content = tmp_path / "a.zip", np.random.default_rng(0).integers(0, 9, size, np.uint8).tobytes()
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("1.wav", content)
    with ZipSource(path, "1.wav", 0).open() as stream:
        assert stream.read() == content


@pytest.mark.parametrize("place", [b"c.wav", b"b.wav"])
def test_a_zip_archive_whose_list_lost_members_is_damaged(tmp_path: Path, place: bytes) -> None:
    """zipfile reads the list as far as its entries' own lengths lead, and names as far as a zero byte."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        for number, name in enumerate("abc"):
            file.writestr(f"{name}.wav", wav(number))
    assert len(list(find(path))) == 3
    content = bytearray(path.read_bytes())
    if place == b"b.wav":
        entry = content.rfind(place) - 46
        content[entry + 32 : entry + 34] = (51).to_bytes(2, "little")  # its comment takes the next entry
    else:
        content[content.rfind(place)] = 0
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.zip is no whole zip archive .*copy or download it again"):
        list(find(path))


def test_arrays_have_no_file() -> None:
    for source in (ArraySource("clip 0", noise(0), RATE), LogMelSource("clip 0", np.zeros((5, 128), np.float32))):
        assert (source.where, source.size(), source.path, source.member) == ("clip 0", 0, None, "")
        with pytest.raises(ValueError, match="clip 0 is an array and has no file"):
            source.open()


def test_sources_travel_to_other_processes(tmp_path: Path) -> None:
    for source in (FileSource(tmp_path / "a.wav"), ZipSource(tmp_path / "a.zip", "b.wav", 0)):
        assert pickle.loads(pickle.dumps(source)) == source
    samples = pickle.loads(pickle.dumps(ArraySource("clip 0", noise(0), RATE)))
    assert np.array_equal(samples.samples, noise(0))


@METHODS
def test_damage_is_told_whatever_the_compression(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("1.wav", np.random.default_rng(0).bytes(1000) + bytes(9000))
    whole = path.read_bytes()
    begin = whole.index(b"1.wav") + 5
    for place in range(begin, begin + 900, 7):
        damaged = bytearray(whole)
        damaged[place : place + 3] = bytes(x ^ 0xA5 for x in damaged[place : place + 3])
        path.write_bytes(damaged)
        with pytest.raises(ClipError, match=r"can't be unpacked .*copy or download .*a\.zip again"):
            ZipSource(path, "1.wav", 0).open()


def test_what_cant_be_unpacked_here_has_its_own_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("1.wav", b"x" * 100)
    whole = path.read_bytes()
    central = whole.index(b"PK\1\2")
    for place, value, told in ((10, 9, "another program"), (8, 1, "encrypted: unpack .* with its password")):
        changed = bytearray(whole)
        changed[central + place] = value
        path.write_bytes(changed)
        with pytest.raises(ClipError, match=told) as caught:
            ZipSource(path, "1.wav", 0).open()
        assert "again" not in str(caught.value)


def test_an_archive_in_a_folder_whose_name_is_not_utf_8_is_named_in_print(latin1: Path) -> None:
    path = latin1 / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("1.wav", b"x" * 100)
    whole = path.read_bytes()
    central = whole.index(b"PK\1\2")
    told = []
    for place, value in ((10, 9), (8, 1), (16, 0)):  # another compression, encrypted, another checksum
        changed = bytearray(whole)
        changed[central + place] = value
        path.write_bytes(changed)
        with pytest.raises(ClipError) as caught:
            ZipSource(path, "1.wav", 0).open()
        told.append(str(caught.value))
    path.unlink()
    with pytest.raises(ClipError) as caught:
        ZipSource(path, "1.wav", 0).open()
    told.append(str(caught.value))
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="is no whole zip archive") as cut:
        open_zip(path)
    for text in (*told, str(cut.value)):
        assert text.count(r"L\xfcfter/a.zip") == text.count("a.zip"), text


@pytest.mark.parametrize("name", ["clips.csv", "list.txt", "table.parquet"])
def test_a_list_is_no_clip(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("clip\n1.wav\n")
    with pytest.raises(ClipError, match="list or a table: give the clips that it names"):
        FileSource(tmp_path / name).open()


def test_larger_than_the_limit_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("1.wav", bytes(3_000_000))
    assert path.stat().st_size < 10_000
    (tmp_path / "b.wav").write_bytes(bytes(3_000_000))
    both = (ZipSource(path, "1.wav", 0), FileSource(tmp_path / "b.wav"))
    for source in both:
        source.open().close()
    monkeypatch.setenv("PYASD_MAX_FILE_SIZE", "2M")
    for source in both:
        with pytest.raises(ClipError, match=r"3,000,000 bytes, and the most is 2,097,152: cut it .*--max-file-size"):
            source.open()
    # what a member claims is not believed either
    central = (content := bytearray(path.read_bytes())).index(b"PK\1\2")
    content[central + 24 : central + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ClipError, match="can't be unpacked"):
        ZipSource(path, "1.wav", 0).open()
    monkeypatch.setenv("PYASD_MAX_FILE_SIZE", "much")
    with pytest.raises(ValueError, match="must be a size such as 500M or 8G, not 'much'"):
        both[1].open()
