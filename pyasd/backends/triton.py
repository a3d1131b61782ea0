"""The Triton kernels, for GPUs; on CPU tensors they run in Triton's interpreter alone (`TRITON_INTERPRET=1`), which is
slow and there for tests. They are compiled and interpreted in the tests, and have run on an H200 (docs/performance.md).
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyasd.backends.contract import (
    FULL_SCALE,
    POWER_EPS,
    Backend,
    GroupMadeNetwork,
    LogMelPlan,
    MixtureShape,
    MixtureTensors,
)

if TYPE_CHECKING:
    from pyasd.kernels import log_mel as log_mel_kernel
    from pyasd.kernels import trunk as trunk_kernel


OLDEST_TRITON = (3, 6)
"""The oldest version that its kernels are known to compile with; 3.3 fails on them."""


class TritonBackend(Backend):
    """The operators in Triton; Triton is loaded only when one is run."""

    name = "triton"
    batch_invariant = True

    def unavailable(self, device: torch.device | None = None) -> str | None:
        """Return why this backend can't run on `device`; `None` if it can."""
        try:
            from pyasd.kernels import mixture
        except ImportError as error:
            return f"it can't be imported ({error}); install triton, and pyasd with `pip install -e .`"
        if mixture.INTERPRETED:
            return (
                None if device is None or device.type == "cpu" else "with TRITON_INTERPRET set it runs on CPU tensors"
            )
        if device is not None and device.type != "cuda":
            return "its kernels run on CUDA tensors (on CPU tensors in Triton's interpreter: set TRITON_INTERPRET=1)"
        if not torch.cuda.is_available():
            built = torch.version.cuda or torch.version.hip
            return "no GPU that torch can use" if built else "this torch is a build without CUDA and ROCm"
        if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
            return "the GPU is older than compute capability 8.0, the first with TF32"
        version = metadata.version("triton")
        if tuple(int(x) for x in version.split(".")[:2]) < OLDEST_TRITON:
            return f"Triton {version} can't compile its kernels: {'.'.join(map(str, OLDEST_TRITON))} can, install it"
        return None

    def log_mel(self, samples: Tensor, plan: LogMelPlan, lengths: Sequence[int]) -> Tensor:
        """Run the kernels; torch does the frame sizes that have none (powers of two from 256 to 4096 do)."""
        from pyasd.kernels import log_mel as kernel

        if plan.n_fft not in kernel.FACTORS:
            return super().log_mel(samples, plan, lengths)
        scale = 1 / FULL_SCALE if samples.dtype == torch.int16 else 1.0
        tables = _tables(plan, samples.device)
        frames: Tensor = kernel.log_mel(samples, lengths, plan, tables, scale=scale, eps=POWER_EPS)
        return frames

    def mixture_log_prob(self, x: MixtureTensors, shape: MixtureShape, precision: str, per_dim: bool) -> Tensor:
        """Run the kernels, which hold no outputs of the layer in memory."""
        from pyasd.kernels import mixture

        log_prob: Tensor = mixture.log_prob(x, shape, precision, per_dim)
        return log_prob

    def mixture_log_prob_backward(
        self, grad: Tensor, x: MixtureTensors, shape: MixtureShape, precision: str, per_dim: bool
    ) -> MixtureTensors:
        """Run the kernels: the outputs are computed again rather than kept."""
        from pyasd.kernels import mixture_backward

        return MixtureTensors(*mixture_backward.log_prob_backward(grad, x, shape, precision, per_dim))

    def group_made_log_prob(
        self, log_mel: Tensor, network: GroupMadeNetwork, wanted: Sequence[int], precision: str, per_dim: bool
    ) -> Tensor:
        """Run one kernel for the hidden layers (torch, where they are too wide), and one for each wanted group."""
        from pyasd.kernels import mixture, trunk

        known = _packed.setdefault(network, {})
        if precision not in known:
            narrow = max(len(bias) for _, bias in network.layers) <= trunk.MAX_WIDTH
            known[precision] = trunk.Packed(network.layers, precision) if narrow else None
        packed = known[precision]
        if packed is None:
            return super().group_made_log_prob(log_mel, network, wanted, precision, per_dim)
        z = ((log_mel - network.band_mean) / network.band_scale).contiguous()
        windows = network.windows_of(z)
        x = network.head.tensors(packed(z)[: len(windows)], windows)
        log_prob: Tensor = mixture.log_prob(x, network.head.shape, precision, per_dim, wanted)
        return log_prob


_packed: weakref.WeakKeyDictionary[GroupMadeNetwork, dict[str, trunk_kernel.Packed | None]] = (
    weakref.WeakKeyDictionary()
)
"""Packed layers of each network, by precision; `None` where its layers are wider than the kernel takes."""


@lru_cache(maxsize=32)
def _tables(plan: LogMelPlan, device: torch.device) -> log_mel_kernel.Tables:
    from pyasd.kernels.log_mel import Tables

    starts, counts, _ = (torch.from_numpy(x) for x in plan.mel_weights)
    counts = counts.minimum(plan.n_fft // 2 - starts)  # no band weighs half the sample rate, but for rounding
    dense = torch.from_numpy(plan.dense_weights())
    bins = starts + torch.arange(int(counts.max()))[:, None]
    weights = dense.gather(1, bins.clamp(max=plan.bins - 1).t().long()).t()
    window = torch.from_numpy(plan.window)
    parts = (window.float(), starts, counts, weights.float().contiguous())
    return Tables(*(x.to(device) for x in parts))


BACKEND = TritonBackend()
