"""Cases to measure: for each operator our call and its peers', on the same input.

A case makes its input once; a contestant is a function without arguments that does the whole of the work on `clips`
clips of ten seconds. Peers are used as their users would use them at their best: the dense Mel matrix and the masked
weights are made beforehand, and a peer that likes small batches gets them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.roofline import Roofline
from pyasd import ops
from pyasd.backends.contract import LOG_SCALE_MIN, Precision
from pyasd.models.group_made import GroupMadeConfig

BATCH_CLIPS = 16
"""Clips in one call, as `pyasd.features` has them on a CPU, which isn't imported here: it needs what reads audio files,
and a machine that is lent for its GPU may not have that."""

SAMPLES = 160_000  # ten seconds at 16 kHz
WINDOWS = 309
DIMS, COMPONENTS, HIDDEN = 640, 10, 128

Contestant = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One operator on one shape.

    Attributes:
        name: as in the report and the ledger.
        tests: the test file that must pass before a figure of this case is printed.
        clips: clips of ten seconds in each call.
        contestants: by name, "pyasd" first.
        products: floating-point operations of a clip's matrix products, two to a multiply-add, for the bound.
        flop, exp: its other floating-point operations, and its exponentials.
        bytes: memory that a clip must move (inputs once, outputs once).
        threads: that "pyasd" works on, which share the arithmetic.
    """

    name: str
    tests: str
    clips: int
    contestants: dict[str, Contestant]
    products: float
    flop: float
    exp: float
    bytes: float
    threads: int = 1
    note: str = ""

    def threads_of(self, contestant: str) -> int:
        """Threads that a contestant works on."""
        return self.threads if contestant == "pyasd" else 1

    def bound(self, roofline: Roofline, contestant: str) -> tuple[float, str]:
        """Seconds that a clip takes at best with a contestant's precision and threads, and what limits it."""
        share = 1 / self.threads_of(contestant)
        work = (self.products * share, self.flop * share, self.exp * share)
        return roofline.bound(*work, self.bytes, bfloat16=contestant.endswith("bfloat16"))


# A clip's frames: window, real FFT (2 N log2 N, the split-radix count rounded up), power, Mel (a multiply-add a
# weight), logarithm (some 30 operations).
_log_mel_flop = 313 * (1024 + 2.0 * 1024 * 10 + 3 * 512 + 2 * 1009 + 30 * 128)


def log_mel(clips: int = 64) -> Case:
    """int16 samples to log-Mel, against torch's, librosa's and Kaldi's, and against a bare real FFT."""
    plan = ops.LogMelPlan()
    rng = np.random.default_rng(0)
    samples = torch.from_numpy((3000 * rng.standard_normal((clips, SAMPLES))).astype(np.int16))
    window = torch.from_numpy(plan.window).float()
    mel = torch.from_numpy(plan.dense_weights()).float()

    def torch_chain(batch: int) -> Contestant:
        def run() -> None:
            for part in samples.split(batch):
                x = part.float() / 32768
                power = torch.stft(x, 1024, 512, window=window, center=True, return_complex=True).abs().square()
                (mel @ power).clamp_(min=2.22e-16).log10_().mul_(10).transpose(1, 2).contiguous()

        return run

    frames = samples[0].float().unfold(0, 1024, 512).contiguous()  # [311, 1024]

    contestants: dict[str, Contestant] = {
        "pyasd": lambda: ops.log_mel(samples, plan, backend="cpu"),
        "torch.stft chain, 1 clip a call": torch_chain(1),
        "torch.stft chain, 8 clips a call": torch_chain(8),
        "torch.stft chain, 64 clips a call": torch_chain(64),
        "bare torch.fft.rfft": lambda: [torch.fft.rfft(frames) for _ in range(clips)],
    }
    try:
        import librosa

        def librosa_chain() -> None:
            for clip in samples.numpy():
                x = clip.astype(np.float32) / 32768
                power = librosa.feature.melspectrogram(y=x, sr=16000, n_fft=1024, hop_length=512, n_mels=128)
                10 * np.log10(np.maximum(power, 2.22e-16))

        contestants["librosa"] = librosa_chain
    except ImportError:
        pass
    try:
        import scipy.fft

        matrix = frames.numpy()
        contestants["bare scipy.fft.rfft"] = lambda: [scipy.fft.rfft(matrix) for _ in range(clips)]
    except ImportError:
        pass
    try:
        import kaldi_native_fbank

        def kaldi() -> None:
            options = kaldi_native_fbank.FbankOptions()
            options.frame_opts.frame_length_ms = 64
            options.frame_opts.frame_shift_ms = 32
            options.frame_opts.dither = 0
            options.mel_opts.num_bins = 128
            for clip in samples.numpy():
                fbank = kaldi_native_fbank.OnlineFbank(options)
                fbank.accept_waveform(16000, (clip.astype(np.float32) / 32768).tolist())
                fbank.input_finished()

        contestants["kaldi-native-fbank"] = kaldi
    except ImportError:
        pass
    return Case(
        "log-Mel", "tests/ops/test_log_mel.py", clips, contestants, 0, _log_mel_flop, 0, SAMPLES * 2 + 313 * 128 * 4
    )


