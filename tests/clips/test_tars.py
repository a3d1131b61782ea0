"""Clips in tar archives: found in their order, read from any thread, and what is wrong with an archive has a row."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import pickle
import random
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyasd.clips import Clip, find, tars
from pyasd.clips.sources import BrokenSource
from pyasd.errors import ClipError

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".tar": bytes, ".tar.gz": gzip.compress, ".tgz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress,
}  # fmt: skip
KINDS = pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
FORMATS = pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])


def content(seed: int, size: int = 3000) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def tar(*members: tuple[str, bytes] | tarfile.TarInfo, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an archive, as Python writes it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form, errors="surrogateescape") as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                file.addfile(info, io.BytesIO(member[1]))
    return stream.getvalue()


def shard(clips: int = 4) -> bytes:
    """Return an archive as WebDataset has them: each clip with its side-car."""
    return tar(
        *((f"{i:06}{ext}", data) for i in range(clips) for ext, data in ((".wav", content(i)), (".json", b"{}")))
    )


def outcome(clip: Clip) -> bytes | str:
    """Return what a clip's source gives, or the status that it ends with."""
    try:
        with clip.source.open() as stream:
            return stream.read()
    except ClipError as error:
        return error.status


def rows(path: Path) -> list[bytes | str] | str:
    """Return the outcome of each clip; or what is said of an archive that can't be read at all."""
    try:
        return [outcome(clip) for clip in find(path)]
    except ValueError as error:
        return str(error)


@KINDS
def test_clips_in_the_archive_s_order_with_what_names_tell(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"dev{suffix.upper()}"
    path.write_bytes(PACK[suffix](tar(
        ("./fan/test/anomaly_id_02_1.wav", b"1"), ("fan/train/normal_id_00_0.wav", b"22"), ("fan/._a.wav", b"3"),
        ("fan/.hidden/a.wav", b"3"), ("fan/readme.txt", b"4"), ("pump\\test\\normal_id_04_3.flac", b""),
    )))  # fmt: skip
    found = list(find(path))
    assert [(x.machine_type, x.machine_id, x.split, x.label) for x in found] == [
        ("fan", "02", "test", 1), ("fan", "00", "train", 0), ("pump", "04", "test", 0),
    ]  # fmt: skip
    assert found[0].name == f"{path}/fan/test/anomaly_id_02_1.wav"
    assert [x.source.size() for x in found] == [1, 2, 0]
    assert [outcome(x) for x in found] == [b"1", b"22", b""]
    for clip in found:
        assert pickle.loads(pickle.dumps(clip.source)) == clip.source
        assert (clip.source.path, clip.source.where) == (path, clip.name)


@KINDS
def test_side_cars_of_shards_are_no_clips(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"shard-000000{suffix}"
    path.write_bytes(PACK[suffix](shard(5)))
    assert [(x.source.member, outcome(x)) for x in find(path)] == [(f"{i:06}.wav", content(i)) for i in range(5)]


@FORMATS
@KINDS
def test_long_names_and_names_that_are_not_utf_8(tmp_path: Path, suffix: str, form: int) -> None:
    long = "/".join(["x" * 90] * (2 if form == tarfile.USTAR_FORMAT else 5)) + "/1.wav"
    names = [long, "ü 音.wav", os.fsdecode(b"caf\xe9.wav")]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACK[suffix](tar(*((name, name.encode(errors="replace")) for name in names), form=form)))
    found = list(find(path))
    assert [x.name for x in found] == [f"{path}/{x}" for x in (*names[:2], r"caf\xe9.wav")]
    assert [outcome(x) for x in found] == [name.encode(errors="replace") for name in names]
    for clip in found:
        clip.name.encode()


@KINDS
def test_what_is_no_file_has_a_row_and_nothing_is_followed(tmp_path: Path, suffix: str) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(b"secret")

    def other(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        return info

    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACK[suffix](tar(
        ("a.wav", b"1"), other("b.wav", tarfile.SYMTYPE, str(secret)), other("c.wav", tarfile.LNKTYPE, "a.wav"),
        other("d.wav", tarfile.CHRTYPE), other("e.wav", tarfile.FIFOTYPE), other("f.wav", b"Z"),
        other("g.wav", tarfile.DIRTYPE), ("../x.wav", b"2"), ("/y.wav", b"3"), ("a.wav", b"4"),
    )))  # fmt: skip
    found = list(find(path))
    assert [x.name.removeprefix(f"{path}/") for x in found] == [
        "a.wav", "b.wav", "c.wav", "d.wav", "e.wav", "f.wav", "../x.wav", "/y.wav", "a.wav",
    ]  # fmt: skip
    assert [outcome(x) for x in found] == [b"1", *["unreadable"] * 5, b"2", b"3", b"4"]
    told = [str(x.source.error) for x in found if isinstance(x.source, BrokenSource)]
    assert f"b.wav is a link to {secret}, and no file: make the archive with --dereference" in told[0]
    assert "c.wav is a link to a.wav" in told[1]
    assert "is a device" in told[2]
    assert "is a pipe" in told[3]
    assert "is of an unknown kind" in told[4]
    assert sorted(x.name for x in tmp_path.iterdir()) == [path.name, "secret.wav"]


def test_sparse_members_have_a_row(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a.wav")
    info.size = 512
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 60)}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as file:
        file.addfile(info, io.BytesIO(b"0\n".ljust(512, b"\0")))
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    (clip,) = find(tmp_path / "a.tar")
    with pytest.raises(ClipError, match=r"a\.wav is stored with holes \(sparse\): make the archive without --sparse"):
        clip.source.open()


