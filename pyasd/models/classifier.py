"""Classifiers of machine IDs as anomaly detectors: a clip that doesn't sound like the ID it is from is anomalous.

Report section 2.2. They see images of 64 log-Mel frames. Label augmentation gives them more classes than there are
IDs: each warp and each resampling of each ID is a class of its own, and images are combined across classes. Scoring
sees untouched images, and reads the probability of the ID that the clip is said to be from.
"""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pyasd import backends, storage
from pyasd.backends import cpu
from pyasd.compute import Compute, by_device
from pyasd.features.store import LogMels
from pyasd.features.windows import images, repeat_frames
from pyasd.models import augmentation, dense
from pyasd.models.backbones.arcface import ArcFace
from pyasd.models.backbones.mobilenet import MobileNetV2
from pyasd.models.backbones.resnet import ResNet50
from pyasd.models.member import Mode, NormalScores, Scorer, register
from pyasd.models.moments import VARIANCE_FLOOR, Moments
from pyasd.models.pooling import Pooling, pool
from pyasd.models.trained import TrainedConfig, TrainedMember
from pyasd.training import loop
from pyasd.training.data import TrainingSet, WindowSet, band_statistics
from pyasd.training.loop import Schedule
from pyasd.training.run import History, Run

Backbone = Literal["mobilenet", "resnet"]
Loss = Literal["softmax", "arcface"]
Mix = Literal["none", "power", "log"]
ClassifierScore = Literal["log-probability", "probability"]

WARP_STRENGTH = 0.3
"""Largest displacement by a spectral warp, in halves of the image (ours; see `augmentation.polynomial_warps`)."""

WARP_SEED = 0
"""Seed of the spectral warps' coefficients: they are the same in every training."""

BY_HEART = 3.0
"""Warn if held-out clips score more than this many standard deviations (root mean square) from training clips."""

IMAGES_PER_PASS = {"cpu": 32, "cuda": 512}
"""Images that go through a network at once in scoring, always so many: how a convolution adds up, and with that a
score's last bits, depends on the size of the batch, but not on an image's place in it."""

MODES = (
    Mode("log-probability", "-log p", "-log p of the machine ID that the clip is said to be from"),
    Mode("probability", "-p", "-p of that machine ID (report), which hardly tells well-known clips apart"),
)

Module = TypeVar("Module", bound=nn.Module)


MAX_WIDTH, MAX_IMAGE_FRAMES, MAX_VARIANTS = 8.0, 8192, 256
"""Larger settings are a slip: a network of over 200 million weights, images of four minutes, and more copies of each
machine ID than any task has IDs."""


