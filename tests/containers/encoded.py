"""Encoded sounds in memory, and reading them."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np
import pytest
import soundfile

from pyasd import audio
from pyasd.clips import Clip
from pyasd.clips.sources import Source
from pyasd.errors import ClipError

RATE = 16000


class Bytes(Source):
    """An encoded clip in memory."""

    path = None
    member = ""
    where = "some clip"

    def __init__(self, content: bytes) -> None:
        self.content = content

    def open(self) -> BinaryIO:
        return io.BytesIO(self.content)


def noise(n: int = 2 * RATE, seed: int = 0) -> np.ndarray:
    return (3000 * np.random.default_rng(seed).standard_normal(n)).astype(np.int16)


def encoded(kind: str, samples: np.ndarray | None = None, rate: int = RATE, **how: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, noise() if samples is None else samples, rate, format=kind, **how)
    return file.getvalue()


def read(content: bytes) -> audio.Audio:
    return audio.read(Clip("some clip", Bytes(content)), RATE)


def fails(content: bytes, status: str = "truncated") -> str:
    with pytest.raises(ClipError, match="some clip") as caught:
        read(content)
    assert caught.value.status == status
    return str(caught.value)
