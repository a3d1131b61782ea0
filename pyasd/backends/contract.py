"""The contract between operators and backends: the plan, shape, head and network types, and `class Backend`.

A backend subclasses `Backend`, whose operators are the definition in lines of torch: each method that it doesn't
override is the reference's. Importing this module loads numpy but not torch, so that a recipe can hold a `LogMelPlan`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyasd.settings import check_types

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Pad = Literal["reflect", "constant"]
Floor = Literal["max", "add"]
Precision = Literal["float32", "bfloat16"]

FULL_SCALE = 32768
"""int16 samples are divided by this: full scale is [-1, 1)."""

POWER_EPS = 2.220446049250313e-16
"""Floor under the Mel power before the logarithm: float64's epsilon, as in the challenge baseline (-156.5 dB)."""

LOG_SCALE_MIN = -4.605170185988091
"""Smallest log standard deviation of a Gaussian: a hundredth of a band's own standard deviation. Digital silence
repeated would otherwise drive the density to infinity."""

WINDOWS_PER_PASS = 512
"""Windows that the reference takes through Group MADE at once: a window has 77 kB of outputs, so that hours-long clips
need bounded memory."""


# -- log-Mel -----------------------------------------------------------------------------------------------------


MAX_MELS, MAX_N_FFT = 4096, 2**20
"""Larger settings are a slip: ten bands to a semitone, and frames of a minute."""


@dataclass(frozen=True)
class LogMelPlan:
    """Settings of a log-Mel spectrogram and their tables (report section 2.1, challenge baseline).

    The tables are computed in float64 and handed to every backend. Equal plans share theirs: they are built once a
    process.

    Attributes:
        sample_rate: samples per second, in Hz.
        n_fft: samples per frame (64 ms at 16 kHz).
        hop_length: samples from one frame to the next (32 ms).
        n_mels: Mel bands.
        f_min: lower edge of the first band, in Hz.
        f_max: upper edge of the last band, in Hz; `None` means half the sample rate.
        pad: how a clip is extended by `n_fft // 2` samples at both ends. `reflect` is what the 2020 baseline's
            librosa 0.6 does, `constant` (zeros) what current librosa does.
        floor: `max` takes `10 log10(max(M, eps))` (baselines from 2021), `add` takes `10 log10(M + eps)` (2020).

    Raises:
        ValueError: a setting has a value that it can't have.
    """

    sample_rate: int = 16000
    n_fft: int = 1024
    hop_length: int = 512
    n_mels: int = 128
    f_min: float = 0.0
    f_max: float | None = None
    pad: Pad = "reflect"
    floor: Floor = "max"

    def __post_init__(self) -> None:
        check_types(self)
        nyquist = self.sample_rate / 2
        f_max = nyquist if self.f_max is None else self.f_max
        if self.sample_rate < 1 or self.hop_length < 1 or not 1 <= self.n_mels <= MAX_MELS:
            raise ValueError(f"sample_rate and hop_length must be positive, n_mels from 1 to {MAX_MELS}: {self}")
        if not 4 <= self.n_fft <= MAX_N_FFT or self.n_fft % 2:
            raise ValueError(f"n_fft must be even, from 4 to {MAX_N_FFT}, not {self.n_fft}")
        if not 0 <= self.f_min < f_max <= nyquist:
            raise ValueError(f"need 0 <= f_min < f_max <= {nyquist:g} Hz, got f_min={self.f_min}, f_max={self.f_max}")

    def frames(self, samples: int) -> int:
        """Return the frames of a clip of so many samples (the first frame is centred on the first sample)."""
        return 1 + samples // self.hop_length

    @property
    def min_samples(self) -> int:
        """The fewest samples that have a spectrum: `reflect` can't mirror a clip shorter than half a frame."""
        return self.n_fft // 2 + 1 if self.pad == "reflect" else 1

    @property
    def bins(self) -> int:
        """Frequency bins of the spectrum: `n_fft // 2 + 1`."""
        return self.n_fft // 2 + 1

    @property
    def window(self) -> NDArray[np.float64]:
        """Periodic Hann window, `[n_fft]`."""
        return _hann(self.n_fft)

    @property
    def mel_weights(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
        """The Mel filter bank, sparse: each band's first bin `[mels]`, its number of bins `[mels]`, and the
        weights of all bands one after the other.

        Triangles on Slaney's Mel scale (Auditory Toolbox, 1998: linear below 1 kHz, logarithmic above), each of
        unit area, as `librosa.filters.mel` makes them. A band narrower than a bin may have no weight at all.
        """
        return _mel_weights(self)

    @property
    def band_limits(self) -> NDArray[np.float64]:
        """Where each Mel band ends and the next one begins, in Hz, `[mels + 1]`: the middle of their lower edges."""
        edges = _mel_edges(self)
        return (edges[:-1] + edges[1:]) / 2

    def dense_weights(self) -> NDArray[np.float64]:
        """Return the same filter bank as a matrix `[mels, bins]`."""
        dense = np.zeros((self.n_mels, self.bins))
        starts, counts, values = self.mel_weights
        position = 0
        for row, start, count in zip(dense, starts, counts, strict=True):
            row[start : start + count] = values[position : position + count]
            position += count
        return dense


@lru_cache(maxsize=None)
def _hann(n_fft: int) -> NDArray[np.float64]:
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)