@dataclass(frozen=True)
class ClassifierConfig(TrainedConfig):
    """Classifiers of machine IDs: report section 2.2.

    Attributes:
        backbone: the network, "mobilenet" (report, Table 2) or "resnet" (ResNet-50).
        width: MobileNetV2's width multiplier (report); ResNet-50 has none.
        loss: "softmax" or "arcface".
        margin, scale: ArcFace's, in radians, and of the cosines. The report is silent: the field's for few classes.
        image_frames, image_hop: log-Mel frames in an image, and from one to the next (report).
        mix: label augmentation by combining images of two classes, before the logarithm ("power"), after it ("log")
            or not at all ("none").
        mix_probability: of an image to be combined with another (ours).
        warps: spectral warps, each of which makes a further class of each machine ID.
        ratios: of resampling, each of which does so, too. Clips' audio is read once more for each.
        classifier_score: the mode that counts, see `MODES`.
        pooling: how a clip's images make its score. The report takes the mean.
        balance: images of every machine ID are drawn equally often, however many clips it has (ours; the challenge's
            IDs have about as many each). A scarce ID is then learnt better, and nearer to by heart: take held-out
            statistics with it.
        pretrained: a safetensors file of weights to begin with, named as torchvision names those of this network
            (three input channels or one; their last layer is left out); "" for random ones.
        epochs, steps, batch_size, learning_rate, schedule, validation, patience: see `TrainingConfig` (ours, where the
            report is silent; an image holds many more frames than a window).
    """

    backbone: Backbone = "mobilenet"
    width: float = 0.5
    loss: Loss = "softmax"
    margin: float = 0.5
    scale: float = 30.0
    image_frames: int = 64
    image_hop: int = 8
    mix: Mix = "none"
    mix_probability: float = 0.5
    warps: int = 0
    ratios: tuple[float, ...] = ()
    classifier_score: ClassifierScore = "log-probability"
    pooling: Pooling = "mean"
    balance: bool = False
    pretrained: str = ""
    epochs: int = 20
    batch_size: int = 64
    schedule: Schedule = "cosine"
    patience: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.width <= MAX_WIDTH or not 32 <= self.image_frames <= MAX_IMAGE_FRAMES or self.image_hop < 1:
            raise ValueError(
                f"need width above 0 and up to {MAX_WIDTH:g}, image_frames from 32 (the networks halve images five "
                f"times) to {MAX_IMAGE_FRAMES} and image_hop >= 1, got {self.width}, {self.image_frames} and "
                f"{self.image_hop}"
            )
        if not 0 <= self.warps <= MAX_VARIANTS or len(self.ratios) > MAX_VARIANTS:
            raise ValueError(f"warps and ratios are up to {MAX_VARIANTS}, not {self.warps} and {len(self.ratios)}")
        if not 0 <= self.mix_probability <= 1 or not 0 <= self.margin < 1.6 or self.scale <= 0:
            raise ValueError(
                "need 0 <= mix_probability <= 1, 0 <= margin < 1.6 and scale > 0, got "
                f"{self.mix_probability}, {self.margin} and {self.scale}"
            )
        if any(not 0.25 <= x <= 4 or x == 1 for x in self.ratios):
            raise ValueError(f"ratios must be between 0.25 and 4, and not 1, got {self.ratios}")
        if self.loss == "arcface" and self.mix != "none":
            raise ValueError('loss="arcface" needs one true class per image: take mix="none" with it')

    @property
    def variants(self) -> int:
        """Classes that each machine ID has: itself, its warps, its resamplings."""
        return 1 + self.warps + len(self.ratios)

    @property
    def repeats_below(self) -> int:
        """Log-Mel frames below which a clip is repeated: an image."""
        return self.image_frames

    @property
    def speeds(self) -> tuple[float, ...]:
        """Ratios at which `fit` needs the clips played."""
        return self.ratios

    @property
    def settles(self) -> bool:
        """Batch norm's statistics are computed anew after each epoch."""
        return True

    def relative_to(self, folder: str) -> ClassifierConfig:
        """Return the settings with the file of pretrained weights taken from `folder`."""
        return replace(self, pretrained=str(Path(folder) / self.pretrained)) if self.pretrained else self


@dataclass(frozen=True)
class ResNetConfig(ClassifierConfig):
    """The settings of a ResNet-50."""

    backbone: Backbone = "resnet"


@dataclass(frozen=True)
class ArcFaceConfig(ClassifierConfig):
    """The settings of a MobileNetV2 with ArcFace's loss."""

    loss: Loss = "arcface"


