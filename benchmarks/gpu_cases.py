"""Cases to measure on a GPU: for each operator our calls, by backend and precision, and torch's, on the same input.

A contestant is made when its turn comes, and is then a function of the number of the call, by which it rotates
over inputs that together are larger than the second-level cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks import cases
from benchmarks.cases import DIMS, HIDDEN, SAMPLES, WINDOWS, eager_head
from benchmarks.gpu_roofline import Work
from pyasd import ops
from pyasd.backends import cuda
from pyasd.backends.contract import FULL_SCALE, POWER_EPS, Precision

FRAMES = 1 + SAMPLES // 512
COPIES = 3
"""Inputs over which the calls rotate."""


@dataclass(frozen=True)
class Sizes:
    """Amount of work in one call.

    Attributes:
        clips: of ten seconds, in log-Mel and clip scores.
        windows: in the head's forward pass and the hidden layers.
        training: windows in the head's forward and backward pass.
        peer_windows: windows that torch gets at a time: its outputs are 77 kB each, several times over.
    """

    clips: int = 512
    windows: int = 131_072
    training: int = 16_384
    peer_windows: int = 8_192


FULL, TINY = Sizes(), Sizes(1, 32, 16, 16)

Run = Callable[[int], object]


@dataclass(frozen=True)
class Contestant:
    """One way to do a case's work; `backend` is `None` for those that aren't ours."""

    make: Callable[[], Run]
    precision: Precision = "float32"
    backend: str | None = None


@dataclass(frozen=True)
class Case:
    """One operator on one shape.

    Attributes:
        name: as in the report and the ledger.
        operator: the operator whose tests must have passed: see `gpu.py`.
        unit: what is counted, "frames", "windows" or "clips"; `units` of them go into a call.
        work: of one unit, for the bound.
        contestants: by name; ours come first, and are compared with "eager torch" and "torch.compile".
    """

    name: str
    operator: str
    unit: str
    units: int
    work: Work
    contestants: dict[str, Contestant]


def _ours(
    backends: tuple[str, ...], make: Callable[[str, Precision], Run], precisions: tuple[Precision, ...]
) -> dict[str, Contestant]:
    def contestant(backend: str, precision: Precision) -> Contestant:
        return Contestant(lambda: make(backend, precision), precision, backend)

    pairs = itertools.product(backends, precisions)
    return {f"{backend} {precision}": contestant(backend, precision) for backend, precision in pairs}


BOTH: tuple[Precision, ...] = ("float32", "bfloat16")

_mixture = Work(arithmetic=cases._mixture_flop, exps=cases._exps)
_head = Work(products=2 * cases._connected) + _mixture
_trunk = Work(products=2 * cases._trunk_connected)
_log_mel = Work(arithmetic=cases._log_mel_flop / FRAMES)


def _samples(clips: int, device: torch.device) -> list[Tensor]:
    """Noise in 16 bits, made on the device."""
    generator = torch.Generator(device).manual_seed(0)

    def one() -> Tensor:
        noise = torch.randn(clips, SAMPLES, device=device, generator=generator)
        return (3000 * noise).to(torch.int16)

    return [one() for _ in range(COPIES)]


def _stft_chain(samples: Tensor, window: Tensor, mel: Tensor) -> Tensor:
    """torch's way from int16 samples to `[clips, frames, mels]` in dB."""
    x = samples.float() / FULL_SCALE
    power = torch.stft(x, 1024, 512, window=window, center=True, return_complex=True).abs().square()
    return (mel @ power).clamp_(min=POWER_EPS).log10_().mul_(10).transpose(1, 2)


def log_mel(sizes: Sizes, device: torch.device, backends: tuple[str, ...]) -> Case:
    """int16 samples to log-Mel, against torch's chain and torchaudio's."""
    plan = ops.LogMelPlan()
    samples = _samples(sizes.clips, device)
    window = torch.from_numpy(plan.window).float().to(device)
    mel = torch.from_numpy(plan.dense_weights()).float().to(device)

    def torchaudio() -> Run:
        import torchaudio.transforms as T

        spectrum = T.MelSpectrogram(16000, 1024, hop_length=512, n_mels=128, norm="slaney", mel_scale="slaney")
        to_db = T.AmplitudeToDB("power", top_db=None)
        spectrum, to_db = spectrum.to(device), to_db.to(device)
        return lambda i: to_db(spectrum(samples[i % COPIES].float() / FULL_SCALE)).transpose(1, 2).contiguous()

    def compiled() -> Run:
        chain = torch.compile(lambda x: _stft_chain(x, window, mel).contiguous())
        return lambda i: chain(samples[i % COPIES])

    return Case(
        "log-Mel, int16",
        "log_mel",
        "frames",
        sizes.clips * FRAMES,
        _log_mel + Work(bytes=(SAMPLES * 2 + FRAMES * 128 * 4) / FRAMES),
        {
            **_ours(backends, lambda b, _: lambda i: ops.log_mel(samples[i % COPIES], plan, backend=b), ("float32",)),
            "eager torch": Contestant(lambda: lambda i: _stft_chain(samples[i % COPIES], window, mel).contiguous()),
            "torch.compile": Contestant(compiled),
            "torchaudio": Contestant(torchaudio),
        },
    )


