"""The Triton kernels, for GPUs; on CPU tensors they run in Triton's interpreter alone (`TRITON_INTERPRET=1`), which is
slow and there for tests. They are compiled and interpreted in the tests; a run on a GPU is outstanding.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyasd.backends import reference
from pyasd.config import FULL_SCALE, POWER_EPS

if TYPE_CHECKING:
    from pyasd.ops import GroupMadeNetwork, LogMelPlan, MixtureShape


def unavailable(device: torch.device | None = None) -> str | None:
    """Why this backend can't run on `device`; `None` when it can."""
    try:
        from pyasd.kernels import mixture
    except ImportError as error:
        return f"it can't be imported ({error}); install triton, and pyasd with `pip install -e .`"
    if mixture.INTERPRETED:
        return None if device is None or device.type == "cpu" else "with TRITON_INTERPRET set it runs on CPU tensors"
    if device is not None and device.type != "cuda":
        return "its kernels run on CUDA tensors (on CPU tensors in Triton's interpreter: set TRITON_INTERPRET=1)"
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        return "no GPU that torch can use" if built else "this torch is a build without CUDA and ROCm"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than compute capability 8.0, the first with TF32"
    return None


def log_mel(samples: Tensor, plan: LogMelPlan, lengths: Sequence[int]) -> Tensor:
    """As `reference.log_mel`, which does the frame sizes that have no kernel (powers of two from 256 to 4096 do)."""
    from pyasd.kernels import log_mel as kernel

    if plan.n_fft not in kernel.FACTORS:
        return reference.log_mel(samples, plan, lengths)
    return kernel.log_mel(
        samples,
        lengths,
        plan.n_fft,
        plan.hop_length,
        *_tables(plan, samples.device),
        scale=1 / FULL_SCALE if samples.dtype == torch.int16 else 1.0,
        eps=POWER_EPS,
        reflect=plan.pad == "reflect",
        add=plan.floor == "add",
    )


@lru_cache(maxsize=32)
def _tables(plan: LogMelPlan, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Window, each band's first bin and number of bins, and their weights, `[bins, mels]`, on `device`."""
    starts, counts, _ = (torch.from_numpy(x) for x in plan.mel_weights)
    counts = counts.minimum(plan.n_fft // 2 - starts)  # no band weighs half the sample rate, but for rounding
    dense = torch.from_numpy(plan.dense_weights())
    bins = starts + torch.arange(int(counts.max()))[:, None]
    weights = dense.gather(1, bins.clamp(max=plan.bins - 1).t().long()).t()
    window = torch.from_numpy(plan.window)
    return window.float().to(device), starts.to(device), counts.to(device), weights.float().contiguous().to(device)


def mixture_log_prob(
    hidden: Tensor, target: Tensor, weight: Tensor, bias: Tensor, shape: MixtureShape, precision: str, per_dim: bool
) -> Tensor:
    """As `reference.mixture_log_prob`."""
    from pyasd.kernels import mixture

    return mixture.log_prob(
        hidden, target, weight, bias, shape.prefix, shape.components, shape.log_scale_min, precision, per_dim
    )


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
    """As `reference.mixture_log_prob_backward`: the outputs are computed again rather than kept."""
    from pyasd.kernels import mixture_backward

    return mixture_backward.log_prob_backward(
        grad, hidden, target, weight, bias, shape.prefix, shape.components, shape.log_scale_min, precision, per_dim
    )


def mixture_log_likelihood(
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor,
    shape: MixtureShape,
    precision: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `reference.mixture_log_likelihood`, in two passes."""
    passes = mixture_log_prob, mixture_log_prob_backward
    return reference.mixture_log_likelihood(hidden, target, weight, bias, shape, precision, scale, *passes)


_packed: weakref.WeakKeyDictionary[GroupMadeNetwork, dict[str, Any]] = weakref.WeakKeyDictionary()
"""What was packed for each network, by precision; `None` where its layers are wider than the kernel takes."""


def group_made_log_prob(
    log_mel: Tensor, network: GroupMadeNetwork, wanted: Sequence[int], precision: str, per_dim: bool
) -> Tensor:
    """As `reference.group_made_log_prob`: one kernel for the hidden layers, one for each wanted group of the head."""
    from pyasd.kernels import mixture, trunk

    known = _packed.setdefault(network, {})
    if precision not in known:
        narrow = max(len(bias) for _, bias in network.layers) <= trunk.MAX_WIDTH
        known[precision] = trunk.Packed(network.layers, precision) if narrow else None
    if known[precision] is None:  # the layers in torch
        return reference.group_made_log_prob(log_mel, network, wanted, precision, per_dim, mixture_log_prob)
    head, shape = network.head, network.head.shape
    z = ((log_mel - network.band_mean) / network.band_scale).contiguous()
    windows = z.as_strided((len(z) - shape.groups + 1, shape.dims), (z.shape[1], 1))
    return mixture.log_prob(
        known[precision](z), windows, head.weight, head.bias, shape.prefix, shape.components, shape.log_scale_min,
        precision, per_dim, wanted,
    )  # fmt: skip
