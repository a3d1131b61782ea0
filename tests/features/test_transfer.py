"""Batches on their way to a device and back, with devices whose memory ends or that fail: fakes, on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from pyasd import models, ops
from pyasd.clips import find
from pyasd.detector import Detector
from pyasd.errors import DeviceLost
from pyasd.features import log_mels as features
from pyasd.features.log_mels import extract
from pyasd.features.transfer import Fetched, MemoryLimit, Uploader, is_lost
from pyasd.fitting import fit
from pyasd.tables import table as results

CPU = torch.device("cpu")
TINY: dict[str, Any] = {"n_mels": 16, "hidden": (8, 8), "components": 2, "epochs": 2, "batch_size": 64}
COUNT = 30
WORDS = ["clip", "duration", "status", "error"]


def no_memory() -> torch.cuda.OutOfMemoryError:
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def log_mels(count: int = COUNT) -> list[np.ndarray]:
    """Of unequal lengths."""
    rng = np.random.default_rng(0)
    return [rng.normal(-40, 8, (20 + i % 7, 16)).astype(np.float32) for i in range(count)]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return fit(log_mels(12), features="log-mel", members=("group-made", "autoencoder"), **TINY)


@pytest.fixture(scope="module")
def expected(detector: Detector) -> pd.DataFrame:
    return detector.score(log_mels(), features="log-mel", device="cpu")


def scoring(monkeypatch: pytest.MonkeyPatch, spy: Callable[[Sequence[Tensor]], None]) -> None:
    """`spy` sees the clips of each batch before they are scored."""
    real = models.score_many

    def score_many(scorer: Any, log_mels: Sequence[Tensor], ids: Sequence[str | None]) -> Tensor:
        spy(log_mels)
        return real(scorer, log_mels, ids)

    monkeypatch.setattr(models, "score_many", score_many)


# -- parts -------------------------------------------------------------------------------------------------------


def test_samples_are_padded_with_zeros_and_keep_their_type() -> None:
    clips = [np.arange(1, 4, dtype=np.int16), np.arange(1, 6, dtype=np.int16)]
    up = Uploader(CPU)
    assert up(clips).tolist() == [[1, 2, 3, 0, 0], [1, 2, 3, 4, 5]]
    assert up(clips).dtype == torch.int16
    assert up([clips[0].astype(np.float32)]).dtype == torch.float32


def test_fetched_values_are_the_tensor_s() -> None:
    assert Fetched(torch.arange(5)[::2]).numpy().tolist() == [0, 2, 4]


@pytest.mark.parametrize(("room", "parts"), [(99, [10]), (5, [5, 5]), (4, [3, 3, 3, 1]), (1, [1] * 10)])
def test_work_is_halved_until_it_fits(room: int, parts: list[int]) -> None:
    limit, tried = MemoryLimit(CPU), []

    def work(items: Sequence[int]) -> int:
        tried.append(len(items))
        if len(items) > room:
            raise no_memory()
        return sum(items)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        done = limit.run(work, range(10))
        assert [count for count, _ in done] == parts
        assert sum(result for _, result in done if result is not None) == 45
        tried.clear()
        limit.run(work, range(10))
        assert max(tried) <= room, "what didn't fit is not tried again"
    assert len(told) == (room < 10), "told once"
    assert not told or f"{max(parts)} clips at once fit" in str(told[0].message)


def test_a_single_item_that_does_not_fit_costs_only_itself() -> None:
    def work(items: Sequence[int]) -> int:
        if 6 in items:
            raise no_memory()
        return sum(items)

    with pytest.warns(UserWarning, match="1 clips at once fit"):
        done = MemoryLimit(CPU).run(work, range(8))
    assert sum(count for count, _ in done) == 8
    assert [result for count, result in done if count == 1 and result is None] == [None]
    assert sum(result for _, result in done if result is not None) == sum(range(8)) - 6


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        MemoryLimit(CPU).run(lambda items: 1 / 0, range(3))


def test_what_a_lost_device_looks_like() -> None:
    assert is_lost(RuntimeError("CUDA error: an illegal memory access was encountered\nmore"))
    assert is_lost(RuntimeError("HIP error: unspecified launch failure"))
    assert not is_lost(no_memory())
    assert not is_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_lost(ValueError("CUDA error"))
    if hasattr(torch, "AcceleratorError"):
        assert is_lost(torch.AcceleratorError("device-side assert triggered"))


# -- the way through the detector ----------------------------------------------------------------------------------


def test_several_devices_take_turns_and_rows_keep_their_order(
    detector: Detector, expected: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []
    made: list[Uploader] = []
    init, finish = Uploader.__init__, features._finish

    def note(self: Uploader, device: torch.device) -> None:
        init(self, device)
        made.append(self)

    def noted(batch: Any, *, up: Uploader, **how: Any) -> Any:
        turns.append(made.index(up))
        return finish(batch, up=up, **how)

    monkeypatch.setattr(Uploader, "__init__", note)
    monkeypatch.setattr(features, "_finish", noted)
    monkeypatch.setitem(features.BATCH_CLIPS, "cpu", 4)
    monkeypatch.setattr("pyasd.detector.BATCH_CLIPS", 4)
    table = detector.score(log_mels(), features="log-mel", device="cpu,cpu,cpu")
    pd.testing.assert_frame_equal(table, expected)
    assert turns == [0, 1, 2, 0, 1, 2, 0, 1]


def test_results_are_fetched_later_than_the_next_batch_begins(
    detector: Detector, expected: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a device that isn't the CPU the host runs ahead of it: two batches are on their way when one is fetched."""
    events: list[str] = []
    real = Fetched.numpy
    scoring(monkeypatch, lambda log_mels: events.append("begin"))
    monkeypatch.setattr(Fetched, "numpy", lambda self: events.append("fetch") or real(self))
    monkeypatch.setattr("pyasd.detector.BATCH_CLIPS", 10)
    for device, first in (("cpu", ["begin", "begin", "fetch"]), ("cpu,cpu", ["begin"] * 6 + ["fetch"])):
        events.clear()
        pd.testing.assert_frame_equal(detector.score(log_mels(), features="log-mel", device=device), expected)
        assert events[: len(first)] == first, "two members: two begin and two fetch a batch"
        assert events.count("begin") == events.count("fetch") == 6


