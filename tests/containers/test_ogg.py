"""Ogg: cuts of any length, lost pages, chained streams."""

from __future__ import annotations

import io

import numpy as np
import pytest

from pyasd.containers import ogg
from pyasd.containers.finding import Finding
from pyasd.errors import ClipError

from .encoded import RATE, encoded, fails, noise, read


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_cuts_of_any_length_are_told(subtype: str) -> None:
    whole = encoded("OGG", subtype=subtype)
    for missing in (*range(1, 101, 9), 1000, len(whole) // 2):
        assert "copy it again" in fails(whole[:-missing])
    last = whole.rfind(b"OggS")
    assert "no last page" in fails(whole[:last])
    for end in (last + 27, last + 28, len(whole) - 1):  # in the lengths of its segments, and in these
        assert "its last page is not whole" in fails(whole[:end])


def test_a_file_of_one_stream_is_decoded_where_it_lies() -> None:
    whole = encoded("OGG", subtype="VORBIS")
    assert ogg.inspect(io.BytesIO(whole), len(whole)) == Finding()
    assert ogg.inspect(io.BytesIO(whole + whole), 2 * len(whole)).parts == (whole, whole)


def test_a_page_that_is_lost_is_told() -> None:
    whole = encoded("OGG", noise(20 * RATE), subtype="VORBIS")
    pages = [i for i in range(len(whole)) if whole.startswith(b"OggS", i)]
    middle, after = pages[len(pages) // 2 : len(pages) // 2 + 2]
    assert "damaged" in fails(whole[:middle] + whole[after:])
    assert "no page at byte" in fails(whole[:middle] + whole[middle + 5 :])


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_flipped_bit_anywhere_is_told(subtype: str) -> None:
    whole = bytearray(encoded("OGG", subtype=subtype))
    read(bytes(whole))
    for place in (*range(30), *range(30, len(whole), 997), len(whole) - 1):
        whole[place] ^= 16
        with pytest.raises(ClipError, match="some clip"):
            read(bytes(whole))
        whole[place] ^= 16


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_chained_streams_are_heard_to_the_end(subtype: str) -> None:
    one, other = (encoded("OGG", noise(seed=x), subtype=subtype) for x in (1, 2))
    chained = read(one + other).samples
    assert np.array_equal(chained, np.concatenate([read(one).samples, read(other).samples]))
    fails(one + other[:-50])


def test_chained_streams_of_several_rates_are_refused() -> None:
    one = encoded("OGG", subtype="VORBIS")
    other = encoded("OGG", rate=2 * RATE, subtype="VORBIS")
    assert "several sample rates" in fails(one + other, "unreadable")
