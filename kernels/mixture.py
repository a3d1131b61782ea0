"""Mixture head, forward: log-likelihoods without the `windows x (3 * dims * components)` outputs in memory.

One launch per group of dimensions, so that the group's prefix of hidden units is a compile-time tile. A program owns a
tile of windows x dimensions, keeps its hidden units, and walks over the components: three products, then one step of
two running log-sum-exps. The tile sizes depend on the head alone, never on the batch: the same window gives the same
bits wherever it stands. README.md has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import products, tiles

Tensors = tuple[Tensor, Tensor, Tensor, Tensor]
"""`hidden` `[windows, hidden]`, `target` `[windows, dims]` (any strides), `weight` `[3 * dims * components, hidden]`
(logits, means, log scales) and `bias` `[3 * dims * components]`, all float32; or the gradients with respect to them."""

LOWEST = tl.constexpr(-3.4028234663852886e38)
HALF_LOG_TWO_PI = tl.constexpr(0.5 * math.log(2 * math.pi))


class Shape(Protocol):
    """The numbers that the kernels read of a head's shape."""

    @property
    def prefix(self) -> Sequence[int]:
        """Number of hidden units that each group sees."""

    @property
    def components(self) -> int:
        """Gaussians per dimension."""

    @property
    def log_scale_min(self) -> float:
        """Log scales are clamped to this from below."""


@triton.jit
def load_tile(rows, row_mask, first, prefix, COLUMNS: tl.constexpr, UPCAST: tl.constexpr):
    """`[rows, COLUMNS]`: columns `first ...` of the `rows` (pointers, `[rows, 1]`); from `prefix` on zeros, unread."""
    column = first + tl.arange(0, COLUMNS)
    tile = tl.load(rows + column[None, :], mask=row_mask[:, None] & (column < prefix)[None, :], other=0.0)
    if UPCAST:  # the interpreter's bfloat16 arithmetic is wrong; its products of float32 copies are the same numbers
        tile = tile.to(tl.float32)
    return tile