def test_scoring_goes_on_with_smaller_batches(
    detector: Detector, expected: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def spy(log_mels: Sequence[Tensor]) -> None:
        if len(log_mels) > 4:
            raise no_memory()
        sizes.append(len(log_mels))

    scoring(monkeypatch, spy)
    with pytest.warns(UserWarning, match="cpu is short of memory: 4 clips at once fit"):
        table = detector.score(log_mels(), features="log-mel")
    pd.testing.assert_frame_equal(table, expected)
    assert sum(sizes) == 2 * COUNT, "each clip once by each member"


def test_a_clip_that_is_too_large_has_its_reason(
    detector: Detector, expected: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = log_mels()
    clips[11] = np.concatenate([clips[11]] * 5)

    def spy(log_mels: Sequence[Tensor]) -> None:
        if any(len(x) > 50 for x in log_mels):
            raise no_memory()

    scoring(monkeypatch, spy)
    with pytest.warns(UserWarning, match="short of memory"):
        table = detector.score(clips, features="log-mel")
    assert table["status"].tolist() == ["ok"] * 11 + ["out-of-memory"] + ["ok"] * 18
    assert "too little memory for this clip: cut it into shorter ones, or give device='cpu'" in table["error"][11]
    assert np.isnan(table["score"][11])
    rest = [i for i in range(COUNT) if i != 11]
    assert table["score"][rest].tolist() == expected["score"][rest].tolist()


def test_log_mels_too_go_through_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    lengths = [3000, 4000, 9000, 3000, 3000, 5000]
    clips = list(find([(3000 * rng.standard_normal(n)).astype(np.int16) for n in lengths], sample_rate=16000))
    plan, real = ops.plan(), ops.log_mel
    expected = [item.log_mel for item in extract(clips, plan)]

    def small(samples: Tensor, *args: Any, **how: Any) -> Any:
        if samples.numel() > 8500:
            raise no_memory()
        return real(samples, *args, **how)

    monkeypatch.setattr(ops, "log_mel", small)
    with pytest.warns(UserWarning, match="short of memory"):
        found = list(extract(clips, plan))
    assert [item.error.status if item.error else "ok" for item in found] == ["ok"] * 2 + ["out-of-memory"] + ["ok"] * 3
    assert all(torch.equal(a.log_mel, b) for a, b in zip(found, expected, strict=True) if a.error is None)


@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_the_rows_before_a_device_was_lost_are_safe(
    detector: Detector, expected: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, extension: str
) -> None:
    calls = 0

    def spy(log_mels: Sequence[Tensor]) -> None:
        nonlocal calls
        calls += 1
        if calls > 8:  # two members: in the fifth batch
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    scoring(monkeypatch, spy)
    monkeypatch.setattr("pyasd.detector.BATCH_CLIPS", 4)
    out = tmp_path / f"scores.{extension}"
    with pytest.raises(DeviceLost, match=r"when 16 of 30 clips had their rows; those are in .*partial.*illegal memory"):
        detector.score(log_mels(), features="log-mel", out=out)
    kept = results.read(f"{out}.partial")
    assert len(kept) == 16
    np.testing.assert_allclose(kept["score"], expected["score"][:16])
    calls = 0
    with pytest.raises(DeviceLost, match=r"had their rows\. Score the others on another device"):
        detector.score(log_mels(), features="log-mel")


def test_devices_that_do_not_go_together(detector: Detector) -> None:
    with pytest.raises(ValueError, match="'cpu,nonsense' here"):
        detector.score(log_mels(), features="log-mel", device="cpu,nonsense")
    with pytest.raises(ValueError, match="of one type"):
        detector.score(log_mels(), features="log-mel", device="cpu,meta")


# -- with a GPU ------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_a_gpu_gives_the_cpus_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of unequal length and a bad one, in several batches, on every GPU that is there."""
    rng = np.random.default_rng(0)
    sounds = [(3000 * rng.standard_normal(16_000 + 700 * (i % 5))).astype(np.int16) for i in range(40)]
    sounds[7] = sounds[7][:100]
    fitted = fit(sounds[:6], sample_rate=16000, hidden=(32, 16), components=3, epochs=1, device="cpu")
    expected = fitted.score(sounds, sample_rate=16000, device="cpu")
    monkeypatch.setitem(features.BATCH_CLIPS, "cuda", 8)
    devices = ",".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
    for device in ("cuda", devices):
        table = fitted.score(sounds, sample_rate=16000, device=device)
        pd.testing.assert_frame_equal(table[WORDS], expected[WORDS])
        np.testing.assert_allclose(table["score.group-made"], expected["score.group-made"], rtol=1e-5)
