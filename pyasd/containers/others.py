"""Containers whose header says where the samples end: AU, CAF, VOC, NIST SPHERE, AVR and MAT4."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import BinaryIO

_MAT4_BYTES = (8, 4, 4, 2, 2, 1)
"""Of a number, by the tens digit of a matrix's type."""


def claimed_end(stream: BinaryIO, size: int, magic: bytes) -> int | None:
    """Return where a file's samples end, in bytes from its start, as its header says.

    Args:
        stream: the file.
        size: in bytes.
        magic: its first 12 bytes.

    Returns:
        The place, beyond `size` where samples are missing; `None` where the header doesn't say, or the file is of
        another kind.
    """
    for begin, end_of in _KINDS.items():
        if magic.startswith(begin):
            try:
                return end_of(stream, size, magic)
            except struct.error:  # it ends within its header: libsndfile says so
                return None
    return None


def _read(stream: BinaryIO, place: int, form: str) -> tuple[int, ...]:
    """The numbers at a place, as `struct` unpacks them."""
    stream.seek(place)
    return struct.unpack(form, stream.read(struct.calcsize(form)))


def _au(_stream: BinaryIO, _size: int, magic: bytes) -> int | None:
    offset, length = struct.unpack((">" if magic.startswith(b".snd") else "<") + "II", magic[4:12])
    return None if length == 0xFFFFFFFF else offset + length


def _caf(stream: BinaryIO, size: int, _magic: bytes) -> int | None:
    """Every chunk must lie in the file, not the samples' alone: what a hole leaves is no chunk."""
    begin = 8
    while begin < size:
        _, length = _read(stream, begin, ">4sq")
        if length < 0:  # samples to the end
            return None
        begin += 12 + length
    return begin


def _voc(stream: BinaryIO, size: int, _magic: bytes) -> int | None:
    (begin,) = _read(stream, 20, "<H")
    while begin < size:
        (word,) = _read(stream, begin, "<I") if begin + 4 <= size else (0,)
        if not word & 0xFF:  # the block that ends the file
            return begin + 1
        begin += 4 + (word >> 8)
    return begin


def _nist(stream: BinaryIO, _size: int, _magic: bytes) -> int | None:
    stream.seek(0)
    text = stream.read(1024).decode("latin-1")
    found = {key: int(x) for key, x in re.findall(r"^(\w+) -(?:i|s\d+) (\d+)$", text, re.MULTILINE)}
    header = re.match(r"NIST_1A\n\s*(\d+)\n", text)
    if header is None or "shorten" in text or not {"sample_count", "sample_n_bytes"} <= found.keys():
        return None
    frames, width = found["sample_count"], found["sample_n_bytes"]
    return int(header[1]) + frames * width * found.get("channel_count", 1)


def _avr(stream: BinaryIO, _size: int, _magic: bytes) -> int | None:
    mono, bits = _read(stream, 12, ">HH")
    (frames,) = _read(stream, 26, ">I")
    return 128 + frames * (bits // 8) * (2 if mono else 1)


def _mat4(stream: BinaryIO, size: int, magic: bytes) -> int | None:
    order = ">" if magic[0] == 0 and magic[:4] != bytes(4) else "<"
    begin = 0
    while begin < size:
        kind, rows, columns, imaginary, name = _read(stream, begin, order + "5i")
        digit = kind // 10 % 10
        if digit >= len(_MAT4_BYTES) or rows < 0 or columns < 0 or name < 0:
            return None
        begin += 20 + name + rows * columns * _MAT4_BYTES[digit] * (2 if imaginary else 1)
    return begin


_KINDS: dict[bytes, Callable[[BinaryIO, int, bytes], int | None]] = {
    b".snd": _au,
    b"dns.": _au,
    b"caff": _caf,
    b"Creative Voice File\x1a"[:12]: _voc,
    b"NIST_1A\n": _nist,
    b"2BIT": _avr,
    **{struct.pack(">i", 1000 + 10 * digit): _mat4 for digit in range(6)},
    **{struct.pack("<i", 10 * digit): _mat4 for digit in range(1, 6)},
    bytes(4) + struct.pack("<i", 1): _mat4,
}
"""By the bytes that a file begins with."""
