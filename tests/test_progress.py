"""Progress: nobody is told by default, and a place stands before what is told."""

from __future__ import annotations

import inspect

import pytest

from pyasd import detector
from pyasd.detector.scoring import Scoring
from pyasd.progress import Progress, silent, within
from pyasd.training.run import Run


def test_silence_takes_everything() -> None:
    heard: Progress = silent
    heard("reading", 1, 2, "clip")


def test_a_place_stands_before_the_stage() -> None:
    heard: list[tuple[str, int, int, str]] = []
    tell = within(within(lambda *step: heard.append(step), "2/12 fan"), "fit")
    tell("reading", 1, 5, "a.wav")
    tell("training", 2, 7, "")
    assert heard == [("2/12 fan: fit: reading", 1, 5, "a.wav"), ("2/12 fan: fit: training", 2, 7, "")]


@pytest.mark.parametrize("function", [detector.fit, detector.score, detector.Detector.score, Scoring])
def test_whoever_does_not_care_gives_nothing(function: object) -> None:
    assert inspect.signature(function).parameters["progress"].default is silent  # type: ignore[arg-type]
    assert Run().progress is silent
