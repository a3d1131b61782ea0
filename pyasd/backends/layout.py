"""Tensors as kernels take them: memory that others hand over may be strided, or begin where no element may."""

from __future__ import annotations

from typing import TypedDict

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


def _aligned(x: Tensor) -> Tensor:
    return x if x.data_ptr() % x.element_size() == 0 else x.clone()
