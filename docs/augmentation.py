"""Draw docs/augmentation.png: each label augmentation of a synthetic pump's sound.

python docs/augmentation.py
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from pyasd import audio, ops
from pyasd.factory import factory
from pyasd.features.windows import images
from pyasd.models import augmentation
from pyasd.models.classifier import WARP_SEED, WARP_STRENGTH, ClassifierConfig

FEATURES = ops.LogMelPlan()
FRAMES = ClassifierConfig().image_frames


def image(machine_id: str, ratio: float = 1.0) -> torch.Tensor:
    """Return the first image of a healthy pump's clip, `[1, 1, frames, mels]`, in dB."""
    samples = audio.change_speed(factory.clip(f"pump/train/normal_id_{machine_id}_00000000.wav"), ratio)
    log_mel = ops.log_mel(torch.from_numpy(samples)[None], FEATURES)[0]
    return images(log_mel, FRAMES)[:1, None]


def main() -> None:
    """Draw two machines: one by itself, with the other in it, warped, and played at other speeds."""
    one, other = image("00"), image("04")
    half = torch.tensor(0.5)
    warps = augmentation.polynomial_warps(2, FRAMES, FEATURES.n_mels, WARP_STRENGTH, WARP_SEED)
    pictures = {
        "pump 00": one,
        "pump 04": other,
        'half of each, mix = "power"': augmentation.combine(one, other, half, "power"),
        'half of each, mix = "log"': augmentation.combine(one, other, half, "log"),
        "pump 00, first warp": augmentation.warp(one, warps, torch.tensor([1])),
        "pump 00, second warp": augmentation.warp(one, warps, torch.tensor([2])),
        "pump 00, ratio 0.9": image("00", 0.9),
        "pump 00, ratio 1.1": image("00", 1.1),
    }
    figure = Figure(figsize=(12, 6), layout="constrained")
    FigureCanvasAgg(figure)
    low, high = np.percentile(torch.cat([one, other]).numpy(), (1, 99.5))
    axes = figure.subplots(2, 4, sharex=True, sharey=True)
    for place, (title, x) in zip(axes.flat, pictures.items(), strict=True):
        seconds = FRAMES * FEATURES.hop_length / FEATURES.sample_rate
        drawn = place.imshow(
            x[0, 0].numpy().T, origin="lower", aspect="auto", interpolation="nearest", vmin=low, vmax=high,
            extent=(0, seconds, 0, FEATURES.n_mels), cmap="magma",
        )  # fmt: skip
        place.set_title(title, fontsize="medium")
    figure.colorbar(drawn, ax=list(axes.flat), label="log-Mel, dB")
    figure.supxlabel("time, s", fontsize="medium")
    figure.supylabel("Mel band", fontsize="medium")
    file = io.BytesIO()
    figure.savefig(file, dpi=72)
    Image.open(file).convert("RGB").quantize(96).save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main()
