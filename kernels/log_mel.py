"""Log-Mel spectrograms by a DFT that is matrix products.

`power_kernel` cuts frames out of the samples and factors their DFT as N1 x N2 (README.md): two real products, a
twiddle, four real products. `mel_kernel` sums each band's few bins and takes the logarithm. Between the two lies the
power of at most `CHUNK_BYTES` of frames, which stays in the GPU's second-level cache. A frame's bits depend on its own
samples only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import products, vendor

FACTORS = {
    256: (16, 16, 4, 16),
    512: (16, 32, 2, 16),
    1024: (32, 32, 2, 32),
    2048: (32, 64, 1, 16),
    4096: (64, 64, 1, 16),
}
"""For each size of frames that there is a kernel for: N1, N2, frames in a tile, and outer frequencies in a step. A
product needs 16 rows and columns; the tiles are as large as registers allow.
"""

CHUNK_BYTES = 32 << 20
"""Power spectra that lie between the two kernels: constant memory for any batch."""

BLOCK_F, BLOCK_M = 32, 32
"""Frames and bands in a tile of `mel_kernel`."""


class Plan(Protocol):
    """The settings that the kernels read of a log-Mel plan."""

    @property
    def n_fft(self) -> int:
        """Samples in a frame."""

    @property
    def hop_length(self) -> int:
        """Samples from one frame to the next; frames are centred."""

    @property
    def pad(self) -> str:
        """Padding at a clip's ends: "reflect", else zeros."""

    @property
    def floor(self) -> str:
        """Floor under the power of a band: "add" adds `eps` to it, else `eps` is its minimum."""


class Tables(NamedTuple):
    """A plan's window and Mel filter bank, on one device.

    Attributes:
        window: `[n_fft]` float32.
        first_bin: each band's first bin, `[mels]` int32.
        counts: each band's number of bins, `[mels]` int32, none at or above `n_fft / 2`.
        weights: `[max(counts), mels]` float32.
    """

    window: Tensor
    first_bin: Tensor
    counts: Tensor
    weights: Tensor


@triton.jit
def split(x, AXIS: tl.constexpr):
    """`x` in two exact parts, the first a whole number, of at most 10 bits, of units common to all along `AXIS`.

    The unit is a power of two times 1.5: a product of more bits would be rounded in the sum and, where the compiler
    contracts it with the difference, not there, and `high` would now and then have more bits than TF32.
    """
    bits = tl.max(tl.abs(x), AXIS).to(tl.int32, bitcast=True) & 0x7F800000  # the power of two at or below the maximum
    unit = tl.expand_dims(bits.to(tl.float32, bitcast=True), AXIS) * 49152.0  # 1.5 * 2**15: rounds to 2**-8 of that
    high = (x + unit) - unit
    return high, x - high


@triton.jit
def product(a_high, a_low, b_high, b_low, EXACT: tl.constexpr, PRECISION: tl.constexpr):
    """`(a_high + a_low) @ (b_high + b_low)`. The product of the high parts is exact: what is rounded is small."""
    low = tl.dot(a_low, b_high, tl.dot(a_high + a_low, b_low, input_precision=PRECISION), input_precision=PRECISION)
    return tl.dot(a_high, b_high, input_precision=EXACT) + low


