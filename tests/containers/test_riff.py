"""WAV and its kin: headers of crashed recorders, counts a little wrong, bits that disagree."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from .encoded import encoded, fails, noise, read


@pytest.mark.parametrize("endian", ["LITTLE", "BIG"])  # RIFX is the big-endian one
@pytest.mark.parametrize("odd", [0, 1])
def test_a_recorder_that_crashed_before_it_wrote_the_sizes(endian: str, odd: int) -> None:
    whole = bytearray(encoded("WAV", endian=endian, subtype="PCM_16"))
    assert whole.startswith(b"RIFF" if endian == "LITTLE" else b"RIFX")
    place = whole.index(b"data") + 4
    whole[4:8] = whole[place : place + 4] = bytes(4)
    sound = read(bytes(whole) + b"\0" * odd)
    assert sound.unfinished
    assert np.array_equal(sound.samples, noise())


def test_an_rf64_recorder_that_crashed() -> None:
    whole = bytearray(encoded("RF64", subtype="PCM_16"))
    place = whole.index(b"ds64") + 8
    whole[place : place + 24] = bytes(24)
    sound = read(bytes(whole))
    assert sound.unfinished
    assert np.array_equal(sound.samples, noise())


def test_a_wav_file_that_is_empty_indeed() -> None:
    empty = encoded("WAV", noise(0))
    assert "no samples" in fails(empty, "empty")
    assert "no samples" in fails(empty + b"LIST" + struct.pack("<I", 4) + b"INFO", "empty")


@pytest.mark.parametrize("kind", ["WAV", "W64", "AIFF"])
@pytest.mark.parametrize("missing", [1, 2, 16])
def test_a_few_bytes_that_are_missing_are_remarked(kind: str, missing: int) -> None:
    whole = encoded(kind, subtype="PCM_16")
    whole = whole[: whole.index(noise()[-3:].tobytes() if kind != "AIFF" else noise()[-3:].byteswap().tobytes()) + 6]
    sound = read(whole[:-missing])
    assert sound.unfinished
    assert np.array_equal(sound.samples, noise()[: -((missing + 1) // 2)])
    assert not read(whole).unfinished
    assert "cut off" in fails(whole[:-17])


@pytest.mark.parametrize(("bits", "align"), [(24, 4), (16, 4), (32, 2), (24, 2)])
@pytest.mark.parametrize("subtype", ["PCM_24", "PCM_16"])
def test_bits_and_bytes_that_disagree_are_refused(bits: int, align: int, subtype: str) -> None:
    whole = bytearray(encoded("WAV", subtype=subtype))
    place = whole.index(b"fmt ") + 8
    whole[place + 12 : place + 16] = struct.pack("<HH", align, bits)
    assert f"{bits} bits" in fails(bytes(whole), "unreadable")


def test_twenty_four_bits_in_four_bytes_of_the_extensible_kind_are_heard_right() -> None:
    samples = noise().astype(np.int32) << 16
    body = samples.astype("<i4").tobytes()
    guid = b"\x01\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
    form = struct.pack("<HHIIHHHHI", 0xFFFE, 1, 16000, 64000, 4, 32, 22, 24, 4) + guid
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", len(body)) + body
    sound = read(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    np.testing.assert_allclose(sound.samples, noise() / 32768, atol=1e-6)


@pytest.mark.parametrize("extra", [2, 8, 1000])
def test_samples_behind_those_that_a_w64_header_counts_are_remarked(extra: int) -> None:
    whole = encoded("W64", subtype="PCM_16")
    assert not read(whole).unfinished
    assert read(whole + noise()[: extra // 2].tobytes()).unfinished


def test_bits_and_bytes_of_w64_that_disagree_are_refused() -> None:
    whole = bytearray(encoded("W64", subtype="PCM_16"))
    place = whole.index(b"fmt ") + 24
    whole[place + 14 : place + 16] = struct.pack("<H", 24)
    assert "24 bits" in fails(bytes(whole), "unreadable")
