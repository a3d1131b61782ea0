"""Decoding: the samples of one channel of a clip, at the rate that is asked for, or the reason why not."""

from __future__ import annotations

import io
import os
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from pyasd.clips import Clip, open_zip
from pyasd.config import FULL_SCALE
from pyasd.errors import ClipError

Channel = int | Literal["mean"]

BLOCK = 1 << 20
"""Samples of all channels decoded at a time: bounds what a recording with many channels takes in passing."""

LOUDEST = 1e15
"""Samples beyond this (full scale is 1) are no sound, and their power would overflow float32."""

RATES = (1_000, 10_000_000)
"""Sample rates of sound, in Hz: others are damaged headers, and resampling would fill the memory."""

STREAMED = 0x7FFF0000
"""WAV sizes from here on are what recorders write that don't know the size yet (SoX, arecord, FFmpeg to a pipe)."""


@dataclass(frozen=True)
class Audio:
    """The samples of one clip.

    Attributes:
        samples: `[n]`, int16 where the clip has 16 bits, the right rate and the channel; else float32, full scale 1.
        duration: of the clip as it was found, in seconds.
        silent: all its samples are equal (digital silence).
    """

    samples: NDArray[Any]
    duration: float
    silent: bool


def check_channel(channel: Channel) -> None:
    """Raises ValueError where `channel` is neither "mean" nor a number from 0."""
    if channel != "mean" and (isinstance(channel, (str, bool)) or channel < 0):
        raise ValueError(f"channel must be a number from 0, or 'mean', not {channel!r}")


def read(clip: Clip, sample_rate: int, channel: Channel = 0) -> Audio:
    """The clip's samples: one channel, at `sample_rate`.

    16-bit samples stay int16 unless they are resampled or averaged. soxr's high quality resamples: what is below
    the lower of both Nyquist frequencies stays.

    Args:
        clip: a file, or an array of samples.
        sample_rate: the rate wanted, in Hz.
        channel: which channel, from 0, or "mean" for the mean of all.

    Raises:
        ClipError: "missing", "empty", "unreadable", "truncated", "not-finite" or "no-channel".
        ValueError: `channel` can't be one.
    """
    check_channel(channel)
    try:
        samples, rate = _decode(clip, channel)
        if not RATES[0] <= rate <= RATES[1]:
            raise ClipError("unreadable", f"{clip.name} claims {rate:,} samples a second, which no sound has: damaged?")
        samples, silent = _check(clip, samples, rate)
        duration = len(samples) / rate
        if rate != sample_rate:
            samples = soxr.resample(_to_float(samples), rate, sample_rate, quality="HQ")
    except MemoryError:
        raise ClipError("unreadable", f"{clip.name} is too long for this machine's memory: cut it") from None
    return Audio(samples, duration, silent)


def _check(clip: Clip, samples: NDArray[Any], rate: int) -> tuple[NDArray[Any], bool]:
    """The samples, float32 if they were wider, and whether they are all equal."""
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
    return samples, bool(low == high)


def _to_float(samples: NDArray[Any]) -> NDArray[Any]:
    """Full scale 1; int16 becomes float32, floats stay what they are."""
    return samples.astype(np.float32) / np.float32(FULL_SCALE) if samples.dtype == np.int16 else samples


def _pick(clip: Clip, block: NDArray[Any], channel: Channel) -> NDArray[Any]:
    """One channel of `[n, channels]`, as a copy of its own."""
    if channel == "mean":
        return block[:, 0].copy() if block.shape[1] == 1 else _to_float(block).mean(axis=1)
    if channel >= block.shape[1]:
        count = f"{block.shape[1]} channels, 0 to {block.shape[1] - 1}" if block.shape[1] > 1 else "one channel, 0"
        raise ClipError("no-channel", f"{clip.name} has {count}, no channel {channel}: choose another channel")
    return block[:, channel].copy()


def _decode(clip: Clip, channel: Channel) -> tuple[NDArray[Any], int]:
    """The channel's samples as they were found, and their rate."""
    if clip.path is not None:
        return _decode_file(clip, clip.path, channel)
    if clip.samples is None or clip.sample_rate is None:
        raise ValueError(f"{clip.name} has neither a file nor samples")
    return _pick(clip, np.atleast_2d(clip.samples).T, channel), clip.sample_rate