@triton.jit(do_not_specialize=["first_frame", "frames"])
def power_kernel(
    samples, clip_of, starts, lengths, window, outer, twiddle, inner, power,
    clip_stride, first_frame, frames, hop, scale,
    REFLECT: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_K: tl.constexpr,
    EXACT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Power of bins `0 ... N1 * N2 / 2 - 1` of frames `first_frame ...`: `power[frame - first_frame, bin]`."""
    BINS: tl.constexpr = N1 * N2 // 2
    n1 = tl.arange(0, N1)
    column = tl.arange(0, BLOCK_F * N2)  # (frame, n2)
    n2 = column % N2
    row = tl.program_id(0) * BLOCK_F + column // N2
    known = row < frames
    frame = first_frame + row.to(tl.int64)
    clip = tl.load(clip_of + frame, mask=known, other=0)
    length = tl.load(lengths + clip, mask=known, other=1)
    n = n1[:, None] * N2 + n2[None, :]
    at = ((frame - tl.load(starts + clip, mask=known, other=0)) * hop - BINS)[None, :] + n
    if REFLECT:
        at = tl.where(at < 0, -at, at)
        at = tl.where(at >= length[None, :], 2 * (length[None, :] - 1) - at, at)
    inside = (at >= 0) & (at < length[None, :]) & known[None, :]
    x = tl.load(samples + clip[None, :] * clip_stride + at, mask=inside, other=0).to(tl.float32) * scale
    x = tl.where(tl.abs(x) < float("inf"), x, float("nan"))  # an infinity makes its frames NaN, in every bin
    x_high, x_low = split(x * tl.load(window + n), 0)

    k2 = tl.arange(0, N2 // 2)
    rows = tl.arange(0, BLOCK_K * BLOCK_F)  # (k1, frame)
    row = tl.program_id(0) * BLOCK_F + rows % BLOCK_F
    power += row.to(tl.int64)[:, None] * BINS + (rows // BLOCK_F)[:, None] + N1 * k2[None, :]
    SQUARE: tl.constexpr = N1 * N1
    HALF: tl.constexpr = N2 * N2 // 2
    inner += tl.arange(0, N2)[:, None] * (N2 // 2) + k2[None, :]
    for first in range(0, N1, BLOCK_K):
        k1 = first + tl.arange(0, BLOCK_K)
        at_outer = outer + k1[:, None] * N1 + n1[None, :]
        c_high, c_low = tl.load(at_outer), tl.load(at_outer + SQUARE)
        s_high, s_low = tl.load(at_outer + 2 * SQUARE), tl.load(at_outer + 3 * SQUARE)
        re = product(c_high, c_low, x_high, x_low, EXACT, PRECISION)  # [k1, (frame, n2)]
        im = product(s_high, s_low, x_high, x_low, EXACT, PRECISION)
        at_twiddle = twiddle + k1[:, None] * N2 + n2[None, :]
        c, s = tl.load(at_twiddle), tl.load(at_twiddle + N1 * N2)
        a_high, a_low = split(tl.reshape(re * c - im * s, (BLOCK_K * BLOCK_F, N2)), 1)  # [(k1, frame), n2]
        b_high, b_low = split(tl.reshape(re * s + im * c, (BLOCK_K * BLOCK_F, N2)), 1)
        c_high, c_low = tl.load(inner), tl.load(inner + HALF)
        s_high, s_low = tl.load(inner + 2 * HALF), tl.load(inner + 3 * HALF)
        re = product(a_high, a_low, c_high, c_low, EXACT, PRECISION)  # [(k1, frame), k2]
        re -= product(b_high, b_low, s_high, s_low, EXACT, PRECISION)
        im = product(a_high, a_low, s_high, s_low, EXACT, PRECISION)
        im += product(b_high, b_low, c_high, c_low, EXACT, PRECISION)
        tl.store(power + first, re * re + im * im, mask=(row < frames)[:, None])


@triton.jit(do_not_specialize=["frames"])
def mel_kernel(
    power, first_bin, counts, weights, out,
    frames, mels, eps, BINS: tl.constexpr, ADD: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """`out[frame, band]` in dB; bin `first_bin[band] + j` has the weight `weights[j, band]`, `j < counts[band]`."""
    f = tl.program_id(0) * BLOCK_F + tl.arange(0, BLOCK_F)
    m = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    f_mask, m_mask = f < frames, m < mels
    count = tl.load(counts + m, mask=m_mask, other=0)
    power += f.to(tl.int64)[:, None] * BINS + tl.load(first_bin + m, mask=m_mask, other=0)[None, :]
    mel = tl.zeros((BLOCK_F, BLOCK_M), tl.float32)
    for j in range(tl.max(count, axis=0)):
        here = j < count
        weight = tl.load(weights + j * mels + m, mask=here, other=0.0)
        mel += weight[None, :] * tl.load(power + j, mask=f_mask[:, None] & here[None, :], other=0.0)
    mel = mel + eps if ADD else tl.where(mel < eps, eps, mel)  # keeps NaN
    level = 3.0102999566398120 * tl.log2(mel)
    tl.store(out + f.to(tl.int64)[:, None] * mels + m[None, :], level, mask=f_mask[:, None] & m_mask[None, :])


@lru_cache(maxsize=32)
def dft_factors(n_fft: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return `exp(-2 pi i k n / N)`, made in float64: of N1 and of N2 as `[4, k, n]` and `[4, n, k < N2 / 2]` (real
    high and low part, imaginary high and low part), and between the two `[2, k1, n2]` of `n_fft` (real, imaginary).
    """
    n1, n2, _, _ = FACTORS[n_fft]

    def turns(rows: int, columns: int, n: int, low_parts: bool = True) -> Tensor:
        phase = torch.arange(rows)[:, None] * torch.arange(columns) % n
        z = torch.exp(phase.double() * (-2j * torch.pi / n))
        high = [(part * 256).round() / 256 for part in (z.real, z.imag)]
        parts = (high[0], z.real - high[0], high[1], z.imag - high[1]) if low_parts else (z.real, z.imag)
        return torch.stack(parts).float().to(device)

    return turns(n1, n1, n1), turns(n1, n2, n_fft, low_parts=False), turns(n2, n2 // 2, n2)


def layout(lengths: Sequence[int], hop: int, total: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return each clip's first frame among all `total` frames, each clip's length in samples, and each frame's clip:
    int64 on `device`, without waiting for it.

    Raises:
        RuntimeError: clips of unequal length in a CUDA graph, which would read their lengths from memory that is no
            longer theirs when it is replayed.
    """
    clips = torch.arange(len(lengths), device=device)
    if len(set(lengths)) == 1:  # nothing is copied from the host
        frames = 1 + lengths[0] // hop
        return clips * frames, torch.full_like(clips, lengths[0]), clips.repeat_interleave(frames, output_size=total)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("a CUDA graph can't hold a log-Mel of clips of unequal length: capture one length a graph")
    counts = torch.tensor([1 + n // hop for n in lengths], dtype=torch.int64)
    rows = torch.stack([counts.cumsum(0) - counts, torch.tensor(lengths, dtype=torch.int64), counts])
    if device.type == "cuda":
        rows = rows.pin_memory()  # then the copy doesn't wait for the GPU
    starts, lengths_there, frames_there = rows.to(device, non_blocking=True)
    return starts, lengths_there, clips.repeat_interleave(frames_there, output_size=total)


def log_mel(samples: Tensor, lengths: Sequence[int], plan: Plan, tables: Tables, *, scale: float, eps: float) -> Tensor:
    """Compute the frames of all clips one after the other, `[sum of 1 + length // hop, mels]` float32, in dB.

    Args:
        samples: `[clips, n]` int16 or float32; row `i` is read up to `lengths[i]`.
        lengths: samples of each clip.
        plan: its `n_fft` must be a key of `FACTORS`.
        tables: the plan's.
        scale: samples are multiplied by this.
        eps: the floor under the power of a band.

    Raises:
        NotImplementedError: there is no kernel for `n_fft`.
    """
    n_fft, hop = plan.n_fft, plan.hop_length
    if n_fft not in FACTORS:
        raise NotImplementedError(f"the Triton log-Mel takes n_fft of {', '.join(map(str, FACTORS))}, not {n_fft}")
    samples = samples if samples.stride(1) == 1 else samples.contiguous()
    device, mels, bins = samples.device, len(tables.counts), n_fft // 2
    n1, n2, block, step = FACTORS[n_fft]
    total = sum(1 + n // hop for n in lengths)
    out = samples.new_empty(total, mels, dtype=torch.float32)
    if total == 0:
        return out
    starts, lengths_there, clip_of = layout(lengths, hop, total, device)
    chunk = min(total, CHUNK_BYTES // (4 * bins))
    power = samples.new_empty(chunk, bins, dtype=torch.float32)
    factors = dft_factors(n_fft, device)
    precision = {"EXACT": "ieee" if vendor() == "amd" else "tf32", "PRECISION": products()}  # high parts fit into TF32
    with torch.cuda.device_of(samples):
        for first in range(0, total, chunk):
            size = min(chunk, total - first)
            power_kernel[(triton.cdiv(size, block),)](
                samples, clip_of, starts, lengths_there, tables.window, *factors, power, samples.stride(0), first,
                size, hop, scale, REFLECT=plan.pad == "reflect", N1=n1, N2=n2, BLOCK_F=block, BLOCK_K=step,
                num_stages=1, **precision,
            )  # fmt: skip
            mel_kernel[(triton.cdiv(size, BLOCK_F), triton.cdiv(mels, BLOCK_M))](
                power, tables.first_bin, tables.counts, tables.weights, out[first : first + size], size, mels, eps,
                BINS=bins, ADD=plan.floor == "add", BLOCK_F=BLOCK_F, BLOCK_M=BLOCK_M,
            )  # fmt: skip
    return out
