"""Settings and constants that still wait for their rooms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pyasd.settings import check_types

Pad = Literal["reflect", "constant"]
Floor = Literal["max", "add"]
Precision = Literal["float32", "bfloat16"]

FULL_SCALE = 32768
POWER_EPS = 2.220446049250313e-16


class GroupMadeConfig:
    log_scale_min = -4.605170185988091


@dataclass(frozen=True)
class LogMelConfig:
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
        if self.sample_rate < 1 or self.hop_length < 1 or self.n_mels < 1:
            raise ValueError(f"sample_rate, hop_length and n_mels must be positive: {self}")
        if self.n_fft < 4 or self.n_fft % 2:
            raise ValueError(f"n_fft must be even and at least 4, not {self.n_fft}")
        if not 0 <= self.f_min < f_max <= nyquist:
            raise ValueError(f"need 0 <= f_min < f_max <= {nyquist:g} Hz, got f_min={self.f_min}, f_max={self.f_max}")

    def frames(self, samples: int) -> int:
        return 1 + samples // self.hop_length

    @property
    def min_samples(self) -> int:
        return self.n_fft // 2 + 1 if self.pad == "reflect" else 1
