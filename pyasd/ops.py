"""The public operators: what they compute, their checks, and their registration with `torch.library`.

Each docstring states its operator in a few lines of torch; `backends/reference.py` is those lines, and the other
backends are tested against it in float64. The operators work under `torch.compile` and have no double backward.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyasd import backends
from pyasd.config import GroupMadeConfig, LogMelConfig, Precision

# -- log-Mel -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogMelPlan(LogMelConfig):
    """What a log-Mel needs beyond the samples, built once in float64 and handed to every backend.

    The arguments are those of `config.LogMelConfig`. Plans are immutable, hashable and cheap to compare.
    """

    @property
    def bins(self) -> int:
        """Frequency bins of the spectrum: `n_fft // 2 + 1`."""
        return self.n_fft // 2 + 1

    @cached_property
    def window(self) -> NDArray[np.float64]:
        """Periodic Hann window, `[n_fft]`."""
        return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.n_fft) / self.n_fft)

    @cached_property
    def mel_weights(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
        """The Mel filter bank, sparse: each band's first bin `[mels]`, its number of bins `[mels]`, and the
        weights of all bands one after the other.

        Triangles on Slaney's Mel scale (Auditory Toolbox, 1998: linear below 1 kHz, logarithmic above), each of
        unit area, as `librosa.filters.mel` makes them. A band narrower than a bin may have no weight at all.
        """
        f_max = self.sample_rate / 2 if self.f_max is None else self.f_max
        edges = _mel_to_hz(np.linspace(_hz_to_mel(self.f_min), _hz_to_mel(f_max), self.n_mels + 2))
        hz = np.arange(self.bins) * (self.sample_rate / self.n_fft)
        lower, middle, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
        triangles = np.minimum((hz - lower) / (middle - lower), (upper - hz) / (upper - middle))
        dense = np.maximum(0, triangles) * (2 / (upper - lower))
        starts = np.argmax(dense > 0, axis=1)
        counts = np.count_nonzero(dense, axis=1)
        values = np.concatenate([row[s : s + c] for row, s, c in zip(dense, starts, counts, strict=True)])
        return starts.astype(np.int32), counts.astype(np.int32), values

    def dense_weights(self) -> NDArray[np.float64]:
        """The same filter bank as a matrix `[mels, bins]`."""
        dense = np.zeros((self.n_mels, self.bins))
        position = 0
        for row, start, count in zip(dense, *self.mel_weights[:2], strict=True):
            row[start : start + count] = self.mel_weights[2][position : position + count]
            position += count
        return dense


def _hz_to_mel(hz: float) -> float:
    return 15 + 27 * np.log(hz / 1000) / np.log(6.4) if hz >= 1000 else 3 * hz / 200


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel >= 15, 1000 * np.exp((mel - 15) * (np.log(6.4) / 27)), mel * (200 / 3))


plan = lru_cache(maxsize=None)(LogMelPlan)
"""`LogMelPlan`, but equal arguments give the same object, whose tables are then built once a process."""


def log_mel(
    samples: Tensor, plan: LogMelPlan, lengths: Sequence[int] | Tensor | None = None, backend: str = "auto"
) -> Tensor | tuple[Tensor, ...]:
    """Log-Mel spectrograms of a batch of clips, in dB.

        S = torch.stft(pad(samples), n_fft, hop_length, window=hann, center=True, return_complex=True).abs()**2
        M = mel_weights @ S
        L = 10 * log10(max(M, eps))                  # eps = 2.22e-16; floor="add" gives M + eps

    Args:
        samples: `[clips, n]` int16 (full scale 32768) or float32, contiguous in time.
        plan: sample rate, frame, hop, bands, padding and floor.
        lengths: samples of each clip, for clips of unequal length: what lies past a clip's own is not read.
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
    own = [n] * clips if lengths is None else [int(x) for x in lengths]
    if len(own) != clips or any(x > n for x in own):
        raise ValueError(f"lengths must be {clips} numbers, none over {n}")
    if any(x < plan.min_samples for x in own):
        raise ValueError(
            f"a clip of {min(own)} samples is too short: n_fft={plan.n_fft} with pad={plan.pad!r} needs at least "
            f"{plan.min_samples}"
        )
    packed = torch.ops.pyasd.log_mel(
        samples, own, plan.sample_rate, plan.n_fft, plan.hop_length, plan.n_mels, plan.f_min, plan.f_max, plan.pad,
        plan.floor, backend,
    )  # fmt: skip
    if lengths is None:
        return packed.view(clips, plan.frames(n), plan.n_mels)
    return packed.split([plan.frames(x) for x in own])