@lru_cache(maxsize=None)
def _mel_weights(plan: LogMelPlan) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float64]]:
    edges = _mel_edges(plan)
    hz = np.arange(plan.bins) * (plan.sample_rate / plan.n_fft)
    lower, middle, upper = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    triangles = np.minimum((hz - lower) / (middle - lower), (upper - hz) / (upper - middle))
    dense = np.maximum(0, triangles) * (2 / (upper - lower))
    starts = np.argmax(dense > 0, axis=1)
    counts = np.count_nonzero(dense, axis=1)
    values = np.concatenate([row[s : s + c] for row, s, c in zip(dense, starts, counts, strict=True)])
    return starts.astype(np.int32), counts.astype(np.int32), values


def _mel_edges(plan: LogMelPlan) -> NDArray[np.float64]:
    """The corners of the triangles, in Hz, `[mels + 2]`."""
    f_max = plan.sample_rate / 2 if plan.f_max is None else plan.f_max
    return _mel_to_hz(np.linspace(_hz_to_mel(plan.f_min), _hz_to_mel(f_max), plan.n_mels + 2))


def _hz_to_mel(hz: float) -> float:
    return float(15 + 27 * np.log(hz / 1000) / np.log(6.4) if hz >= 1000 else 3 * hz / 200)


def _mel_to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel >= 15, 1000 * np.exp((mel - 15) * (np.log(6.4) / 27)), mel * (200 / 3))


