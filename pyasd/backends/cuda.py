"""The native CUDA backend: kernels for compute capability 8.0 and above, compiled ahead of time.

They are tested on the host, in an emulation of CUDA's thread blocks; a run on a GPU is outstanding. So before a device
is used for the first time, every operator is compared there with the reference on a small shape (`_self_check`), and
the backend reports itself unavailable, with the reason, where that fails. Group MADE's hidden layers have a check of
their own (`hidden_layers_obstacle`), since torch can stand in for their kernel beside the head's.
"""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from pyasd.backends import reference, self_check
from pyasd.backends.layout import whole, whole_rows
from pyasd.backends.versions import version
from pyasd.config import POWER_EPS

_why: str | None = None
try:
    from pyasd import _cuda
except ImportError:
    _why = "the extension pyasd._cuda is not built here: the build found no CUDA compiler"

if TYPE_CHECKING:
    from pyasd.ops import GroupMadeNetwork, LogMelPlan, MixtureShape


def unavailable(device: torch.device | None = None) -> str | None:
    """Why this backend can't run on `device`."""
    if _why is not None:
        return _why
    if device is not None and device.type != "cuda":
        return "its kernels run on CUDA tensors"
    count, reason = _cuda.device_count()
    if count == 0:
        return f"no CUDA device: {reason}" if reason else "no CUDA device"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device: it was built without CUDA, or the driver is too old for it"
    index = torch.cuda.current_device() if device is None or device.index is None else device.index
    return _self_check(torch.device("cuda", index))


class _Queue(NamedTuple):
    """Where kernels are enqueued."""

    device: int
    stream: int


def _queue(x: Tensor) -> _Queue:
    return _Queue(x.device.index, torch.cuda.current_stream(x.device).cuda_stream)


@lru_cache(maxsize=None)
def _self_check(device: torch.device) -> str | None:
    """Why the kernels can't be used on `device`; `None` where all agree with the reference there."""
    try:
        _cuda.loaded(device.index)
    except RuntimeError as error:
        return f"no kernel was compiled for the architecture of {device} ({error})"
    return self_check.disagreement(sys.modules[__name__], device)


# -- log-Mel -----------------------------------------------------------------------------------------------------


def log_mel(samples: Tensor, plan: LogMelPlan, lengths: Sequence[int]) -> Tensor:
    """As `reference.log_mel`, which does the frame sizes that have no kernel (powers of two from 256 to 4096 do)."""
    if not _cuda.log_mel_supported(plan.n_fft):
        return reference.log_mel(samples, plan, lengths)
    samples = whole_rows(samples)
    tables = _log_mel_tables(plan, samples.device)
    frames = sum(plan.frames(n) for n in lengths)
    out = samples.new_empty(frames, plan.n_mels, dtype=torch.float32)
    queue = _queue(samples)
    ragged = None if len(set(lengths)) <= 1 else _clip_frames(tuple(lengths), plan.hop_length, samples.device, queue)
    _cuda.log_mel(
        n_fft=plan.n_fft,
        hop_length=plan.hop_length,
        n_mels=plan.n_mels,
        reflect=plan.pad == "reflect",
        floor_add=plan.floor == "add",
        eps=POWER_EPS,
        window=tables.window.data_ptr(),
        twiddle=tables.twiddle.data_ptr(),
        band_start=tables.band_start.data_ptr(),
        band_count=tables.band_count.data_ptr(),
        band_offset=tables.band_offset.data_ptr(),
        band_weights=tables.band_weights.data_ptr(),
        samples=samples.data_ptr(),
        is_int16=samples.dtype == torch.int16,
        clips=len(lengths),
        clip_stride=samples.stride(0),
        length=lengths[0] if lengths else 0,
        lengths=0 if ragged is None else ragged[0].data_ptr(),
        first=0 if ragged is None else ragged[1].data_ptr(),
        frames=frames,
        out=out.data_ptr(),
        **queue._asdict(),
    )
    return out


