"""Mixture head, backward: gradients of `mixture.log_prob`, from outputs that are computed again, tile by tile.

Three passes. The forward kernel gives each dimension's log-sum-exps; then one kernel walks over dimensions and
makes the gradients of a tile of windows, and one walks over windows and makes those of a tile of weights. Every number
is written by one program, in a fixed order: no atomics. README.md has the formulas.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .mixture import Launch, Shape, Tensors, load_tile, log_density, outputs, sum_parts

CHUNK = 2
"""Tiles of dimensions that a program of `input_kernel` walks over."""


@triton.jit
def gradients(x, logit, mean, log_scale, log_scale_min, grad, peak, log_total, logit_lse):
    """Gradients of one component's logit, mean and log scale, each `[windows, dims]`."""
    density, z, inverse = log_density(x, logit, mean, log_scale, log_scale_min)
    share = grad * tl.exp(density - peak - log_total)
    d_log_scale = tl.where(log_scale < log_scale_min, 0.0, share * (z * z - 1.0))
    return share - grad * tl.exp(logit - logit_lse), share * z * inverse, d_log_scale


@triton.jit(do_not_specialize=["windows"])
def input_kernel(
    hidden, target, weight, bias, grad, peak, log_total, logit_lse, d_target, parts,
    windows, dims, prefix, log_scale_min,
    hidden_stride, target_stride, target_dim_stride, row_stride, weight_stride, bias_stride,
    grad_stride, grad_dim_stride, kept_stride, parts_stride,
    COMPONENTS: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """A tile of windows, `CHUNK` tiles of one group's dimensions: writes `d_target`, adds to `parts[chunk]`, which is
    `[windows, hidden]`. Axis 2 of the grid are the tiles of `BLOCK_H` hidden units; 0 when the group sees none.
    """
    w = tl.program_id(0).to(tl.int64) * BLOCK_W + tl.arange(0, BLOCK_W)
    w_mask = w < windows
    first_unit = tl.program_id(2) * BLOCK_H
    hidden += w[:, None] * hidden_stride
    if BLOCK_H > 0:
        d_hidden = tl.zeros((BLOCK_W, BLOCK_H), tl.float32)
    for i in range(CHUNK):
        d = (tl.program_id(1) * CHUNK + i) * BLOCK_D + tl.arange(0, BLOCK_D)
        d_mask = d < dims
        mask = w_mask[:, None] & d_mask[None, :]
        at = w[:, None] * target_stride + d[None, :].to(tl.int64) * target_dim_stride
        x = tl.load(target + at, mask=mask, other=0.0)
        at = w[:, None] * grad_stride + d[None, :].to(tl.int64) * grad_dim_stride
        g = tl.load(grad + at, mask=mask, other=0.0)
        at = w[:, None] * kept_stride + d[None, :]
        top = tl.load(peak + at, mask=mask, other=float("inf"))  # beyond the edge every share is then 0
        rest = tl.load(log_total + at, mask=mask, other=0.0)
        all_logits = tl.load(logit_lse + at, mask=mask, other=float("inf"))
        d_x = tl.zeros((BLOCK_W, BLOCK_D), tl.float32)
        row = weight + (d * COMPONENTS)[:, None] * row_stride
        row_bias = bias + d * COMPONENTS
        for _ in range(COMPONENTS):
            logit, mean, log_scale = outputs(
                hidden, row, row_bias, weight_stride, bias_stride, w_mask, d_mask, prefix, BLOCK_K, PRECISION, UPCAST
            )
            d0, d1, d2 = gradients(x, logit, mean, log_scale, log_scale_min, g, top, rest, all_logits)
            if BLOCK_H > 0:
                b = load_tile(row, d_mask, first_unit, prefix, BLOCK_H, UPCAST).to(tl.float32)
                d_hidden = tl.dot(d0, b, d_hidden, input_precision=PRECISION)
                b = load_tile(row + weight_stride, d_mask, first_unit, prefix, BLOCK_H, UPCAST).to(tl.float32)
                d_hidden = tl.dot(d1, b, d_hidden, input_precision=PRECISION)
                b = load_tile(row + 2 * weight_stride, d_mask, first_unit, prefix, BLOCK_H, UPCAST).to(tl.float32)
                d_hidden = tl.dot(d2, b, d_hidden, input_precision=PRECISION)
            d_x -= d1
            row += row_stride
            row_bias += 1
        if first_unit == 0:
            tl.store(d_target + at, d_x, mask=mask)
    if BLOCK_H > 0:
        h = first_unit + tl.arange(0, BLOCK_H)
        parts += tl.program_id(1).to(tl.int64) * parts_stride + w[:, None] * row_stride + h[None, :]
        mask = w_mask[:, None] & (h < prefix)[None, :]
        tl.store(parts, tl.load(parts, mask=mask, other=0.0) + d_hidden, mask=mask)


@triton.jit(do_not_specialize=["windows"])
def weight_kernel(
    hidden, target, weight, bias, grad, peak, log_total, logit_lse, d_weight, d_bias,
    windows, dims, prefix, log_scale_min,
    hidden_stride, target_stride, target_dim_stride, row_stride, weight_stride, bias_stride,
    grad_stride, grad_dim_stride, kept_stride,
    COMPONENTS: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_W: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """A tile of one group's dimensions, one component: writes `d_weight` and `d_bias`, which are laid out as `weight`
    and `bias`. Axis 2 of the grid are the tiles of `BLOCK_H` hidden units; 0 when the group sees none.
    """
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    d_mask = d < dims
    first_unit = tl.program_id(2) * BLOCK_H
    row = d * COMPONENTS + tl.program_id(1)
    weight += row[:, None] * row_stride
    bias += row
    s0 = tl.zeros((BLOCK_D,), tl.float32)
    s1, s2 = s0, s0
    if BLOCK_H > 0:
        w0 = tl.zeros((BLOCK_D, BLOCK_H), tl.float32)
        w1, w2 = w0, w0
    for first in range(0, windows, BLOCK_W):
        w = first + tl.arange(0, BLOCK_W).to(tl.int64)
        w_mask = w < windows
        mask = w_mask[:, None] & d_mask[None, :]
        at = w[:, None] * target_stride + d[None, :].to(tl.int64) * target_dim_stride
        x = tl.load(target + at, mask=mask, other=0.0)
        at = w[:, None] * grad_stride + d[None, :].to(tl.int64) * grad_dim_stride
        g = tl.load(grad + at, mask=mask, other=0.0)
        at = w[:, None] * kept_stride + d[None, :]
        top = tl.load(peak + at, mask=mask, other=float("inf"))  # beyond the edge every share is then 0
        rest = tl.load(log_total + at, mask=mask, other=0.0)
        all_logits = tl.load(logit_lse + at, mask=mask, other=float("inf"))
        rows = hidden + w[:, None] * hidden_stride
        logit, mean, log_scale = outputs(
            rows, weight, bias, weight_stride, bias_stride, w_mask, d_mask, prefix, BLOCK_K, PRECISION, UPCAST
        )
        d0, d1, d2 = gradients(x, logit, mean, log_scale, log_scale_min, g, top, rest, all_logits)
        s0 += tl.sum(d0, axis=0)
        s1 += tl.sum(d1, axis=0)
        s2 += tl.sum(d2, axis=0)
        if BLOCK_H > 0:
            a = load_tile(rows, w_mask, first_unit, prefix, BLOCK_H, UPCAST).to(tl.float32)
            w0 = tl.dot(tl.trans(d0), a, w0, input_precision=PRECISION)
            w1 = tl.dot(tl.trans(d1), a, w1, input_precision=PRECISION)
            w2 = tl.dot(tl.trans(d2), a, w2, input_precision=PRECISION)
    if first_unit == 0:
        tl.store(d_bias + row, s0, mask=d_mask)
        tl.store(d_bias + bias_stride + row, s1, mask=d_mask)
        tl.store(d_bias + 2 * bias_stride + row, s2, mask=d_mask)
    if BLOCK_H > 0:
        h = first_unit + tl.arange(0, BLOCK_H)
        d_weight += row[:, None] * row_stride + h[None, :]
        mask = d_mask[:, None] & (h < prefix)[None, :]
        tl.store(d_weight, w0, mask=mask)
        tl.store(d_weight + weight_stride, w1, mask=mask)
        tl.store(d_weight + 2 * weight_stride, w2, mask=mask)


def log_prob_backward(grad: Tensor, tensors: Tensors, shape: Shape, precision: str, per_dim: bool) -> Tensors:
    """Compute the gradients with respect to `tensors`, contiguous float32.

    Args:
        grad: of the result, `[windows, groups]`, or `[windows, dims]` with `per_dim`.
        tensors: see `mixture.Tensors`.
        shape: the head's.
        precision: "float32", or "bfloat16" to round `hidden` and `weight` alone, never a gradient.
        per_dim: whether `grad` keeps the dimensions apart.
    """
    hidden, target, weight, bias = tensors
    windows, dims = target.shape
    d_target = target.new_empty(windows, dims)
    d_weight = torch.zeros_like(weight, memory_format=torch.contiguous_format)  # behind the mask it stays zero
    if windows == 0:
        return hidden.new_empty(hidden.shape), d_target, d_weight, torch.zeros_like(bias)
    d_bias = bias.new_empty(bias.shape)
    with torch.cuda.device_of(hidden):
        launch = Launch(tensors, shape, precision, "mixture_backward")
        widest = launch.options.pop("BLOCK_H")
        kept = target.new_empty(3, windows, dims).unbind()
        launch.density(kept[0], kept[1:])
        chunks = triton.cdiv(launch.dim_tiles, CHUNK)
        parts = target.new_zeros(chunks, *hidden.shape)
        for g, dims_of_group, inputs, numbers in launch.each_group():
            prefix = launch.prefix[g]
            block = min(widest, max(16, triton.next_power_of_2(prefix))) if prefix else 0
            hidden_tiles = triton.cdiv(prefix, block) if prefix else 1
            group_grad = grad[:, dims_of_group] if per_dim else grad[:, g : g + 1].expand(-1, launch.group_dims)
            inputs += [group_grad, *(x[:, dims_of_group] for x in kept)]
            numbers += [*group_grad.stride(), dims]
            input_kernel[(launch.window_tiles, chunks, hidden_tiles)](
                *inputs, d_target[:, dims_of_group], parts, *numbers, parts.stride(0), CHUNK=CHUNK, BLOCK_H=block,
                **launch.options,
            )  # fmt: skip
            group_d_weight, group_d_bias = (
                d_weight.view(launch.weight.shape)[:, dims_of_group],
                d_bias.view(launch.bias.shape)[:, dims_of_group],
            )
            weight_kernel[(launch.dim_tiles, shape.components, hidden_tiles)](
                *inputs, group_d_weight, group_d_bias, *numbers, BLOCK_H=block, **launch.options
            )
        d_hidden = hidden.new_empty(hidden.shape)
        sum_parts(parts, d_hidden)
    return d_hidden, d_target, d_weight, d_bias
