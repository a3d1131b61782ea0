"""The native CPU kernels: fused, compiled for several instruction sets, the best of which is chosen at run time.

`PYASD_CPU_ISA` (`base`, `avx2`, `avx512`, `avx512bf16` or `amx`) caps the instruction set. Work is spread over
`torch.get_num_threads()` threads; the results don't depend on their number.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from pyasd.backends.contract import (
    POWER_EPS,
    Backend,
    GroupMadeNetwork,
    LogMelPlan,
    MixtureShape,
    MixtureTensors,
)
from pyasd.backends.layout import layer, whole, whole_rows
from pyasd.backends.versions import version

_why: str | None = None
try:
    from pyasd import _native
except ImportError as error:  # a source tree whose extension was never built
    _why = f"the extension pyasd._native is not built here ({error}); run `pip install -e .`"

EMULATED = "amx-emulated"
"""For tests on any processor with AVX-512: AMX with its instructions emulated, slowly; chosen by name alone."""

ISAS = ("base", "avx2", "avx512", "avx512bf16", "amx", EMULATED)
"""Instruction sets in rising order; the position is the number that the extension knows them by."""

ROWS_MULTIPLE = 16
"""The backward pass reads the weights' rows in whole vectors, of at most so many floats."""


def isa_obstacle(name: str) -> str | None:
    """Return why an instruction set of `ISAS` can't be used; `None` if it can."""
    return _native.isa_obstacle(ISAS.index(name))


def supported_isas() -> list[str]:
    """Return the instruction sets that this build and this processor share."""
    return [name for name in ISAS if name != EMULATED and isa_obstacle(name) is None]


def isa() -> str:
    """Return the instruction set in use: the best supported one, or the best up to `PYASD_CPU_ISA`.

    Raises:
        ValueError: `PYASD_CPU_ISA` is not one of `ISAS`, or it is `EMULATED` and that can't be used.
    """
    return _isa(os.environ.get("PYASD_CPU_ISA", ""))


@lru_cache(maxsize=None)
def _isa(cap: str) -> str:
    if cap and cap not in ISAS:
        raise ValueError(f"PYASD_CPU_ISA={cap!r}: choose from {', '.join(ISAS)}")
    if cap == EMULATED:
        if (why := isa_obstacle(EMULATED)) is not None:
            raise ValueError(f"PYASD_CPU_ISA={cap!r}: {why}")
        return cap
    names = ISAS[: ISAS.index(cap) + 1] if cap else ISAS
    return [name for name in supported_isas() if name in names][-1]


class CpuBackend(Backend):
    """The operators in native code, on CPU tensors."""

    name = "cpu"
    batch_invariant = True

    def unavailable(self, device: torch.device | None = None) -> str | None:
        """Return why this backend can't run on `device`: it isn't built here, or `device` is no CPU."""
        if _why is not None:
            return _why
        if device is not None and device.type != "cpu":
            return "its kernels run on CPU tensors"
        return None

    def facts(self) -> dict[str, str]:
        """Return the instruction set in use, those there are, and whether AMX is ready."""
        if _why is not None:
            return {"CPU kernels": "none", "AMX": "none"}
        return {"CPU kernels": f"{isa()} (of {', '.join(supported_isas())})", "AMX": isa_obstacle("amx") or "ready"}

    def log_mel(self, samples: Tensor, plan: LogMelPlan, lengths: Sequence[int]) -> Tensor:
        """Run the kernel; torch does the frame sizes that have none (powers of two from 64 to 16384 do)."""
        native = _native_plan(plan)
        if native is None:
            return super().log_mel(samples, plan, lengths)
        samples = whole_rows(samples)
        out = samples.new_empty(sum(plan.frames(n) for n in lengths), plan.n_mels, dtype=torch.float32)
        native(
            samples=samples.data_ptr(),
            is_int16=samples.dtype == torch.int16,
            clip_stride=samples.stride(0),
            lengths=list(lengths),
            out=out.data_ptr(),
            isa=ISAS.index(isa()),
            threads=torch.get_num_threads(),
        )
        return out

    def mixture_log_prob(self, x: MixtureTensors, shape: MixtureShape, precision: str, per_dim: bool) -> Tensor:
        """Run the kernel, which holds no outputs of the layer in memory."""
        known = _pack(x.weight, x.bias, shape, precision)
        hidden, target = whole_rows(x.hidden), whole_rows(x.target)
        out = hidden.new_empty(hidden.shape[0], shape.dims if per_dim else shape.groups)
        known.head.forward(
            packed=known.packed.data_ptr(),
            hidden=hidden.data_ptr(),
            hidden_stride=hidden.stride(0),
            target=target.data_ptr(),
            target_stride=target.stride(0),
            windows=hidden.shape[0],
            out=out.data_ptr(),
            per_dim=per_dim,
            threads=torch.get_num_threads(),
        )
        return out

    def mixture_log_prob_backward(
        self, grad: Tensor, x: MixtureTensors, shape: MixtureShape, precision: str, per_dim: bool
    ) -> MixtureTensors:
        """Run the kernel: the outputs are computed again rather than kept."""
        return _backward(whole(grad), x, shape, precision, per_dim, None)

    def mixture_log_likelihood(
        self, x: MixtureTensors, shape: MixtureShape, precision: str, scale: float
    ) -> tuple[Tensor, MixtureTensors]:
        """Compute values and gradients in one pass: the outputs are computed once."""
        log_prob = x.hidden.new_empty(x.hidden.shape[0], shape.groups)
        return log_prob, _backward(scale, x, shape, precision, False, log_prob)

    def group_made_log_prob(
        self, log_mel: Tensor, network: GroupMadeNetwork, wanted: Sequence[int], precision: str, per_dim: bool
    ) -> Tensor:
        """Score all windows in one native call that reads them in place."""
        head = network.head
        known = _pack(head.weight, head.bias, head.shape, precision)
        trunk, inverse_scale = _pack_network(network, precision)
        log_mel, band_mean = whole(log_mel), whole(network.band_mean)
        windows = len(log_mel) - head.shape.groups + 1
        out = log_mel.new_empty(windows, head.shape.dims if per_dim else head.shape.groups)
        if len(wanted) < head.shape.groups:
            out.fill_(math.nan)
        trunk.forward(
            head=known.head,
            packed=known.packed.data_ptr(),
            log_mel=log_mel.data_ptr(),
            windows=windows,
            mels=log_mel.shape[1],
            band_mean=band_mean.data_ptr(),
            inverse_scale=inverse_scale.data_ptr(),
            wanted=[group in wanted for group in range(head.shape.groups)],
            out=out.data_ptr(),
            per_dim=per_dim,
            threads=torch.get_num_threads(),
        )
        return out