# -- mixture head ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MixtureShape:
    """The shape of a masked mixture head.

    Attributes:
        prefix: for each group, how many of the hidden units (sorted by degree) it sees: `0 ... prefix - 1`.
        dims: output dimensions; each group has `dims // groups` that follow each other.
        components: Gaussians in each dimension's mixture.
        log_scale_min: log standard deviations are clamped to this from below.
    """

    prefix: tuple[int, ...]
    dims: int
    components: int
    log_scale_min: float

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(self.prefix)

    def mask(self, weight: Tensor) -> Tensor:
        """Return the mask of `weight`, of the same shape, dtype and device: 1 where a group sees a hidden unit."""
        import torch

        prefix = torch.tensor(self.prefix, device=weight.device)
        sees = torch.arange(weight.shape[1], device=weight.device) < prefix[:, None]  # [groups, hidden]
        rows = sees.repeat_interleave(self.dims // self.groups * self.components, 0)  # [dims * components, hidden]
        return rows.repeat(3, 1).to(weight.dtype)


class MixtureTensors(NamedTuple):
    """The tensors that a mixture operator takes, or the gradients with respect to them.

    Attributes:
        hidden: `[windows, hidden]`.
        target: `[windows, dims]`; any strides.
        weight: `[3 * dims * components, hidden]`, see `MixtureHead`.
        bias: `[3 * dims * components]`.
    """

    hidden: Tensor
    target: Tensor
    weight: Tensor
    bias: Tensor

    def double(self) -> MixtureTensors:
        """Return the tensors in float64, for the reference."""
        return MixtureTensors(*(x.double() for x in self))

    def empty_like(self) -> MixtureTensors:
        """Return contiguous tensors of the same shapes, dtypes and devices, not yet filled."""
        import torch

        return MixtureTensors(*(torch.empty_like(x, memory_format=torch.contiguous_format) for x in self))


class MixtureHead:
    """A masked linear layer whose outputs are, for each dimension, a mixture of Gaussians.

    Args:
        weight: `[3 * dims * components, hidden]`: first all logits, then all means, then all log standard
            deviations; within each, dimension by dimension.
        bias: `[3 * dims * components]`.
        degrees_hidden: the hidden units' degrees in the sense of Germain et al. (2015), ascending.
        degrees_out: each group's degree: its position, from 1, in the autoregressive ordering. Groups share the
            dimensions evenly, in order. Group `g` sees the hidden units with `degree < degrees_out[g]`.
        components: Gaussians per dimension.
        log_scale_min: log standard deviations are clamped to this from below.

    Raises:
        ValueError: the shapes don't fit each other, or the hidden units are not sorted by degree.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        degrees_hidden: Sequence[int],
        degrees_out: Sequence[int],
        components: int,
        log_scale_min: float = LOG_SCALE_MIN,
    ) -> None:
        degrees = list(degrees_hidden)
        if degrees != sorted(degrees):
            raise ValueError("hidden units must be sorted by degree: the mask is then a prefix of them")
        if weight.ndim != 2 or weight.shape[1] != len(degrees):
            raise ValueError(f"weight must be [outputs, {len(degrees)}], not {list(weight.shape)}")
        dims, rest = divmod(weight.shape[0], 3 * components)
        if rest or bias.shape != weight.shape[:1] or dims % len(degrees_out):
            raise ValueError(
                f"{weight.shape[0]} outputs and {list(bias.shape)} biases don't make {len(degrees_out)} equal groups "
                f"of dimensions with 3 x {components} outputs each"
            )
        self.weight = weight
        self.bias = bias
        prefix = tuple(sum(h < g for h in degrees) for g in degrees_out)
        self.shape = MixtureShape(prefix, dims, components, log_scale_min)

    def tensors(self, hidden: Tensor, target: Tensor) -> MixtureTensors:
        """Return what a mixture operator takes for `hidden` and `target`."""
        return MixtureTensors(hidden, target, self.weight, self.bias)


# -- Group MADE --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class GroupMadeNetwork:
    """Group MADE made ready for scoring, with batch norm and masks folded into plain layers.

    Attributes:
        band_mean, band_scale: `[mels]` float32, in dB, by which frames are standardised.
        layers: weight `[out, in]` and bias `[out]` of each layer, all followed by ReLU; zeros that a mask made are
            skipped where that pays. The first layer's inputs are a window's frames, one after the other.
        head: the output layer.

    The tensors must not be changed once the network has scored: backends keep what they derive from them.
    """

    band_mean: Tensor
    band_scale: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...]
    head: MixtureHead

    def standardised_windows(self, log_mel: Tensor) -> Tensor:
        """Return a clip's windows, `[windows, dims]`: a view of its frames standardised per band."""
        return self.windows_of(((log_mel - self.band_mean) / self.band_scale).contiguous())

    def windows_of(self, frames: Tensor) -> Tensor:
        """Return the windows `[windows, dims]` of contiguous frames `[frames, mels]`: a view."""
        shape = self.head.shape
        return frames.as_strided((len(frames) - shape.groups + 1, shape.dims), (frames.shape[1], 1))

    def hidden_layers(self, windows: Tensor, precision: str) -> Tensor:
        """Return the head's input `[windows, hidden]` for standardised windows."""
        hidden = windows
        for weight, bias in self.layers:
            if precision == "bfloat16":
                hidden, weight = hidden.bfloat16().to(hidden.dtype), weight.bfloat16().to(weight.dtype)
            hidden = bias.addmm(hidden, weight.T).relu_()
        return hidden


# -- backend -----------------------------------------------------------------------------------------------------


class Backend:
    """One implementation of the operators. `pyasd.ops` checks their arguments and says what they compute.

    Each method here is the operator's definition in lines of torch: any device, any dtype, differentiable. A subclass
    overrides those that it computes in another way, and falls back to these by `super()` where it can't.
    """

    name: ClassVar[str]
    """The name that `backend=` and `PYASD_BACKEND` take."""

    batch_invariant: ClassVar[bool] = False
    """True if a clip's results in a batch are those that it has alone. If they aren't, clips are scored one by one:
    torch's matrix products give the same row other bits in another batch."""

    def unavailable(self, device: torch.device | None = None) -> str | None:
        """Return why this backend can't run on `device` (on this machine at all); `None` if it can."""
        return None

    def facts(self) -> dict[str, str]:
        """Return what `pyasd doctor` prints about this backend on this machine, by name."""
        return {}

    def log_mel(self, samples: Tensor, plan: LogMelPlan, lengths: Sequence[int]) -> Tensor:
        """Return the frames of all clips one after the other: `[sum of frames, mels]` float32 (float64 for float64
        samples, which the reference takes too).

        Args:
            samples: `[clips, n]` int16 or float32.
            plan: see `LogMelPlan`.
            lengths: samples of each clip; what lies past them is not read.
        """
        import torch

        if samples.dtype == torch.int16:
            samples = samples.to(torch.float32) / FULL_SCALE
        window = torch.from_numpy(plan.window).to(samples)
        weights = torch.from_numpy(plan.dense_weights()).to(samples)
        if not lengths:
            return samples.new_empty(0, plan.n_mels)
        if len(set(lengths)) == 1:
            batches = [samples[:, : lengths[0]]]
        else:
            batches = [clip[None, :n] for clip, n in zip(samples, lengths, strict=True)]
        out = []
        for batch in batches:
            spectrum = torch.stft(
                batch, plan.n_fft, plan.hop_length, window=window, center=True, pad_mode=plan.pad, return_complex=True
            )
            mel = (weights @ spectrum.abs().square()).transpose(1, 2).reshape(-1, plan.n_mels)
            out.append(10 * torch.log10(mel.clamp(min=POWER_EPS) if plan.floor == "max" else mel + POWER_EPS))
        return torch.cat(out)

    def mixture_log_prob(self, x: MixtureTensors, shape: MixtureShape, precision: str, per_dim: bool) -> Tensor:
        """Return log-likelihoods, `[windows, groups]`, or `[windows, dims]` with `per_dim`: by a mask.

        Args:
            x: hidden units, targets, weights and biases.
            shape: the head's.
            precision: "float32", or "bfloat16" to round the factors of the product.
            per_dim: keep a group's dimensions apart.
        """
        import torch

        logit, _, log_scale, z, _, _ = _mixture_outputs(x, shape, precision)
        log_density = torch.log_softmax(logit, -1) - z.square() / 2 - log_scale - 0.5 * math.log(2 * math.pi)
        log_prob = torch.logsumexp(log_density, -1)
        return log_prob if per_dim else log_prob.view(-1, shape.groups, shape.dims // shape.groups).sum(-1)

    def mixture_log_prob_backward(
        self, grad: Tensor, x: MixtureTensors, shape: MixtureShape, precision: str, per_dim: bool
    ) -> MixtureTensors:
        """Return the gradients of `mixture_log_prob` with respect to `x`, spelt out: an operator runs below autograd.

        `bfloat16` rounds the factors of the product alone, and is taken as the identity here.

        Args:
            grad: with respect to the log-likelihoods, of their shape.
            x: hidden units, targets, weights and biases.
            shape: the head's.
            precision: "float32", or "bfloat16" to round the factors of the product.
            per_dim: whether `grad` keeps a group's dimensions apart.
        """
        import torch

        logit, raw_log_scale, log_scale, z, hidden, masked = _mixture_outputs(x, shape, precision)
        if not per_dim:
            grad = grad.repeat_interleave(shape.dims // shape.groups, 1)
        grad = grad[..., None]  # [windows, dims, 1]
        share = grad * torch.softmax(logit - z.square() / 2 - log_scale, -1)  # each component's share of the density
        d_logit = share - grad * torch.softmax(logit, -1)
        d_mean = share * z * torch.exp(-log_scale)
        d_log_scale = share * (z.square() - 1) * (raw_log_scale >= shape.log_scale_min)
        d_out = torch.stack([d_logit, d_mean, d_log_scale], 1).flatten(1)  # [windows, 3 * dims * components]
        return MixtureTensors(d_out @ masked, -d_mean.sum(-1), d_out.T @ hidden * shape.mask(x.weight), d_out.sum(0))

    def mixture_log_likelihood(
        self, x: MixtureTensors, shape: MixtureShape, precision: str, scale: float
    ) -> tuple[Tensor, MixtureTensors]:
        """Return `[windows, groups]` log-likelihoods, and the gradients of `scale` times their sum with respect to `x`,
        in this backend's own two passes.
        """
        value = self.mixture_log_prob(x, shape, precision, False)
        grad = value.new_full(value.shape, scale)
        return value, self.mixture_log_prob_backward(grad, x, shape, precision, False)

    def group_made_log_prob(
        self, log_mel: Tensor, network: GroupMadeNetwork, wanted: Sequence[int], precision: str, per_dim: bool
    ) -> Tensor:
        """Return log-likelihoods of a clip's windows in standardised units, `[windows, groups]`, or `[windows, dims]`
        with `per_dim`: NaN for groups that aren't wanted. The head is this backend's own `mixture_log_prob`.

        Args:
            log_mel: `[frames, mels]`, in dB.
            network: see `GroupMadeNetwork`.
            wanted: the groups to compute, from 0.
            precision: of the layers' products and the head's.
            per_dim: keep a group's dimensions apart.
        """
        import torch

        head = network.head
        out = []
        for target in torch.split(network.standardised_windows(log_mel), WINDOWS_PER_PASS):
            x = head.tensors(network.hidden_layers(target, precision), target)
            out.append(self.mixture_log_prob(x, head.shape, precision, per_dim))
        log_prob = torch.cat(out)
        unwanted = torch.ones(head.shape.groups, dtype=torch.bool, device=log_prob.device)
        unwanted[list(wanted)] = False
        return log_prob.masked_fill_(unwanted.repeat_interleave(log_prob.shape[1] // head.shape.groups), math.nan)


class _MixtureOutputs(NamedTuple):
    """Outputs that the reference's two passes share: the head's, each `[windows, dims, components]`, `log_scale` being
    clamped, and the factors of the product that made them.
    """

    logit: Tensor
    raw_log_scale: Tensor
    log_scale: Tensor
    z: Tensor
    hidden: Tensor
    masked: Tensor


def _mixture_outputs(x: MixtureTensors, shape: MixtureShape, precision: str) -> _MixtureOutputs:
    hidden, masked = x.hidden, x.weight * shape.mask(x.weight)
    if precision == "bfloat16":  # exact products of bfloat16 factors, accumulated in the tensors' own precision
        hidden, masked = hidden.bfloat16().to(hidden.dtype), masked.bfloat16().to(masked.dtype)
    out = (hidden @ masked.T + x.bias).view(x.target.shape[0], 3, shape.dims, shape.components)
    logit, mean, raw_log_scale = out.unbind(1)
    log_scale = raw_log_scale.clamp(min=shape.log_scale_min)
    z = (x.target[..., None] - mean) * (-log_scale).exp()
    return _MixtureOutputs(logit, raw_log_scale, log_scale, z, hidden, masked)
