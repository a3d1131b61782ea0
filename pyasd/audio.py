"""Decoding: the samples of one channel of a clip, at the rate that is asked for, or the reason why not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from pyasd import containers
from pyasd.backends.contract import FULL_SCALE
from pyasd.clips import Channel, Clip
from pyasd.clips.sources import ArraySource, FileSource, check_size, size_limit
from pyasd.cutting import Cutter, Cutting
from pyasd.errors import ClipError

BLOCK = 1 << 20
"""Samples of all channels decoded at a time: bounds what a recording with many channels takes in passing."""

LOUDEST = 1e15
"""Samples beyond this (full scale is 1) are no sound, and their power would overflow float32."""

_INEXACT = ("MP3", "OGG")
"""Formats that give other samples from a place that was sought than in passing, if only in the last bits."""

RATES = (1_000, 10_000_000)
"""Sample rates of sound, in Hz: others are damaged headers, and resampling would fill the memory."""


@dataclass(frozen=True)
class Audio:
    """The samples of one clip.

    Attributes:
        samples: `[n]`, int16 where the clip has 16 bits, the right rate and the channel; else float32, full scale 1.
        duration: of the clip as it was found, in seconds.
        silent: all its samples are equal (digital silence).
        unfinished: its header and its length disagree, as after a recorder's crash; all that is there was read.
        clipped: share of its samples at the highest and the lowest value: next to nothing, unless it was overdriven.
        fingerprint: 64 bits that tell it from other clips.
    """

    samples: NDArray[Any]
    duration: float
    silent: bool
    unfinished: bool = False
    clipped: float = 0.0
    fingerprint: int = 0


def check_channel(channel: Channel) -> None:
    """Check that `channel` is "mean", "all" or a number from 0.

    Raises:
        ValueError: it is none of them.
    """
    if channel not in ("mean", "all") and (isinstance(channel, (str, bool)) or channel < 0):
        raise ValueError(f"channel must be a number from 0, 'mean' or 'all', not {channel!r}")


def read(clip: Clip, sample_rate: int, channel: Channel = 0) -> Audio:
    """Read one channel of a clip, at `sample_rate`.

    16-bit samples stay int16 unless they are resampled or averaged. soxr's high quality resamples: what is below
    the lower of both Nyquist frequencies stays.

    Args:
        clip: a file, a member of an archive, or an array of samples; or a section of one.
        sample_rate: the rate wanted, in Hz.
        channel: which channel, from 0, or "mean" for the mean of all; where the clip doesn't say.

    Raises:
        ClipError: "missing", "empty", "unreadable", "truncated", "not-finite" or "no-channel".
        ValueError: `channel` can't be one or is all of them, or the clip is a log-Mel.
    """
    channel = clip.channel if clip.channel is not None else channel
    check_channel(channel)
    if channel == "all":
        raise ValueError("all channels are several clips: see `sections`")
    with _memory_enough(clip):
        with _opened(clip) as recording:
            first, count = _place(clip, recording)
            check_size(clip.name, 4 * count, size_limit(), "bytes when it is decoded")
            most = BLOCK if clip.duration is None else recording.rate  # as a cut: MP3's last bits depend on it
            picked = [_pick(clip, block, channel) for block in _some(recording.blocks(first, most), count)]
            samples = picked[0] if len(picked) == 1 else np.concatenate([_pick(clip, recording.none, channel), *picked])
        return _audio(clip, samples, recording, sample_rate)


def sections(
    clip: Clip, sample_rate: int, channel: Channel, cutting: Cutting | None
) -> Iterator[tuple[Clip, Audio | ClipError]]:
    """Read a recording's cuts and channels, in one pass: cut by cut, and of each cut channel by channel.

    What is wrong with a cut costs that cut; what the recording ends with, such as "truncated", comes behind the cuts
    before. A cut's samples, and hence its score, are those of a file that holds nothing else (of MP3, whose last bits
    depend on the blocks that it is decoded in, to 1e-6). Memory holds a cut or two of all channels.

    Args:
        clip: a file, a member of an archive, or an array of samples. A section is not cut again.
        sample_rate: the rate wanted, in Hz.
        channel: which channel, from 0, "mean", or "all" for each; where the clip doesn't say.
        cutting: where; `None` for whole recordings.

    Raises:
        ValueError: `channel` can't be one, or the clip is a log-Mel.
    """
    channel = clip.channel if clip.channel is not None else channel
    check_channel(channel)
    cutting = cutting if clip.duration is None and not clip.start else None
    end = clip.start
    try:
        with _memory_enough(clip), _opened(clip, damaged=cutting is not None) as recording:
            each = range(recording.channels) if channel == "all" else [channel]
            _pick(clip, recording.none, each[0])  # a channel that it hasn't is told of once
            for first, samples in _cuts(clip, recording, cutting, each):
                start, duration = first / recording.rate, len(samples) / recording.rate
                for one in each:
                    section = replace(clip, start=start, duration=duration, channel=one)
                    yield section, _section(section, samples, recording, sample_rate)
                end = start + duration
            if recording.damage is not None:
                raise recording.damage
    except ClipError as error:
        yield replace(clip, start=end, channel=channel), error


def _cuts(
    clip: Clip, recording: _Recording, cutting: Cutting | None, channels: Sequence[Channel]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield a recording's cuts, or the clip as one: the first sample's place, and the samples `[n, channels]`."""
    first, count = _place(clip, recording)
    longest = count if cutting is None else min(int(cutting.window * recording.rate), count)
    check_size(clip.name, 4 * longest * len(channels), size_limit(), "bytes when it is decoded")
    if cutting is None:
        yield first, np.concatenate([recording.none, *_some(recording.blocks(first, BLOCK), count)])
        return
    cutter = Cutter(cutting, recording.rate)
    for block in recording.blocks(0, recording.rate):  # where decoding fails, no more than a second is lost
        yield from cutter.feed(block)
    if not cutter.fed:
        raise _empty(clip)
    yield from cutter.end()