class _LogMelTables(NamedTuple):
    """On the device: window, `e^(-2 pi i k / n_fft)`, and the Mel filter bank of `LogMelPlan.mel_weights`."""

    window: Tensor
    twiddle: Tensor
    band_start: Tensor
    band_count: Tensor
    band_offset: Tensor
    band_weights: Tensor


@lru_cache(maxsize=32)
def _log_mel_tables(plan: LogMelPlan, device: torch.device) -> _LogMelTables:
    starts, counts, weights = plan.mel_weights
    angle = -2 * np.pi * np.arange(plan.n_fft) / plan.n_fft
    twiddle = np.stack([np.cos(angle), np.sin(angle)], -1)
    offsets = np.cumsum(counts, dtype=np.int32) - counts
    tables = (plan.window.astype(np.float32), twiddle.astype(np.float32), starts, counts, offsets)
    return _LogMelTables(*(torch.from_numpy(x).to(device) for x in (*tables, weights.astype(np.float32))))


@lru_cache(maxsize=32)
def _clip_frames(lengths: tuple[int, ...], hop_length: int, device: torch.device, queue: _Queue) -> Tensor:
    """On the device: each clip's length, and its first frame in the output, `[2, clips]` int64. For one stream: what
    another one copies may not be there yet.
    """
    samples = torch.tensor(lengths)
    frames = 1 + samples // hop_length
    table = torch.stack([samples, frames.cumsum(0) - frames])
    if device.type == "cuda":  # a copy from pinned memory doesn't make the host wait for the stream
        return table.pin_memory().to(device, non_blocking=True)
    return table


# -- mixture head ------------------------------------------------------------------------------------------------


class _Packed(NamedTuple):
    key: tuple[object, ...]
    head: _cuda.MixtureHead
    packed: Tensor