class Classifier(TrainedMember, nn.Module):
    """A convolutional network over images of log-Mel frames, whose classes are machine IDs and what was made of them.

    Class `ids.index(machine_id) * variants + v` is variant `v` of an ID: 0 is the ID as it is, then come the warps,
    then the resampling ratios.

    Attributes:
        ids: the machine IDs, sorted; empty before it has learnt any.
        band_mean, band_scale: `[mels]`, in dB: the training data's, by which inputs are standardised.
    """

    MODES = MODES

    config: ClassifierConfig
    band_mean: Tensor
    band_scale: Tensor
    warps: Tensor

    def __init__(self, name: str, config: ClassifierConfig, mels: int, seed: int = 0) -> None:
        super().__init__(name, config, mels, seed)
        self._remarks: list[str] = []
        self.ids: tuple[str, ...] = ()
        self.register_buffer("band_mean", torch.zeros(mels))
        self.register_buffer("band_scale", torch.ones(mels))
        warps = augmentation.polynomial_warps(config.warps, config.image_frames, mels, WARP_STRENGTH, WARP_SEED)
        self.register_buffer("warps", warps, persistent=False)

    @property
    def default_mode(self) -> str:
        """The mode that the config names."""
        return self.config.classifier_score

    def obstacle(self, ids: Sequence[str]) -> str | None:
        """Say that there is one machine ID alone, and no variants of it to tell it from, where that is so."""
        if len(set(ids)) > 1 or self.config.variants > 1:
            return None
        return (
            f"all clips are of machine ID {ids[0]!r}, and classifiers tell IDs apart: give clips of two IDs or more, "
            "or take warps=1 or more (each warp of an ID is a further class)"
        )

    def training_compute(self, compute: Compute) -> Compute:
        """Choose bfloat16, where nobody asked for a precision, on GPUs that have it and, on CPUs that multiply in it,
        for ResNet-50 (twice as fast there; MobileNetV2's convolutions of single channels gain nothing). Fewer than 32
        Mel bands are learnt in float32 on a CPU: where an image is one column wide, oneDNN leaves gradients unset of
        bfloat16 weights that meet padding alone.
        """
        if compute.device.type == "cpu" and self.mels < 32:
            return replace(compute, precision="float32")
        if not compute.mixed:
            return compute
        if compute.device.type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        else:
            native = backends.available(compute.device)["cpu"] is None
            fast = self.config.backbone == "resnet" and native and cpu.isa() == "avx512bf16"
        return replace(compute, precision="bfloat16" if fast else "float32")

    def remarks(self) -> list[str]:
        """Say where it has hardly learnt, has learnt its clips by heart, or has one machine ID alone."""
        return self._remarks

    def _make(self, ids: Sequence[str]) -> None:
        """Build the network for these machine IDs, which the number of classes depends on."""
        self.ids = tuple(sorted(set(ids)))
        config = self.config
        classes = len(self.ids) * self.config.variants
        if classes < 2:
            raise ValueError(
                f"{self.name} tells machine IDs apart, and all clips are of ID {self.ids[0]!r}: give clips of two IDs "
                "or more, take warps=1 or more (each warp of an ID is a further class), or leave this member out"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = ResNet50(classes) if config.backbone == "resnet" else MobileNetV2(classes, config.width)
            self.arcface = (
                ArcFace(net.embedding, classes, config.margin, config.scale) if config.loss == "arcface" else None
            )
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # statistics are means over all batches since `training.fit` reset them
        if config.loss == "arcface":  # takes the place of the network's own last layer
            setattr(net, "fc" if config.backbone == "resnet" else "classifier", nn.Identity())
        self.net: nn.Module = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _load_pretrained(self, path: Path) -> None:
        """Begin with weights of torchvision's, but for the last layer, which is of other classes. A first convolution
        of three channels is summed over them: as if all three were shown the image.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path} of pretrained weights")
        try:
            with storage.utf8_name(path) as name:
                weights = safetensors.torch.load_file(name)
        except safetensors.SafetensorError as error:
            raise ValueError(
                f"{path} is not a safetensors file ({error}): write one with safetensors.torch.save_file("
                "net.state_dict(), ...) from torchvision's network"
            ) from None
        head = "fc." if self.config.backbone == "resnet" else "classifier."
        needed = {k: x for k, x in dense.state_of(self.net).items() if not k.startswith(head)}
        first = next(iter(needed))
        if first in weights and weights[first].shape[1:2] == (3,):
            weights[first] = weights[first].sum(1, keepdim=True)
        for name, x in needed.items():
            if name not in weights or weights[name].shape != x.shape:
                there = f"is {list(weights[name].shape)}" if name in weights else "is missing"
                what = f"{self.config.backbone}" + ("" if head == "fc." else f" of width {self.config.width:g}")
                raise ValueError(f"{path} is not of a {what}: {name} {there}, and must be {list(x.shape)}")
        self.net.load_state_dict({name: weights[name] for name in needed}, strict=False)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits `[images, classes]` of images `[images, 1, frames, mels]` in dB; `labels`, the true classes, are for
        training with ArcFace.
        """
        # A single channel can lie both ways in memory: these strides tell the convolutions that it is the last.
        z = ((x - self.band_mean) / self.band_scale).contiguous()
        z = z.as_strided(z.shape, (z[0].numel(), 1, z.shape[3], 1))
        logits: Tensor
        if self.arcface is None:
            logits = self.net(z)
        else:
            with torch.autocast(z.device.type, enabled=False):
                logits = self.arcface(self.net(z).float(), labels)
        return logits

    def fit(self, data: TrainingSet, run: Run) -> History:
        """Learn which clip is of which machine ID.

        The loss is the Kullback-Leibler divergence from the labels' shares in an image to the probabilities: without
        `mix`, and in validation, that is the cross-entropy. Validation sees untouched images of held-out clips; clips
        shorter than an image are repeated. With `balance`, images of every machine ID come equally often, and its
        validation loss counts as much.

        Raises:
            FileNotFoundError: there is no file `pretrained`.
            ValueError: there are fewer than two classes, `pretrained` isn't of this network, or `data` lacks a ratio.
            TrainingDiverged: the loss is no longer finite.
        """
        config, device = self.config, run.compute.device
        self._make(data.ids)
        if config.pretrained:
            self._load_pretrained(Path(config.pretrained))
        held_out = data.held_out(config.validation)
        log_mels, classes = self._classes(data, held_out)
        validation = np.concatenate([held_out, np.zeros(len(log_mels) - len(held_out), bool)])
        windows = WindowSet(log_mels, config.image_frames, validation, device, config.image_hop)
        mean, scale = band_statistics(log_mels.select(np.flatnonzero(~validation).tolist()))
        self.band_mean.copy_(mean)
        self.band_scale.copy_(scale)
        self.to(device)
        labels = torch.tensor(classes, device=device)

        def machine_of(starts: Tensor) -> Tensor:
            return labels[windows.clips(starts)] // config.variants

        def measure(starts: Tensor) -> Tensor:
            x = windows.gather(starts).view(-1, 1, config.image_frames, self.mels)
            true = labels[windows.clips(starts)]
            with torch.autocast(device.type, torch.bfloat16, enabled=run.compute.precision == "bfloat16"):
                return self._measure(x, true)

        sampler = loop.Sampler(windows, machine_of if config.balance else None)
        history = loop.fit(self, measure, sampler, config, run)
        self._remarks = [x for x in (self._remark_on_one_id(), self._remark_on_guessing(history, data.ids)) if x]
        return history

    def _classes(self, data: TrainingSet, held_out: NDArray[np.bool_]) -> tuple[LogMels, list[int]]:
        """The clips to learn from, at least an image long, and their classes: first all clips as they are, then those
        that aren't held out as they sound at each ratio.
        """
        config = self.config
        clips = list(data.log_mels)
        classes = [self.ids.index(x) * config.variants for x in data.ids]
        for variant, ratio in enumerate(config.ratios, 1 + config.warps):
            learnt = np.flatnonzero(~held_out).tolist()
            resampled = data.at_speed(ratio)
            clips += [resampled[i] for i in learnt]
            classes += [classes[i] + variant for i in learnt]
        if not config.ratios and all(len(x) >= config.image_frames for x in clips):
            return data.log_mels, classes
        return LogMels.pack(repeat_frames(x, config.image_frames) for x in clips), classes

    def normal_scores(self, data: TrainingSet, run: Run) -> NormalScores:
        """Score the training clips as `TrainedMember` does; remark where it has learnt them by heart."""
        normal = super().normal_scores(data, run)
        held_out = data.held_out(self.config.validation)
        if run.statistics == "training" and held_out.any():
            self._remarks += self._remark_on_learning_by_heart(normal, held_out)
        return normal

    def _remark_on_one_id(self) -> str | None:
        if len(self.ids) > 1:
            return None
        return (
            f"all clips are of machine ID {self.ids[0]!r}: {self.name} learnt to tell it from its own warps and "
            "resamplings"
        )

    def _remark_on_guessing(self, history: History, ids: Sequence[str]) -> str | None:
        """Remark where it has hardly learnt: less than a quarter of the way from guessing to certainty."""
        if not history.accuracy or len(self.ids) < 2:
            return None
        accuracy = history.accuracy[history.kept]
        counts = Counter(ids)
        balance = self.config.balance
        guessed = 1 / len(counts) if balance else max(counts.values()) / len(ids)
        if accuracy >= guessed + (1 - guessed) / 4:
            return None
        images = f"{accuracy:.0%} of the held-out images" + (" (mean over IDs)" if balance else "")
        guess = "guessing" if balance else "always guessing the most frequent one"
        return (
            f"{self.name} finds the machine ID of {images}, and {guess} finds about {guessed:.0%}: its scores tell "
            "little. Give more epochs or clips, or leave it out"
        )

    def _remark_on_learning_by_heart(self, normal: NormalScores, held_out: NDArray[np.bool_]) -> list[str]:
        """Remark where held-out clips score more than `BY_HEART` standard deviations (root mean square) from the
        others: standardised by these, any new clip outweighs the other members.
        """
        column = self.mode_names.index(self.default_mode)
        scores, ids = normal.scores[:, column : column + 1], normal.ids
        learnt = Moments.of(scores[~held_out], [ids[int(i)] for i in np.flatnonzero(~held_out)])
        z = []
        for i in np.flatnonzero(held_out):
            mean, variance = (float(x[0]) for x in learnt.of_id(ids[int(i)]))
            z.append((float(scores[i, 0]) - mean) / max(variance, VARIANCE_FLOOR) ** 0.5)
        distance = float(np.sqrt(np.mean(np.square(z))))
        if distance <= BY_HEART:
            return []
        return [
            f"{self.name} has learnt its clips by heart: normal ones held out score {distance:.1f} standard deviations "
            'off. Take statistics="held-out", give more clips or fewer epochs, or leave it out'
        ]

    def _measure(self, x: Tensor, true: Tensor) -> Tensor:
        """Mean loss and share of images whose class is found, `[2]`, augmented in training mode."""
        config = self.config
        classes = len(self.ids) * self.config.variants
        if self.training and config.warps:
            which = torch.randint(1 + config.warps, true.shape, device=true.device) * (true % self.config.variants == 0)
            true = true + which
            x = augmentation.warp(x, self.warps, which)
        target = nn.functional.one_hot(true, classes).float()
        if self.training and config.mix != "none":
            x, target = augmentation.mix(x, true, classes, config.mix_probability, config.mix)
        logits = self(x, true if self.training else None).float()
        loss = nn.functional.kl_div(logits.log_softmax(1), target, reduction="batchmean")
        return torch.stack([loss, (logits.argmax(1) == target.argmax(1)).float().mean()])

    def scorer(self, compute: Compute | None = None, modes: Sequence[str] | None = None) -> ClassifierScorer:
        """Make the network ready for scoring, as it is now. It is torch whatever the backend."""
        return ClassifierScorer(self, compute or Compute(), self.mode_names if modes is None else modes)

    def state(self) -> dict[str, Tensor]:
        """Return all tensors by name, on the CPU, the machine IDs' names (`ids`) among them."""
        return dense.state_of(self) | {"ids": dense.pack_names(self.ids)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over the tensors of `state`.

        Raises:
            ValueError: tensors are missing, unknown or of another shape.
        """
        if "ids" not in state:
            raise ValueError("tensors are missing, unknown or of another shape: ids")
        self._make(dense.unpack_names(state["ids"]))
        dense.load_state(self, {name: x for name, x in state.items() if name != "ids"})


@register
class MobileNet(Classifier):
    """A classifier that is a MobileNetV2, with cross-entropy, unless its settings say otherwise."""

    kind = "mobilenet"
    Config = ClassifierConfig


@register
class ResNet(Classifier):
    """A classifier that is a ResNet-50, with cross-entropy."""

    kind = "resnet"
    Config = ResNetConfig


@register
class ArcFaceMobileNet(Classifier):
    """A classifier that is a MobileNetV2 with ArcFace's loss."""

    kind = "arcface"
    Config = ArcFaceConfig


class ClassifierScorer(Scorer):
    """Scores whole clips with a `Classifier`, whose batch norm is folded into the convolutions."""

    def __init__(self, classifier: Classifier, compute: Compute, modes: Sequence[str]) -> None:
        self._columns = [classifier.mode_names.index(mode) for mode in modes]
        self._mode_names = classifier.mode_names
        self.config = classifier.config
        self.ids = classifier.ids
        self._variants = classifier.config.variants
        self._precision = compute.precision
        self._classifier = fold(classifier).to(compute.device)

    @torch.no_grad()
    def score_many(self, log_mels: Sequence[Tensor], machine_ids: Sequence[str | None]) -> Tensor:
        """How little clips sound like the machine IDs that they are said to be from: `-log p` and, as in the report,
        `-p`, with the probability `p` of that ID untouched, averaged over a clip's images. The images of all clips go
        through the network together; a clip's bits don't depend on the other clips.

        Args:
            log_mels: `[frames, mels]` float32 each, in dB; those shorter than an image are repeated.
            machine_ids: of the clips; where it is `None` or wasn't learnt, the one counts that gives the lowest score.

        Returns:
            `[clips, modes]` float64, computed from the logits in float64.
        """
        logits = self._logits([self._images(x) for x in log_mels])
        rows = [self._modes(x, machine_id) for x, machine_id in zip(logits, machine_ids, strict=True)]
        return torch.stack(rows)[:, self._columns]

    def explain(self, log_mel: Tensor, mode: str, machine_id: str | None = None) -> Tensor:
        """Each frame's and band's share of the score, to first order: its gradient times how far the band is from its
        mean, `[frames, mels]` float32.
        """
        with torch.enable_grad():
            x = log_mel.detach().clone().requires_grad_()
            score = self._modes(self._logits([self._images(x)])[0], machine_id)[self._mode_names.index(mode)]
            (gradient,) = torch.autograd.grad(score, x)
        return gradient * (log_mel - self._classifier.band_mean)

    def _images(self, log_mel: Tensor) -> Tensor:
        frames = self.config.image_frames
        return images(repeat_frames(log_mel, frames), frames, self.config.image_hop)[:, None]

    def _logits(self, stacks: Sequence[Tensor]) -> list[Tensor]:
        """Logits `[images, classes]` float64 of each clip's images, in passes of one size across clips."""
        device = stacks[0].device
        parts = []
        for part in _passes(stacks, by_device(IMAGES_PER_PASS, device)):
            with torch.autocast(device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
                parts.append(self._classifier(part).double())
        counts = [len(x) for x in stacks]
        return list(torch.split(torch.cat(parts)[: sum(counts)], counts))

    def _modes(self, logits: Tensor, machine_id: str | None) -> Tensor:
        """A clip's scores `[modes]` from its images' logits."""
        places = [self.ids.index(machine_id)] if machine_id in self.ids else range(len(self.ids))
        scores = []
        for column in [place * self._variants for place in places]:
            others = torch.cat([logits[:, :column], logits[:, column + 1 :]], 1).logsumexp(1)
            nll = nn.functional.softplus(others - logits[:, column], threshold=40)  # exact also where p is nearly 1
            scores.append(pool(torch.stack([nll, -torch.exp(-nll)], 1), self.config.pooling))
        return torch.stack(scores).amin(0)


def _passes(stacks: Sequence[Tensor], size: int) -> Iterator[Tensor]:
    """The images of all `stacks` in order, `size` at a time; the last batch is filled up with its first image."""
    waiting: list[Tensor] = []
    room = size
    for stack in stacks:
        for piece in filter(len, (stack[:room], *torch.split(stack[room:], size))):
            waiting.append(piece)
            room -= len(piece)
            if room == 0:
                yield torch.cat(waiting)
                waiting, room = [], size
    if room < size:
        yield torch.cat([*waiting, waiting[0][:1].expand(room, *waiting[0].shape[1:])])


def fold(module: Module) -> Module:
    """A copy for evaluation, without gradients, in which each batch norm that follows a convolution is part of it."""
    module = copy.deepcopy(module).eval().requires_grad_(False)
    for parent in list(module.modules()):
        for (name, child), (after, norm) in itertools.pairwise(list(parent.named_children())):
            if isinstance(child, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, nn.utils.fuse_conv_bn_eval(child, norm))
                setattr(parent, after, nn.Identity())
    return module