def _section(clip: Clip, samples: NDArray[Any], recording: _Recording, sample_rate: int) -> Audio | ClipError:
    """Return the clip's channel of a cut's samples `[n, channels]`, or what is wrong with it."""
    assert clip.channel is not None
    try:
        with _memory_enough(clip):
            return _audio(clip, _pick(clip, samples, clip.channel), recording, sample_rate)
    except ClipError as error:
        return error


def fingerprint(values: NDArray[Any]) -> int:
    """Hash one in 16 samples, or frames of a log-Mel, and their number, to 64 bits. So few tell recordings apart, and
    hashing all of them would take longer than decoding.
    """
    digest = hashlib.blake2b(np.ascontiguousarray(values[::16]).data, digest_size=8)
    digest.update(str(len(values)).encode())
    return int.from_bytes(digest.digest(), "little", signed=True)


def change_speed(samples: NDArray[Any], ratio: float) -> NDArray[np.float32]:
    """Play a sound `ratio` times as fast: its pitch rises by that factor, and it gets shorter by it.

    Args:
        samples: `[n]`, int16 or float32.
        ratio: above 0; 1 gives the samples back.

    Returns:
        `[n / ratio]` float32, full scale 1, band-limited (soxr, high quality). Not int16, which soxr dithers: a
        classifier would tell resampled clips by that noise.
    """
    faster: NDArray[np.float32] = soxr.resample(_to_float(samples), ratio, 1.0)
    return faster


@contextlib.contextmanager
def _memory_enough(clip: Clip) -> Iterator[None]:
    """Make the end of memory a clip's error."""
    try:
        yield
    except MemoryError:
        raise ClipError("unreadable", f"{clip.name} is too long for this machine's memory: cut it") from None


def _empty(clip: Clip) -> ClipError:
    return ClipError("empty", f"{clip.name} has no samples: record it again, or leave it out")


def _audio(clip: Clip, samples: NDArray[Any], recording: _Recording, sample_rate: int) -> Audio:
    """Return a channel's samples checked, at the rate wanted, and what is known of them.

    Raises:
        ClipError: "empty" or "not-finite".
    """
    rate = recording.rate
    samples, low, high = _check(clip, samples, rate)
    duration = len(samples) / rate
    extremes = np.count_nonzero(samples == low) + np.count_nonzero(samples == high)
    clipped, mark = extremes / len(samples), fingerprint(samples)
    if rate != sample_rate:
        samples = soxr.resample(_to_float(samples), rate, sample_rate, quality="HQ")
    return Audio(samples, duration, bool(low == high), recording.unfinished, clipped, mark)


