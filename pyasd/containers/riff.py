"""Containers of chunks: WAV (RIFF, RF64, big-endian RIFX), AIFF and 8SVX (FORM), W64."""

from __future__ import annotations

import struct
from typing import BinaryIO

from pyasd.containers.finding import FEW_BYTES, Damaged, Finding, cut_off

ORDERS = {b"RIFF": "<", b"RF64": "<", b"RIFX": ">", b"FORM": ">", b"riff": "<"}
"""The byte order of each kind's sizes, by its first four bytes ("riff" is the begin of W64's)."""

STREAMED = 0x7FFF0000
"""WAV sizes from here on are what recorders write that don't know the size yet (SoX, arecord, FFmpeg to a pipe)."""

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE


def inspect(stream: BinaryIO, size: int, magic: bytes) -> Finding:
    """Inspect a file of chunks.

    Args:
        stream: the file.
        size: in bytes.
        magic: its first 12 bytes.

    Raises:
        Damaged: samples are missing, or the format's numbers disagree.
    """
    if magic.startswith(b"riff"):
        return _inspect_w64(stream, size)
    order = ORDERS[magic[:4]]
    wanted = (b"SSND", b"BODY") if magic.startswith(b"FORM") else (b"data",)
    long_sizes = None  # where RF64 has its sizes of 64 bits
    frame = 1
    stream.seek(12)
    while len(header := stream.read(8)) == 8:
        name, length = header[:4], int(struct.unpack(order + "I", header[4:])[0])
        begin = stream.tell()
        if name in wanted:
            if long_sizes is not None and length == 0xFFFFFFFF:
                stream.seek(long_sizes + 8)
                length = int(struct.unpack("<Q", stream.read(8))[0])
            elif length >= STREAMED and wanted == (b"data",):
                return Finding()
            return _samples(stream, size, begin, length, frame, long_sizes, order)
        if name == b"fmt ":
            frame = _block_align(stream.read(min(length, 26)), order)
        elif name == b"ds64" and length >= 16:
            long_sizes = begin
        stream.seek(begin + length + length % 2)
    return Finding()


def _block_align(body: bytes, order: str) -> int:
    """The bytes of a frame, of all channels.

    Raises:
        Damaged: they aren't what the bits of a sample make.
    """
    if len(body) < 16:
        return 1
    tag, channels, _, _, align, bits = struct.unpack(order + "HHIIHH", body[:16])
    if tag == _EXTENSIBLE and len(body) >= 26:
        tag = struct.unpack(order + "H", body[24:26])[0]
    needed = channels * ((bits + 7) // 8)
    if tag in (_PCM, _FLOAT) and align and align != needed:
        raise Damaged(
            "unreadable",
            f"says that samples have {bits} bits and that {channels} of them take {align} bytes, where they take "
            f"{needed}: record or convert it to 16 bits, or to 24 bits in 3 bytes",
        )
    return align or 1


def _samples(
    stream: BinaryIO, size: int, begin: int, length: int, frame: int, long_sizes: int | None, order: str
) -> Finding:
    """Compare the samples' place with the file's size."""
    missing = begin + length - size
    if missing > FEW_BYTES:
        raise cut_off(size, begin + length)
    if missing > 0:
        return Finding(unfinished=True)
    if length or size <= begin or _is_chunk(stream, begin, size, order):
        return Finding()
    # A recorder crashed before it wrote the sizes: all samples are there.
    stream.seek(0)
    whole = bytearray(stream.read())
    samples = (size - begin) // frame * frame
    if long_sizes is not None:
        struct.pack_into("<QQ", whole, long_sizes, size - 8, samples)
    elif size - 8 > STREAMED:
        raise Damaged("unreadable", "doesn't say how long it is, and is too long to be read so: write it again as RF64")
    else:
        struct.pack_into(order + "I", whole, 4, size - 8)
        struct.pack_into(order + "I", whole, begin - 4, samples)
    return Finding((bytes(whole),), unfinished=True)


def _is_chunk(stream: BinaryIO, begin: int, size: int, order: str) -> bool:
    """Whether chunks follow and fill the file: the samples' chunk is empty indeed."""
    while begin + 8 <= size:
        stream.seek(begin)
        header = stream.read(8)
        length = int(struct.unpack(order + "I", header[4:])[0])
        if not header[:4].isascii() or not header[:4].decode().isprintable():
            return False
        begin += 8 + length + length % 2
    return begin in (size, size + 1)


def _inspect_w64(stream: BinaryIO, size: int) -> Finding:
    """Inspect a Sony Wave64 file: chunks of a GUID, a size with that header, and padding to 8 bytes.

    What is behind the samples must be chunks too: libsndfile takes anything else for further samples.
    """
    begin, unfinished = 40, False
    while begin + 24 <= size:
        stream.seek(begin)
        name, length = struct.unpack("<16sQ", stream.read(24))
        if name.startswith(b"data"):
            if begin + length > size + FEW_BYTES:
                raise cut_off(size, begin + length)
            unfinished = begin + length > size
        elif length < 24 or begin + length > size:
            return Finding(unfinished=True)
        elif name.startswith(b"fmt "):
            _block_align(stream.read(min(length - 24, 26)), "<")
        begin += max(24, length + -length % 8)
    return Finding(unfinished=unfinished or begin < size)
