"""Clips to a GPU and scores back, without waiting for it; what becomes of a batch when its memory ends."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")


def is_lost(error: BaseException) -> bool:
    """Whether `error` means that a GPU can't be used any more in this process."""
    kind = getattr(torch, "AcceleratorError", None)  # from torch 2.8 on; RuntimeError before
    return (kind is not None and isinstance(error, kind)) or (
        isinstance(error, RuntimeError)
        and not isinstance(error, torch.cuda.OutOfMemoryError)
        and any(words in str(error) for words in ("CUDA error", "CUDA: ", "HIP error"))
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` means that a device's memory, or the host's, has ended. torch has no kind of its own for the
    latter.
    """
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


class Uploader:
    """Takes samples to a device: on a GPU through pinned memory and on a stream of its own, so that the next batch is
    on its way while kernels work on this one. torch's allocator hands the same few pinned buffers out again as soon as
    they have been copied from.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        stream: Any = torch.cuda.Stream
        self._stream = stream(device) if device.type == "cuda" else None

    def __call__(self, clips: Sequence[NDArray[Any]]) -> Tensor:
        """Clips of one type, `[n]` each, as `[clips, longest]` on the device, padded with zeros. The current stream
        waits for them, the host doesn't.
        """
        dtype = torch.from_numpy(np.empty(0, clips[0].dtype)).dtype
        padded = torch.empty(len(clips), max(map(len, clips)), dtype=dtype, pin_memory=self._stream is not None)
        for row, samples in zip(padded.numpy(), clips, strict=True):
            row[: len(samples)] = samples
            row[len(samples) :] = 0
        if self._stream is None:
            return padded.to(self.device)
        with torch.cuda.stream(self._stream):
            there = padded.to(self.device, non_blocking=True)
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        there.record_stream(current)
        return there


class Fetched:
    """A tensor on its way to the host: `numpy()` waits for it, and for nothing that was given to the GPU later."""

    def __init__(self, tensor: Tensor) -> None:
        self._host = tensor.to("cpu", non_blocking=True)  # from a GPU into pinned memory
        self._event: Any = None
        if tensor.device.type == "cuda":
            self._event = torch.cuda.current_stream(tensor.device).record_event()

    def numpy(self) -> NDArray[Any]:
        """The values, once they are there."""
        if self._event is not None:
            self._event.synchronize()
        return self._host.numpy()


class MemoryLimit:
    """How many clips a device takes at once: all of a batch, until its memory ends; from then on half as many.

    Attributes:
        most: clips that go together; `None` is any number.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.most: int | None = None

    def run(self, work: Callable[[Sequence[Item]], Result], items: Sequence[Item]) -> list[tuple[int, Result | None]]:
        """`work` of all items, in parts: how many items each part has, and its result; `None` for a single item that
        is too large by itself. Warns with the number that fits when that has shrunk.
        """
        parts: list[tuple[int, Result | None]] = []
        first, before = 0, self.most
        while first < len(items):
            some = items[first : first + (self.most or len(items))]
            result, fits = None, True
            try:
                result = work(some)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                fits = False
            if not fits:  # here, since the exception kept what the failed attempt had allocated
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                if len(some) > 1:
                    self.most = (len(some) + 1) // 2
                    continue
            parts.append((len(some), result))
            first += len(some)
        if self.most != before:
            warnings.warn(
                f"{self.device} is short of memory: {self.most} clips at once fit, and no more go together from now on",
                stacklevel=2,
            )
        return parts


def too_large(name: str, device: torch.device) -> str:
    """Return the message for a clip that a device has no memory for."""
    other = ", or give device='cpu'" if device.type != "cpu" else ""
    return f"{name}: {device} has too little memory for this clip: cut it into shorter ones{other}"
