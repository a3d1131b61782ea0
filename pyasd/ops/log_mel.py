"""Log-Mel spectrograms: checks and registration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from pyasd import backends
from pyasd.backends.contract import LogMelPlan
from pyasd.ops.packing import pack, unpack
from pyasd.ops.registration import operator


@overload
def log_mel(samples: Tensor, plan: LogMelPlan, lengths: None = None, backend: str = "auto") -> Tensor: ...
@overload
def log_mel(
    samples: Tensor, plan: LogMelPlan, lengths: Sequence[int] | Tensor, backend: str = "auto"
) -> tuple[Tensor, ...]: ...
def log_mel(
    samples: Tensor, plan: LogMelPlan, lengths: Sequence[int] | Tensor | None = None, backend: str = "auto"
) -> Tensor | tuple[Tensor, ...]:
    """Compute log-Mel spectrograms of a batch of clips, in dB.

        S = torch.stft(pad(samples), n_fft, hop_length, window=hann, center=True, return_complex=True).abs()**2
        M = mel_weights @ S
        L = 10 * log10(max(M, eps))                  # eps = 2.22e-16; floor="add" gives M + eps

    Args:
        samples: `[clips, n]` int16 (full scale 32768) or float32, contiguous in time.
        plan: sample rate, frame, hop, bands, padding and floor.
        lengths: samples of each clip, for clips of unequal length: what lies past a clip's end is not read.
        backend: "auto", "reference", "cpu", "cuda" or "triton".

    Returns:
        `[clips, frames, mels]` float32 with `frames = 1 + n // hop_length`; with `lengths`, a tuple with one
        `[frames, mels]` per clip. A NaN sample makes the frames that contain it NaN, an infinite one NaN or
        infinite, and no other.

    Raises:
        TypeError: `samples` is neither int16 nor float32.
        ValueError: a shape or length does not fit, or a clip is too short to be padded by reflection.
        BackendUnavailable: the backend asked for can't run on this machine or device.
    """
    if samples.dtype not in (torch.int16, torch.float32):
        raise TypeError(f"samples must be int16 or float32, not {samples.dtype}")
    if samples.ndim != 2:
        raise ValueError(f"samples must be [clips, n], not {list(samples.shape)}")
    clips, n = samples.shape
    clip_lengths = [n] * clips if lengths is None else [int(x) for x in lengths]
    if len(clip_lengths) != clips or any(x > n for x in clip_lengths):
        raise ValueError(f"lengths must be {clips} numbers, none over {n}")
    if any(x < plan.min_samples for x in clip_lengths):
        raise ValueError(
            f"a clip of {min(clip_lengths)} samples is too short: n_fft={plan.n_fft} with pad={plan.pad!r} needs at "
            f"least {plan.min_samples}"
        )
    frames: Tensor = torch.ops.pyasd.log_mel(samples, clip_lengths, pack(plan), backend)
    if lengths is None:
        return frames.view(clips, plan.frames(n), plan.n_mels)
    each: tuple[Tensor, ...] = frames.split([plan.frames(x) for x in clip_lengths])
    return each


@operator("log_mel")
def _log_mel(samples: Tensor, lengths: Sequence[int], plan: str, backend: str) -> Tensor:
    return backends.select(backend, samples.device).log_mel(samples, unpack(LogMelPlan, plan), lengths)


@_log_mel.register_fake
def _log_mel_fake(samples: Tensor, lengths: Sequence[int], plan: str, backend: str) -> Tensor:
    known = unpack(LogMelPlan, plan)
    return samples.new_empty(sum(known.frames(n) for n in lengths), known.n_mels, dtype=torch.float32)