def _check(clip: Clip, samples: NDArray[Any], rate: int) -> tuple[NDArray[Any], Any, Any]:
    """Return the samples, float32 if they were wider, and the lowest and the highest of them.

    Raises:
        ClipError: "empty" or "not-finite".
    """
    if not len(samples):
        raise _empty(clip)
    with np.errstate(over="ignore"):
        if samples.dtype != np.int16:
            samples = samples.astype(np.float32, copy=False)
    low, high = samples.min(), samples.max()
    if not (low > -LOUDEST and high < LOUDEST):  # also where one is NaN
        wrong = np.flatnonzero(~(np.abs(samples) < LOUDEST))
        raise ClipError(
            "not-finite",
            f"{clip.name} has {len(wrong)} samples that are NaN, infinite or beyond any sound, the first at "
            f"{clip.start + wrong[0] / rate:.3f} s: export it again as 16-bit PCM, or leave it out",
        )
    return samples, low, high


def _to_float(samples: NDArray[Any]) -> NDArray[Any]:
    """Return samples with full scale 1: int16 becomes float32, floats stay what they are."""
    return samples.astype(np.float32) / np.float32(FULL_SCALE) if samples.dtype == np.int16 else samples


def _pick(clip: Clip, block: NDArray[Any], channel: Channel) -> NDArray[Any]:
    """Return one channel of `[n, channels]`, or their mean, as a copy."""
    if channel == "mean":
        mean: NDArray[Any] = block[:, 0].copy() if block.shape[1] == 1 else _to_float(block).mean(axis=1)
        return mean
    if channel >= block.shape[1]:
        count = f"{block.shape[1]} channels, 0 to {block.shape[1] - 1}" if block.shape[1] > 1 else "one channel, 0"
        raise ClipError("no-channel", f"{clip.name} has {count}, no channel {channel}: choose another channel")
    assert channel != "all"
    picked: NDArray[Any] = block[:, channel].copy()
    return picked


@dataclass
class _Recording:
    """An open recording.

    Attributes:
        rate: samples a second.
        channels: how many there are.
        frames: samples of each channel, as it claims.
        none: no samples, of the type that it has, `[0, channels]`.
        blocks: gives its samples from one on, `[n, channels]` each, with n at most the second argument. They raise
            ClipError where they can't be decoded.
        unfinished: see `Audio`.
        damage: what is wrong with its end, where that doesn't keep what is before from being heard.
    """

    rate: int
    channels: int
    frames: int
    none: NDArray[Any]
    blocks: Callable[[int, int], Iterator[NDArray[Any]]]
    unfinished: bool = False
    damage: ClipError | None = None


@contextlib.contextmanager
def _opened(clip: Clip, damaged: bool = False) -> Iterator[_Recording]:
    """Open a recording; one that is cut off only if `damaged`."""
    source = clip.source
    if isinstance(source, ArraySource):
        samples = np.atleast_2d(source.samples).T
        _check_rate(clip, source.sample_rate)
        yield _Recording(
            source.sample_rate, samples.shape[1], len(samples), samples[:0], lambda first, _: iter([samples[first:]])
        )
        return
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(source.open())
        damage = None
        try:
            finding = containers.inspect(stream)
        except containers.Damaged as error:
            damage = ClipError(error.status, f"{clip.name} {error.reason}")
            if not damaged or error.status != "truncated":
                raise damage from None
            finding = containers.Finding()
            stream.seek(0)
        except OSError as error:
            raise ClipError("unreadable", f"{clip.name} can't be read ({error.strerror}): check its disk") from None
        if finding.parts:
            files = [stack.enter_context(_sound_file(clip, io.BytesIO(part))) for part in finding.parts]
            if len({file.samplerate for file in files}) > 1:
                raise ClipError("unreadable", f"{clip.name} has parts of several sample rates: cut it into files")
            if len({file.channels for file in files}) > 1:
                raise ClipError("unreadable", f"{clip.name} has parts of several channels: cut it into files")
        # libsndfile opens a plain file itself: without the GIL, and it knows some formats by their extension alone.
        elif isinstance(source, FileSource):  # by "./-", as "-" is standard input to it
            path = os.fsencode(os.path.join(os.curdir, source.path))
            files = [stack.enter_context(_sound_file(clip, path))]
            if containers.is_guessed(files[0].format, files[0].subtype, stream.read(12)):
                raise ClipError(
                    "unreadable", f"{clip.name} doesn't begin as such a file does: copy it again, or convert it to WAV"
                )
        else:
            files = [stack.enter_context(_sound_file(clip, stream))]
        yield _of_files(clip, files, finding.unfinished, damage)


