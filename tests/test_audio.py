"""Decoding: exact samples where they can be, and for every bad file its reason."""

from __future__ import annotations

import contextlib
import errno
import io
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import soundfile
import soxr

from pyasd import audio
from pyasd.clips import Clip, find
from pyasd.clips.sources import ArraySource, FileSource, Source
from pyasd.cutting import Cutting
from pyasd.errors import ClipError

RATE = 16000


def noise(n: int = RATE, channels: int = 1, seed: int = 0) -> np.ndarray:
    samples = (3000 * np.random.default_rng(seed).standard_normal((n, channels))).astype(np.int16)
    return samples[:, 0] if channels == 1 else samples


def sine(hz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def read(path: Path, **how: Any) -> audio.Audio:
    return audio.read(next(find([path, path])), RATE, **how)


def fails(path: Path, **how: Any) -> ClipError:
    with pytest.raises(ClipError) as caught:
        read(path, **how)
    assert path.name in str(caught.value), "the message names the file"
    return caught.value


def encoded(extension: str, samples: np.ndarray | None = None, rate: int = RATE, **how: str) -> bytes:
    file = io.BytesIO()
    how = {"format": {"aif": "AIFF", "oga": "OGG"}.get(extension, extension.upper()), **how}
    soundfile.write(file, noise() if samples is None else samples, rate, **how)
    return file.getvalue()


# -- good files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["wav", "flac", "aif", "w64", "rf64", "caf", "au"])
def test_sixteen_bits_stay_as_they_are(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"zwei Wörter.{extension}"
    path.write_bytes(encoded(extension, subtype="PCM_16"))
    found = read(path)
    assert found.samples.dtype == np.int16
    assert found.samples.flags.c_contiguous
    assert np.array_equal(found.samples, noise())
    assert (found.duration, found.silent) == (1.0, False)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_other_widths_become_float32(tmp_path: Path, subtype: str) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("wav", noise() / 32768, subtype=subtype))
    found = read(path)
    assert found.samples.dtype == np.float32
    assert np.abs(found.samples - noise() / 32768).max() <= (1 / 128 if subtype == "PCM_U8" else 1e-6)


@pytest.mark.parametrize(("extension", "subtype"), [("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", "MPEG_LAYER_III")])
def test_lossy_formats(tmp_path: Path, extension: str, subtype: str) -> None:
    path = tmp_path / f"a.{extension}"
    path.write_bytes(encoded(extension, sine(440, RATE), subtype=subtype))
    found = read(path)
    assert found.samples.dtype == np.float32
    assert found.samples[4000:12000].std() == pytest.approx(0.5 / 2**0.5, rel=0.02)


def test_eight_channels(tmp_path: Path) -> None:
    samples = noise(RATE, 8)
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("wav", samples))
    assert np.array_equal(read(path).samples, samples[:, 0])
    assert np.array_equal(read(path, channel=7).samples, samples[:, 7])
    mean = read(path, channel="mean").samples
    assert mean.dtype == np.float32
    assert np.abs(mean - samples.mean(axis=1) / 32768).max() < 1e-7
    error = fails(path, channel=8)
    assert error.status == "no-channel"
    assert "has 8 channels, 0 to 7, no channel 8" in str(error)


def test_one_channel(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("wav"))
    assert np.array_equal(read(path, channel="mean").samples, noise())
    assert "has one channel, 0, no channel 1" in str(fails(path, channel=1))


@pytest.mark.parametrize("channel", [-1, "left", True])
def test_what_can_be_no_channel(tmp_path: Path, channel: object) -> None:
    with pytest.raises(ValueError, match="channel must be a number from 0, 'mean' or 'all'"):
        read(tmp_path / "a.wav", channel=channel)


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, 192000])
def test_other_rates_are_resampled(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("wav", sine(1000, rate), rate))
    found = read(path)
    assert found.samples.dtype == np.float32
    assert found.duration == 1.0
    assert abs(len(found.samples) - RATE) <= 1
    middle = slice(2000, 14000)
    assert np.abs(found.samples[middle] - sine(1000, RATE)[middle]).max() < 1e-3