# -- threads and processes ----------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("order", ["archive", "back", "random", "every third"])
def test_threads_get_the_bytes_whatever_they_ask_for(tmp_path: Path, suffix: str, order: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACK[suffix](shard(24)))
    numbered = list(enumerate(find(path)))
    if order == "random":
        random.Random(0).shuffle(numbered)
    chosen = {"back": numbered[::-1], "every third": numbered[::3]}.get(order, numbered)
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda x: (x[0], outcome(x[1])), chosen))
    assert all(data == content(i) for i, data in given)


def test_a_compressed_archive_is_decompressed_once_while_clips_come_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(shard(12)))
    found = list(find(path))
    begun: list[Path] = []

    class Stream(tars._Stream):
        def __init__(self, path: Path) -> None:
            begun.append(path)
            super().__init__(path)

    monkeypatch.setattr(tars, "_Stream", Stream)
    order = [0, 2, 1, 3, 6, 5, 4, 7, 8, 9, 11, 10]
    assert [outcome(found[i]) for i in order] == [content(i) for i in order]
    assert len(begun) == 1
    assert outcome(found[3]) == content(3)
    assert len(begun) == 2


def test_what_is_passed_is_kept_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tars, "HELD_BYTES", 250_000)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(tar(*((f"{i}.wav", bytes(100_000)) for i in range(100)))))
    found = list(find(path))
    tracemalloc.start()
    try:
        assert outcome(found[99]) == bytes(100_000)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert [outcome(found[i]) for i in (98, 97, 3)] == [bytes(100_000)] * 3


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_a_forked_process_reads_by_itself(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACK[suffix](shard(40)))
    found = list(find(path))
    assert outcome(found[0]) == content(0)
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.write(write, b"1" if [outcome(x) for x in found[20:]] == [content(i) for i in range(20, 40)] else b"0")
        os._exit(0)
    assert [outcome(x) for x in found[1:]] == [content(i) for i in range(1, 40)]
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"1"


@KINDS
def test_an_archive_that_changes_costs_the_rows_of_what_is_not_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACK[suffix](tar(("a.wav", b"1"), ("b.wav", b"2"), ("c.wav", b"3"))))
    first, second, third = find(path)
    assert outcome(first) == b"1"
    path.write_bytes(PACK[suffix](tar(("a.wav", b"4"), ("other.wav", b"5"))))
    assert outcome(first) == b"4"
    for clip in (second, third):
        with pytest.raises(ClipError, match="has changed since it was listed") as caught:
            clip.source.open()
        assert caught.value.status == "unreadable"
    path.unlink()
    with pytest.raises(ClipError, match=r"the archive .* doesn't exist any more") as caught:
        first.source.open()
    assert caught.value.status == "missing"


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_larger_than_the_limit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACK[suffix](tar(("a.wav", bytes(30_000_000)), ("b.wav", b"2"))))
    monkeypatch.setenv("PYASD_MAX_FILE_SIZE", "2M")
    large, small = find(path)
    tracemalloc.start()
    try:
        with pytest.raises(ClipError, match=r"a\.wav has 30,000,000 bytes, and the most is 2,097,152"):
            large.source.open()
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    assert outcome(small) == b"2"


