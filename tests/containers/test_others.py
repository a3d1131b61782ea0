"""Files whose headers say where the samples end: whole, cut and with a hole."""

from __future__ import annotations

import numpy as np
import pytest

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