def test_what_is_above_the_new_half_rate_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("wav", sine(50_000, 192_000), 192_000))
    assert np.abs(read(path).samples[2000:14000]).max() < 1e-4


def test_the_same_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(encoded("flac", noise(10_007, 3)))
    whole = read(path, channel=1).samples
    monkeypatch.setattr(audio, "BLOCK", 1000)
    assert np.array_equal(read(path, channel=1).samples, whole)


@pytest.mark.parametrize(("channels", "most"), [(1, 100), (3, 33), (16, 6), (128, 1)])
def test_blocks_are_bounded_however_many_channels_there_are(
    tmp_path: Path, channels: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("wav", noise(4000, channels)))
    asked: list[int] = []
    real = soundfile.SoundFile.read

    def spy(self: Any, frames: int, **how: Any) -> Any:
        asked.append(frames)
        return real(self, frames, **how)

    monkeypatch.setattr(soundfile.SoundFile, "read", spy)
    monkeypatch.setattr(audio, "BLOCK", 100)
    assert np.array_equal(read(path).samples, noise(4000, channels).reshape(4000, -1)[:, 0])
    assert max(asked) == most
    assert sum(asked) == 4000


@pytest.mark.parametrize("value", [0, 100])
def test_digital_silence(tmp_path: Path, value: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("wav", np.full(RATE, value, np.int16)))
    assert read(path).silent
    path.write_bytes(encoded("wav", np.full(44100, value, np.int16), 44100))
    assert read(path).silent, "resampling makes ripples at the ends, but the clip is silent"


def test_arrays() -> None:
    clips = list(
        find([noise(), noise(100, 2).T, noise() / 32768, np.array([0, 0.5, 0.25], np.float16)], sample_rate=RATE)
    )
    sounds = [audio.read(clip, RATE) for clip in clips]
    assert np.array_equal(sounds[0].samples, noise())
    assert np.array_equal(sounds[1].samples, noise(100, 2)[:, 0])
    assert [sound.samples.dtype for sound in sounds] == [np.int16, np.int16, np.float32, np.float32]
    assert np.array_equal(sounds[2].samples, (noise() / 32768).astype(np.float32))
    assert sounds[0].duration == 1.0
    with pytest.raises(ClipError, match="clip 1 has 2 channels, 0 to 1, no channel 2"):
        audio.read(clips[1], RATE, 2)


def test_arrays_are_not_written_to() -> None:
    samples = noise()
    samples.flags.writeable = False
    assert np.array_equal(audio.read(next(find([samples], sample_rate=RATE)), RATE).samples, noise())


def test_a_log_mel_has_no_samples() -> None:
    (clip,) = find([np.zeros((20, 128), np.float32)], features="log-mel")
    with pytest.raises(ValueError, match="clip 0 is an array and has no file that could be opened"):
        audio.read(clip, RATE)


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.25, 2.0])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_a_sound_played_faster_is_shorter_and_higher(ratio: float, dtype: type) -> None:
    tone = sine(440, RATE) * (32768 if dtype is np.int16 else 1)
    faster = audio.change_speed(tone.astype(dtype), ratio)
    assert faster.dtype == np.float32
    assert len(faster) == round(RATE / ratio)
    assert np.abs(np.fft.rfft(faster)).argmax() * RATE / len(faster) == pytest.approx(440 * ratio, abs=1)
    assert faster[len(faster) // 4 : -len(faster) // 4].std() == pytest.approx(0.5 / 2**0.5, rel=0.01)


def test_the_same_speed_gives_the_samples_back() -> None:
    assert np.array_equal(audio.change_speed(noise(), 1.0), (noise() / 32768).astype(np.float32))
    floats = sine(7500, RATE).astype(np.float32)
    assert np.array_equal(audio.change_speed(floats, 1.0), floats)
    assert np.abs(audio.change_speed(floats, 1.25)[1000:-1000]).max() < 1e-3, "9375 Hz would be beyond half the rate"
    assert not audio.change_speed(np.zeros(RATE, np.int16), 1.25).any(), "int16 would be dithered"


# -- bad files -----------------------------------------------------------------------------------------------


def test_a_missing_file(tmp_path: Path) -> None:
    error = fails(tmp_path / "nö.wav")
    assert error.status == "missing"
    assert "doesn't exist" in str(error)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_a_file_of_zero_bytes(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    path.touch()
    error = fails(path)
    assert error.status == "empty"
    assert "zero bytes" in str(error)


@pytest.mark.parametrize("extension", ["wav", "flac"])
def test_a_file_without_samples(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    path.write_bytes(encoded(extension, noise(0)))
    assert fails(path).status in ("empty", "unreadable")


@pytest.mark.parametrize("extension", ["wav", "flac"])
@pytest.mark.parametrize(
    "content", [b"This is no audio.\n", b"RIFF", b"RIFF\x00\x00\x00\x00WAVEfmt ", b"fLaC", bytes(100)]
)
def test_what_is_no_audio(tmp_path: Path, extension: str, content: bytes) -> None:
    path = tmp_path / f"a.{extension}"
    path.write_bytes(content)
    error = fails(path)
    assert error.status == "unreadable"
    assert "no audio file that libsndfile" in str(error)
    assert "convert it to WAV or FLAC" in str(error)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "aif", "rf64"])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.99])
