"""The native CUDA backend: kernels for compute capability 8.0 and above, compiled ahead of time.

They are tested on the host, in an emulation of CUDA's thread blocks, and have run on an H200 (docs/performance.md). On
other devices they have not: so before a device is used for the first time, every operator is compared there with the
reference on a small shape (`_self_check`), and the backend reports itself unavailable, with the reason, where that
fails. Group MADE's hidden layers have a check of
their own (`hidden_layers_obstacle`), since torch can stand in for their kernel beside the head's.

PYASD_CUDA=0 in the environment turns the backend off, PYASD_WGMMA=0 the head's products of warpgroups: for a device on
which one of them hangs or dies before it can be compared.
"""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from pyasd.backends import self_check
from pyasd.backends.contract import (
    POWER_EPS,
    Backend,
    GroupMadeNetwork,
    LogMelPlan,
    MixtureShape,
    MixtureTensors,
)
from pyasd.backends.layout import is_capturing, layer, refuse_in_capture, whole, whole_rows, without_waiting
from pyasd.backends.versions import version

_why: str | None = None
try:
    from pyasd import _cuda
except ImportError:
    _why = "the extension pyasd._cuda is not built here: the build found no CUDA compiler"

RUN_BEFORE = "run once with this plan and network before capturing"

WINDOWS_PER_PASS = 1 << 16
"""Windows that go through Group MADE at once, about 200 clips: 34 MB of frames and as much of hidden units."""


