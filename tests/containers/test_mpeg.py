"""MP3: what has no Xing header, what was joined, what was cut."""

from __future__ import annotations

import numpy as np
import pytest

from pyasd.containers import mpeg

from .encoded import RATE, encoded, fails, noise, read


def sound(seed: int = 0, rate: int = RATE) -> bytes:
    """Half of it is quiet, half loud: frames of very different lengths, where the bit rate may vary."""
    samples = noise(8 * rate, seed=seed)
    samples[: 6 * rate] = 0
    return encoded("MP3", samples, rate, subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.1)


def frames(content: bytes) -> list[bytes]:
    places, junk = mpeg._walk(content)
    assert not junk
    return [content[place : place + frame.length] for place, frame in places]


@pytest.mark.parametrize("rate", [RATE, 44100, 8000])
def test_without_a_xing_header_it_is_heard_whole(rate: int) -> None:
    whole = sound(rate=rate)
    header, *rest = frames(whole)
    assert b"Xing" in header or b"Info" in header
    assert read(whole).duration == pytest.approx(8, abs=0.1)
    assert len({len(x) for x in rest}) > 1
    without = read(b"".join(rest))
    assert without.duration == pytest.approx(8, abs=0.2)
    assert np.abs(without.samples[-RATE:]).max() > 1000 / 32768, "the loud end is heard"
    tagged = b"ID3\4\0\0\0\0\1\1" + bytes(129) + b"".join(rest) + b"TAG" + bytes(125)
    assert np.array_equal(read(tagged).samples, without.samples)


def test_files_that_were_joined_are_heard_to_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    joined = read(sound(1) + sound(2))
    assert joined.duration == pytest.approx(16, abs=0.3)
    assert np.abs(joined.samples[-RATE:]).max() > 1000 / 32768
    assert capfd.readouterr().err == "", "libmpg123 has nothing to remark"


def test_junk_between_frames_is_passed_over(capfd: pytest.CaptureFixture[str]) -> None:
    header, *rest = frames(sound())
    middle = len(rest) // 2
    heard = read(header + b"".join(rest[:middle]) + b"junk" * 50 + b"".join(rest[middle:]))
    assert heard.duration == pytest.approx(8, abs=0.2)
    assert capfd.readouterr().err == ""


def test_cuts_are_told_with_and_without_a_xing_header(capfd: pytest.CaptureFixture[str]) -> None:
    whole = sound()
    header, *rest = frames(whole)
    without = b"".join(rest)
    for content in (whole, without):
        assert "last frame is not whole" in fails(content[:-10])
    assert f"has {len(rest) - 3:,} of {len(rest):,} frames" in fails(header + b"".join(rest[:-3]))
    assert capfd.readouterr().err == ""


def test_parts_of_several_rates_are_refused() -> None:
    assert "several sample rates" in fails(sound() + sound(rate=44100), "unreadable")