@lru_cache(maxsize=64)
def _native_plan(plan: LogMelPlan) -> _native.LogMelPlan | None:
    if plan.n_fft & (plan.n_fft - 1) or not 64 <= plan.n_fft <= 16384:
        return None
    starts, counts, weights = (np.ascontiguousarray(x) for x in plan.mel_weights)
    window = np.ascontiguousarray(plan.window)
    return _native.LogMelPlan(
        n_fft=plan.n_fft,
        hop_length=plan.hop_length,
        n_mels=plan.n_mels,
        reflect=plan.pad == "reflect",
        floor_add=plan.floor == "add",
        eps=POWER_EPS,
        window=window.ctypes.data,
        starts=starts.ctypes.data,
        counts=counts.ctypes.data,
        weights=weights.ctypes.data,
    )


class _Packed(NamedTuple):
    key: tuple[object, ...]
    head: _native.MixtureHead
    packed: Tensor


_packed: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Packed weights by weight tensor, so that scoring packs once; a changed tensor is packed again (see `versions`)."""


def _pack(weight: Tensor, bias: Tensor, shape: MixtureShape, precision: str) -> _Packed:
    threads = torch.get_num_threads()
    current = version(weight, bias)
    key = (current, shape, precision, isa())
    known: _Packed | None = _packed.get(weight)  # type: ignore[no-untyped-call]
    if current is not None and known is not None and known.key == key:
        return known
    head = _native.MixtureHead(
        dims=shape.dims,
        prefix=shape.prefix,
        components=shape.components,
        hidden=weight.shape[1],
        log_scale_min=shape.log_scale_min,
        bfloat16=precision == "bfloat16",
        isa=ISAS.index(isa()),
    )
    plain_weight, plain_bias = whole(weight), whole(bias)
    packed = weight.new_empty(head.packed_size)
    head.pack(
        weight=plain_weight.data_ptr(),
        bias=plain_bias.data_ptr(),
        packed=packed.data_ptr(),
        threads=threads,
    )
    result = _Packed(key, head, packed)
    if current is not None:
        _packed[weight] = result
    return result


def _backward(
    grad: Tensor | float,
    x: MixtureTensors,
    shape: MixtureShape,
    precision: str,
    per_dim: bool,
    log_prob: Tensor | None,
) -> MixtureTensors:
    """Return the gradients for `grad`, a number where all are the same; fill `log_prob` where it is given."""
    known = _pack(x.weight, x.bias, shape, precision)
    hidden, target = whole_rows(x.hidden), whole_rows(x.target)
    rows = x.weight.bfloat16().float() if precision == "bfloat16" else x.weight
    padding = -rows.shape[1] % ROWS_MULTIPLE
    rows = torch.nn.functional.pad(rows, (0, padding)) if padding else whole(rows)
    grads = MixtureTensors(hidden, target, x.weight, x.bias).empty_like()
    known.head.backward(
        packed=known.packed.data_ptr(),
        rows=rows.data_ptr(),
        rows_stride=rows.stride(0),
        grad=grad.data_ptr() if isinstance(grad, Tensor) else 0,
        uniform_grad=1.0 if isinstance(grad, Tensor) else grad,
        hidden=hidden.data_ptr(),
        hidden_stride=hidden.stride(0),
        target=target.data_ptr(),
        target_stride=target.stride(0),
        windows=hidden.shape[0],
        per_dim=per_dim,
        d_hidden=grads.hidden.data_ptr(),
        d_target=grads.target.data_ptr(),
        d_weight=grads.weight.data_ptr(),
        d_bias=grads.bias.data_ptr(),
        log_prob=0 if log_prob is None else log_prob.data_ptr(),
        threads=torch.get_num_threads(),
    )
    return grads


class _PackedNetwork(NamedTuple):
    trunk: _native.GroupMade
    inverse_scale: Tensor


_networks: weakref.WeakKeyDictionary[GroupMadeNetwork, dict[tuple[str, str], _PackedNetwork]] = (
    weakref.WeakKeyDictionary()
)
"""Packed layers of each network, by precision and instruction set."""


def _pack_network(network: GroupMadeNetwork, precision: str) -> _PackedNetwork:
    known = _networks.setdefault(network, {})
    key = (precision, isa())
    if key not in known:
        layers = [(whole(weight), whole(bias)) for weight, bias in network.layers]
        trunk = _native.GroupMade(
            layers=[layer(weight, bias) for weight, bias in layers],
            frame=len(network.band_mean),
            bfloat16=precision == "bfloat16",
            isa=ISAS.index(isa()),
        )
        known[key] = _PackedNetwork(trunk, 1 / network.band_scale)
    return known[key]


BACKEND = CpuBackend()