def _head_inputs(windows: int, device: torch.device) -> tuple[ops.MixtureHead, list[Tensor], list[Tensor], Tensor]:
    head, _, _, masked = cases._head_input(1)
    there = ops.MixtureHead.__new__(ops.MixtureHead)
    there.weight, there.bias, there.shape = head.weight.to(device), head.bias.to(device), head.shape
    hidden = [torch.randn(windows, HIDDEN, device=device).relu() for _ in range(COPIES)]
    return there, hidden, [torch.randn(windows, DIMS, device=device) for _ in range(COPIES)], masked.to(device)


def head_forward(sizes: Sizes, device: torch.device, backends: tuple[str, ...]) -> Case:
    """The mixture head without gradients; torch gets it in pieces that its outputs leave memory for."""
    head, hidden, target, masked = _head_inputs(sizes.windows, device)

    def peer(run: Callable[..., Tensor], dtype: torch.dtype) -> Run:
        weight, bias = masked.to(dtype), head.bias.to(dtype)
        pairs = [
            list(zip(h.to(dtype).split(sizes.peer_windows), x.to(dtype).split(sizes.peer_windows), strict=True))
            for h, x in zip(hidden, target, strict=True)
        ]

        def go(i: int) -> None:
            with torch.no_grad():
                for h, x in pairs[i % COPIES]:
                    run(h, x, weight, bias)

        return go

    def ours(backend: str, precision: Precision) -> Run:
        return lambda i: ops.mixture_log_prob(hidden[i % COPIES], target[i % COPIES], head, backend, precision)

    by_warps = {}
    if (
        "cuda" in backends and cuda.BACKEND.warpgroups_obstacle(device) is None
    ):  # what the other way would have been worth

        def warps(precision: Precision) -> Run:
            return lambda i: cuda.BACKEND.log_prob_by(
                head.tensors(hidden[i % COPIES], target[i % COPIES]), head.shape, precision, False, warpgroups=False
            )

        by_warps = {f"cuda {x} by warps": Contestant(partial(warps, x), x, "cuda") for x in BOTH}

    return Case(
        "head forward",
        "mixture",
        "windows",
        sizes.windows,
        _head + Work(bytes=(HIDDEN + DIMS + 5) * 4),
        {
            **_ours(backends, ours, BOTH),
            **by_warps,
            "eager torch": Contestant(lambda: peer(eager_head, torch.float32)),
            "eager torch bfloat16": Contestant(lambda: peer(eager_head, torch.bfloat16), "bfloat16"),
            "torch.compile": Contestant(lambda: peer(torch.compile(eager_head), torch.float32)),
            "torch.compile bfloat16": Contestant(lambda: peer(torch.compile(eager_head), torch.bfloat16), "bfloat16"),
        },
    )


def head_both(sizes: Sizes, device: torch.device, backends: tuple[str, ...]) -> Case:
    """The mixture head forward and backward, as in a training step on one batch."""
    head, hidden, target, _ = _head_inputs(sizes.training, device)
    weight, bias = head.weight.requires_grad_(), head.bias.requires_grad_()
    mask = head.shape.mask(weight.detach())

    def step(run: Callable[[Tensor, Tensor], Tensor]) -> Run:
        def go(i: int) -> None:
            weight.grad = bias.grad = None
            run(hidden[i % COPIES].detach().requires_grad_(), target[i % COPIES]).sum().backward()

        return go

    def ours(backend: str, precision: Precision) -> Run:
        return step(lambda h, x: ops.mixture_log_prob(h, x, head, backend, precision))

    def peer(run: Callable[..., Tensor]) -> Run:
        def whole(h: Tensor, x: Tensor) -> Tensor:
            pairs = zip(h.split(sizes.peer_windows), x.split(sizes.peer_windows), strict=True)
            return torch.cat([run(a, b, weight * mask, bias) for a, b in pairs])

        return step(whole)

    return Case(
        "head forward + backward",
        "mixture",
        "windows",
        sizes.training,
        Work(products=4 * 2 * cases._connected)  # the outputs are computed twice
        + _mixture
        + _mixture
        + Work(bytes=(2 * HIDDEN + 2 * DIMS + 10) * 4),
        {
            **_ours(backends, ours, BOTH),
            "eager torch": Contestant(lambda: peer(eager_head)),
            "torch.compile": Contestant(lambda: peer(torch.compile(eager_head))),
        },
    )