def _head_input(clips: int) -> tuple[ops.MixtureHead, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    degrees = sorted(1 + i % 4 for i in range(HIDDEN))
    weight = 0.1 * torch.randn(3 * DIMS * COMPONENTS, HIDDEN)
    bias = 0.3 * torch.randn(3 * DIMS * COMPONENTS)
    head = ops.MixtureHead(weight, bias, degrees, [1, 2, 3, 4, 5], COMPONENTS)
    hidden = torch.randn(clips * WINDOWS, HIDDEN).relu()
    return head, hidden, torch.randn(clips * WINDOWS, DIMS), weight * head.shape.mask(weight)


def eager_head(hidden: Tensor, target: Tensor, masked: Tensor, bias: Tensor) -> Tensor:
    """The mixture head in eager torch, from weights that are masked already."""
    out = torch.addmm(bias, hidden, masked.T).view(-1, 3, DIMS, COMPONENTS)
    logit, mean, log_scale = out.unbind(1)
    log_scale = log_scale.clamp(min=LOG_SCALE_MIN)
    z = (target[..., None] - mean) * torch.exp(-log_scale)
    log_density = torch.log_softmax(logit, -1) - 0.5 * z.square() - log_scale - 0.5 * math.log(2 * math.pi)
    return torch.logsumexp(log_density, -1).view(-1, 5, DIMS // 5).sum(-1)


_connected = 0.5 * 3 * DIMS * COMPONENTS * HIDDEN  # multiply-adds a window: half of the weights are masked
_exps = 3 * DIMS * COMPONENTS
_mixture_flop = DIMS * COMPONENTS * 10 + DIMS * 40  # around the exponentials: z, densities, maxima, sums, a logarithm


def head_forward(clips: int = 64) -> Case:
    """The mixture head without gradients, one clip's windows a call for the peers (their best)."""
    head, hidden, target, masked = _head_input(clips)
    compiled = torch.compile(eager_head)

    def each(run: Callable[..., Tensor], dtype: torch.dtype = torch.float32) -> Contestant:
        weight, bias = masked.to(dtype), head.bias.to(dtype)
        pairs = list(zip(hidden.to(dtype).split(WINDOWS), target.to(dtype).split(WINDOWS), strict=True))

        def go() -> None:
            with torch.no_grad():
                for h, x in pairs:
                    run(h, x, weight, bias)

        return go

    return Case(
        "head forward",
        "tests/ops/test_mixture.py",
        clips,
        {
            "pyasd": lambda: ops.mixture_log_prob(hidden, target, head, "cpu"),
            "pyasd bfloat16": lambda: ops.mixture_log_prob(hidden, target, head, "cpu", "bfloat16"),
            "eager torch": each(eager_head),
            "torch.compile": each(compiled),
            "torch.compile bfloat16": each(compiled, torch.bfloat16),
        },
        WINDOWS * 2 * _connected,
        WINDOWS * _mixture_flop,
        WINDOWS * _exps,
        WINDOWS * (HIDDEN + DIMS + 5) * 4,
    )


def head_both(clips: int = 8) -> Case:
    """The mixture head forward and backward, one clip's windows at a time: a training step's share."""
    head, hidden, target, _ = _head_input(clips)
    weight = head.weight.requires_grad_()
    bias = head.bias.requires_grad_()
    mask = head.shape.mask(weight.detach())
    compiled = torch.compile(lambda h, x, w, b: eager_head(h, x, w * mask, b))
    pairs = [
        (h.detach().requires_grad_(), x) for h, x in zip(hidden.split(WINDOWS), target.split(WINDOWS), strict=True)
    ]

    def each(run: Callable[[Tensor, Tensor], Tensor]) -> Contestant:
        def go() -> None:
            for h, x in pairs:
                weight.grad = bias.grad = h.grad = None
                run(h, x).backward()
                with torch.no_grad():
                    weight.add_(0)  # an optimiser's step: whatever was derived from the weights is stale

        return go

    return Case(
        "head forward + backward",
        "tests/ops/test_mixture.py",
        clips,
        {
            "pyasd": each(lambda h, x: ops.mixture_log_likelihood(h, x, head, "cpu")),
            "pyasd, any gradient": each(lambda h, x: ops.mixture_log_prob(h, x, head, "cpu").sum()),
            "eager torch": each(lambda h, x: eager_head(h, x, weight * mask, bias).sum()),
            "torch.compile": each(lambda h, x: compiled(h, x, weight, bias).sum()),
        },
        WINDOWS * 2 * _connected * 3,
        WINDOWS * (_mixture_flop + 3 * DIMS * COMPONENTS * 4),
        WINDOWS * _exps,
        WINDOWS * (2 * HIDDEN + 2 * DIMS + 10) * 4 + 4 * 19200 * 128,
        note='"any gradient" is mixture_log_prob: it computes the outputs twice, four products in all.',
    )


def _network() -> tuple[ops.GroupMadeNetwork, list[tuple[Tensor, Tensor]]]:
    """A Group MADE of the report's size with random weights, and its layers."""
    torch.manual_seed(0)
    config = GroupMadeConfig()
    degrees = [torch.arange(1, 6).repeat_interleave(128)]
    degrees += [torch.tensor(sorted(1 + i % 4 for i in range(width))) for width in config.hidden]
    layers = []
    for before, after in itertools.pairwise(degrees):
        mask = (before <= after[:, None]).float()
        layers.append((torch.randn(mask.shape) * mask / (0.5 * len(before)) ** 0.5, 0.1 * torch.randn(len(after))))
    head = _head_input(1)[0]
    network = ops.GroupMadeNetwork(torch.full((128,), -60.0), torch.full((128,), 5.0), tuple(layers), head)
    return network, layers


_trunk = sum(a * b for a, b in itertools.pairwise((DIMS, *GroupMadeConfig.hidden)))  # multiply-adds a window, dense
_trunk_connected = 0.5 * DIMS * HIDDEN + 0.625 * (_trunk - DIMS * HIDDEN)  # what the masks of the degrees leave


def trunk(clips: int = 64) -> Case:
    """Group MADE's hidden layers from a clip's log-Mel, with batch norm and masks folded away."""
    network, layers = _network()
    log_mels = [-60 + 5 * torch.randn(313, 128) for _ in range(clips)]

    def eager(dtype: torch.dtype) -> Contestant:
        layers_there = [(w.to(dtype), b.to(dtype)) for w, b in layers]

        def go() -> None:
            for log_mel in log_mels:
                x = ((log_mel + 60) / 5).to(dtype).as_strided((WINDOWS, DIMS), (128, 1))
                for weight, bias in layers_there:
                    x = torch.addmm(bias, x, weight.T).relu_()

        return go

    def ours(precision: Precision) -> Contestant:
        return lambda: [ops.group_made_score(x, network, [], "cpu", precision) for x in log_mels]

    return Case(
        "trunk",
        "tests/ops/test_group_made.py",
        clips,
        {
            "pyasd": ours("float32"),
            "pyasd bfloat16": ours("bfloat16"),
            "eager torch": eager(torch.float32),
            "eager torch bfloat16": eager(torch.bfloat16),
        },
        WINDOWS * 2 * _trunk_connected,
        0,
        0,
        313 * 128 * 4 + WINDOWS * HIDDEN * 4,
    )


def _score(
    samples: Tensor, plan: ops.LogMelPlan, network: ops.GroupMadeNetwork, precision: Precision = "float32"
) -> list[Tensor]:
    """Clips' scores as a detector gets them: log-Mels of a batch at a time, scored together."""
    scores = []
    for some in samples.split(BATCH_CLIPS):
        log_mels = ops.log_mel(some, plan, backend="cpu")
        clips, frames = log_mels.shape[:2]
        nll = ops.group_made_score(log_mels.flatten(0, 1), network, None, "cpu", precision, lengths=[frames] * clips)
        scores.append(nll.view(clips, WINDOWS, -1).sum(2).mean(1))
    return scores


def clip_scores(clips: int = 64) -> Case:
    """int16 samples to the clips' joint negative log-likelihoods: log-Mel, trunk, head."""
    network, layers = _network()
    plan = ops.LogMelPlan()
    rng = np.random.default_rng(0)
    samples = torch.from_numpy((3000 * rng.standard_normal((clips, SAMPLES))).astype(np.int16))
    window, mel = torch.from_numpy(plan.window).float(), torch.from_numpy(plan.dense_weights()).float()
    head = network.head
    masked = head.weight * head.shape.mask(head.weight)

    def ours(precision: Precision) -> Contestant:
        return lambda: _score(samples, plan, network, precision)

    def eager(run: Callable[..., Tensor]) -> Contestant:
        def go() -> None:
            with torch.no_grad():
                for clip in samples:
                    x = clip.float() / 32768
                    power = torch.stft(x, 1024, 512, window=window, center=True, return_complex=True).abs().square()
                    z = ((mel @ power).clamp_(min=2.22e-16).log10_().mul_(10).T.contiguous() + 60) / 5
                    windows = z.as_strided((WINDOWS, DIMS), (128, 1))
                    hidden = windows
                    for weight, bias in layers:
                        hidden = torch.addmm(bias, hidden, weight.T).relu_()
                    run(hidden, windows, masked, head.bias).double().sum(1).mean()

        return go

    return Case(
        "samples to clip score",
        "tests/ops/test_group_made.py",
        clips,
        {
            "pyasd": ours("float32"),
            "pyasd bfloat16": ours("bfloat16"),
            "eager torch": eager(eager_head),
            "eager torch, torch.compile for the head": eager(torch.compile(eager_head)),
        },
        WINDOWS * 2 * (_trunk_connected + _connected),
        _log_mel_flop + WINDOWS * _mixture_flop,
        WINDOWS * _exps,
        SAMPLES * 2,
    )


def archive(clips: int = 324) -> Case:
    """One recording of as many windows as so many clips (100,000): what scoring takes beyond its input and weights."""
    network, _ = _network()
    log_mel = -60 + 5 * torch.randn(clips * WINDOWS + 4, 128)
    return Case(
        "windows of one long recording",
        "tests/ops/test_group_made.py",
        clips,
        {
            "pyasd": lambda: ops.group_made_score(log_mel, network, None, "cpu"),
            "pyasd bfloat16": lambda: ops.group_made_score(log_mel, network, None, "cpu", "bfloat16"),
        },
        WINDOWS * 2 * (_trunk_connected + _connected),
        WINDOWS * _mixture_flop,
        WINDOWS * _exps,
        WINDOWS * (128 + 3 * 5) * 4,
    )


def threads(clips: int = 32) -> Case:
    """Samples to clip scores on two threads, against the same on one."""
    network, _ = _network()
    plan = ops.LogMelPlan()
    samples = torch.from_numpy((3000 * np.random.default_rng(0).standard_normal((clips, SAMPLES))).astype(np.int16))

    def on(count: int) -> Contestant:
        def go() -> None:
            before = torch.get_num_threads()
            torch.set_num_threads(count)
            _score(samples, plan, network)
            torch.set_num_threads(before)

        return go

    return Case(
        "samples to clip score on two threads",
        "tests/ops/test_group_made.py",
        clips,
        {"pyasd": on(2), "pyasd on one thread": on(1)},
        WINDOWS * 2 * (_trunk_connected + _connected),
        _log_mel_flop + WINDOWS * _mixture_flop,
        WINDOWS * _exps,
        SAMPLES * 2,
        threads=2,
    )


CASES: dict[str, Callable[..., Case]] = {
    "log-mel": log_mel,
    "head": head_forward,
    "head-backward": head_both,
    "trunk": trunk,
    "score": clip_scores,
    "archive": archive,
    "threads": threads,
}