@triton.jit
def outputs(
    hidden, weight, bias, weight_stride, bias_stride, w_mask, d_mask, prefix,
    BLOCK_K: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Logit, mean and log scale of one component, each `[BLOCK_W, BLOCK_D]`, from rows of `hidden` and `weight`."""
    zeros = tl.zeros((hidden.shape[0], weight.shape[0]), tl.float32)
    logit = zeros + tl.load(bias, mask=d_mask, other=0.0)[None, :]
    mean = zeros + tl.load(bias + bias_stride, mask=d_mask, other=0.0)[None, :]
    log_scale = zeros + tl.load(bias + 2 * bias_stride, mask=d_mask, other=0.0)[None, :]
    for first in range(0, prefix, BLOCK_K):
        a = load_tile(hidden, w_mask, first, prefix, BLOCK_K, UPCAST)
        b = load_tile(weight, d_mask, first, prefix, BLOCK_K, UPCAST)
        logit = tl.dot(a, tl.trans(b), logit, input_precision=PRECISION)
        b = load_tile(weight + weight_stride, d_mask, first, prefix, BLOCK_K, UPCAST)
        mean = tl.dot(a, tl.trans(b), mean, input_precision=PRECISION)
        b = load_tile(weight + 2 * weight_stride, d_mask, first, prefix, BLOCK_K, UPCAST)
        log_scale = tl.dot(a, tl.trans(b), log_scale, input_precision=PRECISION)
    return logit, mean, log_scale


@triton.jit
def add_exp(peak, total, x):
    """One step of a running log-sum-exp, `peak + log(total)`, with one exponential; NaN stays NaN."""
    larger = x > peak
    e = tl.exp(tl.where(larger, peak - x, x - peak))
    return tl.where(larger, x, peak), tl.where(larger, total * e + 1.0, total + e)


@triton.jit
def log_density(x, logit, mean, log_scale, log_scale_min):
    """A component's logit plus log density (but for a constant), its standardised `x`, and 1 / scale.

    Backward subtracts from this number what forward found to be the largest of them. In the tails that is exact only
    if both compute the same bits, so there is nothing here for the compiler to contract.
    """
    log_scale = tl.where(log_scale < log_scale_min, log_scale_min, log_scale)  # keeps NaN
    inverse = tl.exp(-log_scale)
    z = (x - mean) * inverse
    return tl.fma(-0.5 * z, z, logit) - log_scale, z, inverse


@triton.jit(do_not_specialize=["windows"])
def density_kernel(
    hidden, target, weight, bias, out, log_total, logit_lse,
    windows, dims, prefix, log_scale_min,
    hidden_stride, target_stride, target_dim_stride, row_stride, weight_stride, bias_stride, out_stride, out_dim_stride,
    COMPONENTS: tl.constexpr, SUM: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """A tile of one group. Writes `out[window, dim]`, or with `SUM` `out[window, tile]`, the tile's sum. For
    backward, `out` is the largest log density instead; `log_total`, added to it, makes their log-sum-exp, and
    `logit_lse` is that of the logits.
    """
    w = tl.program_id(0).to(tl.int64) * BLOCK_W + tl.arange(0, BLOCK_W)
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    w_mask, d_mask = w < windows, d < dims
    mask = w_mask[:, None] & d_mask[None, :]
    hidden += w[:, None] * hidden_stride
    weight += (d * COMPONENTS)[:, None] * row_stride
    bias += d * COMPONENTS
    at = w[:, None] * target_stride + d[None, :].to(tl.int64) * target_dim_stride
    x = tl.load(target + at, mask=mask, other=0.0)

    peak = tl.full((BLOCK_W, BLOCK_D), LOWEST, tl.float32)  # finite: no -inf minus -inf in the tails
    total = tl.zeros((BLOCK_W, BLOCK_D), tl.float32)
    logit_peak, logit_total = peak, total
    for _ in range(COMPONENTS):
        logit, mean, log_scale = outputs(
            hidden, weight, bias, weight_stride, bias_stride, w_mask, d_mask, prefix, BLOCK_K, PRECISION, UPCAST
        )
        logit_peak, logit_total = add_exp(logit_peak, logit_total, logit)
        density, _, _ = log_density(x, logit, mean, log_scale, log_scale_min)
        peak, total = add_exp(peak, total, density)
        weight += row_stride
        bias += 1

    all_logits = logit_peak + tl.log(logit_total)
    at = w[:, None] * out_stride + d[None, :] * out_dim_stride
    if log_total is not None:
        tl.store(out + at, peak, mask=mask)
        tl.store(log_total + at, tl.log(total), mask=mask)
        tl.store(logit_lse + at, all_logits, mask=mask)
    else:
        log_prob = peak + tl.log(total) - all_logits - HALF_LOG_TWO_PI
        if SUM:
            log_prob = tl.sum(tl.where(d_mask[None, :], log_prob, 0.0), axis=1)
            tl.store(out + w * out_stride + tl.program_id(1).to(tl.int64) * out_dim_stride, log_prob, mask=w_mask)
        else:
            tl.store(out + at, log_prob, mask=mask)


@triton.jit(do_not_specialize=["size"])
def sum_kernel(parts, out, size, PARTS, BLOCK: tl.constexpr):
    """`out[i] = parts[0, i] + parts[1, i] + ...`, in this order."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for _ in range(PARTS):
        total += tl.load(parts + i, mask=i < size, other=0.0)
        parts += size
    tl.store(out + i, total, mask=i < size)


INTERPRETED = not isinstance(density_kernel, triton.JITFunction)
"""True if `TRITON_INTERPRET=1` was set when the kernels were made."""


def sum_parts(parts: Tensor, out: Tensor) -> None:
    """`out[...] = parts[0, ...] + parts[1, ...] + ...`, in this order; both contiguous."""
    sum_kernel[(triton.cdiv(out.numel(), 1024),)](parts, out, out.numel(), parts.shape[0], BLOCK=1024)


class Launch:
    """Arguments that one head's launches share: tensors in the kernels' layout, and each group's sizes and strides."""

    def __init__(self, tensors: Tensors, shape: Shape, precision: str, kernel: str = "mixture") -> None:
        hidden, target, weight, bias = tensors
        self.windows, self.hidden_units = hidden.shape
        self.dims, self.groups, self.prefix = target.shape[1], len(shape.prefix), shape.prefix
        self.group_dims = self.dims // self.groups
        if precision == "bfloat16":
            hidden, weight = hidden.to(torch.bfloat16), weight.to(torch.bfloat16)
        self.hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
        self.target = target
        self.weight = weight.contiguous().view(3, self.dims, shape.components, self.hidden_units)
        self.bias = bias.contiguous().view(3, self.dims, shape.components)
        self.log_scale_min = shape.log_scale_min
        self.block, options = tiles(kernel)
        self.window_tiles = triton.cdiv(self.windows, self.block["BLOCK_W"])
        self.dim_tiles = triton.cdiv(self.group_dims, self.block["BLOCK_D"])
        self.options: dict[str, Any] = {
            "COMPONENTS": shape.components, "PRECISION": products(), "UPCAST": INTERPRETED, **self.block, **options,
        }  # fmt: skip

    def each_group(self) -> Iterator[tuple[int, slice, list[Tensor], list[Any]]]:
        """Yield each group's number, dimensions, the kernels' inputs, and sizes and strides."""
        for g, prefix in enumerate(self.prefix):
            dims = slice(g * self.group_dims, (g + 1) * self.group_dims)
            inputs = [self.hidden, self.target[:, dims], self.weight[:, dims], self.bias[:, dims]]
            numbers = [
                self.windows, self.group_dims, prefix, self.log_scale_min, self.hidden.stride(0),
                *self.target.stride(), self.hidden_units, self.weight.stride(0), self.bias.stride(0),
            ]  # fmt: skip
            yield g, dims, inputs, numbers

    def density(
        self, out: Tensor, for_backward: Sequence[Tensor] = (), sum_dims: bool = False,
        wanted: Sequence[int] | None = None,
    ) -> None:  # fmt: skip
        """Fill `out` (`[windows, dims]`; `[tiles, windows, groups]` with `sum_dims`) and what is kept for backward, of
        the groups that are wanted.
        """
        grid = (self.window_tiles, self.dim_tiles)
        for g, dims, inputs, numbers in self.each_group():
            if wanted is not None and g not in wanted:
                continue
            group_out = out[:, :, g].t() if sum_dims else out[:, dims]
            kept: list[Tensor | None] = [x[:, dims] for x in for_backward] or [None, None]
            density_kernel[grid](*inputs, group_out, *kept, *numbers, *group_out.stride(), SUM=sum_dims, **self.options)


def log_prob(
    tensors: Tensors, shape: Shape, precision: str, per_dim: bool, wanted: Sequence[int] | None = None
) -> Tensor:
    """Compute `pyasd.ops.mixture_log_prob`: `[windows, groups]`, or `[windows, dims]` with `per_dim`, float32.

    Args:
        tensors: see `Tensors`.
        shape: the head's.
        precision: "float32" or "bfloat16" factors; sums and mixture are float32.
        per_dim: keep the dimensions apart.
        wanted: the groups to compute; the others are NaN. `None` is all.
    """
    hidden, target, _, _ = tensors
    (windows, dims), groups = target.shape, len(shape.prefix)
    out = target.new_empty(windows, dims if per_dim else groups)
    if windows == 0:
        return out
    with torch.cuda.device_of(hidden):
        launch = Launch(tensors, shape, precision)
        result = out if per_dim else out.new_empty(launch.dim_tiles, *out.shape)
        if wanted is not None and len(wanted) < groups:
            result.fill_(math.nan)
        launch.density(result, sum_dims=not per_dim, wanted=wanted)
        if not per_dim:
            sum_parts(result, out)
    return out
