"""Tensors as kernels take them: memory that others hand over may be strided, or begin where no element may."""

from __future__ import annotations

from torch import Tensor


def whole(x: Tensor) -> Tensor:
    """Return `x`, or an aligned copy of it that is contiguous."""
    return _aligned(x.contiguous())


def whole_rows(x: Tensor) -> Tensor:
    """Return `x`, or an aligned copy whose rows are contiguous."""
    return _aligned(x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous())


def _aligned(x: Tensor) -> Tensor:
    return x if x.data_ptr() % x.element_size() == 0 else x.clone()
