"""How clips are processed, in fitting and in scoring: which channel, on which devices, in which precision."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch

from pyasd.audio import Channel
from pyasd.backends import cpu
from pyasd.clips import Clip
from pyasd.config import ClassifierConfig, MemberConfig, Precision, Recipe
from pyasd.features.log_mels import Features, extract
from pyasd.progress import Progress


@dataclass(frozen=True)
class Pipeline:
    """How clips are processed, in fitting and in scoring: which channel, where, and whom to tell.

    Attributes:
        channel: which channel of a clip, from 0, or "mean".
        devices: where features and models run; several share the scoring, and the first one trains.
        backend, precision: of the operators, see `ops`.
        progress: told of each step.
        mixed: classifiers are trained in bfloat16 where that is faster, and everything else is float32.
    """

    channel: Channel
    devices: tuple[torch.device, ...]
    backend: str
    precision: Precision
    progress: Progress | None
    mixed: bool = False

    @property
    def device(self) -> torch.device:
        """The first device."""
        return self.devices[0]

    @classmethod
    def of(cls, channel: Channel, device: str, backend: str, precision: str, progress: Progress | None) -> Pipeline:
        """A pipeline in which "auto" is decided: a GPU where there is one, and float32, but `mixed`. `device` may name
        several: "cuda:0,cuda:1".

        Raises:
            ValueError: there is no such device here, or no such precision.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            devices = [torch.empty(0, device=name.strip()).device for name in device.split(",")]
        except (RuntimeError, AssertionError):  # a build without CUDA asserts
            raise ValueError(f'torch has no device {device!r} here: give device="cpu"') from None
        if len({x.type for x in devices}) > 1:
            raise ValueError(f"devices must be of one type, not {device!r}")
        if precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision must be 'auto', 'float32' or 'bfloat16', not {precision!r}")
        chosen: Precision = "bfloat16" if precision == "bfloat16" else "float32"
        return cls(channel, tuple(devices), backend, chosen, progress, precision == "auto")

    def training_precision(self, member: MemberConfig) -> Precision:
        """What a member is trained in. `mixed` takes bfloat16 for classifiers on GPUs that have it and, on CPUs that
        multiply in it, for ResNet-50 (twice as fast there; MobileNetV2's convolutions of single channels gain nothing).
        """
        if not self.mixed or not isinstance(member, ClassifierConfig):
            return self.precision
        if self.device.type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        else:
            native = cpu.BACKEND.unavailable(self.device) is None
            fast = member.backbone == "resnet" and native and cpu.isa() == "avx512bf16"
        return "bfloat16" if fast else "float32"

    def extract(
        self, clips: Sequence[Clip], recipe: Recipe, stage: str, ratio: float = 1.0, everywhere: bool = False
    ) -> Generator[Features]:
        """`features.extract` as the recipe has it, on the first device or `everywhere`, telling the progress."""
        plan = recipe.features
        items = extract(
            clips, plan, channel=self.channel, backend=self.backend, device=self.devices[: None if everywhere else 1],
            min_frames=recipe.min_frames, ratio=ratio,
        )  # fmt: skip
        for done, item in enumerate(items):
            yield item
            if self.progress is not None:
                self.progress(stage, done + 1, len(clips), item.clip.name)