class CudaBackend(Backend):
    """The operators on CUDA tensors, for whatever shapes there are kernels; torch does the others."""

    name = "cuda"
    batch_invariant = True

    def unavailable(self, device: torch.device | None = None) -> str | None:
        """Return why this backend can't run on `device`; the first time, every operator is checked there."""
        if _why is not None:
            return _why
        if os.environ.get("PYASD_CUDA") == "0":
            return "PYASD_CUDA=0 turns it off"
        if device is not None and device.type != "cuda":
            return "its kernels run on CUDA tensors"
        count, reason = _cuda.device_count()
        if count == 0:
            return f"no CUDA device: {reason}" if reason else "no CUDA device"
        if not torch.cuda.is_available():
            return "torch sees no CUDA device: it was built without CUDA, or the driver is too old for it"
        index = torch.cuda.current_device() if device is None or device.index is None else device.index
        return self._self_check(torch.device("cuda", index))

    @lru_cache(maxsize=None)
    def _self_check(self, device: torch.device) -> str | None:
        try:
            _cuda.loaded(device.index)
        except RuntimeError as error:
            return f"no kernel was compiled for the architecture of {device} ({error})"
        return self_check.disagreement(self, device)

    def facts(self) -> dict[str, str]:
        """Return what runs in kernels of its own on the current device; nothing if the backend can't run."""
        if self.unavailable() is not None:
            return {}
        device = torch.device("cuda", torch.cuda.current_device())
        trunk, warpgroups = self.hidden_layers_obstacle(device), self.warpgroups_obstacle(device)
        return {
            "CUDA trunk": f"in torch: {trunk}" if trunk else "ready",
            "CUDA wgmma": f"not used: {warpgroups}" if warpgroups else "ready",
        }

    def log_mel(self, samples: Tensor, plan: LogMelPlan, lengths: Sequence[int]) -> Tensor:
        """Run the kernel; torch does the frame sizes that have none (powers of two from 256 to 4096 do)."""
        if not _cuda.log_mel_supported(plan.n_fft):
            return super().log_mel(samples, plan, lengths)
        samples = whole_rows(samples)
        tables = _log_mel_tables(plan, samples.device)
        frames = sum(plan.frames(n) for n in lengths)
        out = samples.new_empty(frames, plan.n_mels, dtype=torch.float32)
        queue = _queue(samples)
        ragged = (
            None if len(set(lengths)) <= 1 else _clip_frames(tuple(lengths), plan.hop_length, samples.device, queue)
        )
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

    def mixture_log_prob(self, x: MixtureTensors, shape: MixtureShape, precision: str, per_dim: bool) -> Tensor:
        """Run the kernels; torch does the shapes that have none: over 64 groups, or more hidden units than fit in
        shared memory (several hundred).
        """
        if not _fits(x.weight, shape, precision, backward=False):
            return super().mixture_log_prob(x, shape, precision, per_dim)
        warpgroups = self.warpgroups_obstacle(x.hidden.device) is None
        return self.log_prob_by(x, shape, precision, per_dim, warpgroups=warpgroups)

    @lru_cache(maxsize=None)
    def warpgroups_obstacle(self, device: torch.device) -> str | None:
        """Return why the head's forward kernel multiplies by warps (`mma.sync`) on `device`, not by warpgroups
        (`wgmma`), where it can run; `None` if it does.
        """
        if os.environ.get("PYASD_WGMMA") == "0":
            return "PYASD_WGMMA=0 turns them off"
        if _cuda.device(device.index or 0)["capability"][0] != 9:
            return "devices of compute capability 9 alone have wgmma"
        return self_check.forward_disagreement(partial(self.log_prob_by, warpgroups=True), device)

    def log_prob_by(
        self,
        x: MixtureTensors,
        shape: MixtureShape,
        precision: str,
        per_dim: bool,
        *,
        warpgroups: bool,
        wanted: Sequence[int] | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Return `mixture_log_prob` of a shape that has a kernel, from products of warpgroups or of warps.

        Args:
            x: hidden units, targets, weights and biases.
            shape: the head's.
            precision: "float32" or "bfloat16".
            per_dim: keep a group's dimensions apart.
            warpgroups: which products.
            wanted: the groups to compute; `None` is all. The outputs of others are left as they are.
            out: where to write; `None` allocates.
        """
        if out is None:
            out = x.hidden.new_empty(x.hidden.shape[0], shape.dims if per_dim else shape.groups)
        known = _pack(x.weight, x.bias, shape, precision)
        hidden, target = whole_rows(x.hidden), whole_rows(x.target)
        windows = hidden.shape[0]
        partial_sums = hidden.new_empty(0 if per_dim else known.head.units * windows)
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
            partial=partial_sums.data_ptr(),
            warpgroups=warpgroups,
            **_queue(hidden)._asdict(),
        )
        return out

    def mixture_log_prob_backward(
        self, grad: Tensor, x: MixtureTensors, shape: MixtureShape, precision: str, per_dim: bool
    ) -> MixtureTensors:
        """Run the kernels, for the shapes that have some: the outputs are computed again rather than kept."""
        if not _fits(x.weight, shape, precision, backward=True):
            return super().mixture_log_prob_backward(grad, x, shape, precision, per_dim)
        known = _pack(x.weight, x.bias, shape, precision)
        grad, hidden, target = whole(grad), whole_rows(x.hidden), whole_rows(x.target)
        windows = hidden.shape[0]
        grads = MixtureTensors(hidden, target, x.weight, x.bias).empty_like()
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
            d_hidden=grads.hidden.data_ptr(),
            d_target=grads.target.data_ptr(),
            d_weight=grads.weight.data_ptr(),
            d_bias=grads.bias.data_ptr(),
            **_queue(hidden)._asdict(),
        )
        return grads

    def hidden_layers(self, log_mel: Tensor, network: GroupMadeNetwork, precision: str) -> tuple[Tensor, Tensor] | None:
        """Return the head's input `[windows, hidden]` and the standardised windows `[windows, dims]`, a view, from one
        kernel. With bfloat16 the head's input is rounded already.

        `None` for networks that the kernel doesn't take: windows that hop, layers of over 128 units, or more bands than
        fit in shared memory (over 144 where a block has 99 KB and float32 is asked for).
        """
        known = _pack_trunk(network, precision)
        queue = _queue(log_mel)
        if known is None or not known.trunk.fits(device=queue.device):
            return None
        windows = len(log_mel) - network.head.shape.groups + 1
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
        return hidden, network.windows_of(z)

    @lru_cache(maxsize=None)
    def hidden_layers_obstacle(self, device: torch.device) -> str | None:
        """Return why the hidden layers run in torch on `device`, where the other kernels can run; `None` if theirs
        does.
        """
        return self_check.hidden_layers_disagreement(self.hidden_layers, device)

    def group_made_log_prob(
        self, log_mel: Tensor, network: GroupMadeNetwork, wanted: Sequence[int], precision: str, per_dim: bool
    ) -> Tensor:
        """Run one kernel for the hidden layers, where it can (`hidden_layers`, else torch), and two for the head, which
        skip the groups that aren't wanted. Nothing waits for the device but a network's first call.
        """
        head, groups = network.head, network.head.shape.groups
        if not _fits(head.weight, head.shape, precision, backward=False):
            return super().group_made_log_prob(log_mel, network, wanted, precision, per_dim)
        windows = len(log_mel) - groups + 1
        out = log_mel.new_empty(windows, head.shape.dims if per_dim else groups)
        if len(set(wanted)) < groups:
            out.fill_(math.nan)
        fused = self.hidden_layers_obstacle(log_mel.device) is None
        warpgroups = self.warpgroups_obstacle(log_mel.device) is None
        for first in range(0, windows, WINDOWS_PER_PASS):
            rows = out[first : first + WINDOWS_PER_PASS]
            frames = log_mel[first : first + len(rows) + groups - 1]
            made = self.hidden_layers(frames, network, precision) if fused else None
            if made is None:
                target = network.standardised_windows(frames)
                made = network.hidden_layers(target, precision), target
            if not wanted:
                continue
            x = head.tensors(*made)
            self.log_prob_by(x, head.shape, precision, per_dim, warpgroups=warpgroups, wanted=wanted, out=rows)
        return out


class _Queue(NamedTuple):
    """The device and the stream on which kernels are enqueued."""

    device: int
    stream: int


def _queue(x: Tensor) -> _Queue:
    return _Queue(x.device.index, torch.cuda.current_stream(x.device).cuda_stream)


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
    refuse_in_capture(device, RUN_BEFORE)
    starts, counts, weights = plan.mel_weights
    angle = -2 * np.pi * np.arange(plan.n_fft) / plan.n_fft
    twiddle = np.stack([np.cos(angle), np.sin(angle)], -1)
    offsets = np.cumsum(counts, dtype=np.int32) - counts
    tables = (plan.window.astype(np.float32), twiddle.astype(np.float32), starts, counts, offsets)
    return _LogMelTables(*(torch.from_numpy(x).to(device) for x in (*tables, weights.astype(np.float32))))


@lru_cache(maxsize=32)
def _clip_frames(
    lengths: tuple[int, ...],
    hop_length: int,
    device: torch.device,
    queue: _Queue,  # noqa: ARG001  a key of the cache: what another stream copies may not be there yet
) -> Tensor:
    """Return each clip's length and its first frame in the output, `[2, clips]` int64 on the device."""
    samples = torch.tensor(lengths)
    frames = 1 + samples // hop_length
    table = torch.stack([samples, frames.cumsum(0) - frames])
    return without_waiting(table, device)


class _Packed(NamedTuple):
    key: tuple[object, ...]
    head: _cuda.MixtureHead
    packed: Tensor
    stream: int
    """On which the weights were packed."""
    ready: torch.cuda.Event | None
    """When they were."""


_packed: WeakIdKeyDictionary = WeakIdKeyDictionary()
"""Packed weights by weight tensor, so that scoring packs once; a changed tensor is packed again (see `versions`)."""


def _pack(weight: Tensor, bias: Tensor, shape: MixtureShape, precision: str) -> _Packed:
    queue = _queue(weight)
    current = version(weight, bias)
    key = (current, shape, precision)
    known: _Packed | None = _packed.get(weight)  # type: ignore[no-untyped-call]
    capturing = is_capturing(weight.device)
    if current is not None and known is not None and known.key == key:
        if known.ready is not None and known.stream != queue.stream and not capturing:  # a capture waits beforehand
            stream = torch.cuda.current_stream(weight.device)
            stream.wait_event(known.ready)
            known.packed.record_stream(stream)
        return known
    head = _head(shape, weight.shape[1], precision)
    plain_weight, plain_bias = whole(weight), whole(bias)
    packed = weight.new_empty(head.packed_size // 4)
    head.pack(weight=plain_weight.data_ptr(), bias=plain_bias.data_ptr(), packed=packed.data_ptr(), **queue._asdict())
    on_gpu = weight.device.type == "cuda" and not capturing
    ready = torch.cuda.current_stream(weight.device).record_event() if on_gpu else None
    result = _Packed(key, head, packed, queue.stream, ready)
    if current is not None and not capturing:  # else it is in the graph's memory, which is filled when that is replayed
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
    """Return whether the kernels take the shape: its groups, and its hidden units in shared memory."""
    if shape.groups > _cuda.max_groups:
        return False
    return _head(shape, weight.shape[1], precision).fits(device=_queue(weight).device, backward=backward)


class _PackedTrunk(NamedTuple):
    trunk: _cuda.Trunk
    packed: Tensor


_trunks: weakref.WeakKeyDictionary[GroupMadeNetwork, dict[str, _PackedTrunk | None]] = weakref.WeakKeyDictionary()
"""The packed hidden layers of each network, by precision; `None` where the kernel doesn't take them."""


def _pack_trunk(network: GroupMadeNetwork, precision: str) -> _PackedTrunk | None:
    """Pack the layers on the host, where the weights' zeros tell what the masks hide: waits for the device once."""
    known = _trunks.setdefault(network, {})
    if precision not in known:
        refuse_in_capture(network.band_mean.device, RUN_BEFORE)
        known[precision] = None
        hops = len(network.band_mean) * network.head.shape.groups != network.head.shape.dims
        if not hops and max(len(bias) for _, bias in network.layers) <= _cuda.max_trunk_width:
            layers = [(whole(weight.cpu()), whole(bias.cpu())) for weight, bias in network.layers]
            trunk = _cuda.Trunk(
                layers=[layer(weight, bias) for weight, bias in layers],
                mels=len(network.band_mean),
                bfloat16=precision == "bfloat16",
            )
            on_host = torch.frombuffer(bytearray(trunk.packed), dtype=torch.uint8)
            known[precision] = _PackedTrunk(
                trunk, network.band_mean.new_empty(len(on_host), dtype=torch.uint8).copy_(on_host)
            )
    return known[precision]


BACKEND = CudaBackend()
