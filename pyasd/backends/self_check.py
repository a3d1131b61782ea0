"""Compare a backend with the reference on small shapes, on the device where it is about to be used."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyasd.backends.contract import (
    FULL_SCALE,
    Backend,
    GroupMadeNetwork,
    LogMelPlan,
    MixtureHead,
    MixtureShape,
    MixtureTensors,
)
from pyasd.backends.reference import BACKEND as REFERENCE

TOLERANCE = 1e-4
"""Relative; ten times as much is allowed absolutely."""

MixtureLogProb = Callable[[MixtureTensors, MixtureShape, str, bool], Tensor]
HiddenLayers = Callable[[Tensor, GroupMadeNetwork, str], "tuple[Tensor, Tensor] | None"]


class _Result(NamedTuple):
    name: str
    result: Tensor
    exact: Tensor
    """The reference's, in float64."""
    tolerance: float = TOLERANCE


def disagreement(backend: Backend, device: torch.device) -> str | None:
    """Return which operator of `backend` fails or disagrees with the reference on `device`; `None` if none does.

    The hidden layers, which a backend may leave to torch, have a check of their own: `hidden_layers_disagreement`.
    """
    return _first_that_disagrees(_results(backend, device))


def hidden_layers_disagreement(hidden_layers: HiddenLayers, device: torch.device) -> str | None:
    """Return how a backend's hidden layers fail or disagree with the reference on `device`; `None` if they don't."""
    return _first_that_disagrees(_hidden_layers(hidden_layers, device))


def forward_disagreement(mixture_log_prob: MixtureLogProb, device: torch.device) -> str | None:
    """Return how one way to compute `mixture_log_prob` fails or disagrees with the reference; `None` if it doesn't."""
    return _first_that_disagrees(_log_prob(mixture_log_prob, *small_mixture(device)))


def _first_that_disagrees(results: Iterator[_Result]) -> str | None:
    try:
        for name, result, exact, tolerance in results:
            if not torch.allclose(result.double(), exact, rtol=tolerance, atol=10 * tolerance):
                return f"the self-check of {name} disagrees with the reference"
    except RuntimeError as error:
        return f"the self-check failed: {error}"
    return None


def _results(backend: Backend, device: torch.device) -> Iterator[_Result]:
    """Yield what `backend` computes by every operator."""
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(device)

    lengths = [3000, 1400, 777]
    plan = LogMelPlan(hop_length=300, n_mels=33)
    samples = (random(3, 3000) * 3000).to(torch.int16)
    decibels = REFERENCE.log_mel(samples.double() / FULL_SCALE, plan, lengths)
    for name, given in (("int16", samples), ("float32", samples.float() / FULL_SCALE)):
        yield _Result(f"log_mel ({name})", backend.log_mel(given, plan, lengths), decibels)

    x, shape = small_mixture(device)
    yield from _log_prob(backend.mixture_log_prob, x, shape)
    for precision in ("float32", "bfloat16"):
        grad = random(len(x.hidden), 3)
        grads = backend.mixture_log_prob_backward(grad, x, shape, precision, False)
        exact = REFERENCE.mixture_log_prob_backward(grad.double(), x.double(), shape, precision, False)
        for name, gradient, expected in zip(MixtureTensors._fields, grads, exact, strict=True):
            yield _Result(f"mixture_log_prob_backward ({precision}, {name})", gradient, expected)


def small_mixture(device: torch.device) -> tuple[MixtureTensors, MixtureShape]:
    """Return a small head, with hidden units and targets of more windows than a block takes: 20 dims a group, prefixes
    that fill no tile.
    """
    generator = torch.Generator().manual_seed(0)
    hidden, target, weight, bias = (
        torch.randn(size, generator=generator).to(device) for size in ((150, 30), (150, 60), (540, 30), (540,))
    )
    return MixtureTensors(hidden.relu(), target, weight / 5, bias), MixtureShape((0, 9, 30), 60, 3, -7.0)


def _log_prob(mixture_log_prob: MixtureLogProb, x: MixtureTensors, shape: MixtureShape) -> Iterator[_Result]:
    far = x._replace(target=100 * x.target)  # from every Gaussian, so that each density's exponential is zero
    for precision, (where, given) in itertools.product(("float32", "bfloat16"), (("", x), (", far targets", far))):
        exact = REFERENCE.mixture_log_prob(given.double(), shape, precision, False)
        yield _Result(f"mixture_log_prob ({precision}{where})", mixture_log_prob(given, shape, precision, False), exact)


def _hidden_layers(hidden_layers: HiddenLayers, device: torch.device) -> Iterator[_Result]:
    """Yield what masked layers compute of which one is narrow, over more windows than a block takes."""
    generator = torch.Generator().manual_seed(0)
    mels, order = 20, (1, 2, 5, 3, 4)
    degrees = [torch.tensor(order).repeat_interleave(mels)]
    degrees += [torch.tensor(sorted(1 + i % 4 for i in range(units))) for units in (128, 30, 100, 77)]
    layers = []
    for before, after in itertools.pairwise(degrees):
        mask = (before <= after[:, None]).float()
        weight = torch.randn(mask.shape, generator=generator) * mask / (mask.sum(1, keepdim=True) / 2).sqrt()
        layers.append((weight, torch.randn(len(after), generator=generator) / 10))
    outputs = 3 * len(order) * mels
    head = MixtureHead(torch.zeros(outputs, 77), torch.zeros(outputs), degrees[-1].tolist(), order, 1)
    mean, scale = -60 + torch.randn(mels, generator=generator), 3 + torch.rand(mels, generator=generator)
    log_mel = mean + scale * torch.randn(150, mels, generator=generator)

    def network(dtype: torch.dtype) -> GroupMadeNetwork:
        there = tuple((weight.to(device, dtype), bias.to(device, dtype)) for weight, bias in layers)
        return GroupMadeNetwork(mean.to(device, dtype), scale.to(device, dtype), there, head)

    double = network(torch.float64)
    target = double.standardised_windows(log_mel.to(device, torch.float64))
    # In bfloat16 a number beside a rounding boundary may go either way, and the layers that follow see the difference.
    for precision, tolerance in (("float32", TOLERANCE), ("bfloat16", 50 * TOLERANCE)):
        made = hidden_layers(log_mel.to(device), network(torch.float32), precision)
        exact = double.hidden_layers(target, precision)
        if made is not None:  # else they don't fit there
            yield _Result(f"the hidden layers ({precision})", made[0], exact, tolerance)
            yield _Result(f"the hidden layers ({precision}, standardised)", made[1], target)
