"""Batches on their way to a device and back, with devices whose memory ends: fakes, on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyasd import ops
from pyasd.clips import find
from pyasd.features.log_mels import Extraction, extract
from pyasd.features.transfer import Fetched, MemoryLimit, Uploader, is_lost, too_large

CPU = torch.device("cpu")


def no_memory() -> torch.cuda.OutOfMemoryError:
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


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


@pytest.mark.parametrize("how", [MemoryError(), "torch"])
def test_the_host_s_memory_ends_too(how: Any) -> None:
    def work(items: Sequence[int]) -> int:
        if 1 in items:
            if how == "torch":
                torch.empty(1 << 60)  # asks for more than there can be
            raise how
        return sum(items)

    with pytest.warns(UserWarning, match="1 clips at once fit"):
        done = MemoryLimit(CPU).run(work, range(3))
    assert done == [(1, 0), (1, None), (1, 2)]


def test_a_clip_that_a_gpu_has_no_memory_for_may_go_to_the_cpu() -> None:
    assert too_large("a.wav", torch.device("cuda:1")).endswith("cut it into shorter ones, or give device='cpu'")


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        MemoryLimit(CPU).run(lambda items: 1 / 0, range(3))


def test_what_a_lost_device_looks_like() -> None:
    assert is_lost(RuntimeError("CUDA error: an illegal memory access was encountered\nmore"))
    assert is_lost(RuntimeError("CUDA: an illegal memory access was encountered"))  # our own extension's
    assert is_lost(RuntimeError("HIP error: unspecified launch failure"))
    assert not is_lost(no_memory())
    assert not is_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_lost(ValueError("CUDA error"))
    if hasattr(torch, "AcceleratorError"):
        assert is_lost(torch.AcceleratorError("device-side assert triggered"))


def test_log_mels_too_go_through_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    lengths = [3000, 4000, 9000, 3000, 3000, 5000]
    clips = list(find([(3000 * rng.standard_normal(n)).astype(np.int16) for n in lengths], sample_rate=16000))
    wanted, real = Extraction(ops.LogMelPlan()), ops.log_mel
    expected = [item.log_mel for item in extract(clips, wanted)]

    def small(samples: Tensor, *args: Any, **how: Any) -> Any:
        if samples.numel() > 8500:
            raise no_memory()
        return real(samples, *args, **how)

    monkeypatch.setattr(ops, "log_mel", small)
    with pytest.warns(UserWarning, match="short of memory"):
        found = list(extract(clips, wanted))
    assert [item.error.status if item.error else "ok" for item in found] == ["ok"] * 2 + ["out-of-memory"] + ["ok"] * 3
    for item, log_mel in zip(found, expected, strict=True):
        if item.error is None:
            assert item.log_mel is not None
            assert log_mel is not None
            assert torch.equal(item.log_mel, log_mel)
