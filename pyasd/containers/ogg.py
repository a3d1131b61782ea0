"""Ogg: pages of 27 bytes and their segments (RFC 3533); streams may be chained, one after the other."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from pyasd.containers.finding import Damaged, Finding

_BEGIN, _END = 2, 4
"""Flags of a stream's first and last page."""

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
"""Each byte with its bits in the opposite order."""


def inspect(stream: BinaryIO, size: int) -> Finding:
    """Inspect an Ogg file: its pages must follow each other to the end and fit their checksums, and each stream must
    have its last one. libogg leaves out pages that don't fit theirs, without a word.

    Returns:
        Chained streams as parts, since libsndfile decodes the first one alone.

    Raises:
        Damaged: a page is missing, cut or changed.
    """
    place = 0
    open_streams: dict[int, int] = {}  # the number of the next page, by stream
    begins: list[int] = []
    while place < size:
        stream.seek(place)
        header = stream.read(27)
        if len(header) < 27 or not header.startswith(b"OggS"):
            raise _cut(f"there is no page at byte {place:,}")
        flags, segments = header[5], header[26]
        serial, number = struct.unpack("<II", header[14:22])
        lacing = stream.read(segments)
        if flags & _BEGIN:
            if not open_streams:
                begins.append(place)
            open_streams[serial] = number
        if open_streams.get(serial) != number:
            raise _cut(f"pages are missing before byte {place:,}")
        open_streams[serial] += 1
        if flags & _END:
            del open_streams[serial]
        begin, place = place, place + 27 + segments + sum(lacing)
        if place > size:
            raise _cut("its last page is not whole")
        if _checksum(header[:22] + bytes(4) + header[26:] + lacing + stream.read(sum(lacing))) != header[22:26]:
            raise _cut(f"the page at byte {begin:,} doesn't fit its checksum")
    if open_streams:
        raise _cut("it has no last page")
    if len(begins) < 2:
        return Finding()
    stream.seek(0)
    whole = stream.read()
    return Finding(tuple(whole[a:b] for a, b in zip(begins, [*begins[1:], size], strict=True)))


def _checksum(page: bytes) -> bytes:
    """A page's checksum as it stands in its header: CRC-32 with the bits of zlib's in the opposite order, from 0."""
    crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "big").translate(_REVERSED)


def _cut(reason: str) -> Damaged:
    return Damaged("truncated", f"is cut off or damaged: {reason}; copy it again from its source, or leave it out")
