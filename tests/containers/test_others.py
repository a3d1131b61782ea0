"""Files whose headers say where the samples end: whole, cut and with a hole."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from pyasd.containers.others import claimed_end

from .encoded import encoded, fails, noise, read

KINDS = [
    ("AU", "PCM_16"), ("AU", "FLOAT"), ("CAF", "PCM_16"), ("CAF", "PCM_24"), ("VOC", "PCM_16"), ("VOC", "ULAW"),
    ("NIST", "PCM_16"), ("NIST", "ULAW"), ("AVR", "PCM_16"), ("MAT4", "PCM_16"), ("MAT4", "DOUBLE"),
    ("W64", "PCM_16"), ("W64", "FLOAT"), ("SVX", "PCM_16"), ("AIFF", "PCM_16"), ("WAV", "PCM_24"), ("RF64", "PCM_16"),
    ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("FLAC", "PCM_16"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_half_a_file_is_no_whole_one(kind: str, subtype: str) -> None:
    whole = encoded(kind, subtype=subtype)
    assert read(whole).duration == pytest.approx(2, abs=0.1)
    for part in (0.5, 0.9, 0.99):
        fails(whole[: int(len(whole) * part)])


@pytest.mark.parametrize("order", ["big", "little"])
def test_files_of_either_byte_order(order: str) -> None:
    for kind in ("AU", "MAT4"):
        whole = encoded(kind, endian=order.upper(), subtype="PCM_16")
        assert np.array_equal(read(whole).samples, noise())
        fails(whole[:-1000])


def test_a_caf_file_with_a_hole() -> None:
    whole = encoded("CAF", subtype="PCM_16")
    middle = len(whole) // 2
    assert "of" in fails(whole[:middle] + whole[middle + 4096 :])


def test_an_empty_chunk_of_a_caf_file_does_not_end_the_count() -> None:
    whole = encoded("CAF", subtype="PCM_16")
    whole = whole[:52] + b"free" + bytes(8) + whole[52:]  # behind the description of the samples
    assert np.array_equal(read(whole).samples, noise())
    fails(whole[:-1000])


def test_a_header_that_says_no_length_is_heard_to_the_end() -> None:
    whole = bytearray(encoded("AU", subtype="PCM_16"))
    whole[8:12] = b"\xff" * 4
    assert np.array_equal(read(bytes(whole)).samples, noise())


def test_a_header_that_ends_is_told_by_libsndfile() -> None:
    for begin in (b".snd\0\0\0\x18", b"caff\0\1", b"2BIT", b"NIST_1A\n   1024\n", b"RIFF\4\0\0\0WAVE", b"\0\0\3\xe8"):
        fails(begin, "unreadable")


def end_of(content: bytes, size: int | None = None) -> int | None:
    return claimed_end(io.BytesIO(content), len(content) if size is None else size, content[:12])


def test_ends_of_voc_files_by_hand() -> None:
    """A header of 26 bytes, blocks of a kind in a byte and a length in three, and a zero at the end."""
    header = b"Creative Voice File\x1a" + struct.pack("<HHH", 26, 0x10A, 0x1129)
    block = struct.pack("<I", 9 | 100 << 8) + bytes(100)
    assert end_of(header + block + b"\0") == 26 + 104 + 1
    assert end_of(header + block + block + b"\0junk") == 26 + 208 + 1
    assert end_of(header + block) == 26 + 104
    assert end_of(header + block[:-1]) == 26 + 104, "further than the file"
    for rest in range(1, 4):  # fewer bytes than a block's head: an end
        assert end_of(header + block + b"\1" * rest) == 26 + 104 + 1


def test_ends_of_nist_files_by_hand() -> None:
    def made(*fields: str) -> bytes:
        return "\n".join(("NIST_1A", "   1024", *fields, "end_head", "")).encode().ljust(1024)

    count, width = "sample_count -i 50", "sample_n_bytes -i 2"
    assert end_of(made(count, width)) == 1024 + 100
    assert end_of(made("channel_count -i 3", count, width)) == 1024 + 300
    assert end_of(made(count)) is end_of(made(width)) is None
    assert end_of(made(count, width, "sample_coding -s26 pcm,embedded-shorten-v2.00")) is None


@pytest.mark.parametrize(("mono", "bits", "expected"), [(0, 8, 50), (0, 16, 100), (0xFFFF, 8, 100), (0xFFFF, 16, 200)])
def test_ends_of_avr_files_by_hand(mono: int, bits: int, expected: int) -> None:
    header = b"2BIT" + bytes(8) + struct.pack(">HH", mono, bits) + bytes(10) + struct.pack(">I", 50)
    assert end_of(header.ljust(128, b"\0")) == 128 + expected


def test_ends_of_mat4_files_by_hand() -> None:
    def made(kind: int, rows: int, columns: int, imaginary: int = 0, name: int = 5) -> bytes:
        return struct.pack(">5i", kind, rows, columns, imaginary, name)

    assert end_of(made(1000, 2, 3), 1) == 20 + 5 + 6 * 8
    assert end_of(made(1030, 2, 3, 1), 1) == 20 + 5 + 6 * 2 * 2
    for wrong in (made(1000, -1, 0), made(1000, 0, -3), made(1000, 2, 3, 0, -5), made(1090, 2, 3)):
        assert end_of(made(1000, 2, 3) + bytes(5 + 48) + wrong) is None
