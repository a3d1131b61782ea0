"""From clips to log-Mels: order, exactness, threads that end, memory that is bounded."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile
import torch

from pyasd import audio, ops
from pyasd.clips import Clip, find
from pyasd.clips.sources import ArraySource
from pyasd.compute import Compute
from pyasd.errors import BackendUnavailable
from pyasd.features import log_mels as features
from pyasd.features.log_mels import Extraction, Features, extract

PLAN = ops.LogMelPlan()
WANTED = Extraction(PLAN)
RATE = PLAN.sample_rate


def noise(n: int, seed: int = 0) -> np.ndarray:
    return (3000 * np.random.default_rng(seed).standard_normal(n)).astype(np.int16)


def arrays(*lengths: int) -> list[Clip]:
    return list(find([noise(n, seed) for seed, n in enumerate(lengths)], sample_rate=RATE))


def one(clips: Iterable[Clip], **how: Any) -> Features:
    (item,) = extract(clips, Extraction(PLAN, **how))
    return item


def log_mel(item: Features) -> torch.Tensor:
    assert item.error is None
    assert item.log_mel is not None
    return item.log_mel


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("pyasd-decode")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not threads()


def test_every_clip_has_its_item_in_order_whatever_fails(tmp_path: Path) -> None:
    """Mixed lengths, rates, widths and channels, and one of every bad file, in one folder."""
    samples = noise(RATE)
    float_nan = np.where(np.arange(RATE) == 99, np.nan, 0.1)
    soundfile.write(tmp_path / "00 good.wav", samples, RATE)
    (tmp_path / "01 empty.wav").touch()
    (tmp_path / "02 text.wav").write_text("This is no audio.")
    soundfile.write(tmp_path / "03 8 kHz, lang.flac", noise(3 * 8000), 8000)
    soundfile.write(tmp_path / "04 nan.wav", float_nan, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "05 192 kHz.wav", noise(192_000), 192_000)
    soundfile.write(tmp_path / "06 8 channels.wav", np.tile(samples[:, None], 8), RATE)
    soundfile.write(tmp_path / "07 short.wav", samples[:1000], RATE)
    soundfile.write(tmp_path / "08 24 bits ü.wav", samples / 32768, RATE, subtype="PCM_24")
    soundfile.write(tmp_path / "09 silent.wav", np.zeros(RATE, np.int16), RATE)
    whole = (tmp_path / "00 good.wav").read_bytes()
    (tmp_path / "10 cut.wav").write_bytes(whole[:20_000])
    whole = (tmp_path / "03 8 kHz, lang.flac").read_bytes()
    (tmp_path / "11 cut.flac").write_bytes(whole[:20_000])
    clips = list(find([tmp_path, tmp_path / "12 missing.wav"]))
    for batch_size in (1, 3, 16):
        found = list(extract(clips, WANTED, batch_size=batch_size, workers=3))
        assert [item.index for item in found] == list(range(13))
        assert [item.clip for item in found] == clips
        assert [item.error.status if item.error else "ok" for item in found] == [
            "ok", "empty", "unreadable", "ok", "not-finite", "ok", "ok", "too-short", "ok", "ok", "truncated",
            "truncated", "missing",
        ]  # fmt: skip
        good = {item.clip.name[-30:].split("/")[-1][:2]: item for item in found if not item.error}
        assert [item.duration for item in good.values()] == [1, 3, 1, 1, 1, 1]
        assert [item.silent for item in good.values()] == [False, False, False, False, False, True]
        assert [log_mel(item).shape for item in good.values()] == [
            (1 + s * RATE // 512, 128) for s in (1, 3, 1, 1, 1, 1)
        ]
        assert torch.equal(log_mel(good["06"]), log_mel(good["00"]))
        assert (log_mel(good["08"]) - log_mel(good["00"])).abs().max() < 1e-2
        assert all(item.log_mel is None and item.duration is None for item in found if item.error)
        assert all(item.error is None or item.clip.name in str(item.error) for item in found)


def test_log_mels_are_those_of_the_operator_alone() -> None:
    clips = arrays(RATE, 2048, 3 * RATE + 17, RATE, RATE)
    for clip, item in zip(clips, extract(clips, WANTED), strict=True):
        assert isinstance(clip.source, ArraySource)
        expected = ops.log_mel(torch.from_numpy(clip.source.samples)[None], PLAN)[0]
        assert log_mel(item).dtype == torch.float32
        assert torch.equal(log_mel(item), expected)


def test_the_same_bits_in_batches_of_any_size() -> None:
    clips = arrays(*range(2048, 20_000, 997))
    expected = [log_mel(item) for item in extract(clips, WANTED, batch_size=1)]
    for batch_size, workers in ((2, 1), (7, 2), (64, 8)):
        found = [log_mel(item) for item in extract(clips, WANTED, batch_size=batch_size, workers=workers)]
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_batches_are_of_one_type_and_bounded_when_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    real = ops.log_mel

    def spy(samples: torch.Tensor, *args: Any, **how: Any) -> Any:
        seen.append((samples.shape[0], samples.shape[1]))
        return real(samples, *args, **how)

    monkeypatch.setattr(ops, "log_mel", spy)
    monkeypatch.setitem(features.BATCH_SAMPLES, "cpu", 40_000)
    clips = arrays(10_000, 10_000, 10_000, 10_000, 10_000, 90_000, 5_000, 9_000)
    clips[7] = next(find([noise(9_000) / 32768], sample_rate=RATE))
    assert len(list(extract(clips, WANTED))) == 8
    assert seen == [(4, 10_000), (1, 10_000), (1, 90_000), (1, 5_000), (1, 9_000)]


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.25, 2.0])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_tone_played_faster_is_higher_and_shorter(ratio: float, dtype: type) -> None:
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.int16)
    samples = tone if dtype is np.int16 else (tone / 32768).astype(dtype)
    found = one(find([samples], sample_rate=RATE), ratio=ratio)
    centres = librosa.mel_frequencies(PLAN.n_mels + 2, fmin=0, fmax=RATE / 2)[1:-1]
    loudest = centres[int(log_mel(found)[2:-2].mean(0).argmax())]
    assert loudest == pytest.approx(440 * ratio, abs=16), "within an FFT bin"
    assert len(log_mel(found)) == 1 + round(RATE / ratio) // PLAN.hop_length
    assert found.duration == 1


def test_clips_too_short_when_played_faster() -> None:
    found = one(arrays(4000), ratio=2.0)
    assert found.error is not None
    assert found.error.status == "too-short"
    assert "lasts 0.25 s, and at least 0.256 s (5 frames, played 2 times as fast) are needed" in str(found.error)
    assert one(arrays(4096), ratio=2.0).error is None


def test_log_mels_cannot_be_played_faster() -> None:
    clips = list(find([np.zeros((9, 128), np.float32)], features="log-mel"))
    with pytest.raises(ValueError, match=r"resampled by 0\.9: give the clips' audio, or take ratios=\(\)"):
        one(clips, ratio=0.9)
    assert one(clips).error is None


@pytest.mark.parametrize("samples", [1, 100, 512, 513, 2047])
def test_clips_of_fewer_than_five_frames(samples: int) -> None:
    found = one(arrays(samples))
    assert found.error is not None
    assert found.error.status == "too-short"
    assert "at least 0.128 s (5 frames) are needed" in str(found.error)


def test_the_shortest_clips_that_are_long_enough() -> None:
    assert log_mel(one(arrays(2048))).shape == (5, 128)
    assert log_mel(one(arrays(513), min_frames=1)).shape == (2, 128)
    assert "at least 0.0321 s (1 frames)" in str(one(arrays(512), min_frames=1).error), "reflection needs more"


def test_log_mels_that_were_given_pass_through() -> None:
    given = np.random.default_rng(0).standard_normal((3, 20, 128)).astype(np.float32)
    given[1] = -80
    found = list(extract(find(given, features="log-mel"), WANTED))
    assert all(torch.equal(log_mel(item), torch.from_numpy(x)) for item, x in zip(found, given, strict=True))
    assert [item.silent for item in found] == [False, True, False]
    assert [(item.duration, item.unfinished) for item in found] == [(None, False)] * 3
    mixed = list(extract([*find(given, features="log-mel"), *arrays(RATE)], WANTED))
    assert torch.equal(log_mel(mixed[2]), torch.from_numpy(given[2]))
    assert log_mel(mixed[3]).shape == (32, 128)


@pytest.mark.parametrize("order", ["C", "F"])
def test_read_only_log_mels(order: str) -> None:
    given = np.asarray(np.random.default_rng(0).standard_normal((20, 128)), np.float32, order=order)  # type: ignore[call-overload]
    given.flags.writeable = False
    assert torch.equal(log_mel(one(find(given, features="log-mel"))), torch.tensor(given))


@pytest.mark.parametrize(
    ("shape", "value", "status", "message"),
    [
        ((20, 64), 0, "unreadable", "has 64 Mel bands where 128 are needed"),
        ((4, 128), 0, "too-short", "has 4 frames, and at least 5 are needed"),
        ((20, 128), np.nan, "not-finite", "NaN or infinite"),
        ((20, 128), -np.inf, "not-finite", "NaN or infinite"),
    ],
)
def test_log_mels_that_can_not_be_scored(shape: tuple[int, int], value: float, status: str, message: str) -> None:
    given = np.zeros(shape, np.float32)
    given[-1, -1] = value
    found = one(find(given, features="log-mel"))
    assert found.error is not None
    assert found.error.status == status
    assert message in str(found.error)


def test_no_clips() -> None:
    assert list(extract([], WANTED)) == []


def test_the_channel_is_passed_on() -> None:
    clips = list(find([np.stack([noise(RATE), noise(RATE, 1)])], sample_rate=RATE))
    assert torch.equal(log_mel(one(clips, channel=1)), log_mel(one(find([noise(RATE, 1)], sample_rate=RATE))))
    error = one(clips, channel=2).error
    assert error is not None
    assert error.status == "no-channel"
    with pytest.raises(ValueError, match="channel must be"):
        Extraction(PLAN, channel=-1)


def test_a_backend_that_can_not_run_is_no_clip_s_fault() -> None:
    with pytest.raises(BackendUnavailable):
        list(extract(arrays(RATE), WANTED, Compute(backend="nonsense")))


def test_an_error_in_the_programme_is_no_clip_s_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "read", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(extract(arrays(RATE), WANTED))


def test_decoding_runs_ahead_in_threads_but_not_far(monkeypatch: pytest.MonkeyPatch) -> None:
    names: set[str] = set()
    started = 0
    real = audio.read

    def spy(*args: Any) -> Any:
        nonlocal started
        names.add(threading.current_thread().name)
        started += 1
        return real(*args)

    monkeypatch.setattr(audio, "read", spy)
    clips = arrays(*[2048] * 200)
    ahead = []
    for item in extract(clips, WANTED, batch_size=4, workers=2):
        time.sleep(1e-3)  # a slow consumer: the threads have time to run away
        ahead.append(started - item.index)
    assert 4 < max(ahead) <= 3 * 4
    assert all(name.startswith("pyasd-decode") for name in names)


def test_large_files_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is decoded ahead every file counts, as long as it waits: so many are under way at each step."""
    soundfile.write(tmp_path / "a.wav", noise(RATE), RATE)
    soundfile.write(tmp_path / "b.wav", noise(4 * RATE), RATE)

    def undecoded(index: int, clip: Clip) -> Iterator[tuple[Features, None]]:
        yield Features(index, clip, None, None, False, None), None

    class Pool(ThreadPoolExecutor):
        submitted = 0

        def submit(self, *args: Any, **how: Any) -> Any:
            self.submitted += 1
            return super().submit(*args, **how)

    monkeypatch.setattr(features, "AHEAD_BYTES", 3 * (tmp_path / "a.wav").stat().st_size)
    names = "aaaaaabaaaaa"
    clips = list(find([tmp_path / f"{name}.wav" for name in names]))
    for limit, expected in ((16, [3, 3, 3, 3, 2, 1, 1, 3, 3, 3, 2, 1]), (2, [2, 2, 2, 2, 2, 1, 1, 2, 2, 2, 2, 1])):
        under_way = []
        with Pool(2) as pool:
            ahead = features._ahead(pool, clips, undecoded, limit, features.AHEAD_BYTES)
            for done, _ in enumerate(ahead):
                under_way.append(pool.submitted - done)
        assert under_way == expected


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_threads_end_when_interrupted(error: type[BaseException]) -> None:
    items = extract(arrays(*[2048] * 100), WANTED, batch_size=2)
    next(items)
    assert threads()
    with pytest.raises(error):
        items.throw(error)
    assert not threads()


