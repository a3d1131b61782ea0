"""Score or load one damaged file through the public functions, and judge what comes of it.

`python -m tests.damaged.judge FOLDER` judges the cases that stand on its standard input, a line `KIND SEED` each, and
answers with a line of JSON each: so a case that hangs or crashes costs a process, not the tests.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import tempfile
import traceback
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import pyasd
from pyasd.errors import PyasdError

from .kinds import ARCHIVED, AUDIO, CLIPS, RATE, damaged, encoded, sound

MEMORY = 3 << 30
"""Bytes that a case may take beside what is there."""

CHECKED = ("flac", "ogg", "zip", "model")
"""Kinds with checksums: any other score than the whole file's is made up. Of the others, any other length is."""

UNCHECKED = {"au": slice(12, 24)}
"""The part of a header that nothing else in the file says too, so that no reader could tell other numbers in it: the
encoding, the sample rate and the channels of an AU file. Lengths that follow from it aren't counted."""

WRONG_USAGE = (PyasdError, OSError, ValueError)
"""What the command line turns into a line of its own."""

Verdict = tuple[str, str]
"""A word ("same", "told", "untold", "made-up" or "traceback") and what happened."""


@lru_cache(maxsize=None)
def _detector(model: Path) -> pyasd.Detector:
    return pyasd.load(model)


def _explained(error: BaseException, path: Path) -> Verdict:
    """Judge an exception: it must be one that is shown without a traceback, and name the file."""
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, WRONG_USAGE) and path.name in str(error):
        return "told", what
    return "traceback", f"{what}\n{''.join(traceback.format_tb(error.__traceback__)[-3:])}"


def judge(kind: str, seed: int, folder: Path) -> Verdict:
    """Judge one case. `folder` has a whole "model.safetensors", and room for the damaged file."""
    model = folder / "model.safetensors"
    before, after = damaged(kind, seed, model)
    path = folder / f"damaged.{ {'model': 'safetensors', 'recipe': 'toml'}.get(kind, kind) }"
    path.write_bytes(after)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if kind == "recipe":
                pyasd.fit([sound(x) for x in range(4)], path, sample_rate=RATE, epochs=1)
                return ("same" if after == before else "untold"), ""
            as_model = kind == "model"
            table = pyasd.score([sound()], path, sample_rate=RATE) if as_model else _detector(model).score(path)
    except BaseException as error:
        return _explained(error, path)
    rows = table.to_dict("records")
    if kind in ARCHIVED:
        return _judge_archive(rows, path, model, [str(x.message) for x in caught])
    (row,) = rows
    told = _told(row, path.name if kind != "model" else row["clip"])
    if told is not None:
        return told
    if kind == "model":
        (score,) = _scores(model)[:1]
        return ("same", "") if row["score"] == score else ("made-up", f"score {row['score']} for {score}")
    return _judge_audio(path, row, before, after, model)


def _told(row: dict[str, Any], name: str) -> Verdict | None:
    """Judge a row that isn't plainly "ok"; `None` for one that is."""
    if row["status"] != "ok":
        scored = not math.isnan(row["score"]) if row["score"] is not None else False
        if not scored and name not in str(row["error"]):
            return "traceback", f"status {row['status']} with an error that doesn't name the file: {row['error']}"
        return "told", f"{row['status']}: {row['error']}"
    if row["score"] is None or not math.isfinite(row["score"]):
        return "made-up", f"score {row['score']}, ok"
    return ("told", str(row["note"])) if row.get("note") else None


@lru_cache(maxsize=None)
def _scores(model: Path) -> list[float]:
    """The scores of whole clips."""
    clips = [np.asarray(sound(seed)) for seed in range(CLIPS)]
    return list(_detector(model).score(clips, sample_rate=RATE)["score"])


@lru_cache(maxsize=None)
def _archived(kind: str, model: Path) -> list[float]:
    """The scores of the clips in a whole archive, as files of their own."""
    suffix = ARCHIVED[kind]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(CLIPS):
            soundfile.write(Path(folder) / f"{number}{suffix}", sound(number), RATE, subtype="PCM_16")
        return list(_detector(model).score(folder)["score"])


def _judge_archive(rows: list[dict[str, Any]], path: Path, model: Path, told: list[str]) -> Verdict:
    """Judge the rows of an archive: each clip's has its whole score or says why not, and none is missing unsaid."""
    verdicts = [_told(row, path.name) for row in rows]
    for verdict in verdicts:
        if verdict is not None and verdict[0] != "told":
            return verdict
    for row, verdict in zip(rows, verdicts, strict=True):
        if verdict is None and row["score"] not in _archived(path.suffix[1:], model):
            return "made-up", f"{row['clip']}: score {row['score']}"
    if len(rows) < CLIPS and not any(path.name in text for text in told) and not any(verdicts):
        return "made-up", f"{len(rows)} of {CLIPS} rows, and no word of the others"
    return ("told" if any(verdicts) or told else "same"), str(told)


@lru_cache(maxsize=None)
def _whole_score(content: bytes, kind: str, model: Path) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"whole.{kind}"
        path.write_bytes(content)
        row = _detector(model).score(path).iloc[0]
    assert row["status"] == "ok"
    return row["score"], row["duration"]


def _judge_audio(path: Path, row: dict[str, Any], before: bytes, after: bytes, model: Path) -> Verdict:
    kind = path.suffix[1:]
    score, duration = _whole_score(before, kind, model)
    if row["score"] == score:
        return "same", ""
    if kind in CHECKED:
        return "made-up", f"score {row['score']} for {score}, {row['duration']} s for {duration} s"
    rate = soundfile.info(path).samplerate
    samples, expected = round(row["duration"] * rate), round(duration * RATE)
    unchecked = UNCHECKED.get(kind, slice(0))
    if samples != expected and before[unchecked] == after[unchecked]:
        return "made-up", f"{samples} samples at {rate} Hz for {expected}, score {row['score']} for {score}"
    return "untold", f"score {row['score']} for {score}"


def main() -> None:
    """Judge the cases on standard input."""
    folder = Path(sys.argv[1])
    _detector(folder / "model.safetensors")
    for kind in AUDIO:
        encoded(kind, 0)
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    print("ready", flush=True)
    for line in sys.stdin:
        kind, seed = line.split()
        print(json.dumps(judge(kind, int(seed), folder)), flush=True)


if __name__ == "__main__":
    main()
