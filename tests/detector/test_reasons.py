"""Reasons: of audio with a known fault, in seconds, Hz and dB; in words; for models that keep less."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from pyasd.detector import Detector, Reason, fit
from pyasd.detector.reasons import hertz
from pyasd.recipes import Recipe

RATE = 16000
HOW: dict[str, Any] = {"sample_rate": RATE, "ids": "00", "device": "cpu"}


def hiss(seed: int, seconds: float = 4.0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 0.05, round(seconds * RATE)).astype(np.float32)


def with_tone(x: NDArray[np.float32], hz: float, start: float, end: float) -> NDArray[np.float32]:
    time = np.arange(len(x)) / RATE
    tone = 0.05 * np.sin(2 * np.pi * hz * time) * ((time >= start) & (time < end))
    return (x + tone).astype(np.float32)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return fit([hiss(seed) for seed in range(12)], "fast", **HOW)


def test_a_tone_is_told(detector: Detector) -> None:
    normal, faulty = detector.reasons([hiss(100), with_tone(hiss(101), 2300, 1.0, 3.0)], **HOW)
    assert normal.reasons == ()
    (reason,) = faulty.reasons
    assert [reason.start, reason.end] == pytest.approx([1, 3], abs=0.1)
    assert 2200 < reason.low < 2300 < reason.high < 2400
    table = detector.score([with_tone(hiss(101), 2300, 1.0, 3.0)], **HOW)
    assert faulty.score == table["score"][0]
    assert list(faulty.members) == ["spectrum", "spread", "modulation", "neighbours"]
    assert np.mean(list(faulty.members.values())) == pytest.approx(table["score.mean"][0])
    assert max(faulty.members.values()) == table["score.max"][0] == faulty.members[faulty.raised_by]
    assert str(reason) == (
        f"{reason.start:.1f} to {reason.end:.1f} s, {hertz(reason.low, reason.high)}: {reason.level:.0f} dB above what "
        f"this machine does, {reason.deviations:.1f} standard deviations (tone)"
    )


def test_the_level_is_that_of_the_sound(detector: Detector) -> None:
    """A gain of 6.02 dB is one of 6.02 dB."""
    (louder,) = detector.reasons([2 * hiss(100)], **HOW)
    (reason,) = louder.reasons
    assert reason.kind == "level"
    assert reason.level == pytest.approx(20 * math.log10(2), abs=0.1)


def test_clipping_and_silence_are_told(detector: Detector) -> None:
    overdriven, silent = detector.reasons([np.clip(hiss(100), -0.06, 0.06), np.zeros(4 * RATE, np.float32)], **HOW)
    first = overdriven.reasons[0]
    assert first.kind == "clipping"
    share = np.mean(np.abs(hiss(100)) >= 0.06)
    assert first.level == pytest.approx(share, rel=0.01)
    assert str(first) == f"{100 * share:.2g} % of the samples are at the limits: overdriven (clipping)"
    assert (silent.status, silent.reasons) == ("silent", ())
    assert silent.score is not None


def test_a_broken_clip_costs_its_own(detector: Detector, tmp_path: Path) -> None:
    broken, good = tmp_path / "a.wav", tmp_path / "b.wav"
    broken.write_bytes(b"RIFF")
    soundfile.write(good, with_tone(hiss(1), 1000, 0, 4), RATE)
    told = detector.reasons([broken, good], ids="00")
    assert [x.score is None for x in told] == [True, False]
    assert (told[0].reasons, told[0].raised_by) == ((), "")
    assert str(broken) in told[0].error
    assert told[1].reasons[0].kind == "tone"


def test_ids_that_were_never_learnt(detector: Detector) -> None:
    clips = [with_tone(hiss(101), 2300, 1.0, 3.0)]
    refused, pooled = (detector.reasons(clips, **HOW | {"ids": "07"}, unknown_ids=how)[0] for how in ("refuse", "pool"))
    assert (refused.status, refused.score) == ("unknown-id", None)
    assert (pooled.status, pooled.reasons[0].kind) == ("pooled", "tone")


@pytest.mark.parametrize("kinds", [("spectrum", "group-made"), ("group-made",), ("neighbours", "autoencoder")])
def test_what_other_systems_keep_is_enough(kinds: tuple[str, ...]) -> None:
    changes: dict[str, Any] = {"epochs": 1} if {"group-made", "autoencoder"} & set(kinds) else {}
    detector = fit([hiss(seed) for seed in range(8)], Recipe.of_kinds(*kinds).override(**changes), **HOW)
    (told,) = detector.reasons([with_tone(hiss(101), 2300, 1.0, 2.0)], **HOW)
    assert told.reasons[0].kind == "tone"
    assert told.reasons[0].low < 2300 < told.reasons[0].high


def test_a_system_that_keeps_nothing_says_so() -> None:
    detector = fit([hiss(seed, 1) for seed in range(4)], Recipe.of_kinds("autoencoder").override(epochs=1), **HOW)
    with pytest.raises(ValueError, match=r"autoencoder keep nothing of what is usual.*system=\"fast\""):
        detector.reasons([hiss(0, 1)], **HOW)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (82, 164, "82 to 164 Hz"),
        (900, 1100, "900 to 1100 Hz"),
        (2100, 2600, "2.1 to 2.6 kHz"),
        (2260, 2370, "2.26 to 2.37 kHz"),
    ],
)
def test_frequencies_in_words(low: float, high: float, words: str) -> None:
    assert hertz(low, high) == words


def test_spread_in_words() -> None:
    said = str(Reason("spread", 0, 10, 2100, 2600, 3.04, 7.2))
    assert said == "its spread over time in 2.1 to 2.6 kHz is 3 times the usual, 7.2 standard deviations off"
    assert re.search(r"12 dB below .* 5\.1 standard", str(Reason("quieter", 0, 10, 100, 200, -12.3, -5.1)))
