"""What the CUDA backend hands to its kernels of tensors that are legal but unkind, in the emulation.

What it makes of NaN, infinities and empty batches is in each operator's own module; what only a device can show is in
tests/test_gpu.py.
"""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from pyasd import ops
from pyasd.backends import cuda as backend
from pyasd.backends.contract import MixtureTensors
from pyasd.backends.cuda import CudaBackend

from .conftest import guarded, make_head, make_windows, misaligned
from .test_trunk import make_log_mel, make_network


@pytest.fixture
def addresses(cuda: CudaBackend, emulation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every address in memory that the kernels are given, with its argument's name."""
    seen: list[tuple[str, int]] = []

    def watched(function: Any) -> Any:
        def call(*own: object, **named: Any) -> object:
            seen.extend((name, value) for name, value in named.items() if isinstance(value, int) and value > 1 << 32)
            return function(*own, **named)

        return call

    names = {name: getattr(emulation, name) for name in dir(emulation) if not name.startswith("__")}
    monkeypatch.setattr(backend, "_cuda", SimpleNamespace(**{**names, "log_mel": watched(emulation.log_mel)}))
    methods = [(emulation.MixtureHead, name) for name in ("pack", "forward", "backward")]
    for kind, method in [*methods, (emulation.Trunk, "forward")]:
        monkeypatch.setattr(kind, method, watched(getattr(kind, method)))
    return seen


def strided(x: Tensor) -> Tensor:
    """The same numbers, every other element of each row of a larger tensor of NaN."""
    wide = guarded(torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), float("nan")).to(x.dtype))
    return wide[..., 1::2].copy_(x)


@pytest.mark.parametrize("unkind", [misaligned, strided])
def test_misaligned_and_strided(cuda: CudaBackend, addresses: list[tuple[str, int]], unkind: Any) -> None:
    plan = ops.LogMelPlan(n_fft=256, hop_length=100, n_mels=33)
    head, network = make_head(30, 65, 2), make_network(13, (24, 30))
    h, x = make_windows(head, 9)
    log_mel, grad = make_log_mel(network, 9), torch.randn(9, 5)
    samples = guarded((1000 * torch.randn(2, 1300)).to(torch.int16))

    def results(change: Any) -> list[Tensor]:
        weight, bias = change(head.weight), change(head.bias)
        layers = tuple((change(w), change(b)) for w, b in network.layers)
        changed = ops.GroupMadeNetwork(change(network.band_mean), change(network.band_scale), layers, network.head)
        operands = MixtureTensors(change(h), change(x), weight, bias), head.shape, "float32", False
        return [
            cuda.log_mel(change(samples), plan, [1300, 1300]),
            cuda.log_mel(change(samples.float() / 32768), plan, [1300, 1300]),
            cuda.mixture_log_prob(*operands),
            *cuda.mixture_log_prob_backward(change(grad), *operands),
            cuda.group_made_log_prob(change(log_mel), changed, range(5), "float32", False),
        ]

    expected = results(lambda tensor: tensor)
    addresses.clear()
    assert all(torch.equal(a, b) for a, b in zip(results(unkind), expected, strict=True))
    assert {"samples", "weight", "hidden", "target", "grad", "log_mel", "band_mean"} <= {name for name, _ in addresses}
    assert not [name for name, address in addresses if address % (2 if name == "samples" else 4)]
