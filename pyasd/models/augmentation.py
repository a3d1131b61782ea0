"""Label augmentation: more classes for the classifiers than there are machine IDs (report section 2.2).

Images are batches of log-Mels `[images, 1, frames, mels]`, in dB, on any device. Random numbers are torch's own.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

Domain = Literal["power", "log"]

DECIBEL = math.log(10) / 10
"""Nepers of power in a decibel."""


def combine(a: Tensor, b: Tensor, share: Tensor, domain: Domain) -> Tensor:
    """Combine `share` of `a` with the rest of `b`.

    Args:
        a: in dB.
        b: in dB, of the same shape.
        share: broadcasts to them; between 0 and 1.
        domain: "power" combines before the logarithm, as sounds add up; "log" combines the decibels.
    """
    if domain == "log":
        return torch.lerp(b, a, share)
    return torch.logaddexp(a * DECIBEL + share.log(), b * DECIBEL + (-share).log1p()) / DECIBEL


def mix(images: Tensor, labels: Tensor, classes: int, probability: float, domain: Domain) -> tuple[Tensor, Tensor]:
    """Combine images with others of the batch, in random proportions.

    Args:
        images: `[images, 1, frames, mels]`, in dB.
        labels: `[images]` int64, their classes.
        classes: how many there are.
        probability: of an image to be combined with another, if that is of another class.
        domain: see `combine`.

    Returns:
        The images, and the share of each class in them, `[images, classes]` float32.
    """
    other = torch.randperm(len(images), device=images.device)
    share = torch.rand(len(images), device=images.device)
    alone = (labels == labels[other]) | (torch.rand(len(images), device=images.device) >= probability)
    share = share.masked_fill(alone, 1.0)
    target = nn.functional.one_hot(labels, classes).float()
    mixed = combine(images, images[other], share[:, None, None, None], domain)
    return mixed, torch.lerp(target[other], target, share[:, None])


def polynomial_warps(count: int, frames: int, mels: int, strength: float, seed: int) -> Tensor:
    """Make grids for `warp`: smooth maps of an image onto itself, each another one.

    With time `v` and frequency `u` in [-1, 1], a pixel is taken from
    `u + (1 - u^2) (a + b u + c v)` and `v + (1 - v^2) (d + e u + f v)`: the image's edges stay where they are. The
    coefficients are random, scaled to `|a| + |b| + |c| = |d| + |e| + |f| = strength`: below 1/2 nothing folds.

    Args:
        count: how many.
        frames: of an image.
        mels: of an image.
        strength: the largest displacement that is possible, in halves of the image.
        seed: of the coefficients.

    Returns:
        `[count, frames, mels, 2]` float32, as `torch.nn.functional.grid_sample` wants them with `align_corners`.
    """
    coefficients = torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (count, 2, 3, 1, 1)))
    coefficients *= strength / coefficients.abs().sum(2, keepdim=True)
    v = torch.linspace(-1, 1, frames, dtype=torch.float64)[:, None].expand(frames, mels)
    u = torch.linspace(-1, 1, mels, dtype=torch.float64).expand(frames, mels)
    (a, b, c), (d, e, f) = coefficients.permute(1, 2, 0, 3, 4)
    source_u = u + (1 - u**2) * (a + b * u + c * v)
    source_v = v + (1 - v**2) * (d + e * u + f * v)
    return torch.stack([source_u, source_v], -1).float()


def warp(images: Tensor, grids: Tensor, which: Tensor) -> Tensor:
    """Bend each image by one of the warps.

    Args:
        images: `[images, 1, frames, mels]`.
        grids: `[warps, frames, mels, 2]`, of `polynomial_warps`, on the images' device.
        which: `[images]` int64: the warp of each image, from 1; 0 leaves it as it is.
    """
    chosen = which.nonzero().squeeze(1)
    bent = nn.functional.grid_sample(
        images[chosen], grids[which[chosen] - 1], padding_mode="border", align_corners=True
    )
    return images.index_copy(0, chosen, bent)
