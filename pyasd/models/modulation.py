"""How strongly a clip's bands swell and sink, and how fast: beats, strokes, blade passes (ours)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from pyasd.models.member import MemberConfig, Mode, register
from pyasd.models.over_time import Usual
from pyasd.models.spectrum import Covariance, Spectrum

SLOWEST, FASTEST = 1 / 64, 1 / 2
"""Rates, in cycles per frame: with frames of 32 ms, 0.5 to 16 Hz."""

SIZE = 512
"""Frames that shorter clips are padded to with silence: slow rates then have a value between those of their own."""

FLOOR = 10.0
"""Added to powers before the logarithm, in square dB per cycle per frame: what swells less is as good as steady."""


@dataclass(frozen=True)
class ModulationConfig(MemberConfig):
    """The Mahalanobis distance of a clip's modulation spectrum (ours).

    Attributes:
        bands: bands of neighbouring Mel bands, whose mean level over time is looked at; no more than there are.
        rates: how fast it swells and sinks, evenly spaced on a logarithmic scale from `SLOWEST` to `FASTEST`.
        covariance: as of `SpectrumConfig`.
    """

    bands: int = 16
    rates: int = 16
    covariance: Covariance = "held-out"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bands < 1 or self.rates < 2:
            raise ValueError(f"need bands from 1 and rates from 2, got bands={self.bands}, rates={self.rates}")


@register
class Modulation(Spectrum):
    """A normal distribution of clips' modulation spectra for each machine ID."""

    kind = "modulation"
    Config = ModulationConfig
    MODES = (
        Mode(
            "rhythm",
            "share of the Mahalanobis distance",
            "Mahalanobis distance of how strongly bands swell and sink, rate by rate",
        ),
    )

    @property
    def bands(self) -> int:
        """Its bands."""
        return min(int(self.config.bands), self.mels)

    @property
    def dims(self) -> int:
        """The features of a clip."""
        return self.bands * int(self.config.rates)

    @property
    def adds_up(self) -> bool:
        """Return that shares of frames don't add up: a rhythm is none of a frame."""
        return False

    def features(self, log_mels: Sequence[Tensor]) -> Tensor:
        """Compute clips' modulation spectra, `[clips, dims]` float64, on their device."""
        return torch.stack([modulation(x, self.bands, self.config.rates) for x in log_mels])

    def usual(self, machine_id: str | None) -> Usual | None:  # noqa: ARG002 (a spectrum may ask)
        """Return nothing: it knows no statistics of single Mel bands."""
        return None


def modulation(log_mel: Tensor, bands: int, rates: int) -> Tensor:
    """Compute a clip's modulation spectrum, `[bands * rates]` float64, in dB: of each band's level over time the power
    at each rate, with a Hann window. Noise has the same in clips of any length; steady beats have more in longer ones.

    Args:
        log_mel: `[frames, mels]`, in dB, of at least one frame.
        bands: see `ModulationConfig`; no more than `mels`.
        rates: see `ModulationConfig`.
    """
    pooling, window, weights = _plan(*log_mel.shape, bands, rates, log_mel.device)
    level = (log_mel.float() @ pooling).double()
    spectrum = torch.fft.rfft((level - level.mean(0)) * window, 2 * weights.shape[1], 0)[1:]
    power = weights @ (spectrum.real.square() + spectrum.imag.square())
    decibels: Tensor = 10 * (power + FLOOR).log10()
    return decibels.T.flatten()


@lru_cache(maxsize=8)
def _plan(frames: int, mels: int, bands: int, rates: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """What a clip of so many frames is multiplied by: `[mels, bands]` float32, for the mean level of each band's share
    of the Mel bands; the window `[frames, 1]`; weights `[rates, bins]` of the bins 1, 2, ... up to half a cycle per
    frame, for the mean power about each rate: triangles on a logarithmic scale, from the rate before to the one after.
    """
    pooling = torch.block_diag(*(torch.full((len(x), 1), 1 / len(x)) for x in torch.arange(mels).tensor_split(bands)))
    window = torch.hann_window(frames + 2, periodic=False, dtype=torch.float64)[1:-1, None]
    bins = max(SIZE, 1 << (frames - 1).bit_length()) // 2
    step = math.log(FASTEST / SLOWEST) / (rates - 1)
    centres = math.log(SLOWEST) + step * torch.arange(rates, dtype=torch.float64)
    places = (torch.arange(1, bins + 1, dtype=torch.float64) / (2 * bins)).log()
    weights = (1 - (places - centres[:, None]).abs() / step).clamp(min=0)
    weights /= weights.sum(1, keepdim=True) * window.square().sum()
    return pooling.to(device), window.to(device), weights.to(device)