def _of_files(
    clip: Clip, files: Sequence[soundfile.SoundFile], unfinished: bool, damage: ClipError | None
) -> _Recording:
    """Return the recording that stands in some files, one after the other."""
    first = files[0]
    _check_rate(clip, first.samplerate)
    if any(file.frames > 1 << 48 for file in files):  # libsndfile's way to say that it doesn't know
        raise ClipError("unreadable", f"{clip.name} doesn't say how long it is (a stream?): write it again as a file")
    dtype = "int16" if all(file.subtype == "PCM_16" for file in files) else "float32"
    none, frames = np.empty((0, first.channels), dtype), sum(file.frames for file in files)
    blocks = partial(_blocks, clip, files, dtype)
    return _Recording(first.samplerate, first.channels, frames, none, blocks, unfinished, damage)


def _check_rate(clip: Clip, rate: int) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise ClipError("unreadable", f"{clip.name} claims {rate:,} samples a second, which no sound has: damaged?")


def _place(clip: Clip, recording: _Recording) -> tuple[int, int]:
    """The first sample of a clip in its recording, and how many it has."""
    first = round(clip.start * recording.rate)
    there = max(recording.frames - first, 0)
    return first, there if clip.duration is None else min(round(clip.duration * recording.rate), there)


def _some(blocks: Iterable[NDArray[Any]], count: int) -> Iterator[NDArray[Any]]:
    """Yield the first `count` samples of some blocks."""
    for block in blocks:
        if len(block):
            yield block[:count]
        count -= len(block)
        if count <= 0:
            return


def _sound_file(clip: Clip, encoded: bytes | BinaryIO) -> soundfile.SoundFile:
    """Open a file, by its name or as a stream, for decoding."""
    try:
        return _open(encoded)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise ClipError(
            "unreadable",
            f"{clip.name} is no audio file that libsndfile {soundfile.__libsndfile_version__} reads ({reason}): "
            "convert it to WAV or FLAC, or leave it out",
        ) from None


def _open(encoded: bytes | BinaryIO, attempts: int = 50) -> soundfile.SoundFile:
    """Open a file, again where libsndfile lost the reason why it couldn't: it keeps one for all threads."""
    try:
        return soundfile.SoundFile(encoded)
    except soundfile.LibsndfileError as error:
        if error.code or not attempts:
            raise
    if not isinstance(encoded, bytes):
        encoded.seek(0)
    return _open(encoded, attempts - 1)


def _blocks(
    clip: Clip, files: Sequence[soundfile.SoundFile], dtype: str, first: int, most: int
) -> Iterator[NDArray[Any]]:
    """Yield the samples of files in a row from the `first` one on, `[n, channels]` each, n at most `most`."""
    for file in files:
        size, done = max(1, min(most, BLOCK // file.channels)), 0
        if first and file.format not in _INEXACT:
            done = min(first, file.frames)
            file.seek(done)
            first -= done
        while done < file.frames:
            try:
                block = file.read(min(size, file.frames - done), dtype=dtype, always_2d=True)
            except soundfile.LibsndfileError as error:
                raise _truncated(clip, file, error.error_string.strip(" .")) from None
            if not len(block):
                raise _truncated(clip, file, "it ends early")
            done += len(block)
            if first < len(block):
                yield block[first:]
            first = max(first - len(block), 0)


def _truncated(clip: Clip, file: soundfile.SoundFile, reason: str) -> ClipError:
    return ClipError(
        "truncated",
        f"{clip.name} is cut off or damaged: its {file.frames / file.samplerate:g} s can't be decoded to the end "
        f"({reason}); copy it again from its source, or leave it out",
    )
