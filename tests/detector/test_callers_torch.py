"""Torch's settings are the caller's: whatever they are, models and scores are those of a plain call, and they stay."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import pyasd
from pyasd.clips import find
from pyasd.compute import plain_torch
from pyasd.detector import Detector, fit
from pyasd.detector.scoring import Scoring

MELS = 16
SETTINGS: dict[str, Any] = {
    "members": ("group-made", "mobilenet", "autoencoder", "spectrum", "neighbours"),
    "n_mels": MELS,
    "components": 2,
    "width": 0.1,
    "image_frames": 32,
    "epochs": 1,
    "batch_size": 16,
    "validation": 0.25,
}
HOW: dict[str, Any] = {"features": "log-mel", "device": "cpu"}
IDS = ["00", "01"] * 4


def log_mels(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).normal(-40, 8, (count, 40, MELS)).astype(np.float32))


@contextlib.contextmanager
def default_type(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def settings() -> tuple[object, ...]:
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
    )


CALLERS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_type(torch.float64),
    "bfloat16": lambda: default_type(torch.bfloat16),
    "device": lambda: torch.device("meta"),
}


@pytest.fixture(scope="module")
def plain() -> Detector:
    return fit(log_mels(8), ids=IDS, **HOW, **SETTINGS)


def results(detector: Detector) -> list[Any]:
    new = log_mels(4, 1)
    table = detector.score(new, ids="00", **HOW)
    calibrated = detector.calibrate(new, ids="00", **HOW).score(new, ids="00", false_alarms=0.4, **HOW)
    maps = [detector.explain(new[0], ids="00", member=x, **HOW).score_map for x in detector.recipe.names]
    return [table, calibrated, *map(pd.DataFrame, maps)]


@pytest.mark.filterwarnings("ignore:.*clips:UserWarning")
@pytest.mark.parametrize("caller", CALLERS)
def test_a_caller_s_settings_change_nothing_and_stay(caller: str, plain: Detector, tmp_path: Path) -> None:
    if caller == "device" and tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8):
        pytest.skip("torch 2.7 has operators in Python that see the caller's device, whatever is set within")
    plain.save(tmp_path / "plain")
    expected = results(plain)
    with CALLERS[caller]():
        before = settings()
        fitted = fit(log_mels(8), ids=IDS, out=tmp_path / "other", **HOW, **SETTINGS)
        got = results(fitted)
        of_loaded = results(pyasd.load(tmp_path / "plain"))
        assert settings() == before
    assert (tmp_path / "other").read_bytes() == (tmp_path / "plain").read_bytes()
    for some in (got, of_loaded, results(fitted)):
        for one, other in zip(some, expected, strict=True):
            pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_between_rows_the_settings_are_the_caller_s(plain: Detector) -> None:
    clips = list(find(log_mels(3, 1), ids="00", features="log-mel"))
    expected = [row.score for row in Scoring(plain).rows(clips)]
    with default_type(torch.float64), torch.inference_mode():
        before, scores = settings(), []
        for row in Scoring(plain).rows(iter(clips)):
            scores.append(row.score)
            assert settings() == before
        rows = Scoring(plain).rows(clips)
        next(rows)
        del rows  # abandoned
        assert settings() == before
    assert scores == expected


def test_the_default_type_is_given_back_by_the_last_of_several_threads() -> None:
    first_left = Barrier(2)

    def leaves_first() -> None:
        with plain_torch():
            first_left.wait(20)  # both are in
        first_left.wait(20)

    def leaves_last() -> torch.dtype:
        with plain_torch():
            first_left.wait(20)
            first_left.wait(20)
            return torch.get_default_dtype()

    with default_type(torch.float64), ThreadPoolExecutor(2) as threads:
        first, last = threads.submit(leaves_first), threads.submit(leaves_last)
        first.result()
        assert last.result() == torch.float32
        assert torch.get_default_dtype() == torch.float64


FORK = """
import os, signal
import numpy as np, torch
import pyasd
torch.set_num_threads(2)
clips = list(np.random.default_rng(0).normal(-40, 8, (6, 3000, 128)).astype(np.float32))
how = {"ids": "00", "features": "log-mel", "device": "cpu", "backend": "reference"}
def work():
    detector = pyasd.fit(clips, members=("spectrum",), **how)
    map = detector.explain(clips[0], **how).score_map
    return len(detector.score(clips, **how)), map.shape
expected = work()
if (child := os.fork()) == 0:
    signal.alarm(40)  # ends it where it hangs
    os._exit(0 if work() == expected else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert torch.get_num_threads() == 2
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_process_forked_after_work_in_several_threads_does_not_hang() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
