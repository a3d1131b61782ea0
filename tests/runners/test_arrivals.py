"""Which files have landed: written in pieces, renamed, cut off, vanished, out of reach."""

from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest

from pyasd.runners.arrivals import CHANGING_SECONDS, Arrivals, Patience


class Clock:
    """A clock that stands still until it is told."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


PATIENCE = Patience(settle=2.0, give_up=60.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def arrivals(tmp_path: Path, clock: Clock) -> Arrivals:
    return Arrivals(tmp_path, set(), PATIENCE, clock)


def wav(path: Path, there: int = 100, claimed: int = 100, age: float = 0.0) -> Path:
    """Write a WAV file with so many samples, and a header that claims so many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack("<4sI8sIHHIIHH4sI", b"RIFF", 36 + 2 * claimed, b"WAVEfmt ", 16, 1, 1, 16000, 32000, 2, 16,
                       b"data", 2 * claimed)  # fmt: skip
    path.write_bytes(head + bytes(2 * there))
    written = time.time() - age
    os.utime(path, (written, written))
    return path


def landed(arrivals: Arrivals, last: bool = False) -> list[str]:
    """The names of the files that a look finds landed, which have their rows then."""
    names = []
    for file in arrivals.look():
        clip = arrivals.clip(file, last)
        if clip is not None:
            names.append(Path(clip.name).name)
            arrivals.end(file)
    return names


def seconds_until(arrivals: Arrivals, clock: Clock, most: int) -> int:
    """After how many seconds, with a look at each, a file has landed."""
    for second in range(most + 1):
        if landed(arrivals):
            return second
        clock.now += 1
    pytest.fail("it never landed")


def test_a_file_lands_when_it_has_not_changed_for_a_while(tmp_path: Path, arrivals: Arrivals, clock: Clock) -> None:
    for pieces in range(1, 6):
        wav(tmp_path / "a.wav", there=20 * pieces, age=60 - pieces)
        assert not landed(arrivals)
        clock.now += 1.9
    assert not landed(arrivals)
    clock.now += 0.2
    assert landed(arrivals) == ["a.wav"]
    clock.now += 100
    assert not landed(arrivals)


def test_a_change_of_the_time_alone_counts(tmp_path: Path, arrivals: Arrivals, clock: Clock) -> None:
    wav(tmp_path / "a.wav", age=60)
    landed(arrivals)
    clock.now += 3
    wav(tmp_path / "a.wav", age=59)
    assert not landed(arrivals)
    clock.now += 2
    assert landed(arrivals) == ["a.wav"]


def test_a_file_that_changes_between_the_look_and_its_turn_is_waited_for(
    tmp_path: Path, arrivals: Arrivals, clock: Clock
) -> None:
    wav(tmp_path / "a.wav", age=60)
    arrivals.look()
    clock.now += 2
    (file,) = arrivals.look()
    wav(tmp_path / "a.wav", there=200, claimed=200)
    assert arrivals.clip(file) is None
    assert not landed(arrivals)
    clock.now += 2
    assert landed(arrivals) == ["a.wav"]


@pytest.mark.parametrize(("there", "claimed"), [(50, 100), (50, 0)], ids=["cut off", "sizes not written yet"])
def test_a_header_that_is_not_finished_is_waited_for(
    tmp_path: Path, arrivals: Arrivals, clock: Clock, there: int, claimed: int
) -> None:
    """Also where nothing comes for longer than files take to settle; when all is there, it has landed."""
    path = wav(tmp_path / "a.wav", there, claimed, age=60)
    for _ in range(30):
        assert not landed(arrivals)
        clock.now += 1
    wav(path, age=59)
    assert seconds_until(arrivals, clock, 10) == 2


@pytest.mark.parametrize("content", [b"", b"RIFF", None], ids=["empty", "a part of a header", "cut off"])
def test_what_stays_unfit_is_given_up(tmp_path: Path, arrivals: Arrivals, clock: Clock, content: bytes | None) -> None:
    path = wav(tmp_path / "a.wav", there=50)
    if content is not None:
        path.write_bytes(content)
    settled, given_up = 2, 62
    expected = settled if content == b"RIFF" else given_up  # nothing tells of that one before it is decoded
    assert seconds_until(arrivals, clock, 100) == expected


def test_what_the_decoder_finds_unfit_is_tried_again_ever_more_rarely(
    tmp_path: Path, arrivals: Arrivals, clock: Clock
) -> None:
    wav(tmp_path / "a.wav")
    tries = []
    for second in range(100):
        for file in arrivals.look():
            assert arrivals.clip(file) is not None
            tries.append(second)
            if arrivals.is_unfit(file):
                arrivals.end(file)
        clock.now += 1
    assert tries == [2, 4, 6, 10, 18, 34, 62]


def test_what_never_settles_is_given_up_after_a_day(tmp_path: Path, arrivals: Arrivals, clock: Clock) -> None:
    path, begin = tmp_path / "normal_id_02_00000001.wav", clock.now
    for second in range(200):
        wav(path, there=second)
        clock.now = begin + second * CHANGING_SECONDS / 180
        files = arrivals.look()
        assert bool(files) == (second >= 180)
        for file in files:
            clip = arrivals.clip(file)
            assert clip is not None
            assert clip.machine_id == "02"
            with pytest.raises(Exception, match="has been changing for 24 hours") as caught:
                clip.source.open()
            assert caught.value.status == "unsettled"  # type: ignore[attr-defined]
            arrivals.end(file)
            return
    pytest.fail("it was waited for")