def _decode_file(clip: Clip, path: Path, channel: Channel) -> tuple[NDArray[Any], int]:
    source: bytes | BinaryIO = os.fsencode(path)
    if clip.member:
        source = _unzip(clip, path)
        _check_file(clip, source, source.getbuffer().nbytes)
        source.seek(0)
    else:
        try:
            with open(path, "rb") as stream:
                info = os.fstat(stream.fileno())
                if not stat.S_ISREG(info.st_mode):
                    raise ClipError("unreadable", f"{clip.name} is not a file: give audio files")
                _check_file(clip, stream, info.st_size)
        except FileNotFoundError:
            raise ClipError("missing", f"{clip.name} doesn't exist: check the spelling and the folder") from None
        except OSError as error:
            raise ClipError("unreadable", f"{clip.name} can't be opened ({error.strerror}): check its rights") from None
    try:
        file = soundfile.SoundFile(source)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise ClipError(
            "unreadable",
            f"{clip.name} is no audio file that libsndfile {soundfile.__libsndfile_version__} reads ({reason}): "
            "convert it to WAV or FLAC, or leave it out",
        ) from None
    with file:
        return _decode_blocks(clip, file, channel), file.samplerate


def _unzip(clip: Clip, path: Path) -> io.BytesIO:
    """The file in the archive `path` that a clip is, whole and checked against the archive's checksum."""
    try:
        return io.BytesIO(open_zip(path).read(clip.member))
    except FileNotFoundError:
        raise ClipError("missing", f"{clip.name}: the archive {path} doesn't exist any more") from None
    except (KeyError, ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise ClipError(
            "unreadable", f"{clip.name} can't be unpacked ({reason}): copy or download {path} again"
        ) from None


def _decode_blocks(clip: Clip, file: soundfile.SoundFile, channel: Channel) -> NDArray[Any]:
    if file.frames > 1 << 48:  # libsndfile's way to say that it doesn't know
        raise ClipError("unreadable", f"{clip.name} doesn't say how long it is (a stream?): write it again as a file")
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


def _check_file(clip: Clip, stream: BinaryIO, size: int) -> None:
    """Raises ClipError for a file of `size` bytes that is empty or not all there.

    libsndfile takes a WAV, AIFF or Ogg file that ends early for a shorter one.
    """
    if not size:
        raise ClipError("empty", f"{clip.name} is a file of zero bytes: record or copy it again, or leave it out")
    magic = stream.read(4)
    if magic in (b"RIFF", b"RF64", b"FORM"):
        claimed = _pcm_bytes(stream, magic)
        if claimed is not None and claimed > size:
            raise ClipError(
                "truncated",
                f"{clip.name} is cut off: it has {size:,} of {claimed:,} bytes; copy it again from its source, or "
                "leave it out",
            )
    elif magic == b"OggS":
        stream.seek(max(0, size - (1 << 16)))  # no page is longer
        if not _ends_ogg(stream.read()):
            raise ClipError("truncated", f"{clip.name} is cut off: it has no last page; copy it again, or leave it out")


def _ends_ogg(tail: bytes) -> bool:
    """Whether the end of an Ogg file is a whole page that is flagged as its stream's last (RFC 3533)."""
    page = tail[tail.rfind(b"OggS") :]
    return len(page) > 27 and bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])


def _pcm_bytes(stream: BinaryIO, magic: bytes) -> int | None:
    """Where a WAV (RIFF, RF64) or AIFF (FORM) file's samples end, as its header says; `None` if it doesn't."""
    order, wanted = (">", b"SSND") if magic == b"FORM" else ("<", b"data")
    long_size = None
    stream.seek(12)
    while len(header := stream.read(8)) == 8:
        name, size = header[:4], struct.unpack(order + "I", header[4:])[0]
        if name == wanted:
            if long_size is not None and size == 0xFFFFFFFF:
                size = long_size
            elif size >= STREAMED:
                return None
            return stream.tell() + size
        if name == b"ds64":
            body = stream.read(size)
            long_size = struct.unpack("<Q", body[8:16])[0] if len(body) >= 16 else None
        else:
            stream.seek(size, os.SEEK_CUR)
        if size % 2:
            stream.seek(1, os.SEEK_CUR)
    return None
