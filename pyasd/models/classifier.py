"""Classifiers of machine IDs as anomaly detectors: a clip that doesn't sound like the ID it is from is anomalous.

Report section 2.2. They see images of 64 log-Mel frames. Label augmentation gives them more classes than there are
IDs: each warp and each resampling of each ID is a class of its own, and images are combined across classes. Scoring
sees untouched images, and reads the probability of the ID that the clip is said to be from.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from pyasd import augmentation, training
from pyasd.config import BAND_SCALE_FLOOR, WARP_SEED, WARP_STRENGTH, ClassifierConfig, Precision
from pyasd.features.windows import images, repeat_frames
from pyasd.models import dense
from pyasd.models.arcface import ArcFace
from pyasd.models.mobilenet import MobileNetV2
from pyasd.models.resnet import ResNet50

IMAGES_PER_PASS = {"cpu": 32, "cuda": 512}
"""Images that go through a network at once in scoring, always so many: how a convolution adds up, and with that a
score's last bits, depends on the size of the batch, but not on an image's place in it."""


Module = TypeVar("Module", bound=nn.Module)


class Classifier(nn.Module):
    """A convolutional network over images of log-Mel frames, whose classes are machine IDs and what was made of them.

    Class `ids.index(machine_id) * variants + v` is variant `v` of an ID: 0 is the ID as it is, then come the warps,
    then the resampling ratios.

    Args:
        name: of the ensemble member.
        config: see `config.ClassifierConfig`.
        mels: Mel bands.
        seed: of the initial weights.

    Attributes:
        ids: the machine IDs, sorted; empty before it has learnt any.
        band_mean, band_scale: `[mels]`, in dB: the training data's, by which inputs are standardised.
    """

    modes: tuple[str, ...] = ("log-probability", "probability")

    band_mean: Tensor
    band_scale: Tensor
    warps: Tensor

    def __init__(self, name: str, config: ClassifierConfig, mels: int, seed: int = 0) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.mels = mels
        self.seed = seed
        self.default_mode = config.classifier_score
        self.ids: tuple[str, ...] = ()
        self.register_buffer("band_mean", torch.zeros(mels))
        self.register_buffer("band_scale", torch.ones(mels))
        warps = augmentation.polynomial_warps(config.warps, config.image_frames, mels, WARP_STRENGTH, WARP_SEED)
        self.register_buffer("warps", warps, persistent=False)

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
            found = safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(
                f"{path} is not a safetensors file ({error}): write one with safetensors.torch.save_file("
                "net.state_dict(), ...) from torchvision's network"
            ) from None
        head = "fc." if self.config.backbone == "resnet" else "classifier."
        own = {k: x for k, x in dense.state_of(self.net).items() if not k.startswith(head)}
        first = next(iter(own))
        if first in found and found[first].shape[1:2] == (3,):
            found[first] = found[first].sum(1, keepdim=True)
        for name, x in own.items():
            if name not in found or found[name].shape != x.shape:
                there = f"is {list(found[name].shape)}" if name in found else "is missing"
                what = f"{self.config.backbone}" + ("" if head == "fc." else f" of width {self.config.width:g}")
                raise ValueError(f"{path} is not of a {what}: {name} {there}, and must be {list(x.shape)}")
        self.net.load_state_dict({name: found[name] for name in own}, strict=False)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits `[images, classes]` of images `[images, 1, frames, mels]` in dB; `labels`, the true classes, are for
        training with ArcFace.
        """
        # A single channel can lie both ways in memory: these strides tell the convolutions that it is the last.
        z = ((x - self.band_mean) / self.band_scale).contiguous()
        z = z.as_strided(z.shape, (z[0].numel(), 1, z.shape[3], 1))
        if self.arcface is None:
            return self.net(z)
        with torch.autocast(z.device.type, enabled=False):
            return self.arcface(self.net(z).float(), labels)

    def fit(
        self,
        log_mels: Sequence[Tensor],
        ids: Sequence[str],
        run: training.Run,
        resampled: Sequence[Sequence[Tensor]] = (),
    ) -> training.History:
        """Learn which clip is of which machine ID.

        The loss is the Kullback-Leibler divergence from the labels' shares in an image to the probabilities: without
        `mix`, and in validation, that is the cross-entropy. Validation sees untouched images of clips held out. With
        `balance`, images of every machine ID come equally often, and its validation loss counts as much.

        Args:
            log_mels: `[frames, mels]` float32 per clip, in dB; clips shorter than an image are repeated.
            ids: their machine IDs.
            run: seed, device, precision, checkpoint, progress.
            resampled: for each of the recipe's `ratios`, the log-Mels of the same clips played that much faster.

        Raises:
            FileNotFoundError: there is no file `pretrained`.
            ValueError: there are fewer than two classes, or `pretrained` isn't of this network.
            TrainingDiverged: the loss is no longer finite.
        """
        config = self.config
        if len(resampled) != len(config.ratios):
            raise ValueError(f"ratios={config.ratios} need as many resampled sets of clips, not {len(resampled)}")
        self._make(ids)
        if config.pretrained:
            self._load_pretrained(Path(config.pretrained))
        held = training.held_out(ids, config.validation, run.seed)
        classes = [self.ids.index(x) * self.config.variants for x in ids]
        clips = list(log_mels)
        for variant, versions in enumerate(resampled, 1 + config.warps):
            clips += [x for x, out in zip(versions, held, strict=True) if not out]
            classes += [label + variant for label, out in zip(classes[: len(ids)], held, strict=True) if not out]
        validation = np.concatenate([held, np.zeros(len(clips) - len(held), bool)])
        clips = [repeat_frames(x, config.image_frames) for x in clips]
        windows = training.WindowSet(clips, config.image_frames, validation, run.device, config.image_hop)
        mean, scale = training.band_statistics([x for x, out in zip(clips, validation, strict=True) if not out])
        self.band_mean.copy_(mean)
        self.band_scale.copy_(scale.clamp(min=BAND_SCALE_FLOOR))
        self.to(run.device)
        labels = torch.tensor(classes, device=run.device)

        def machine_of(starts: Tensor) -> Tensor:
            return labels[windows.clips(starts)] // config.variants

        def measure(starts: Tensor) -> Tensor:
            x = windows.gather(starts).view(-1, 1, config.image_frames, self.mels)
            true = labels[windows.clips(starts)]
            with torch.autocast(run.device.type, torch.bfloat16, enabled=run.precision == "bfloat16"):
                return self._measure(x, true)

        group_of = machine_of if config.balance else None
        return training.fit(self, measure, windows, config, run, cosine=True, settle=True, group_of=group_of)

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

    def scorer(
        self,
        device: torch.device | str = "cpu",
        backend: str = "auto",
        precision: Precision = "float32",
        modes: Sequence[str] | None = None,
    ) -> Scorer:
        """The network as it is now, made ready for scoring on `device`. It is torch whatever the backend."""
        return Scorer(self, torch.device(device), precision, self.modes if modes is None else modes)

    def state(self) -> dict[str, Tensor]:
        """All tensors by name, on the CPU, the machine IDs' names (`ids`) among them."""
        return dense.state_of(self) | {"ids": dense.pack_names(self.ids)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over the tensors of `state`. Raises ValueError where they don't fit."""
        if "ids" not in state:
            raise ValueError("tensors are missing, unknown or of another shape: ids")
        self._make(dense.unpack_names(state["ids"]))
        dense.load_state(self, {name: x for name, x in state.items() if name != "ids"})


class Scorer:
    """Scores whole clips with a `Classifier`, whose batch norm is folded into the convolutions."""

    def __init__(
        self, classifier: Classifier, device: torch.device, precision: Precision, modes: Sequence[str]
    ) -> None:
        self._columns = [classifier.modes.index(mode) for mode in modes]
        self.config = classifier.config
        self.ids = classifier.ids
        self._variants = classifier.config.variants
        self._precision = precision
        self._classifier = fold(classifier).to(device)

    def score(self, log_mel: Tensor, machine_id: str | None = None) -> Tensor:
        """`score_many` of one clip: `[modes]` float64."""
        return self.score_many([log_mel], [machine_id])[0]

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
            score = self._modes(self._logits([self._images(x)])[0], machine_id)[Classifier.modes.index(mode)]
            (gradient,) = torch.autograd.grad(score, x)
        return gradient * (log_mel - self._classifier.band_mean)

    def _images(self, log_mel: Tensor) -> Tensor:
        frames = self.config.image_frames
        return images(repeat_frames(log_mel, frames), frames, self.config.image_hop)[:, None]

    def _logits(self, stacks: Sequence[Tensor]) -> list[Tensor]:
        """Logits `[images, classes]` float64 of each clip's images, in passes of one size across clips."""
        device = stacks[0].device
        found = []
        for part in _passes(stacks, IMAGES_PER_PASS[device.type]):
            with torch.autocast(device.type, torch.bfloat16, enabled=self._precision == "bfloat16"):
                found.append(self._classifier(part).double())
        counts = [len(x) for x in stacks]
        return list(torch.split(torch.cat(found)[: sum(counts)], counts))

    def _modes(self, logits: Tensor, machine_id: str | None) -> Tensor:
        """A clip's scores `[modes]` from its images' logits."""
        places = [self.ids.index(machine_id)] if machine_id in self.ids else range(len(self.ids))
        scores = []
        for own in [place * self._variants for place in places]:
            others = torch.cat([logits[:, :own], logits[:, own + 1 :]], 1).logsumexp(1)
            nll = nn.functional.softplus(others - logits[:, own], threshold=40)  # exact also where p is nearly 1
            scores.append(dense.pool(torch.stack([nll, -torch.exp(-nll)], 1), self.config.pooling))
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
