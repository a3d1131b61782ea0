"""Decoding: the samples of one channel of a clip, at the rate that is asked for, or the reason why not."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from pyasd import containers
from pyasd.backends.contract import FULL_SCALE
from pyasd.clips import Clip
from pyasd.clips.sources import ArraySource, FileSource, check_size, size_limit
from pyasd.errors import ClipError

Channel = int | Literal["mean"]

BLOCK = 1 << 20
"""Samples of all channels decoded at a time: bounds what a recording with many channels takes in passing."""

LOUDEST = 1e15
"""Samples beyond this (full scale is 1) are no sound, and their power would overflow float32."""

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
    """Check that `channel` is "mean" or a number from 0.

    Raises:
        ValueError: it is neither.
    """
    if channel != "mean" and (isinstance(channel, (str, bool)) or channel < 0):
        raise ValueError(f"channel must be a number from 0, or 'mean', not {channel!r}")


def read(clip: Clip, sample_rate: int, channel: Channel = 0) -> Audio:
    """Read one channel of a clip, at `sample_rate`.

    16-bit samples stay int16 unless they are resampled or averaged. soxr's high quality resamples: what is below
    the lower of both Nyquist frequencies stays.

    Args:
        clip: a file, a member of an archive, or an array of samples.
        sample_rate: the rate wanted, in Hz.
        channel: which channel, from 0, or "mean" for the mean of all.

    Raises:
        ClipError: "missing", "empty", "unreadable", "truncated", "not-finite" or "no-channel".
        ValueError: `channel` can't be one, or the clip is a log-Mel.
    """
    check_channel(channel)
    try:
        samples, rate, unfinished = _decode(clip, channel)
        if not RATES[0] <= rate <= RATES[1]:
            raise ClipError("unreadable", f"{clip.name} claims {rate:,} samples a second, which no sound has: damaged?")
        samples, low, high = _check(clip, samples, rate)
        duration = len(samples) / rate
        extremes = np.count_nonzero(samples == low) + np.count_nonzero(samples == high)
        clipped, mark = extremes / len(samples), fingerprint(samples)
        if rate != sample_rate:
            samples = soxr.resample(_to_float(samples), rate, sample_rate, quality="HQ")
    except MemoryError:
        raise ClipError("unreadable", f"{clip.name} is too long for this machine's memory: cut it") from None
    return Audio(samples, duration, bool(low == high), unfinished, clipped, mark)


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


def _check(clip: Clip, samples: NDArray[Any], rate: int) -> tuple[NDArray[Any], Any, Any]:
    """Return the samples, float32 if they were wider, and the lowest and the highest of them.

    Raises:
        ClipError: "empty" or "not-finite".
    """
    if not len(samples):
        raise ClipError("empty", f"{clip.name} has no samples: record it again, or leave it out")
    with np.errstate(over="ignore"):
        if samples.dtype != np.int16:
            samples = samples.astype(np.float32, copy=False)
    low, high = samples.min(), samples.max()
    if not (low > -LOUDEST and high < LOUDEST):  # also where one is NaN
        wrong = np.flatnonzero(~(np.abs(samples) < LOUDEST))
        raise ClipError(
            "not-finite",
            f"{clip.name} has {len(wrong)} samples that are NaN, infinite or beyond any sound, the first at "
            f"{wrong[0] / rate:.3f} s: export it again as 16-bit PCM, or leave it out",
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
    picked: NDArray[Any] = block[:, channel].copy()
    return picked


def _decode(clip: Clip, channel: Channel) -> tuple[NDArray[Any], int, bool]:
    """Return the channel's samples as the source has them, their rate, and whether the file is unfinished."""
    source = clip.source
    if isinstance(source, ArraySource):
        return _pick(clip, np.atleast_2d(source.samples).T, channel), source.sample_rate, False
    with source.open() as stream:
        try:
            finding = containers.inspect(stream)
        except containers.Damaged as error:
            raise ClipError(error.status, f"{clip.name} {error.reason}") from None
        except OSError as error:
            raise ClipError("unreadable", f"{clip.name} can't be read ({error.strerror}): check its disk") from None
        if finding.parts:
            parts = [_decode_file(clip, io.BytesIO(part), channel) for part in finding.parts]
            if len({rate for _, rate in parts}) > 1:
                raise ClipError("unreadable", f"{clip.name} has parts of several sample rates: cut it into files")
            return np.concatenate([samples for samples, _ in parts]), parts[0][1], finding.unfinished
        # libsndfile opens a plain file itself: without the GIL, and it knows some formats by their extension alone.
        if not isinstance(source, FileSource):
            return *_decode_file(clip, stream, channel), finding.unfinished
        # By "./-", as "-" is standard input to it.
        with _sound_file(clip, os.fsencode(os.path.join(os.curdir, source.path))) as file:
            if containers.is_guessed(file.format, file.subtype, stream.read(12)):
                raise ClipError(
                    "unreadable", f"{clip.name} doesn't begin as such a file does: copy it again, or convert it to WAV"
                )
            return _decode_blocks(clip, file, channel), file.samplerate, finding.unfinished


def _decode_file(clip: Clip, encoded: BinaryIO, channel: Channel) -> tuple[NDArray[Any], int]:
    """Return the channel's samples of an encoded file, and their rate."""
    with _sound_file(clip, encoded) as file:
        return _decode_blocks(clip, file, channel), file.samplerate


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


def _decode_blocks(clip: Clip, file: soundfile.SoundFile, channel: Channel) -> NDArray[Any]:
    if file.frames > 1 << 48:  # libsndfile's way to say that it doesn't know
        raise ClipError("unreadable", f"{clip.name} doesn't say how long it is (a stream?): write it again as a file")
    check_size(clip.name, 4 * file.frames, size_limit(), "bytes when it is decoded")
    dtype = "int16" if file.subtype == "PCM_16" else "float32"
    size = max(1, BLOCK // file.channels)
    blocks = [_pick(clip, np.empty((0, file.channels), dtype), channel)]
    done = 0
    while done < file.frames:
        try:
            block = file.read(min(size, file.frames - done), dtype=dtype, always_2d=True)
        except soundfile.LibsndfileError as error:
            raise _truncated(clip, file, error.error_string.strip(" .")) from None
        if not len(block):
            raise _truncated(clip, file, "it ends early")
        blocks.append(_pick(clip, block, channel))
        done += len(block)
    return blocks[1] if len(blocks) == 2 else np.concatenate(blocks)


def _truncated(clip: Clip, file: soundfile.SoundFile, reason: str) -> ClipError:
    return ClipError(
        "truncated",
        f"{clip.name} is cut off or damaged: its {file.frames / file.samplerate:g} s can't be decoded to the end "
        f"({reason}); copy it again from its source, or leave it out",
    )
