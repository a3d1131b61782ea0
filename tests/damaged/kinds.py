"""Whole files of each kind, and what damage does to them."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

import pyasd

RATE = 16000
CLIPS = 3
"""In an archive."""

AUDIO: dict[str, tuple[str, tuple[str, ...]]] = {
    "wav": ("WAV", ("PCM_16", "PCM_24", "FLOAT")),
    "flac": ("FLAC", ("PCM_16", "PCM_24")),
    "ogg": ("OGG", ("VORBIS", "OPUS")),
    "mp3": ("MP3", ("MPEG_LAYER_III",)),
    "au": ("AU", ("PCM_16", "FLOAT")),
    "caf": ("CAF", ("PCM_16", "PCM_24")),
    "w64": ("W64", ("PCM_16", "FLOAT")),
    "aiff": ("AIFF", ("PCM_16", "PCM_24")),
}
"""libsndfile's formats and the encodings that take turns, by a file's suffix."""

KINDS = (*AUDIO, "zip", "model", "recipe", "tar")

RECIPE = """\
combine = "mean"
statistics = "training"

[features]
n_mels = 16

[[member]]
kind = "group-made"
hidden = [8, 8]
components = 2
epochs = 1
batch_size = 64
score = "bands"
"""

COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)

ARCHIVED = {"zip": ".wav", "tar": ".flac"}
"""The clips in each kind of archive: a plain tar archive has no checksums of their bytes, and FLAC does."""


def sound(seed: int = 0) -> np.ndarray:
    """Return a second of a hum in noise: `[RATE]`, full scale 1."""
    time = np.arange(RATE) / RATE
    return 0.1 * np.sin(2 * np.pi * 100 * time) + 0.02 * np.random.default_rng(seed).normal(size=RATE)


def encoded(kind: str, variant: int) -> bytes:
    """Return a whole audio file."""
    form, subtypes = AUDIO[kind]
    stream = io.BytesIO()
    soundfile.write(stream, sound(), RATE, format=form, subtype=subtypes[variant % len(subtypes)])
    return stream.getvalue()


def archive(variant: int) -> bytes:
    """Return a whole zip archive of audio files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", COMPRESSIONS[variant % len(COMPRESSIONS)]) as file:
        for number in range(CLIPS):
            part = io.BytesIO()
            soundfile.write(part, sound(number), RATE, format="WAV", subtype="PCM_16")
            file.writestr(zipfile.ZipInfo(f"clip_{number}.wav"), part.getvalue(), file.compression)
    return stream.getvalue()


def tar(variant: int) -> bytes:
    """Return a whole tar archive."""
    stream, packed = io.BytesIO(), (bytes, gzip.compress, bz2.compress, lzma.compress)[variant % 4]
    with tarfile.open(fileobj=stream, mode="w") as file:
        for number in range(CLIPS):
            part = io.BytesIO()
            soundfile.write(part, sound(number), RATE, format="FLAC", subtype="PCM_16")
            info = tarfile.TarInfo(f"clip_{number}.flac")
            info.size = len(part.getvalue())
            file.addfile(info, io.BytesIO(part.getvalue()))
    return packed(stream.getvalue())


def fit_small(path: Path) -> None:
    """Write a small model, of sounds."""
    clips = [sound(seed).astype(np.float32) for seed in range(8)]
    pyasd.fit(
        clips, "group-made", out=path, sample_rate=RATE, n_mels=16, hidden=(8, 8), components=2, epochs=1, batch_size=64
    )


def whole(kind: str, variant: int, model: Path) -> bytes:
    """Return a whole file of a kind; `variant` chooses among its encodings."""
    if kind in AUDIO:
        return encoded(kind, variant)
    if kind == "zip":
        return archive(variant)
    if kind == "tar":
        return tar(variant)
    return model.read_bytes() if kind == "model" else RECIPE.encode()


# -- damage ------------------------------------------------------------------------------------------------------

Damage = Callable[[bytearray, np.random.Generator], None]

EDGE = 128
"""Bytes at either end of a file where headers and lists are."""

EXTREMES = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    1 << 63,
    (1 << 64) - 1,
)


def _slice(data: bytearray, rng: np.random.Generator) -> slice:
    """Some bytes, few as likely as many."""
    length = int(2 ** rng.uniform(0, np.log2(max(2, len(data) // 2))))
    begin = int(rng.integers(0, max(1, len(data) - length)))
    return slice(begin, begin + length)


def _flip(data: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, len(data) * 8, int(rng.integers(1, 9))):
        data[place // 8] ^= 1 << (place % 8)


def _edge(data: bytearray, rng: np.random.Generator) -> int:
    edge = int(rng.integers(0, min(EDGE, len(data))))
    return edge if rng.random() < 0.7 else len(data) - 1 - edge


def _flip_header(data: bytearray, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 4))):
        data[_edge(data, rng)] ^= 1 << int(rng.integers(8))


def _extreme(data: bytearray, rng: np.random.Generator) -> None:
    order, width = rng.choice(["<", ">"]), int(rng.choice([1, 2, 4, 8]))
    form = {1: "B", 2: "H", 4: "I", 8: "Q"}[width]
    value = EXTREMES[int(rng.integers(len(EXTREMES)))] & ((1 << 8 * width) - 1)
    place = min(_edge(data, rng) // 2 * 2, len(data) - width)
    data[place : place + width] = struct.pack(order + form, value)


def _cut_out(data: bytearray, rng: np.random.Generator) -> None:
    del data[_slice(data, rng)]


def _double(data: bytearray, rng: np.random.Generator) -> None:
    where = _slice(data, rng)
    data[where.start : where.start] = data[where]


def _zero(data: bytearray, rng: np.random.Generator) -> None:
    where = _slice(data, rng)
    data[where] = bytes(len(data[where]))


def _truncate(data: bytearray, rng: np.random.Generator) -> None:
    where = _slice(data, rng)
    del data[len(data) - (where.stop - where.start) :]


DAMAGES: tuple[Damage, ...] = (_flip, _flip_header, _extreme, _cut_out, _double, _zero, _truncate)


def damaged(kind: str, seed: int, model: Path) -> tuple[bytes, bytes]:
    """Return a whole file and the same one damaged; a seed gives the same every time."""
    rng = np.random.default_rng((KINDS.index(kind), seed))
    before = whole(kind, seed, model)
    after = bytearray(before)
    DAMAGES[seed % len(DAMAGES)](after, rng)
    return before, bytes(after)
