"""MPEG audio (MP3): frames without a container, whose number a Xing header may tell (ISO 11172-3, 13818-3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

from pyasd.containers.finding import Damaged, Finding

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
"""Sample rates in Hz by version: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5."""

_KBITS = {
    (True, 1): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (False, 1): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
}
"""Bit rates in kbit/s from index 1, by whether it is MPEG 1 and by the header's layer: 1 is III, 2 is II, 3 is I."""

_LAYER_III = 1

_ENCODER, _ENCODERS = 120, (b"LAME", b"Lavc", b"Lavf")
"""Where an encoder's name stands behind the beginning of a Xing header, and those that are known (LAME, FFmpeg)."""

_SIZE_SLACK = 0.01
"""libmpg123 complains where a Xing header is off by more."""


@dataclass(frozen=True)
class _Frame:
    """A frame's header: what stays the same through a file, and the frame's length in bytes."""

    version: int
    layer: int
    rate: int
    mono: bool
    length: int

    @property
    def sound(self) -> tuple[int, int, int]:
        return self.version, self.layer, self.rate

    @property
    def xing(self) -> int:
        """Where a Xing header stands in the frame: behind the side information."""
        return 4 + ((17 if self.mono else 32) if self.version == 3 else (9 if self.mono else 17))


def begins(magic: bytes) -> bool:
    """Return whether a file with these first bytes may be MPEG audio."""
    return magic.startswith(b"ID3") or _parse(magic, 0) is not None


def inspect(stream: BinaryIO, size: int) -> Finding:
    """Inspect MPEG audio by walking its frames.

    Returns:
        The frames alone, behind a Xing header that tells their number, where the file has none, or one that errs (as
        files that were joined do): libmpg123 would estimate its length. It is unfinished where there is more than
        all Xing headers in it say, or another number of bytes.

    Raises:
        Damaged: it has fewer frames than its Xing header says, its last one is cut, or its frames are of several kinds
            of sound.
    """
    stream.seek(0)
    data = stream.read()
    places, tagged, junk = _walk(data)
    if not places:
        return Finding()  # libsndfile says what it is
    first = places[0][1]
    if first.layer != _LAYER_III:
        return Finding()
    if len({frame.sound for _, frame in places}) > 1:
        raise Damaged("unreadable", "has parts of several sample rates or kinds: convert it to WAV or FLAC")
    begin = places[0][0]
    tags = [_claimed(data[place : place + frame.length], frame) for place, frame in places]
    audio = [x for x, tag in zip(places, tags, strict=True) if tag is None]
    claims = [tag for tag in tags if tag is not None]
    claimed = sum(frames for frames, _ in claims)
    end, last = places[-1]
    if end + last.length > size:
        raise Damaged("truncated", "is cut off: its last frame is not whole; copy it again, or leave it out")
    if len(audio) < claimed:
        raise Damaged(
            "truncated",
            f"is cut off: it has {len(audio):,} of {claimed:,} frames; copy it again from its source, or leave it out",
        )
    if not audio:
        raise Damaged("empty", "has no frame with sound: record or copy it again, or leave it out")
    length = end + last.length - begin
    right = claimed == len(audio) and not junk
    if len(claims) == 1 and tags[0] is not None:
        right = right and (not tags[0][1] or abs(length - tags[0][1]) <= _SIZE_SLACK * length)
        if right and not tagged:
            return Finding()
    frames = b"".join(data[place : place + frame.length] for place, frame in audio)
    whole = _xing_frame(data[begin : begin + 4], first, len(audio), len(frames)) + frames
    return Finding((whole,), unfinished=bool(claims) and not right)


def _walk(data: bytes) -> tuple[list[tuple[int, _Frame]], bool, bool]:
    """The places of all frames, and whether there are tags between them, and anything else."""
    places: list[tuple[int, _Frame]] = []
    tagged = junk = False
    place = 0
    while place + 4 <= len(data):
        if data.startswith(b"ID3", place):
            size = 0
            for byte in data[place + 6 : place + 10]:
                size = size << 7 | byte & 0x7F
            tagged |= bool(places)
            place += 10 + size
            continue
        frame = _parse(data, place)
        if frame is not None:
            places.append((place, frame))
            place += frame.length
            continue
        if data.startswith((b"TAG", b"APETAGEX"), place) and _next(data, place + 1) is None:
            break
        following = _next(data, place + 1)
        if following is None:
            junk |= bool(places) and any(data[place:])
            break
        junk |= bool(places)
        place = following
    return places, tagged, junk


def _next(data: bytes, place: int) -> int | None:
    """The place of the next frame that another one follows; `None` where there is none."""
    while (place := data.find(b"\xff", place)) >= 0:
        frame = _parse(data, place)
        if frame is not None and _parse(data, place + frame.length) is not None:
            return place
        place += 1
    return None


def _parse(data: bytes, place: int) -> _Frame | None:
    """The frame whose header is at a place; `None` where there is none, or one without a bit rate."""
    header = data[place : place + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bits, rate = header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or layer == 0 or bits in (0, 15) or rate == 3:
        return None
    hertz = _RATES[version][rate]
    speed = _KBITS[version == 3, layer][bits - 1] * 1000
    padding = header[2] >> 1 & 1
    if layer == 3:
        length = (12 * speed // hertz + padding) * 4
    else:
        length = (72 if layer == _LAYER_III and version != 3 else 144) * speed // hertz + padding
    return _Frame(version, layer, hertz, header[3] >> 6 == 3, length)


def _claimed(data: bytes, frame: _Frame) -> tuple[int, int] | None:
    """The numbers of frames and bytes (0 where it tells none) in a Xing header; `None` where the frame is one of sound.

    Encoders write their name at a fixed place in such a frame: a header that is damaged is known by that, and its frame
    is no sound.
    """
    header = data[frame.xing : frame.xing + 16]
    named = data.startswith(_ENCODERS, frame.xing + _ENCODER)
    if header[:4] not in (b"Xing", b"Info") or any(data[4 : frame.xing]):  # libmpg123 wants zeros before it
        return (0, 0) if named else None
    flags, *numbers = struct.unpack(">III", header[4:]) if len(header) == 16 else (0, 0, 0)
    return numbers[0] if flags & 1 else 0, numbers[1] if flags & 3 == 3 else 0


def _xing_frame(header: bytes, frame: _Frame, frames: int, size: int) -> bytes:
    """A frame of silence with a Xing header, for a file whose first frame has this header."""
    bits = _KBITS[frame.version == 3, _LAYER_III].index(64) + 1
    head = bytes((0xFF, header[1] | 1, bits << 4 | header[2] & 0x0C, header[3]))  # no checksum, no padding
    of_size = _parse(head, 0)
    assert of_size is not None
    body = bytearray(of_size.length)
    body[:4] = head
    struct.pack_into(">4sIII", body, frame.xing, b"Xing", 3, frames, size + len(body))
    return bytes(body)
