"""Compares a backend with the reference on small shapes, on the device where it is about to be used."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyasd.backends import reference
from pyasd.config import FULL_SCALE, LogMelConfig

if TYPE_CHECKING:
    from pyasd.ops import GroupMadeNetwork, LogMelPlan, MixtureShape

TOLERANCE = 1e-4
"""Relative; ten times as much is allowed absolutely."""


class _Shape(NamedTuple):
    """As `ops.MixtureShape`, which stands above the backends."""

    prefix: tuple[int, ...]
    dims: int
    components: int
    log_scale_min: float

    @property
    def groups(self) -> int:
        return len(self.prefix)

    def mask(self, weight: Tensor) -> Tensor:
        rows = torch.tensor(self.prefix).repeat_interleave(self.dims // self.groups * self.components).repeat(3)
        return (torch.arange(weight.shape[1]) < rows[:, None]).to(weight)


class _Head(NamedTuple):
    shape: _Shape


@dataclass(eq=False)
class _Network:
    """As `ops.GroupMadeNetwork`, with no more of a head than its shape."""

    band_mean: Tensor
    band_scale: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]
    head: _Head


class _Plan(LogMelConfig):
    """As `ops.LogMelPlan`, with triangles of 1 to 16 bins, one after the other."""

    @property
    def window(self) -> NDArray[np.float64]:
        return np.hanning(self.n_fft + 1)[:-1]

    @property
    def mel_weights(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
        counts = 1 + np.arange(self.n_mels, dtype=np.int32) % 16
        return (
            np.cumsum(counts, dtype=np.int32) - counts,
            counts,
            np.concatenate([np.bartlett(n + 2)[1:-1] for n in counts]),
        )

    def dense_weights(self) -> NDArray[np.float64]:
        _, counts, weights = self.mel_weights
        dense = np.zeros((self.n_mels, self.n_fft // 2 + 1))
        dense[np.arange(self.n_mels).repeat(counts), np.arange(counts.sum())] = weights
        return dense


def disagreement(backend: ModuleType, device: torch.device) -> str | None:
    """Which operator of `backend` fails or disagrees with the reference on `device`; `None` where none does. Without
    the hidden layers, which a backend may leave to torch: see `hidden_layers_disagreement`.
    """
    return _first_that_disagrees(_results(backend, device))


def hidden_layers_disagreement(backend: ModuleType, device: torch.device) -> str | None:
    """As `disagreement`, of `backend.hidden_layers`."""
    return _first_that_disagrees(_hidden_layers(backend, device))


def forward_disagreement(mixture_log_prob: Callable[..., Tensor], device: torch.device) -> str | None:
    """As `disagreement`, of one way to compute `mixture_log_prob`."""
    return _first_that_disagrees(_log_prob(mixture_log_prob, *_mixture(device)))


def _first_that_disagrees(results: Iterator[tuple[str, Tensor, Tensor, float]]) -> str | None:
    try:
        for name, got, exact, tolerance in results:
            if not torch.allclose(got.double(), exact, rtol=tolerance, atol=10 * tolerance):
                return f"the self-check of {name} disagrees with the reference"
    except RuntimeError as error:
        return f"the self-check failed: {error}"
    return None


def _results(backend: ModuleType, device: torch.device) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """Name, result, the reference's in float64, and the tolerance, of every operator."""
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(device)

    lengths = [3000, 1400, 777]
    plan = cast("LogMelPlan", _Plan(hop_length=300, n_mels=33))
    samples = (random(3, 3000) * 3000).to(torch.int16)
    decibels = reference.log_mel(samples.double() / FULL_SCALE, plan, lengths)
    for name, given in (("int16", samples), ("float32", samples.float() / FULL_SCALE)):
        yield f"log_mel ({name})", backend.log_mel(given, plan, lengths), decibels, TOLERANCE

    shape, head = _mixture(device)
    yield from _log_prob(backend.mixture_log_prob, shape, head)
    h, x, w, b = (tensor.double() for tensor in head)
    for precision in ("float32", "bfloat16"):
        grad = random(len(h), 3)
        grads = backend.mixture_log_prob_backward(grad, *head, shape, precision, False)
        expected_grads = reference.mixture_log_prob_backward(grad.double(), h, x, w, b, shape, precision, False)
        for name, got, expected in zip(("hidden", "target", "weight", "bias"), grads, expected_grads, strict=True):
            yield f"mixture_log_prob_backward ({precision}, {name})", got, expected, TOLERANCE


def _mixture(device: torch.device) -> tuple[MixtureShape, tuple[Tensor, ...]]:
    """A small head, with hidden units and targets of more windows than a block takes: 20 dims a group, prefixes that
    fill no tile.
    """
    generator = torch.Generator().manual_seed(0)
    hidden, target, weight, bias = (
        torch.randn(size, generator=generator).to(device) for size in ((150, 30), (150, 60), (540, 30), (540,))
    )
    return cast("MixtureShape", _Shape((0, 9, 30), 60, 3, -7.0)), (hidden.relu(), target, weight / 5, bias)


def _log_prob(
    mixture_log_prob: Callable[..., Tensor], shape: MixtureShape, head: tuple[Tensor, ...]
) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    h, x, w, b = (tensor.double() for tensor in head)
    for precision in ("float32", "bfloat16"):
        expected = reference.mixture_log_prob(h, x, w, b, shape, precision, False)
        yield f"mixture_log_prob ({precision})", mixture_log_prob(*head, shape, precision, False), expected, TOLERANCE


def _hidden_layers(backend: ModuleType, device: torch.device) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """As `_results`: masked layers of which one is narrow, over more windows than a block takes."""
    generator = torch.Generator().manual_seed(0)
    mels, order = 20, (1, 2, 5, 3, 4)
    degrees = [torch.tensor(order).repeat_interleave(mels)]
    degrees += [torch.tensor(sorted(1 + i % 4 for i in range(units))) for units in (128, 30, 100, 77)]
    layers = []
    for before, after in itertools.pairwise(degrees):
        mask = (before <= after[:, None]).float()
        weight = torch.randn(mask.shape, generator=generator) * mask / (mask.sum(1, keepdim=True) / 2).sqrt()
        layers.append((weight, torch.randn(len(after), generator=generator) / 10))
    shape = _Shape(tuple(int((degrees[-1] < degree).sum()) for degree in order), 5 * mels, 1, -7.0)
    mean, scale = -60 + torch.randn(mels, generator=generator), 3 + torch.rand(mels, generator=generator)
    log_mel = mean + scale * torch.randn(150, mels, generator=generator)

    def network(dtype: torch.dtype) -> GroupMadeNetwork:
        there = tuple((weight.to(device, dtype), bias.to(device, dtype)) for weight, bias in layers)
        return cast("GroupMadeNetwork", _Network(mean.to(device, dtype), scale.to(device, dtype), there, _Head(shape)))

    double = network(torch.float64)
    target = reference.standardised_windows(log_mel.to(device, torch.float64), double)
    # In bfloat16 a number beside a rounding boundary may go either way, and the layers that follow see the difference.
    for precision, tolerance in (("float32", TOLERANCE), ("bfloat16", 50 * TOLERANCE)):
        made = backend.hidden_layers(log_mel.to(device), network(torch.float32), precision)
        expected = reference.hidden_layers(target, double, precision)
        if made is not None:  # else they don't fit there
            yield f"the hidden layers ({precision})", made[0], expected, tolerance
            yield f"the hidden layers ({precision}, standardised)", made[1], target, TOLERANCE