def test_a_truncated_file(tmp_path: Path, extension: str, part: float) -> None:
    whole = encoded(extension, noise(5 * RATE))
    path = tmp_path / f"a.{extension}"
    path.write_bytes(whole)
    assert read(path).duration == pytest.approx(5)
    path.write_bytes(whole[: int(part * len(whole))])
    error = fails(path)
    assert error.status == "truncated"
    assert "cut off" in str(error)
    assert "copy it again" in str(error)


def test_a_flac_file_that_ends_between_two_frames(tmp_path: Path) -> None:
    whole = encoded("flac", noise(5 * RATE))
    frame = whole.find(b"\xff\xf8", len(whole) // 2)
    path = tmp_path / "a.flac"
    path.write_bytes(whole[:frame])
    assert fails(path).status == "truncated"


def test_a_damaged_flac_file(tmp_path: Path) -> None:
    damaged = bytearray(encoded("flac", noise(5 * RATE)))
    damaged[len(damaged) // 2] ^= 0xFF
    path = tmp_path / "a.flac"
    path.write_bytes(damaged)
    error = fails(path)
    assert error.status == "truncated"
    assert "cut off or damaged" in str(error)


def test_a_wav_file_with_chunks_before_and_after_the_samples(tmp_path: Path) -> None:
    whole = encoded("wav")
    extra = b"LIST" + struct.pack("<I", 5) + b"odd!!\0"
    path = tmp_path / "a.wav"
    path.write_bytes(whole[:12] + extra + whole[12:] + extra)
    assert np.array_equal(read(path).samples, noise())
    path.write_bytes(whole[:12] + extra + whole[12:-100])
    error = fails(path)
    assert error.status == "truncated"
    assert f"has {len(whole) + len(extra) - 100:,} of {len(whole) + len(extra):,} bytes" in str(error)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x80000000, 0x7FFFF000])
def test_a_wav_file_from_a_recorder_that_did_not_know_its_length(tmp_path: Path, size: int) -> None:
    whole = bytearray(encoded("wav"))
    whole[40:44] = struct.pack("<I", size)
    path = tmp_path / "a.wav"
    path.write_bytes(whole)
    assert np.array_equal(read(path).samples, noise())


def test_a_flac_stream_of_unknown_length(tmp_path: Path) -> None:
    stream = bytearray(encoded("flac"))
    stream[21] &= 0xF0  # STREAMINFO: 36 bits of total samples
    stream[22:26] = bytes(4)
    path = tmp_path / "a.flac"
    path.write_bytes(stream)
    error = fails(path)
    assert error.status == "unreadable"
    assert "doesn't say how long it is" in str(error)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("rate", [RATE, 48000])