# -- damage -------------------------------------------------------------------------------------------------------


@KINDS
def test_a_shard_that_was_cut_off_anywhere(tmp_path: Path, suffix: str) -> None:
    whole = PACK[suffix](shard(4))
    path = tmp_path / f"a{suffix}"
    counts: list[int] = []
    for cut in (*range(0, len(whole), len(whole) // 150), *range(len(whole) - 12, len(whole))):
        path.write_bytes(whole[:cut])
        found = rows(path)
        if isinstance(found, str):  # no member is known
            assert "copy or download it again" in found
            assert not counts
            continue
        clips, last = ([*found, None], None) if found[-1] == content(3) else (found, found[-1])
        assert clips[:-1] == [content(i) for i in range(len(clips) - 1)]
        assert last == "truncated" or suffix == ".tar", "a plain archive's end mark may have lost some of its zeros"
        counts.append(len(clips) - 1)
    assert counts == sorted(counts)
    assert set(counts) == ({4} if suffix == ".tar.bz2" else {0, 1, 2, 3, 4})  # bzip2 unpacks blocks of 900 kB


def test_the_row_of_a_cut_names_the_clip_and_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "fan" / "a.tar"
    path.parent.mkdir()
    whole = tar(("test/normal_id_00_0.wav", content(0)), ("test/normal_id_02_1.wav", content(1)), ("x.json", b"{}"))
    path.write_bytes(whole[:4500])
    _, second = find(path)
    assert (second.name, second.machine_type, second.machine_id) == (f"{path}/test/normal_id_02_1.wav", "fan", "02")
    with pytest.raises(ClipError, match=r"_1\.wav may lack bytes, and clips .* missing: .*a\.tar ends early; copy or"):
        second.source.open()
    path.write_bytes(whole[: whole.index(b"x.json") + 100])
    *clips, last = find(path)
    assert [outcome(x) for x in clips] == [content(0), content(1)]
    assert (last.name, last.source.path, last.source.member) == (str(path), path, "")
    with pytest.raises(ClipError, match=r"a\.tar ends early, and clips behind 2 others may be missing: copy or"):
        last.source.open()


@KINDS
def test_a_cut_in_what_is_no_clip(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    whole = tar(("1.json", content(0)), ("2.wav", content(1)), ("2.json", content(2)))
    for size, clips in ((2000, []), (9000, [content(1)])):
        path.write_bytes(PACK[suffix](whole[:size]))
        assert rows(path) == [*clips, "truncated"]


def test_a_damaged_header_costs_what_lies_behind_it_and_what_may_lack_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    whole = tar(*((f"{i}.wav", content(i)) for i in range(4)))
    damaged = bytearray(whole)
    damaged[whole.index(b"2.wav") + 110] ^= 1
    path.write_bytes(damaged)
    first, second = find(path)
    assert outcome(first) == content(0)
    with pytest.raises(ClipError, match=r"1\.wav may lack bytes, .*a\.tar is damaged; copy or download it again"):
        second.source.open()
    path.write_bytes(whole + whole)
    *clips, last = find(path)
    assert [outcome(x) for x in clips] == [content(i) for i in range(4)]
    with pytest.raises(ClipError, match=r"goes on behind its end, .*give archives that were joined one by one"):
        last.source.open()


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz"])
def test_of_a_compressed_archive_whose_bytes_changed_no_clip_is_heard(tmp_path: Path, suffix: str) -> None:
    path, good = tmp_path / f"a{suffix}", tmp_path / "good.tar"
    good.write_bytes(shard(1))
    whole = PACK[suffix](shard(4))
    told = 0
    for place in range(20, len(whole), len(whole) // 60):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        *clips, last = find([path, good])
        assert outcome(last) == content(0)
        if [outcome(x) for x in clips] != [content(i) for i in range(4)]:
            (bad,) = clips
            with pytest.raises(ClipError, match=r"a\.tar\.\w+ is .*: copy or download it again"):
                bad.source.open()
            told += 1
            with pytest.raises(ValueError, match="copy or download it again"):
                find(path)
    assert told > 50


def test_what_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(ValueError, match=r"a\.tar is no tar archive .*: copy or download it again"):
        find(path)
    path.write_bytes(tar(("notes.txt", b"1")))
    with pytest.raises(ValueError, match=r"a\.tar has no audio file"):
        find(path)
    path.write_bytes(tar())
    with pytest.raises(ValueError, match=r"a\.tar has no audio file"):
        find(path)
    path.write_bytes(gzip.compress(tar(("a.wav", b"1"))))
    assert [outcome(x) for x in find(path)] == [b"1"], "its first bytes tell how it is compressed"


def test_a_header_that_claims_much_takes_no_memory(tmp_path: Path) -> None:
    """tarfile reads a long name, or attributes, whole."""
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 40_000_000
    block = info.tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(tar(("a.wav", b"1"))[:1024] + block + bytes(40_000_000))
    tracemalloc.start()
    try:
        (clip,) = find(path)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()
    with pytest.raises(ClipError, match=r"is damaged \(a header claims 40,000,000 bytes\)"):
        clip.source.open()


def test_a_size_below_zero_does_not_go_round_in_circles(tmp_path: Path) -> None:
    info = tarfile.TarInfo("b.wav")
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 10 + b"\xf6\x00"  # -2560
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    (tmp_path / "a.tar").write_bytes(
        tar(("a.wav", content(0)), form=tarfile.GNU_FORMAT)[: 512 + 3072] + block + bytes(1024)
    )
    (clip,) = find(tmp_path / "a.tar")
    assert outcome(clip) == "unreadable"


def damages(whole: bytes) -> Iterator[st.SearchStrategy[bytes]]:
    places = st.integers(0, len(whole) - 1)
    yield st.builds(lambda i: whole[:i], places)
    yield st.builds(lambda i, n: whole[:i] + whole[i + n :], places, st.integers(1, 2000))
    yield st.builds(lambda i, n: whole[:i] + whole[i : i + n] + whole[i:], places, st.integers(1, 2000))
    yield st.builds(lambda i, new: whole[:i] + new + whole[i + len(new) :], places, st.binary(min_size=1, max_size=24))
    fields = st.sampled_from(
        [(100, 8), (108, 8), (124, 12), (148, 8), (156, 1), (157, 100), (257, 8), (345, 155), (386, 60)]
    )
    yield st.builds(_with_field, st.just(whole), places, fields, st.binary(min_size=1, max_size=100))


def _with_field(whole: bytes, place: int, field: tuple[int, int], value: bytes) -> bytes:
    """Set a field of a header, and its checksum to what it is then."""
    data, begin = bytearray(whole), place // 512 * 512
    data[begin + field[0] : begin + field[0] + field[1]] = value[: field[1]].ljust(field[1], b"\0")
    data[begin + 148 : begin + 156] = b" " * 8
    data[begin + 148 : begin + 156] = b"%06o\0 " % sum(data[begin : begin + 512])
    return bytes(data)


WHOLE = [
    tar(
        *((f"{'long/' * 30 * (i == 1)}{i}.{'json' if i == first else 'wav'}", content(i, 700)) for i in range(4)),
        form=form,
    )
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    for first in (0, 3)
]


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.one_of(st.binary(max_size=3000), *(x for whole in WHOLE for x in damages(whole))),
    suffix=st.sampled_from([".tar", ".tar.gz"]),
)
def test_whatever_is_in_it_no_other_error_comes_up(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(PACK[suffix](data))
    found = rows(path)
    if isinstance(found, str):
        assert str(path) in found
        return
    assert found
    for clip, got in zip(find(path), found, strict=True):
        clip.name.encode()
        assert got in ("truncated", "unreadable") or len(got) == clip.source.size()


def test_threads_that_end_leave_no_open_file(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("open files can't be counted here")
    before = len(list(descriptors.iterdir()))
    for number in range(200):
        path = tmp_path / f"{number}{'.tar' if number % 2 else '.tar.gz'}"
        path.write_bytes(PACK["." + path.name.split(".", 1)[1]](shard(2)))
    found = list(find(str(tmp_path / "*.tar"))) + list(find(str(tmp_path / "*.tar.gz")))
    threads = [threading.Thread(target=lambda part=found[i::4]: [outcome(x) for x in part]) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 400
    assert len(list(descriptors.iterdir())) - before < 80
