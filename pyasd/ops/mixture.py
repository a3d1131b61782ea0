"""The mixture head: checks, registration and autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyasd import backends
from pyasd.backends.contract import MixtureHead, MixtureShape, MixtureTensors, Precision
from pyasd.ops.packing import pack, unpack
from pyasd.ops.registration import operator


def mixture_log_prob(
    hidden: Tensor,
    target: Tensor,
    head: MixtureHead,
    backend: str = "auto",
    precision: Precision = "float32",
    per_dim: bool = False,
) -> Tensor:
    """Compute the log-likelihood of `target` under the mixtures that the head makes of `hidden`, per group.

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
    log_prob: Tensor = torch.ops.pyasd.mixture_log_prob(
        *head.tensors(hidden, target), pack(head.shape), backend, precision, per_dim
    )
    return log_prob


def _check_mixture(hidden: Tensor, target: Tensor, head: MixtureHead, backend: str, precision: str) -> None:
    """Raise the TypeError or ValueError that `mixture_log_prob` documents."""
    shape = head.shape
    tensors = head.tensors(hidden, target)
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


@operator("mixture_log_prob")
def _mixture_log_prob(
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor,
    shape: str,
    backend: str,
    precision: str,
    per_dim: bool,
) -> Tensor:
    x = MixtureTensors(hidden, target, weight, bias)
    chosen = backends.select(backend, hidden.device)
    return chosen.mixture_log_prob(x, unpack(MixtureShape, shape), precision, per_dim)


@_mixture_log_prob.register_fake
def _mixture_log_prob_fake(
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor,
    shape: str,
    backend: str,
    precision: str,
    per_dim: bool,
) -> Tensor:
    return hidden.new_empty(hidden.shape[0], target.shape[1] if per_dim else unpack(MixtureShape, shape).groups)


@operator("mixture_log_prob_backward")
def _mixture_log_prob_backward(
    grad: Tensor, x: Sequence[Tensor], shape: str, backend: str, precision: str, per_dim: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    chosen = backends.select(backend, grad.device)
    tensors = MixtureTensors(*x)
    return chosen.mixture_log_prob_backward(grad, tensors, unpack(MixtureShape, shape), precision, per_dim)


@_mixture_log_prob_backward.register_fake
def _mixture_log_prob_backward_fake(
    grad: Tensor, x: Sequence[Tensor], shape: str, backend: str, precision: str, per_dim: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return MixtureTensors(*x).empty_like()


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.rest = inputs[4:]


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    grads = torch.ops.pyasd.mixture_log_prob_backward(grad.contiguous(), list(ctx.saved_tensors), *ctx.rest)
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
    """Compute the sum of `mixture_log_prob` over all windows and groups, for training.

        log_likelihood = scale * mixture_log_prob(hidden, target, head).sum()

    Where gradients are wanted they are computed in the same pass, as every window's gradient is known to be the same
    number: the outputs need not be computed a second time.

    Args:
        hidden: `[windows, hidden]` float32.
        target: `[windows, dims]` float32; any strides.
        head: weights and degrees.
        backend: "auto", "reference", "cpu", "cuda" or "triton".
        precision: see `mixture_log_prob`.
        scale: a loss's own factor costs nothing here, where it would cost a pass over all gradients afterwards.

    Returns:
        A scalar, summed in float64. Differentiable, once, in `hidden`, `target`, `head.weight` and `head.bias`.

    Raises:
        TypeError, ValueError, BackendUnavailable: as `mixture_log_prob`.
    """
    _check_mixture(hidden, target, head, backend, precision)
    if not torch.is_grad_enabled():
        total = mixture_log_prob(hidden, target, head, backend, precision).double().sum()
        return (scale * total).to(hidden.dtype)
    log_likelihood: Tensor = torch.ops.pyasd.mixture_log_likelihood(
        *head.tensors(hidden, target), pack(head.shape), backend, precision, scale
    )[0]
    return log_likelihood


@operator("mixture_log_likelihood")
def _mixture_log_likelihood(
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor,
    shape: str,
    backend: str,
    precision: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x = MixtureTensors(hidden, target, weight, bias)
    chosen = backends.select(backend, hidden.device)
    log_prob, grads = chosen.mixture_log_likelihood(x, unpack(MixtureShape, shape), precision, scale)
    return (scale * log_prob.double().sum()).to(hidden.dtype), *grads


@_mixture_log_likelihood.register_fake
def _mixture_log_likelihood_fake(
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor,
    shape: str,
    backend: str,
    precision: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return hidden.new_empty(()), *MixtureTensors(hidden, target, weight, bias).empty_like()


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)  # else autograd makes zeros as large as the weights for the outputs without one
    ctx.rest = len(inputs) - 4
    ctx.traced = type(output[0]) is not Tensor
    if ctx.traced:
        ctx.save_for_backward(*output[1:])
    else:
        ctx.gradients = [x.detach() for x in output[1:]]


def _scale_gradients(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if ctx.traced:
        return (*(x * grad for x in ctx.saved_tensors), *[None] * ctx.rest)
    if ctx.gradients is None:
        raise RuntimeError("mixture_log_likelihood gives its gradients once: call it again for a second backward pass")
    gradients, ctx.gradients = ctx.gradients, None
    if grad.device.type != "cpu" or grad.item() != 1:
        gradients = [x * grad for x in gradients]
    return (*gradients, *[None] * ctx.rest)  # handed over: they are as large as the weights, and a copy costs


_mixture_log_likelihood.register_autograd(_scale_gradients, setup_context=_keep_gradients)