def test_samples_that_are_no_numbers(tmp_path: Path, value: float, rate: int) -> None:
    samples = np.zeros(rate, np.float32)
    samples[[rate // 2, rate // 2 + 7]] = value
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("wav", samples, rate, subtype="FLOAT"))
    error = fails(path)
    assert error.status == "not-finite"
    assert "has 2 samples that are NaN, infinite" in str(error)
    assert "the first at 0.500 s" in str(error)


def test_numbers_too_large_for_float32() -> None:
    (clip,) = find([np.array([0.0, 1e300])], sample_rate=RATE)
    with pytest.raises(ClipError) as caught:
        audio.read(clip, RATE)
    assert caught.value.status == "not-finite"


def test_nan_in_another_channel_does_no_harm() -> None:
    (clip,) = find([np.array([[0.0, 0.5], [np.nan, np.nan]])], sample_rate=RATE)
    assert audio.read(clip, RATE).samples.tolist() == [0, 0.5]
    with pytest.raises(ClipError):
        audio.read(clip, RATE, "mean")


@pytest.mark.parametrize("rate", [1, 999, 20_000_000])
def test_a_rate_that_no_sound_has(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("wav", rate=rate))
    error = fails(path)
    assert error.status == "unreadable"
    assert f"claims {rate:,} samples a second" in str(error)


@pytest.mark.parametrize(
    ("extension", "subtype"), [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_16"), ("ogg", "VORBIS")]
)
def test_damage_of_any_kind_is_a_clip_s_error(tmp_path: Path, extension: str, subtype: str) -> None:
    whole = encoded(extension, noise(4000, 2) / 32768, subtype=subtype)
    rng = np.random.default_rng(0)
    path = tmp_path / f"a.{extension}"
    for _ in range(100):
        damaged = bytearray(whole)
        for place in rng.integers(0, rng.choice([64, len(whole)]), 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged[: rng.integers(len(whole)) if rng.random() < 0.2 else None])
        with contextlib.suppress(ClipError):
            assert np.isfinite(read(path).samples).all()


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.wav").mkdir()
    clip = Clip("folder.wav", FileSource(tmp_path / "folder.wav"))
    with pytest.raises(ClipError, match=r"folder\.wav is not a file: give audio files") as caught:
        audio.read(clip, RATE)
    assert caught.value.status == "unreadable"
    with pytest.raises(ClipError, match="is not a file"):
        audio.read(Clip("/dev/null", FileSource(Path("/dev/null"))), RATE)


def test_no_right_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "a.wav").touch()
    monkeypatch.setattr("builtins.open", refuse)
    error = fails(tmp_path / "a.wav")
    assert error.status == "unreadable"
    assert "can't be opened (Permission denied)" in str(error)


def test_a_disk_that_fails_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    path = tmp_path / "a.wav"
    path.write_bytes(encoded("wav"))
    monkeypatch.setattr(FileSource, "open", lambda source: Failing(encoded("wav")))
    error = fails(path)
    assert error.status == "unreadable"
    assert "can't be read (Input/output error)" in str(error)


def test_any_source_of_bytes_is_decoded() -> None:
    class Packet(Source):
        where = "packet 7"

        def open(self) -> BinaryIO:
            return io.BytesIO(encoded("flac"))

    found = audio.read(Clip("packet 7", Packet()), RATE)
    assert np.array_equal(found.samples, noise())


def test_more_than_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **how: object) -> None:
        raise MemoryError

    path = tmp_path / "a.wav"
    path.write_bytes(encoded("wav", rate=48000))
    monkeypatch.setattr(soxr, "resample", full)
    error = fails(path)
    assert error.status == "unreadable"
    assert "too long for this machine's memory: cut it" in str(error)