def test_threads_end_when_abandoned() -> None:
    for item in extract(arrays(*[2048] * 100), WANTED, batch_size=2):
        if item.index == 5:
            break
    gc.collect()
    assert not threads()


def test_what_waits_is_not_decoded_any_more_when_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    started = 0
    real = audio.read

    def slow(*args: Any) -> Any:
        nonlocal started
        started += 1
        time.sleep(0.02)
        return real(*args)

    monkeypatch.setattr(audio, "read", slow)
    items = extract(arrays(*[2048] * 100), WANTED, batch_size=8, workers=1)
    next(items)
    items.close()
    assert 8 <= started < 16, "eight were wanted, and sixteen more waited"


def test_threads_are_as_many_as_there_are_cpus_but_no_more_than_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers: int, name: str) -> None:
            asked.append(workers)
            super().__init__(workers, name)

    monkeypatch.setattr(features, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    for allowed in (3, 20):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, n=allowed: set(range(n)), raising=False)
        list(extract([], WANTED))
    monkeypatch.delattr(os, "sched_getaffinity")
    list(extract([], WANTED))
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    list(extract([], WANTED))
    assert asked == [3, 8, 1, 5]


def test_real_recordings(real_data: Path) -> None:
    clips = list(find([*sorted((real_data / "uav" / "UAV" / "test").glob("*.flac"))[:6], real_data / "mimii_8ch"]))
    found = list(extract(clips, WANTED))
    assert len(found) == 12
    for clip, item in zip(clips, found, strict=True):
        samples, rate = soundfile.read(clip.source.path, dtype="int16", always_2d=True)
        assert rate == RATE
        expected = ops.log_mel(torch.from_numpy(samples[:, 0].copy())[None], PLAN)[0]
        assert torch.equal(log_mel(item), expected)
        assert item.duration == pytest.approx(10, abs=0.1)
        assert not item.silent


@pytest.mark.slow
def test_memory_stays_flat(tmp_path: Path) -> None:
    """Of 2,000 clips of 10 s (640 MB of samples) the second thousand needs no more than the first."""

    def resident_kb() -> int:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))

    rng = np.random.default_rng(0)
    for number in range(20):
        samples = (3000 * rng.standard_normal(10 * RATE)).astype(np.int16)
        soundfile.write(tmp_path / f"{number:02}.flac", samples, RATE)
    clips = list(find(tmp_path)) * 100
    found = [resident_kb() for item in extract(clips, WANTED) if item.index % 50 == 49]
    assert max(found[20:]) - max(found[:20]) < 64_000