def test_the_oldest_file_comes_first(tmp_path: Path, clock: Clock) -> None:
    for name, age in (("b.wav", 5), ("sub/c.wav", 20), ("a.wav", 10), ("d.wav", 20)):
        wav(tmp_path / name, age=age)
    times = {os.stat(tmp_path / name).st_mtime_ns for name in ("sub/c.wav", "d.wav")}
    for name in ("sub/c.wav", "d.wav"):
        os.utime(tmp_path / name, ns=(max(times), max(times)))
    assert landed(Arrivals(tmp_path, set(), Patience(0, 0), clock)) == ["d.wav", "c.wav", "a.wav", "b.wav"]


def test_partial_hidden_and_other_files_are_left_out(tmp_path: Path, arrivals: Arrivals, clock: Clock) -> None:
    names = (".a.wav", "a.wav.part", "a.wav.tmp", "a.wav.partial", ".hidden/a.wav", "a.txt", "a.csv", "a.zip")
    for name in names:
        wav(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    arrivals.look()
    assert not arrivals.waiting
    os.rename(tmp_path / "a.wav.part", tmp_path / "a.wav")
    assert seconds_until(arrivals, clock, 9) == 2


def test_what_vanishes_has_no_row_and_is_new_when_it_comes_back(
    tmp_path: Path, arrivals: Arrivals, clock: Clock
) -> None:
    path = wav(tmp_path / "a.wav")
    arrivals.look()
    clock.now += 2
    (file,) = arrivals.look()
    path.unlink()
    assert arrivals.clip(file) is None
    assert not landed(arrivals)
    assert not arrivals.waiting
    wav(path)
    assert seconds_until(arrivals, clock, 9) == 2
    path.unlink()
    landed(arrivals)
    wav(path)
    arrivals.look()
    assert arrivals.waiting, "whoever has its row says so by `done`"


def test_names_that_are_done_need_no_look(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither at the beginning nor when files have ended: only the folder is listed."""
    for number in range(50):
        wav(tmp_path / f"{number}.wav")
    arrivals = Arrivals(tmp_path, {str(tmp_path / f"{number}.wav") for number in range(40)}, Patience(0, 0), clock)
    assert len(landed(arrivals)) == 10
    looked: list[str] = []
    stat = os.stat

    def spy(path: str, **more: bool) -> os.stat_result:
        looked.append(path)
        return stat(path, **more)

    monkeypatch.setattr(os, "stat", spy)
    assert not landed(arrivals)
    assert not [path for path in looked if str(path).endswith(".wav")]


def test_a_folder_that_is_out_of_reach_is_waited_for(tmp_path: Path, clock: Clock) -> None:
    folder, away = tmp_path / "in", tmp_path / "away"
    wav(folder / "a.wav")
    wav(folder / "sub" / "b.wav")
    arrivals = Arrivals(folder, set(), PATIENCE, clock)
    arrivals.look()
    clock.now += 2
    assert sorted(landed(arrivals)) == ["a.wav", "b.wav"]
    folder.rename(away)
    with pytest.warns(UserWarning, match=r"in can't be listed \(No such file or directory\): waiting for it") as warned:
        assert [landed(arrivals) for _ in range(5)] == [[]] * 5
    assert len(warned) == 1
    wav(away / "c.wav")
    away.rename(folder)
    arrivals = Arrivals(folder, {str(folder / "a.wav"), str(folder / "sub" / "b.wav")}, PATIENCE, clock)
    arrivals.look()
    clock.now += 2
    assert landed(arrivals) == ["c.wav"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_subfolder_that_cannot_be_listed_costs_its_own_files(
    tmp_path: Path, arrivals: Arrivals, clock: Clock
) -> None:
    wav(tmp_path / "a.wav")
    wav(tmp_path / "locked" / "b.wav")
    (tmp_path / "locked").chmod(0)
    with pytest.warns(UserWarning, match="locked can't be listed"):
        arrivals.look()
    clock.now += 2
    assert landed(arrivals) == ["a.wav"]
    (tmp_path / "locked").chmod(0o700)
    assert seconds_until(arrivals, clock, 9) == 2


def test_a_last_look_goes_by_the_file_s_own_time(tmp_path: Path, arrivals: Arrivals, clock: Clock) -> None:
    """For cron: what was cut off long ago, or says that it is of tomorrow, is taken as it is; what is new waits."""
    for name, age in (("old.wav", 61), ("new.wav", 30), ("tomorrow.wav", -86400)):
        wav(tmp_path / name, there=50, age=age)
    arrivals.look()
    clock.now += 2
    assert landed(arrivals, last=True) == ["old.wav", "tomorrow.wav"]
    assert [file.path.name for file in arrivals.waiting.values()] == ["new.wav"]


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_times_are_from_0_on(seconds: float) -> None:
    with pytest.raises(ValueError, match="settle must be a number of seconds from 0 on"):
        Patience(settle=seconds)
    with pytest.raises(ValueError, match="give_up must be a number of seconds from 0 on"):
        Patience(give_up=seconds)