@pytest.mark.parametrize("extension", ["wav", "flac"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_clip_in_a_zip_archive_is_the_same(tmp_path: Path, extension: str, method: int) -> None:
    path = tmp_path / "clips.zip"
    with zipfile.ZipFile(path, "w", method) as file:
        for seed in range(3):
            file.writestr(f"fan/{seed}.{extension}", encoded(extension, noise(seed=seed)))
    for seed, clip in enumerate(find(path)):
        found = audio.read(clip, RATE)
        assert np.array_equal(found.samples, noise(seed=seed))
        assert found.samples.dtype == np.int16
        assert found.duration == 1.0


def test_damage_in_a_zip_archive_costs_the_clip_alone(tmp_path: Path) -> None:
    path = tmp_path / "clips.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("1.wav", encoded("wav"))
        file.writestr("2.wav", encoded("wav", noise(seed=1)))
        file.writestr("3.wav", encoded("wav")[:-100])
        file.writestr("4.wav", b"")
    content = bytearray(path.read_bytes())
    content[1000] ^= 255  # in the first clip's samples
    path.write_bytes(content)
    damaged, good, cut, empty = find(path)
    with pytest.raises(ClipError, match=r"1\.wav can't be unpacked .*: copy or download .*clips\.zip again") as caught:
        audio.read(damaged, RATE)
    assert caught.value.status == "unreadable"
    assert np.array_equal(audio.read(good, RATE).samples, noise(seed=1))
    with pytest.raises(ClipError, match=r"3\.wav is cut off"):
        audio.read(cut, RATE)
    with pytest.raises(ClipError, match=r"4\.wav is a file of zero bytes"):
        audio.read(empty, RATE)
    path.unlink()
    with pytest.raises(ClipError, match="doesn't exist any more") as caught:
        audio.read(good, RATE)
    assert caught.value.status == "missing"


def test_a_name_that_is_not_utf_8(latin1: Path) -> None:
    (latin1 / "x.wav").write_bytes(encoded("wav"))
    assert np.array_equal(audio.read(next(find(latin1)), RATE).samples, noise())


# -- real recordings -----------------------------------------------------------------------------------------


def test_real_recordings_of_eight_channels(real_data: Path) -> None:
    clips = list(find(real_data / "mimii_8ch"))
    assert len(clips) == 6
    for clip in clips:
        everything, rate = soundfile.read(clip.source.path, dtype="int16")
        assert everything.shape == (160_000, 8)
        for channel in (0, 7):
            found = audio.read(clip, rate, channel)
            assert found.samples.dtype == np.int16
            assert np.array_equal(found.samples, everything[:, channel])
        mean = audio.read(clip, rate, "mean").samples
        assert np.abs(mean - everything.mean(axis=1) / 32768).max() < 1e-6
        assert "has 8 channels, 0 to 7" in str(fails(clip.source.path, channel=8))  # type: ignore[arg-type]


def test_a_few_bytes_that_decode_to_more_than_the_limit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.flac"
    path.write_bytes(encoded("flac", np.zeros(2_000_000, np.int16)))
    assert path.stat().st_size < 100_000
    assert read(path).silent
    monkeypatch.setenv("PYASD_MAX_FILE_SIZE", "4M")
    assert "8,000,000 bytes when it is decoded" in str(fails(path))


@pytest.mark.parametrize("extension", ["au", "mp3"])
def test_a_file_that_has_the_extension_of_a_kind_alone_is_not_guessed_at(tmp_path: Path, extension: str) -> None:
    """libsndfile takes an AU file with a damaged header for 8 kHz without one, and guesses an MP3 file's length."""
    path = tmp_path / f"a.{extension}"
    whole = encoded(extension)
    path.write_bytes(whole)
    read(path)
    path.write_bytes(b"\0\0\0\0" + whole[4:])
    soundfile.info(path)  # libsndfile opens it
    assert "doesn't begin as such a file does" in str(fails(path))


# -- sections ------------------------------------------------------------------------------------------------


def sections(path: Path, channel: Any = 0, window: float | None = 0.5, hop: float | None = None) -> list[Any]:
    return list(audio.sections(next(find([path, path])), RATE, channel, Cutting.of(window, hop)))


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_cut_sounds_as_a_file_of_its_own(
    tmp_path: Path, extension: str, rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audio, "BLOCK", 3000)
    path = tmp_path / f"long.{extension}"
    path.write_bytes(encoded(extension, noise(2 * rate + 777, 2), rate))
    whole, _ = soundfile.read(path, dtype="int16" if extension in ("wav", "flac") else "float32", always_2d=True)
    found = sections(path, "all", 0.5, 0.3)
    starts = [*(round(i * 0.3 * rate) for i in range(6)), len(whole) - rate // 2]
    assert [round(clip.start * rate) for clip, _ in found[::2]] == starts
    assert [clip.channel for clip, _ in found] == [0, 1] * len(starts)
    for clip, sound in found:
        first = round(clip.start * rate)
        alone = audio.read(Clip("", ArraySource("", whole[first : first + rate // 2, clip.channel], rate)), RATE)
        assert sound.samples.dtype == alone.samples.dtype
        assert sound.duration == 0.5
        if extension == "mp3":  # libsndfile's last bits depend on the blocks that are read
            assert np.allclose(sound.samples, alone.samples, rtol=0, atol=1e-6)
        else:
            assert np.array_equal(sound.samples, alone.samples)
            assert sound.fingerprint == alone.fingerprint
        again = audio.read(clip, RATE)
        assert np.array_equal(again.samples, sound.samples), "a section can be read by itself"


def test_all_channels_of_a_whole_recording(tmp_path: Path) -> None:
    path = tmp_path / "four.wav"
    path.write_bytes(encoded("wav", noise(RATE, 4)))
    found = sections(path, "all", None)
    assert [(clip.start, clip.duration, clip.channel) for clip, _ in found] == [(0, 1, i) for i in range(4)]
    for clip, sound in found:
        assert np.array_equal(sound.samples, read(path, channel=clip.channel).samples)
    with pytest.raises(ValueError, match="all channels are several clips"):
        read(path, channel="all")


def test_what_is_wrong_with_a_cut_costs_that_cut(tmp_path: Path) -> None:
    path = tmp_path / "nan.wav"
    samples = noise(2 * RATE) / 32768
    samples[RATE + 9] = np.nan
    path.write_bytes(encoded("wav", samples, subtype="FLOAT"))
    found = sections(path)
    assert [isinstance(sound, ClipError) for _, sound in found] == [False, False, True, False]
    assert found[2][1].status == "not-finite"
    assert "the first at 1.001 s" in str(found[2][1])


@pytest.mark.parametrize(("extension", "kept"), [("wav", 0.6), ("flac", 0.6), ("flac", 0.97)])
def test_a_recording_that_is_cut_off_is_heard_up_to_there(tmp_path: Path, extension: str, kept: float) -> None:
    path = tmp_path / f"cut.{extension}"
    data = encoded(extension, noise(4 * RATE))
    path.write_bytes(data[: int(kept * len(data))])
    *heard, (end, error) = sections(path, 0, 0.5)
    assert isinstance(error, ClipError)
    assert error.status == "truncated"
    assert path.name in str(error)
    assert 4 <= len(heard) <= 8
    assert end.start == heard[-1][0].start + heard[-1][0].duration
    whole, _ = soundfile.read(io.BytesIO(data), dtype="int16")
    for clip, sound in heard:
        first = round(clip.start * RATE)
        assert np.array_equal(sound.samples, whole[first : first + RATE // 2])


def test_a_recording_without_sections(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("wav", noise(0)))
    ((clip, error),) = sections(path, "all")
    assert (error.status, clip.start, clip.channel) == ("empty", 0, "all")
    path.write_bytes(encoded("wav", noise(9 * RATE)))
    ((clip, error),) = sections(path, 3)
    assert (error.status, clip.channel) == ("no-channel", 3), "told of once"
    path.unlink()
    assert [error.status for _, error in sections(path)] == ["missing"]


def test_memory_holds_a_cut_and_not_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "BLOCK", 4096)
    path = tmp_path / "long.wav"
    soundfile.write(path, noise(60 * RATE, 4), RATE)
    for _ in audio.sections(next(find([path])), RATE, "all", Cutting(0.5, 0.5)):
        break  # what is imported and made once
    tracemalloc.start()
    for _ in audio.sections(next(find([path])), RATE, "all", Cutting(0.5, 0.5)):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2 * 4 * RATE // 2, "eight cuts of all channels; the recording has 120"


def test_a_cut_longer_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYASD_MAX_FILE_SIZE", "100K")
    path = tmp_path / "a.flac"
    path.write_bytes(encoded("flac", np.zeros(20 * RATE, np.int16)))
    assert len(sections(path, 0, 1.0)) == 20, "the recording decodes to far more, its cuts don't"
    ((_, error),) = sections(path, 0, 5.0)
    assert "bytes when it is decoded" in str(error)
