"""Group MADE's hidden layers in one kernel, from standardised log-Mel frames to the head's input.

A program owns a tile of windows. It reads them in place, since a window is `inputs` numbers in a row of the frames,
and keeps their activations on the chip from layer to layer; weights stream through shared memory. All layers are
padded to one width with zeros, which cost a few products and no memory. A window's bits depend on that window alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .mixture import INTERPRETED
from .tiles import products, tiles

MAX_WIDTH = 128
"""Units in a layer, at most: a tile's activations stay in registers, half a layer's weights in shared memory."""


@triton.jit
def rounded(x, BFLOAT16: tl.constexpr, UPCAST: tl.constexpr):
    """`x` as a product's factor: in bfloat16, rounded to the nearest, ties to even."""
    if BFLOAT16:
        if UPCAST:  # the interpreter truncates where it should round
            bits = x.to(tl.int32, bitcast=True)
            bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
            x = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
        else:
            x = x.to(tl.bfloat16)
    return x


@triton.jit
def weights_of(weight, first, ROWS: tl.constexpr, WIDTH: tl.constexpr, UPCAST: tl.constexpr):
    """Rows `first ...` of weights that lie as `[inputs, WIDTH]`."""
    row = first + tl.arange(0, ROWS)
    tile = tl.load(weight + row[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :])
    return tile.to(tl.float32) if UPCAST else tile


@triton.jit(do_not_specialize=["windows"])
def trunk_kernel(
    frames, first_weight, weights, biases, out,
    windows, mels, inputs, outputs,
    LAYERS: tl.constexpr, WIDTH: tl.constexpr, BFLOAT16: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_W: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """`out[window, unit]` of a tile of windows. `first_weight` is `[inputs, WIDTH]`, padded with zeros to a multiple
    of `BLOCK_K` rows; `weights` are the other `[LAYERS, WIDTH, WIDTH]`, `biases` all `[1 + LAYERS, WIDTH]`.
    """
    HALF: tl.constexpr = WIDTH // 2
    w = tl.program_id(0).to(tl.int64) * BLOCK_W + tl.arange(0, BLOCK_W)
    w_mask = w < windows
    unit = tl.arange(0, WIDTH)
    x = tl.zeros((BLOCK_W, WIDTH), tl.float32) + tl.load(biases + unit)[None, :]
    for first in range(0, inputs, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        a = tl.load(frames + w[:, None] * mels + k[None, :], mask=w_mask[:, None] & (k < inputs)[None, :], other=0.0)
        if UPCAST:
            a = a.to(tl.float32)
        x = tl.dot(a, weights_of(first_weight, first, BLOCK_K, WIDTH, UPCAST), x, input_precision=PRECISION)
    for layer in tl.range(0, LAYERS, num_stages=1):
        x = rounded(tl.where(x < 0, 0.0, x), BFLOAT16, UPCAST)  # keeps NaN
        weight = weights + layer * WIDTH * WIDTH
        low, high = tl.split(tl.permute(tl.reshape(x, (BLOCK_W, 2, HALF)), (0, 2, 1)))
        x = tl.zeros((BLOCK_W, WIDTH), tl.float32) + tl.load(biases + (1 + layer) * WIDTH + unit)[None, :]
        x = tl.dot(low, weights_of(weight, 0, HALF, WIDTH, UPCAST), x, input_precision=PRECISION)
        x = tl.dot(high, weights_of(weight, HALF, HALF, WIDTH, UPCAST), x, input_precision=PRECISION)
    mask = w_mask[:, None] & (unit < outputs)[None, :]
    tl.store(out + w[:, None] * outputs + unit[None, :], tl.where(x < 0, 0.0, x), mask=mask)


class Packed:
    """Layers as the kernel reads them.

    Args:
        layers: weight `[out, in]` and bias `[out]` float32 of each layer, at least one, on one device.
        precision: "float32" or "bfloat16" factors.

    Raises:
        NotImplementedError: a layer has more than `MAX_WIDTH` units.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]], precision: str) -> None:
        widest = max(len(bias) for _, bias in layers)
        if widest > MAX_WIDTH:
            raise NotImplementedError(f"the Triton trunk takes layers of up to {MAX_WIDTH} units, not {widest}")
        self.width = max(32, triton.next_power_of_2(widest))
        self.inputs, self.outputs, self.layers = layers[0][0].shape[1], len(layers[-1][1]), len(layers) - 1
        self.bfloat16 = precision == "bfloat16"
        dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        first, bias = layers[0]
        rows = 64 * triton.cdiv(self.inputs, 64)  # whole tiles, whatever their height
        self.first_weight = first.new_zeros(rows, self.width, dtype=dtype)
        self.first_weight[: self.inputs, : len(bias)] = first.T
        self.weights = first.new_zeros(max(1, self.layers), self.width, self.width, dtype=dtype)
        self.biases = first.new_zeros(len(layers), self.width, dtype=torch.float32)
        self.biases[0, : len(bias)] = bias
        for i, (weight, bias) in enumerate(layers[1:]):
            self.weights[i, : weight.shape[1], : len(bias)] = weight.T
            self.biases[1 + i, : len(bias)] = bias

    def __call__(self, frames: Tensor) -> Tensor:
        """Compute the last layer's outputs, after ReLU, for all windows of the frames.

        Args:
            frames: `[frames, mels]` float32, standardised and contiguous.

        Returns:
            `[windows, outputs]` float32, for the windows of `inputs` numbers that start every `mels`.
        """
        mels = frames.shape[1]
        windows = 1 + (frames.numel() - self.inputs) // mels
        out = frames.new_empty(windows, self.outputs)
        if self.bfloat16:
            frames = frames.to(torch.bfloat16)
        block, options = tiles("trunk")
        with torch.cuda.device_of(frames):
            trunk_kernel[(triton.cdiv(windows, block["BLOCK_W"]),)](
                frames, self.first_weight, self.weights, self.biases, out, windows, mels, self.inputs, self.outputs,
                LAYERS=self.layers, WIDTH=self.width, BFLOAT16=self.bfloat16, PRECISION=products(), UPCAST=INTERPRETED,
                **block, **options,
            )  # fmt: skip
        return out