_packed: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Packed weights by weight tensor, so that scoring packs once; a changed tensor is packed again (see `versions`)."""


def _pack(weight: Tensor, bias: Tensor, shape: MixtureShape, precision: str) -> _Packed:
    queue = _queue(weight)
    current = version(weight, bias)
    key = (current, shape, precision, queue)  # by stream: what another one packs may not be there yet
    known: _Packed | None = _packed.get(weight)  # type: ignore[no-untyped-call]
    if current is not None and known is not None and known.key == key:
        return known
    head = _head(shape, weight.shape[1], precision)
    plain_weight, plain_bias = whole(weight), whole(bias)
    packed = weight.new_empty(head.packed_size // 4)
    head.pack(weight=plain_weight.data_ptr(), bias=plain_bias.data_ptr(), packed=packed.data_ptr(), **queue._asdict())
    result = _Packed(key, head, packed)
    if current is not None:
        _packed[weight] = result
    return result


@lru_cache(maxsize=64)
def _head(shape: MixtureShape, hidden: int, precision: str) -> _cuda.MixtureHead:
    return _cuda.MixtureHead(
        dims=shape.dims,
        prefix=shape.prefix,
        components=shape.components,
        hidden=hidden,
        log_scale_min=shape.log_scale_min,
        bfloat16=precision == "bfloat16",
    )


def _fits(weight: Tensor, shape: MixtureShape, precision: str, backward: bool) -> bool:
    """Whether the kernels take the shape: groups, and hidden units in shared memory."""
    if shape.groups > _cuda.max_groups:
        return False
    return _head(shape, weight.shape[1], precision).fits(device=_queue(weight).device, backward=backward)


def mixture_log_prob(
    hidden: Tensor, target: Tensor, weight: Tensor, bias: Tensor, shape: MixtureShape, precision: str, per_dim: bool
) -> Tensor:
    """As `reference.mixture_log_prob`, which does the shapes that have no kernel (over 64 groups, or more hidden units
    than fit in shared memory: several hundred).
    """
    if not _fits(weight, shape, precision, backward=False):
        return reference.mixture_log_prob(hidden, target, weight, bias, shape, precision, per_dim)
    warpgroups = warpgroups_obstacle(hidden.device) is None
    return log_prob_by(hidden, target, weight, bias, shape, precision, per_dim, warpgroups=warpgroups)


@lru_cache(maxsize=None)
def warpgroups_obstacle(device: torch.device) -> str | None:
    """Why the head's forward kernel multiplies by warps (`mma.sync`) on `device`, not by warpgroups (`wgmma`), where it
    can run; `None` where it does.
    """
    if _cuda.device(device.index or 0)["capability"][0] != 9:
        return "devices of compute capability 9 alone have wgmma"
    return self_check.forward_disagreement(partial(log_prob_by, warpgroups=True), device)


def log_prob_by(
    hidden: Tensor,
    target: Tensor,
    weight: Tensor,
    bias: Tensor,
    shape: MixtureShape,
    precision: str,
    per_dim: bool,
    *,
    warpgroups: bool,
    wanted: Sequence[int] | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """`mixture_log_prob` of shapes that have a kernel, whose products are those of warpgroups or of warps; of all
    groups, or of those that are wanted, in `out` where that is given.
    """
    if out is None:
        out = hidden.new_empty(hidden.shape[0], shape.dims if per_dim else shape.groups)
    known = _pack(weight, bias, shape, precision)
    hidden, target = whole_rows(hidden), whole_rows(target)
    windows = hidden.shape[0]
    partial = hidden.new_empty(0 if per_dim else known.head.units * windows)
    known.head.forward(
        packed=known.packed.data_ptr(),
        hidden=hidden.data_ptr(),
        hidden_stride=hidden.stride(0),
        target=target.data_ptr(),
        target_stride=target.stride(0),
        windows=windows,
        wanted=[wanted is None or group in wanted for group in range(shape.groups)],
        out=out.data_ptr(),
        per_dim=per_dim,
        partial=partial.data_ptr(),
        warpgroups=warpgroups,
        **_queue(hidden)._asdict(),
    )
    return out


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
    """As `reference.mixture_log_prob_backward`: the outputs are computed again rather than kept. Shapes without kernels
    as for `mixture_log_prob`.
    """
    if not _fits(weight, shape, precision, backward=True):
        return reference.mixture_log_prob_backward(grad, hidden, target, weight, bias, shape, precision, per_dim)
    known = _pack(weight, bias, shape, precision)
    grad, hidden, target = whole(grad), whole_rows(hidden), whole_rows(target)
    windows = hidden.shape[0]
    grads = tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (hidden, target, weight, bias))
    workspace = hidden.new_empty(known.head.backward_workspace(windows))
    known.head.backward(
        packed=known.packed.data_ptr(),
        grad=grad.data_ptr(),
        hidden=hidden.data_ptr(),
        hidden_stride=hidden.stride(0),
        target=target.data_ptr(),
        target_stride=target.stride(0),
        windows=windows,
        per_dim=per_dim,
        workspace=workspace.data_ptr(),
        d_hidden=grads[0].data_ptr(),
        d_target=grads[1].data_ptr(),
        d_weight=grads[2].data_ptr(),
        d_bias=grads[3].data_ptr(),
        **_queue(hidden)._asdict(),
    )
    return grads  # type: ignore[return-value]


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


# -- Group MADE --------------------------------------------------------------------------------------------------


WINDOWS_PER_PASS = 1 << 16
"""Windows that go through Group MADE at once, about 200 clips: 34 MB of frames and as much of hidden units."""


class _PackedTrunk(NamedTuple):
    trunk: _cuda.Trunk
    packed: Tensor


_trunks: weakref.WeakKeyDictionary[GroupMadeNetwork, dict[str, _PackedTrunk | None]] = weakref.WeakKeyDictionary()
"""The packed hidden layers of each network, by precision; `None` where they are wider than the kernel takes."""


def _pack_trunk(network: GroupMadeNetwork, precision: str) -> _PackedTrunk | None:
    """Packs on the host, which reads off the weights' zeros what the masks hide: waits for the device, once."""
    known = _trunks.setdefault(network, {})
    if precision not in known:
        known[precision] = None
        if max(len(bias) for _, bias in network.layers) <= _cuda.max_trunk_width:
            layers = [(whole(weight.cpu()), whole(bias.cpu())) for weight, bias in network.layers]
            trunk = _cuda.Trunk(
                layers=[(w.shape[1], w.shape[0], w.data_ptr(), b.data_ptr()) for w, b in layers],
                mels=len(network.band_mean),
                bfloat16=precision == "bfloat16",
            )
            on_host = torch.frombuffer(bytearray(trunk.packed), dtype=torch.uint8)
            known[precision] = _PackedTrunk(
                trunk, network.band_mean.new_empty(len(on_host), dtype=torch.uint8).copy_(on_host)
            )
    return known[precision]


