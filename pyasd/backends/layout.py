"""Tensors as kernels take them: memory that others hand over may be strided, or begin where no element may."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor


class Layer(TypedDict):
    """A dense layer as the extensions take it: sizes, and the addresses of its weight `[outputs, inputs]` and bias."""

    inputs: int
    outputs: int
    weight: int
    bias: int


def layer(weight: Tensor, bias: Tensor) -> Layer:
    """Return a layer of contiguous tensors, which must outlive it."""
    outputs, inputs = weight.shape
    return Layer(inputs=inputs, outputs=outputs, weight=weight.data_ptr(), bias=bias.data_ptr())


def whole(x: Tensor) -> Tensor:
    """Return `x`, or an aligned copy of it that is contiguous."""
    return _aligned(x.contiguous())


def whole_rows(x: Tensor) -> Tensor:
    """Return `x`, or an aligned copy whose rows are contiguous."""
    return _aligned(x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous())


def is_capturing(device: torch.device) -> bool:
    """Return whether what is enqueued on `device` goes into a CUDA graph instead."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def refuse_in_capture(device: torch.device, remedy: str) -> None:
    """Raise a RuntimeError, with the remedy, where what follows would copy from the host into a CUDA graph.

    When that is replayed, the memory copied from is another's.
    """
    if is_capturing(device):
        raise RuntimeError(f"a CUDA graph can't hold what is copied from the host: {remedy}")


def without_waiting(table: Tensor, device: torch.device) -> Tensor:
    """Copy a table of the host's to `device`; on a GPU through pinned memory, so that the host doesn't wait for it.

    Raises:
        RuntimeError: in a CUDA graph, see `refuse_in_capture`.
    """
    refuse_in_capture(device, "capture clips of one length a graph")
    return (table.pin_memory() if device.type == "cuda" else table).to(device, non_blocking=True)


def _aligned(x: Tensor) -> Tensor:
    return x if x.data_ptr() % x.element_size() == 0 else x.clone()