def _network(device: torch.device) -> ops.GroupMadeNetwork:
    network, layers = cases._network()
    head = ops.MixtureHead.__new__(ops.MixtureHead)
    head.weight, head.bias = network.head.weight.to(device), network.head.bias.to(device)
    head.shape = network.head.shape
    layers_there = tuple((w.to(device), b.to(device)) for w, b in layers)
    return ops.GroupMadeNetwork(network.band_mean.to(device), network.band_scale.to(device), layers_there, head)


def trunk(sizes: Sizes, device: torch.device, backends: tuple[str, ...]) -> Case:
    """Group MADE's hidden layers from log-Mel, with batch norm and masks folded away."""
    network = _network(device)
    log_mels = [-60 + 5 * torch.randn(sizes.windows + 4, 128, device=device) for _ in range(COPIES)]

    def eager(dtype: torch.dtype) -> Run:
        layers = [(w.to(dtype), b.to(dtype)) for w, b in network.layers]

        def go(i: int) -> None:
            x = ((log_mels[i % COPIES] + 60) / 5).to(dtype).as_strided((sizes.windows, DIMS), (128, 1))
            for weight, bias in layers:
                x = torch.addmm(bias, x, weight.T).relu_()

        return go

    def ours(backend: str, precision: Precision) -> Run:
        return lambda i: ops.group_made_score(log_mels[i % COPIES], network, [], backend, precision)

    return Case(
        "hidden layers",
        "group_made",
        "windows",
        sizes.windows,
        _trunk + Work(bytes=(128 + HIDDEN) * 4),
        {
            **_ours(backends, ours, BOTH),
            "eager torch": Contestant(lambda: eager(torch.float32)),
            "eager torch bfloat16": Contestant(lambda: eager(torch.bfloat16), "bfloat16"),
        },
    )


def clip_scores(sizes: Sizes, device: torch.device, backends: tuple[str, ...]) -> Case:
    """int16 samples on the device to the clips' joint negative log-likelihoods: log-Mel, hidden layers, head."""
    network, plan = _network(device), ops.LogMelPlan()
    samples = _samples(sizes.clips, device)
    window = torch.from_numpy(plan.window).float().to(device)
    mel = torch.from_numpy(plan.dense_weights()).float().to(device)
    masked = network.head.weight * network.head.shape.mask(network.head.weight)
    lengths = [FRAMES] * sizes.clips

    def ours(backend: str, precision: Precision) -> Run:
        def go(i: int) -> Tensor:
            log_mels = ops.log_mel(samples[i % COPIES], plan, backend=backend).flatten(0, 1)
            nll = ops.group_made_score(log_mels, network, None, backend, precision, lengths=lengths)
            return nll.sum(1).view(sizes.clips, WINDOWS).mean(1)

        return go

    def graph(backend: str, precision: Precision) -> Run:
        """The same calls recorded once and replayed: what is left when the host costs nothing."""
        go = ours(backend, precision)
        go(0)
        recorded = [torch.cuda.CUDAGraph() for _ in range(COPIES)]
        for i, one in enumerate(recorded):
            with torch.cuda.graph(one):
                go(i)
        return lambda i: recorded[i % COPIES].replay()

    def peer(run: Callable[..., Tensor]) -> Run:
        clips_a_time = max(1, sizes.peer_windows // WINDOWS)

        def go(i: int) -> None:
            with torch.no_grad():
                for part in samples[i % COPIES].split(clips_a_time):
                    z = (_stft_chain(part, window, mel) + 60) / 5
                    x = z.flatten(1).unfold(1, DIMS, 128).flatten(0, 1)  # [windows, dims]
                    hidden = x
                    for weight, bias in network.layers:
                        hidden = torch.addmm(bias, hidden, weight.T).relu_()
                    run(hidden, x, masked, network.head.bias).double().sum(1).view(len(part), -1).mean(1)

        return go

    graphs = {} if device.type == "cpu" else _ours(backends, graph, BOTH)
    window_work, clip_work = _trunk + _head, _log_mel
    return Case(
        "samples to clip score",
        "group_made",
        "clips",
        sizes.clips,
        Work(
            products=WINDOWS * window_work.products,
            arithmetic=WINDOWS * window_work.arithmetic + FRAMES * clip_work.arithmetic,
            exps=WINDOWS * window_work.exps,
            bytes=SAMPLES * 2,
        ),
        {
            **_ours(backends, ours, BOTH),
            **{f"{name}, CUDA graph": one for name, one in graphs.items()},
            "eager torch": Contestant(lambda: peer(eager_head)),
            "torch.compile": Contestant(lambda: peer(torch.compile(eager_head))),
        },
    )


CASES: dict[str, Callable[[Sizes, torch.device, tuple[str, ...]], Case]] = {
    "score": clip_scores,
    "head": head_forward,
    "log-mel": log_mel,
    "head-backward": head_both,
    "trunk": trunk,
}
"""In the order in which they are measured: what matters most first, should the time run out."""