@torch.library.custom_op("pyasd::log_mel", mutates_args=())
def _log_mel(
    samples: Tensor,
    lengths: Sequence[int],
    sample_rate: int,
    n_fft: int,
    hop_length: int,
    n_mels: int,
    f_min: float,
    f_max: float | None,
    pad: str,
    floor: str,
    backend: str,
) -> Tensor:
    module = backends.select(backend, samples.device)
    this = plan(sample_rate, n_fft, hop_length, n_mels, f_min, f_max, pad, floor)
    return module.log_mel(samples, this, lengths)


@_log_mel.register_fake
def _(samples, lengths, sample_rate, n_fft, hop_length, n_mels, f_min, f_max, pad, floor, backend):  # type: ignore[no-untyped-def]
    frames = sum(1 + n // hop_length for n in lengths)
    return samples.new_empty(frames, n_mels, dtype=torch.float32)


# -- mixture head ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MixtureShape:
    """The shape of a masked mixture head.

    Attributes:
        prefix: for each group, how many of the hidden units (sorted by degree) it sees: `0 ... prefix - 1`.
        dims: output dimensions; each group has `dims // groups` that follow each other.
        components: Gaussians in each dimension's mixture.
        log_scale_min: log standard deviations are clamped to this from below.
    """

    prefix: tuple[int, ...]
    dims: int
    components: int
    log_scale_min: float

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.prefix)

    def mask(self, weight: Tensor) -> Tensor:
        """The mask of `weight`, of the same shape, dtype and device: 1 where a group sees a hidden unit."""
        prefix = torch.tensor(self.prefix, device=weight.device)
        sees = torch.arange(weight.shape[1], device=weight.device) < prefix[:, None]  # [groups, hidden]
        rows = sees.repeat_interleave(self.dims // self.groups * self.components, 0)  # [dims * components, hidden]
        return rows.repeat(3, 1).to(weight.dtype)


class MixtureHead:
    """A masked linear layer whose outputs are, for each dimension, a mixture of Gaussians.

    Args:
        weight: `[3 * dims * components, hidden]`: first all logits, then all means, then all log standard
            deviations; within each, dimension by dimension.
        bias: `[3 * dims * components]`.
        degrees_hidden: the hidden units' degrees in the sense of Germain et al. (2015), ascending.
        degrees_out: each group's degree: its position, from 1, in the autoregressive ordering. Groups share the
            dimensions evenly, in order. Group `g` sees the hidden units with `degree < degrees_out[g]`.
        components: Gaussians per dimension.
        log_scale_min: see `config.GroupMadeConfig`.

    Raises:
        ValueError: the shapes don't fit each other, or the hidden units are not sorted by degree.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        degrees_hidden: Sequence[int],
        degrees_out: Sequence[int],
        components: int,
        log_scale_min: float = GroupMadeConfig.log_scale_min,
    ) -> None:
        degrees = list(degrees_hidden)
        if degrees != sorted(degrees):
            raise ValueError("hidden units must be sorted by degree: the mask is then a prefix of them")
        if weight.ndim != 2 or weight.shape[1] != len(degrees):
            raise ValueError(f"weight must be [outputs, {len(degrees)}], not {list(weight.shape)}")
        dims, rest = divmod(weight.shape[0], 3 * components)
        if rest or bias.shape != weight.shape[:1] or dims % len(degrees_out):
            raise ValueError(
                f"{weight.shape[0]} outputs and {list(bias.shape)} biases don't make {len(degrees_out)} equal groups "
                f"of dimensions with 3 x {components} outputs each"
            )
        self.weight = weight
        self.bias = bias
        prefix = tuple(sum(h < g for h in degrees) for g in degrees_out)
        self.shape = MixtureShape(prefix, dims, components, log_scale_min)


def mixture_log_prob(
    hidden: Tensor,
    target: Tensor,
    head: MixtureHead,
    backend: str = "auto",
    precision: Precision = "float32",
    per_dim: bool = False,
) -> Tensor:
    """Log-likelihood of `target` under the mixtures that the head makes of `hidden`, summed over each group.

        logit, mean, log_scale = (hidden @ (mask * weight).T + bias).split(...)   # each [windows, dims, components]
        log_scale = log_scale.clamp(min=log_scale_min)
        z = (target - mean) * exp(-log_scale)
        log_density = log_softmax(logit) - z**2 / 2 - log_scale - log(2 * pi) / 2
        log_prob = logsumexp(log_density, components).sum(dims of a group)

    Report section 2.1, Eq. 3 (the density), Germain et al. (2015) (the mask).

    Args:
        hidden: `[windows, hidden]` float32.
        target: `[windows, dims]` float32; any strides (a view of overlapping windows is read in place).
        head: weights and degrees.
        backend: "auto", "reference", "cpu", "cuda" or "triton".
        precision: "float32", or "bfloat16" for bfloat16 factors with float32 accumulation and mixture.
        per_dim: return every dimension's log-likelihood, for likelihood maps.

    Returns:
        `[windows, groups]`, or `[windows, dims]` with `per_dim`, float32. Differentiable in `hidden`, `target`,
        `head.weight` and `head.bias`. A window with a NaN is NaN, alone.

    Raises:
        TypeError: a tensor is not float32 (the reference takes float64 too), or `precision` is unknown.
        ValueError: the shapes or devices don't fit each other.
        BackendUnavailable: the backend asked for can't run on this machine or device.
    """
    _check_mixture(hidden, target, head, backend, precision)
    shape = head.shape
    return torch.ops.pyasd.mixture_log_prob(
        hidden, target, head.weight, head.bias, shape.prefix, shape.components, shape.log_scale_min, backend,
        precision, per_dim,
    )  # fmt: skip


def _check_mixture(hidden: Tensor, target: Tensor, head: MixtureHead, backend: str, precision: str) -> None:
    """Raises TypeError or ValueError as `mixture_log_prob` says."""
    shape = head.shape
    tensors = (hidden, target, head.weight, head.bias)
    if hidden.dtype not in (torch.float32, torch.float64) or any(x.dtype != hidden.dtype for x in tensors):
        raise TypeError(f"all tensors must be float32, not {[str(x.dtype) for x in tensors]}")
    if hidden.dtype == torch.float64 and backend != "reference":
        raise TypeError("float64 is for backend='reference' alone")
    if precision not in ("float32", "bfloat16"):
        raise TypeError(f"precision must be 'float32' or 'bfloat16', not {precision!r}")
    if any(x.device != hidden.device for x in tensors):
        raise ValueError(f"all tensors must be on one device, not {[str(x.device) for x in tensors]}")
    if hidden.ndim != 2 or hidden.shape[1] != head.weight.shape[1]:
        raise ValueError(f"hidden must be [windows, {head.weight.shape[1]}], not {list(hidden.shape)}")
    if target.shape != (hidden.shape[0], shape.dims):
        raise ValueError(f"target must be {[hidden.shape[0], shape.dims]}, not {list(target.shape)}")


@torch.library.custom_op("pyasd::mixture_log_prob", mutates_args=())
def _mixture_log_prob(
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor,
    prefix: Sequence[int],
    components: int,
    log_scale_min: float,
    backend: str,
    precision: str,
    per_dim: bool,
) -> Tensor:
    shape = MixtureShape(tuple(prefix), target.shape[1], components, log_scale_min)
    module = backends.select(backend, hidden.device)
    return module.mixture_log_prob(hidden, target, weight, bias, shape, precision, per_dim)


@_mixture_log_prob.register_fake
def _(hidden, target, weight, bias, prefix, components, log_scale_min, backend, precision, per_dim):  # type: ignore[no-untyped-def]
    return hidden.new_empty(hidden.shape[0], target.shape[1] if per_dim else len(prefix))


@torch.library.custom_op("pyasd::mixture_log_prob_backward", mutates_args=())
def _mixture_log_prob_backward(
    grad: Tensor,
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor,
    prefix: Sequence[int],
    components: int,
    log_scale_min: float,
    backend: str,
    precision: str,
    per_dim: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = MixtureShape(tuple(prefix), target.shape[1], components, log_scale_min)
    module = backends.select(backend, hidden.device)
    return module.mixture_log_prob_backward(grad, hidden, target, weight, bias, shape, precision, per_dim)


@_mixture_log_prob_backward.register_fake
def _(grad, hidden, target, weight, bias, prefix, components, log_scale_min, backend, precision, per_dim):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (hidden, target, weight, bias))


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:4])
    ctx.rest = inputs[4:]


def _backward(ctx, grad):  # type: ignore[no-untyped-def]
    grads = torch.ops.pyasd.mixture_log_prob_backward(grad.contiguous(), *ctx.saved_tensors, *ctx.rest)
    return (*grads, *[None] * len(ctx.rest))


_mixture_log_prob.register_autograd(_backward, setup_context=_save)


def mixture_log_likelihood(
    hidden: Tensor,
    target: Tensor,
    head: MixtureHead,
    backend: str = "auto",
    precision: Precision = "float32",
    scale: float = 1.0,
) -> Tensor:
    """The sum of `mixture_log_prob` over all windows and groups, for training.

        log_likelihood = scale * mixture_log_prob(hidden, target, head).sum()

    Where gradients are wanted they are computed in the same pass, as every window's gradient is known to be the same
    number: the outputs need not be computed a second time.

    Args:
        hidden, target, head, backend, precision: see `mixture_log_prob`.
        scale: a loss's own factor costs nothing here, where it would cost a pass over all gradients afterwards.

    Returns:
        A scalar, summed in float64. Differentiable, once, in `hidden`, `target`, `head.weight` and `head.bias`.

    Raises:
        TypeError, ValueError, BackendUnavailable: as `mixture_log_prob`.
    """
    _check_mixture(hidden, target, head, backend, precision)
    shape = head.shape
    if not torch.is_grad_enabled():
        total = mixture_log_prob(hidden, target, head, backend, precision).double().sum()
        return (scale * total).to(hidden.dtype)
    return torch.ops.pyasd.mixture_log_likelihood(
        hidden, target, head.weight, head.bias, shape.prefix, shape.components, shape.log_scale_min, backend,
        precision, scale,
    )[0]  # fmt: skip


@torch.library.custom_op("pyasd::mixture_log_likelihood", mutates_args=())
def _mixture_log_likelihood(
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor,
    prefix: Sequence[int],
    components: int,
    log_scale_min: float,
    backend: str,
    precision: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    shape = MixtureShape(tuple(prefix), target.shape[1], components, log_scale_min)
    module = backends.select(backend, hidden.device)
    log_prob, *grads = module.mixture_log_likelihood(hidden, target, weight, bias, shape, precision, scale)
    return (scale * log_prob.double().sum()).to(hidden.dtype), *grads  # type: ignore[return-value]


@_mixture_log_likelihood.register_fake
def _(hidden, target, weight, bias, prefix, components, log_scale_min, backend, precision, scale):  # type: ignore[no-untyped-def]
    contiguous = torch.contiguous_format
    grads = (torch.empty_like(x, memory_format=contiguous) for x in (hidden, target, weight, bias))
    return hidden.new_empty(()), *grads


def _keep_gradients(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.set_materialize_grads(False)  # else autograd makes zeros as large as the weights for the outputs without one
    ctx.rest = len(inputs) - 4
    ctx.traced = type(output[0]) is not Tensor
    if ctx.traced:
        ctx.save_for_backward(*output[1:])
    else:
        ctx.gradients = [x.detach() for x in output[1:]]


def _scale_gradients(ctx, grad, *_):  # type: ignore[no-untyped-def]
    if ctx.traced:
        return (*(x * grad for x in ctx.saved_tensors), *[None] * ctx.rest)
    if ctx.gradients is None:
        raise RuntimeError("mixture_log_likelihood gives its gradients once: call it again for a second backward pass")
    gradients, ctx.gradients = ctx.gradients, None
    if grad.device.type != "cpu" or grad.item() != 1:
        gradients = [x * grad for x in gradients]
    return (*gradients, *[None] * ctx.rest)  # handed over: they are as large as the weights, and a copy costs


_mixture_log_likelihood.register_autograd(_scale_gradients, setup_context=_keep_gradients)


# -- Group MADE --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class GroupMadeNetwork:
    """Group MADE made ready for scoring, with batch norm and masks folded into plain layers.

    Attributes:
        band_mean, band_scale: `[mels]` float32, in dB, by which frames are standardised.
        layers: weight `[out, in]` and bias `[out]` of each layer, all followed by ReLU; zeros that a mask made are
            skipped where that pays. The first layer's inputs are a window's frames, one after the other.
        head: the output layer.

    The tensors must not be changed once the network has scored: backends keep what they derive from them.
    """

    band_mean: Tensor
    band_scale: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]
    head: MixtureHead


def group_made_score(
    log_mel: Tensor,
    network: GroupMadeNetwork,
    groups: Sequence[int] | None = None,
    backend: str = "auto",
    precision: Precision = "float32",
    per_dim: bool = False,
    lengths: Sequence[int] | None = None,
) -> Tensor:
    """Negative log-likelihoods of all windows of a clip, or of a batch, straight from the log-Mel, without gradients.

        z = frame_windows((log_mel - band_mean) / band_scale, groups)      # [windows, groups * mels]
        hidden = z
        for weight, bias in layers: hidden = relu(hidden @ weight.T + bias)
        nll = log(band_scale).sum() - mixture_log_prob(hidden, z, head)

    Report section 2.1, Eq. 3; the standardisation's Jacobian is included, so that densities are per dB.

    Args:
        log_mel: `[frames, mels]` float32, in dB, of a clip, or of several that follow one another.
        network: see `GroupMadeNetwork`.
        groups: the groups that are wanted, from 0, in time order; the others are NaN, and cost nothing where the
            backend can skip them. `None` wants all.
        backend: "auto", "reference", "cpu", "cuda" or "triton".
        precision: of the layers' products and the head's, see `mixture_log_prob`.
        per_dim: return each frame's and band's own, for likelihood maps.
        lengths: frames of each clip, none fewer than the head has groups; `None` is one clip. No window reaches from
            one clip into the next, and a clip's results are those that it has alone.

    Returns:
        `[windows, groups]`, or `[windows, groups, mels]` with `per_dim`, float64, in nats: the windows of all clips
        one after the other, `length - groups + 1` of each.

    Raises:
        TypeError, ValueError: `log_mel` has another dtype or shape, the network is of another dtype or on another
            device, or `lengths` don't fit.
        BackendUnavailable: the backend asked for can't run on this machine or device.
    """
    shape = network.head.shape
    mels = len(network.band_mean)
    if log_mel.dtype != torch.float32:
        raise TypeError(f"log_mel must be float32, not {log_mel.dtype}")
    own = [len(log_mel)] if lengths is None else [int(n) for n in lengths]
    if log_mel.ndim != 2 or log_mel.shape[1] != mels or min(own, default=shape.groups) < shape.groups:
        raise ValueError(
            f"log_mel must be [at least {shape.groups} frames a clip, {mels}], not {list(log_mel.shape)}"
            + ("" if lengths is None else f" of clips of {min(own, default=0)} frames and more")
        )
    tensors = (
        network.band_mean,
        network.band_scale,
        *itertools.chain(*network.layers),
        network.head.weight,
        network.head.bias,
    )
    elsewhere = {f"{x.dtype} on {x.device}" for x in tensors if (x.dtype, x.device) != (log_mel.dtype, log_mel.device)}
    if elsewhere:
        raise ValueError(f"the network must be float32 on {log_mel.device} as log_mel is, not {', '.join(elsewhere)}")
    if sum(own) != len(log_mel):
        raise ValueError(f"lengths add up to {sum(own)}, and log_mel has {len(log_mel)} frames")
    wanted = tuple(range(shape.groups)) if groups is None else tuple(groups)
    module = backends.select(backend, log_mel.device)
    with torch.no_grad():
        if len(own) > 1 and getattr(module, "ALONE", False):
            clips = torch.split(log_mel, own)
            log_prob = torch.cat([module.group_made_log_prob(x, network, wanted, precision, per_dim) for x in clips])
        elif own:  # one call for all clips: the few windows across their seams are then left out
            log_prob = module.group_made_log_prob(log_mel, network, wanted, precision, per_dim)
            if len(own) > 1:
                log_prob = log_prob[_windows_within(own, shape.groups, log_mel.device)]
        else:
            log_prob = log_mel.new_empty(0, shape.dims if per_dim else shape.groups)
        jacobian = network.band_scale.double().log().view(1, 1, mels)
        if per_dim:
            return jacobian - log_prob.view(-1, shape.groups, mels)
        return jacobian.sum(2) - log_prob


def _windows_within(lengths: list[int], frames: int, device: torch.device) -> Tensor:
    """Where the windows of `frames` frames start that lie in one clip, as indices on `device`; never waits for it."""
    if len(set(lengths)) == 1:  # no copy from the host, so that a CUDA graph can hold it
        starts = torch.arange(len(lengths), device=device)[:, None] * lengths[0]
        return (starts + torch.arange(lengths[0] - frames + 1, device=device)).flatten()
    ends = np.cumsum(lengths)
    rows = np.concatenate([np.arange(e - n, e - frames + 1) for e, n in zip(ends, lengths, strict=True)])
    found = torch.from_numpy(rows)
    return (found.pin_memory() if device.type == "cuda" else found).to(device, non_blocking=True)
