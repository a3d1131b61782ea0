"""Compares a backend with the reference on small shapes, on the device where it is about to be used."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyasd.backends import reference
from pyasd.config import FULL_SCALE, LogMelConfig

if TYPE_CHECKING:
    from pyasd.ops import LogMelPlan, MixtureShape


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
    """Which operator of `backend` fails or disagrees with the reference on `device`; `None` where none does."""
    try:
        for name, got, exact in _results(backend, device):
            if not torch.allclose(got.double(), exact, rtol=1e-4, atol=1e-3):
                return f"the self-check of {name} disagrees with the reference"
    except RuntimeError as error:
        return f"the self-check failed: {error}"
    return None


def _results(backend: ModuleType, device: torch.device) -> Any:
    """Name, result and the reference's in float64, of every operator."""
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator).to(device)

    lengths = [3000, 1400, 777]
    plan = cast("LogMelPlan", _Plan(hop_length=300, n_mels=33))
    samples = (random(3, 3000) * 3000).to(torch.int16)
    decibels = reference.log_mel(samples.double() / FULL_SCALE, plan, lengths)
    for name, given in (("int16", samples), ("float32", samples.float() / FULL_SCALE)):
        yield f"log_mel ({name})", backend.log_mel(given, plan, lengths), decibels

    shape = cast("MixtureShape", _Shape((0, 9, 30), 60, 3, -7.0))  # 20 dims a group, prefixes that fill no tile
    head = (random(37, 30).relu(), random(37, 60), random(540, 30) / 5, random(540))
    h, x, w, b = (tensor.double() for tensor in head)
    for precision in ("float32", "bfloat16"):
        got = backend.mixture_log_prob(*head, shape, precision, False)
        yield f"mixture_log_prob ({precision})", got, reference.mixture_log_prob(h, x, w, b, shape, precision, False)
        grad = random(37, 3)
        grads = backend.mixture_log_prob_backward(grad, *head, shape, precision, False)
        expected_grads = reference.mixture_log_prob_backward(grad.double(), h, x, w, b, shape, precision, False)
        for name, got, expected in zip(("hidden", "target", "weight", "bias"), grads, expected_grads, strict=True):
            yield f"mixture_log_prob_backward ({precision}, {name})", got, expected
