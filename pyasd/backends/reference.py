"""The pure-torch reference: any device, any dtype, differentiable. Every other backend is tested against it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyasd.config import FULL_SCALE, POWER_EPS

if TYPE_CHECKING:
    from pyasd.ops import GroupMadeNetwork, LogMelPlan, MixtureShape

WINDOWS_PER_PASS = 512
"""Windows that go through Group MADE at once: bounds the memory of hours-long clips (a window has 77 kB of outputs)."""


ALONE = True
"""Clips of a batch are scored one by one: in another batch torch's matrix products give the same row other bits."""


def unavailable(device: torch.device | None = None) -> str | None:
    """Why this backend can't run on `device`; `None` when it can."""
    return None


def log_mel(samples: Tensor, plan: LogMelPlan, lengths: Sequence[int]) -> Tensor:
    """Frames of all clips one after the other: `[sum of frames, mels]` float32 (float64 for float64 samples)."""
    if samples.dtype == torch.int16:
        samples = samples.to(torch.float32) / FULL_SCALE
    window = torch.from_numpy(plan.window).to(samples)
    weights = torch.from_numpy(plan.dense_weights()).to(samples)
    if not lengths:
        return samples.new_empty(0, plan.n_mels)
    if len(set(lengths)) == 1:
        batches = [samples[:, : lengths[0]]]
    else:
        batches = [clip[None, :n] for clip, n in zip(samples, lengths, strict=True)]
    out = []
    for batch in batches:
        spectrum = torch.stft(
            batch, plan.n_fft, plan.hop_length, window=window, center=True, pad_mode=plan.pad, return_complex=True
        )
        mel = (weights @ spectrum.abs().square()).transpose(1, 2).reshape(-1, plan.n_mels)
        out.append(10 * torch.log10(mel.clamp(min=POWER_EPS) if plan.floor == "max" else mel + POWER_EPS))
    return torch.cat(out)


def mixture_log_prob(
    hidden: Tensor, target: Tensor, weight: Tensor, bias: Tensor, shape: MixtureShape, precision: str, per_dim: bool
) -> Tensor:
    """`[windows, groups]`, or `[windows, dims]` with `per_dim`: the operator as it is defined, with a mask."""
    logit, _, log_scale, z, _, _ = _mixture(hidden, target, weight, bias, shape, precision)
    log_density = torch.log_softmax(logit, -1) - z.square() / 2 - log_scale - 0.5 * math.log(2 * math.pi)
    log_prob = torch.logsumexp(log_density, -1)
    return log_prob if per_dim else log_prob.view(-1, shape.groups, shape.dims // shape.groups).sum(-1)


def mixture_log_prob_backward(
    grad: Tensor,
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor,
    shape: MixtureShape,
    precision: str,
    per_dim: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients with respect to `hidden`, `target`, `weight` and `bias`, spelt out (an operator's implementation
    runs below autograd). `bfloat16` rounds the factors of the product alone, and is taken as the identity here.
    """
    logit, raw_log_scale, log_scale, z, hidden, masked = _mixture(hidden, target, weight, bias, shape, precision)
    if not per_dim:
        grad = grad.repeat_interleave(shape.dims // shape.groups, 1)
    grad = grad[..., None]  # [windows, dims, 1]
    share = grad * torch.softmax(logit - z.square() / 2 - log_scale, -1)  # each component's share of the density
    d_logit = share - grad * torch.softmax(logit, -1)
    d_mean = share * z * torch.exp(-log_scale)
    d_log_scale = share * (z.square() - 1) * (raw_log_scale >= shape.log_scale_min)
    d_out = torch.stack([d_logit, d_mean, d_log_scale], 1).flatten(1)  # [windows, 3 * dims * components]
    return d_out @ masked, -d_mean.sum(-1), d_out.T @ hidden * shape.mask(weight), d_out.sum(0)


def mixture_log_likelihood(
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor,
    shape: MixtureShape,
    precision: str,
    scale: float,
    log_prob: Callable[..., Tensor] = mixture_log_prob,
    backward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = mixture_log_prob_backward,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`[windows, groups]` log-likelihoods, and the gradients of `scale` times their sum with respect to `hidden`,
    `target`, `weight` and `bias`. `log_prob` and `backward` are the backend's own two passes.
    """
    value = log_prob(hidden, target, weight, bias, shape, precision, False)
    grad = torch.full_like(value, scale)
    return value, *backward(grad, hidden, target, weight, bias, shape, precision, False)


def _mixture(
    hidden: Tensor, target: Tensor, weight: Tensor, bias: Tensor, shape: MixtureShape, precision: str
) -> tuple[Tensor, ...]:
    """Logits, log scales before and after the clamp, and z, each `[windows, dims, components]`; then the factors
    of the product that made them.
    """
    masked = weight * shape.mask(weight)
    if precision == "bfloat16":  # exact products of bfloat16 factors, accumulated in the tensors' own precision
        hidden, masked = hidden.bfloat16().to(hidden.dtype), masked.bfloat16().to(masked.dtype)
    out = (hidden @ masked.T + bias).view(target.shape[0], 3, shape.dims, shape.components)
    logit, mean, raw_log_scale = out.unbind(1)
    log_scale = raw_log_scale.clamp(min=shape.log_scale_min)
    z = (target[..., None] - mean) * torch.exp(-log_scale)
    return logit, raw_log_scale, log_scale, z, hidden, masked


def group_made_log_prob(
    log_mel: Tensor,
    network: GroupMadeNetwork,
    wanted: Sequence[int],
    precision: str,
    per_dim: bool,
    mixture: Callable[..., Tensor] = mixture_log_prob,
) -> Tensor:
    """Log-likelihoods of a clip's windows in standardised units, `[windows, groups]` or `[windows, dims]`: NaN for
    groups that aren't wanted. `mixture` is the backend's own `mixture_log_prob`.
    """
    head = network.head
    out = []
    for target in torch.split(standardised_windows(log_mel, network), WINDOWS_PER_PASS):
        hidden = hidden_layers(target, network, precision)
        out.append(mixture(hidden, target, head.weight, head.bias, head.shape, precision, per_dim))
    log_prob = torch.cat(out)
    unwanted = torch.ones(head.shape.groups, dtype=torch.bool, device=log_prob.device)
    unwanted[list(wanted)] = False
    return log_prob.masked_fill_(unwanted.repeat_interleave(log_prob.shape[1] // head.shape.groups), math.nan)


def standardised_windows(log_mel: Tensor, network: GroupMadeNetwork) -> Tensor:
    """A clip's windows, `[windows, dims]`: a view of its frames standardised per band."""
    shape = network.head.shape
    z = ((log_mel - network.band_mean) / network.band_scale).contiguous()
    return z.as_strided((len(z) - shape.groups + 1, shape.dims), (z.shape[1], 1))


def hidden_layers(windows: Tensor, network: GroupMadeNetwork, precision: str) -> Tensor:
    """The head's input for standardised windows, `[windows, hidden]`."""
    hidden = windows
    for weight, bias in network.layers:
        if precision == "bfloat16":
            hidden, weight = hidden.bfloat16().to(hidden.dtype), weight.bfloat16().to(weight.dtype)
        hidden = torch.addmm(bias, hidden, weight.T).relu_()
    return hidden
