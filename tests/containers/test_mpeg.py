"""MP3: what has no Xing header, what was joined, what was cut."""

from __future__ import annotations

import numpy as np
import pytest

from pyasd.containers import mpeg

from .encoded import RATE, encoded, fails, noise, read

pytest.importorskip("soundfile", "0.13", reason="older versions write no frames of varying length")


def sound(seed: int = 0, rate: int = RATE) -> bytes:
    """Half of it is quiet, half loud: frames of very different lengths, where the bit rate may vary."""
    samples = noise(8 * rate, seed=seed)
    samples[: 6 * rate] = 0
    return encoded("MP3", samples, rate, subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.1)


def frames(content: bytes) -> list[bytes]:
    places, *between = mpeg._walk(content)
    assert between == [False, False]
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
    assert not joined.unfinished
    assert np.array_equal(joined.samples, read(b"".join(frames(sound(1))[1:] + frames(sound(2))[1:])).samples)
    assert np.abs(joined.samples[-RATE:]).max() > 1000 / 32768
    assert capfd.readouterr().err == "", "libmpg123 has nothing to remark"


def test_junk_between_frames_is_passed_over(capfd: pytest.CaptureFixture[str]) -> None:
    header, *rest = frames(sound())
    middle = len(rest) // 2
    heard = read(header + b"".join(rest[:middle]) + b"junk" * 50 + b"".join(rest[middle:]))
    assert heard.duration == pytest.approx(8, abs=0.2)
    assert heard.unfinished
    assert capfd.readouterr().err == ""


def test_more_frames_than_a_xing_header_says_are_remarked() -> None:
    header, *rest = frames(sound())
    assert not read(header + b"".join(rest)).unfinished
    heard = read(header + b"".join(rest + rest[-5:]))
    assert heard.unfinished
    assert heard.duration > read(header + b"".join(rest)).duration


@pytest.mark.parametrize("damage", [b"XinG", b"\1", b"\0\0\0\6"])
def test_a_damaged_xing_header_is_no_sound(damage: bytes) -> None:
    header, *rest = frames(sound())
    tag = header.find(b"Xing")
    place = {4: tag, 1: 8}[len(damage)] + (4 if damage.startswith(b"\0") else 0)
    heard = read(header[:place] + damage + header[place + len(damage) :] + b"".join(rest))
    assert heard.unfinished
    assert np.array_equal(heard.samples, read(b"".join(rest)).samples)


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
