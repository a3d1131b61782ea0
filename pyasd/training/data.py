"""Training data: the normal clips of one machine type, and which of them are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyasd.features.store import LogMels
from pyasd.features.windows import frame_windows

BAND_SCALE_FLOOR = 0.1
"""Smallest standard deviation, in dB, that a Mel band is taken to have when log-Mels are standardised."""


class TrainingSet:
    """The normal clips of one machine type.

    Args:
        log_mels: one `[frames, mels]` float32 per clip, in dB.
        ids: their machine IDs.
        seed: decides which clips are held out.
        machine_type: for messages; "" where it isn't known.
        at_speed: by ratio, log-Mels of the same clips played so many times as fast.

    Attributes:
        log_mels: all clips, packed: each log-Mel is in memory once.
        ids, machine_type: see above.
    """

    def __init__(
        self,
        log_mels: Iterable[Tensor],
        ids: Sequence[str],
        seed: int = 0,
        machine_type: str = "",
        at_speed: Mapping[float, Iterable[Tensor]] | None = None,
    ) -> None:
        self.log_mels = LogMels.pack(log_mels)
        self.ids = tuple(ids)
        self.machine_type = machine_type
        self._seed = seed
        self._at_speed = {ratio: LogMels.pack(x) for ratio, x in (at_speed or {}).items()}
        self._held_out: dict[float, NDArray[np.bool_]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def clips_name(self) -> str:
        """How messages call the clips: "fan clips", or "clips" where no machine type is known."""
        return f"{self.machine_type} clips".strip()

    def held_out(self, share: float) -> NDArray[np.bool_]:
        """Return which clips are held out for validation, `[clips]`: `share` of each machine ID's clips, at least one
        of two or more. Every member that holds out the same share holds out the same clips.
        """
        if share not in self._held_out:
            self._held_out[share] = held_out(self.ids, share, self._seed)
        return self._held_out[share]

    def at_speed(self, ratio: float) -> LogMels:
        """Return the log-Mels of the clips played `ratio` times as fast.

        Raises:
            ValueError: the set was made without that ratio.
        """
        if ratio not in self._at_speed:
            raise ValueError(f"no clips were resampled by {ratio:g}: there are {sorted(self._at_speed)}")
        return self._at_speed[ratio]


def held_out(ids: Sequence[str], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose clips for validation, `[clips]`: of each machine ID `share` of its clips, at least one of two or more."""
    mask = np.zeros(len(ids), bool)
    for machine_id in sorted(set(ids)):
        places = np.flatnonzero([x == machine_id for x in ids])
        count = max(1, round(share * len(places))) if share > 0 and len(places) > 1 else 0
        mask[random_generator(seed, "validation", machine_id).permutation(places)[:count]] = True
    return mask


def random_generator(seed: int, *purpose: str) -> np.random.Generator:
    """Make a generator for one purpose: the same for equal arguments, independent of those for others."""
    digest = hashlib.sha256(repr((seed, purpose)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def band_statistics(log_mels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation of each Mel band over all frames of `[frames, mels]` clips.

    Returns:
        Two tensors `[mels]` float64, in dB, on the CPU; deviations are at least `BAND_SCALE_FLOOR`.
    """
    count = sum(len(x) for x in log_mels)
    mean = torch.stack([x.double().sum(0).cpu() for x in log_mels]).sum(0) / count
    square = torch.stack([(x.double().cpu() - mean).square().sum(0) for x in log_mels]).sum(0) / count
    return mean, square.sqrt().clamp(min=BAND_SCALE_FLOOR)


class WindowSet:
    """The windows of many clips, gathered by index from the packed frames: they never all exist at once.

    Args:
        log_mels: the clips.
        frames: frames in a window; clips with fewer have no window.
        validation: which clips are held out, `[clips]`.
        device: where windows are wanted. Frames are copied there, unless they lie in a memory-mapped file.
        hop: frames from one window of a clip to its next.

    Attributes:
        training, validation: first frames of the windows, int64, on `device`.

    Raises:
        ValueError: there are fewer than two training windows.
    """

    def __init__(
        self,
        log_mels: Iterable[Tensor],
        frames: int,
        validation: NDArray[np.bool_],
        device: torch.device,
        hop: int = 1,
    ) -> None:
        packed = LogMels.pack(log_mels)
        ends = packed.firsts + packed.lengths
        parts: dict[bool, list[NDArray[np.int64]]] = {False: [np.empty(0, np.int64)], True: [np.empty(0, np.int64)]}
        for first, end, held in zip(packed.firsts, ends, validation, strict=True):
            parts[bool(held)].append(np.arange(first, max(first, end - frames + 1), hop))
        self.training = torch.from_numpy(np.concatenate(parts[False])).to(device)
        self.validation = torch.from_numpy(np.concatenate(parts[True])).to(device)
        if len(self.training) < 2:
            raise ValueError(
                f"{len(packed)} clips make {len(self.training)} training windows of {frames} frames, and training "
                "needs at least 2: give more or longer clips"
            )
        self._device = device
        self._frames = packed.frames if packed.in_file else packed.frames.to(device)
        self._windows = frame_windows(self._frames, frames)
        self._ends = torch.from_numpy(ends).to(device)
        self._firsts = torch.from_numpy(packed.firsts).to(device)

    def gather(self, starts: Tensor) -> Tensor:
        """Return the windows that begin at frames `starts`, `[len(starts), frames * mels]`, on the device."""
        return self._windows[starts.to(self._windows.device)].to(self._device)

    def clips(self, starts: Tensor) -> Tensor:
        """Return the indices of the clips in which frames `starts` lie, int64."""
        return torch.searchsorted(self._ends, starts, right=True)

    def offsets(self, starts: Tensor) -> Tensor:
        """Return how many frames behind their clips' first ones frames `starts` lie, int64."""
        return starts - self._firsts[self.clips(starts)]

    def digest(self) -> str:
        """Return the SHA-256 of the frames and of the split."""
        sha = hashlib.sha256()
        for x in (self._frames, self.training, self.validation):
            sha.update(x.cpu().numpy().data)
        return sha.hexdigest()