def hidden_layers(log_mel: Tensor, network: GroupMadeNetwork, precision: str) -> tuple[Tensor, Tensor] | None:
    """The head's input `[windows, hidden]` and the standardised windows `[windows, dims]`, a view, from one kernel;
    `None` for networks that it doesn't take: layers of over 128 units, or more bands than fit in shared memory (over
    144 where a block has 99 KB and float32 is asked for). With bfloat16 the head's input is rounded already.
    """
    known = _pack_trunk(network, precision)
    queue = _queue(log_mel)
    if known is None or not known.trunk.fits(device=queue.device):
        return None
    shape = network.head.shape
    windows = len(log_mel) - shape.groups + 1
    log_mel, band_mean, band_scale = map(whole, (log_mel, network.band_mean, network.band_scale))
    z = log_mel.new_empty(log_mel.shape)
    hidden = log_mel.new_empty(windows, len(network.layers[-1][1]))
    known.trunk.forward(
        packed=known.packed.data_ptr(),
        log_mel=log_mel.data_ptr(),
        windows=windows,
        band_mean=band_mean.data_ptr(),
        band_scale=band_scale.data_ptr(),
        z=z.data_ptr(),
        hidden=hidden.data_ptr(),
        **queue._asdict(),
    )
    return hidden, z.as_strided((windows, shape.dims), (z.shape[1], 1))


@lru_cache(maxsize=None)
def hidden_layers_obstacle(device: torch.device) -> str | None:
    """Why the hidden layers run in torch on `device`, where the other kernels can run; `None` where theirs does."""
    return self_check.hidden_layers_disagreement(sys.modules[__name__], device)


def group_made_log_prob(
    log_mel: Tensor, network: GroupMadeNetwork, wanted: Sequence[int], precision: str, per_dim: bool
) -> Tensor:
    """As `reference.group_made_log_prob`: one kernel for the hidden layers, where it can (`hidden_layers`, else torch),
    two for the head, which skip the groups that aren't wanted. Nothing waits for the device but a network's first call.
    """
    head, groups = network.head, network.head.shape.groups
    if not _fits(head.weight, head.shape, precision, backward=False):
        return reference.group_made_log_prob(log_mel, network, wanted, precision, per_dim)
    windows = len(log_mel) - groups + 1
    out = log_mel.new_empty(windows, head.shape.dims if per_dim else groups)
    if len(set(wanted)) < groups:
        out.fill_(math.nan)
    fused = hidden_layers_obstacle(log_mel.device) is None
    warpgroups = warpgroups_obstacle(log_mel.device) is None
    for first in range(0, windows, WINDOWS_PER_PASS):
        rows = out[first : first + WINDOWS_PER_PASS]
        frames = log_mel[first : first + len(rows) + groups - 1]
        made = hidden_layers(frames, network, precision) if fused else None
        if made is None:
            target = reference.standardised_windows(frames, network)
            made = reference.hidden_layers(target, network, precision), target
        log_prob_by(
            *made,
            head.weight,
            head.bias,
            head.shape,
            precision,
            per_dim,
            warpgroups=warpgroups,
            wanted=wanted,
            out=rows,
        )
    return out
