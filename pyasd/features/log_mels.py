"""Clips to log-Mel spectrograms: decoding in threads, in bounded memory, beside the kernels, on one device or more."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyasd import audio, ops
from pyasd.clips import Channel, Clip
from pyasd.compute import Compute, by_device
from pyasd.cutting import Cutting
from pyasd.errors import ClipError
from pyasd.features.transfer import MemoryLimit, Uploader, too_large

AHEAD_BYTES = 256 << 20
"""Files being decoded ahead of the kernels, by their size on disk: hour-long ones then wait for each other."""

CUT_BYTES = 32 << 20
"""What a file that is cut counts there at most, and holds about: cuts of all its channels, and those that wait."""

PART_SECONDS = 60.0
"""Sound in the cuts of one file that wait for the kernels, while it is decoded no further."""

BATCH_SAMPLES = {"cpu": 1 << 24, "cuda": 1 << 26}
"""Samples in a padded batch: long clips go through the kernels in smaller batches, down to one."""

BATCH_CLIPS = {"cpu": 16, "cuda": 256}
"""Clips in one call of the kernels. A GPU needs many to be kept busy."""


@dataclass(frozen=True)
class Features:
    """The log-Mel of one clip, or why it has none.

    Attributes:
        index: the clip's place in the input; cuts and channels of one clip have the same.
        clip: the clip, or the section of it.
        log_mel: `[frames, mels]` float32, dB, on the device; `None` where there is an `error`.
        duration: seconds; `None` where it isn't known (clips that can't be read, or are log-Mels already).
        silent: all samples are equal (digital silence).
        error: why there is no log-Mel.
        unfinished: see `audio.Audio`, as for what follows.
        clipped: `None` where there are no samples.
        fingerprint: of the samples, or of a log-Mel that was given.
        frames: of the log-Mel; 0 where there is none.
        last: no other of this index comes behind.
    """

    index: int
    clip: Clip
    log_mel: Tensor | None
    duration: float | None
    silent: bool
    error: ClipError | None
    unfinished: bool = False
    clipped: float | None = None
    fingerprint: int | None = None
    frames: int = 0
    last: bool = True


@dataclass(frozen=True)
class Extraction:
    """Settings of an extraction.

    Attributes:
        plan: the features wanted; clips at other rates are resampled to its own.
        channel: which channel, from 0, "mean", or "all" for each by itself; where clips don't say.
        min_frames: clips with fewer frames are errors, "too-short".
        ratio: how many times as fast clips are played; see `audio.change_speed`.
        cutting: where recordings are cut; `None` leaves them whole.
    """

    plan: ops.LogMelPlan
    channel: Channel = 0
    min_frames: int = 5
    ratio: float = 1.0
    cutting: Cutting | None = None

    def __post_init__(self) -> None:
        audio.check_channel(self.channel)

    @property
    def several(self) -> bool:
        """Whether a clip may have several log-Mels."""
        return self.cutting is not None or self.channel == "all"


def extract(
    clips: Iterable[Clip],
    wanted: Extraction,
    compute: Compute | None = None,
    *,
    workers: int | None = None,
    batch_size: int | None = None,
) -> Generator[Features, None, None]:
    """Compute the log-Mels of clips, in their order, whatever fails: one item per clip; where recordings are cut or all
    channels wanted, one per cut and channel.

    Threads decode ahead of the kernels: two batches of clips at most, so that memory doesn't grow with the number
    of clips. They end with the iterator, also when it is abandoned or interrupted.

    Args:
        clips: files, arrays of samples, or log-Mels, which are checked and passed on.
        wanted: features, channel, least length and speed.
        compute: devices where the log-Mels are computed, and stay, and backend; of several devices each gets a batch in
            turn. A GPU is never waited for, and gets smaller batches where its memory ends.
        workers: threads that decode; `None` is one per CPU, at most 8.
        batch_size: clips in one call of the kernels; `None` is as many as suit the device, see `BATCH_CLIPS`.

    Raises:
        ValueError: log-Mels are to be played at another speed.
        BackendUnavailable: the backend asked for can't run.
    """
    compute = compute or Compute()
    if workers is None:
        workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    finishers = [_Finisher(wanted.plan, compute.backend, device) for device in compute.devices]
    size = batch_size or by_device(BATCH_CLIPS, compute.device)
    pool = ThreadPoolExecutor(workers, "pyasd-decode")
    try:
        most = CUT_BYTES if wanted.cutting else AHEAD_BYTES
        decoded = _ahead(pool, clips, partial(_decode, wanted=wanted), 2 * size, most)
        for number, batch in enumerate(_batches(decoded, size, by_device(BATCH_SAMPLES, compute.device))):
            yield from finishers[number % len(finishers)].finish(batch)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_Decoded = tuple[Features, NDArray[Any] | None]
"""A decoded clip: its features so far, and its samples where they still have to go through the kernel."""


def _ahead(
    pool: ThreadPoolExecutor,
    clips: Iterable[Clip],
    decode: Callable[[int, Clip], Iterator[_Decoded]],
    limit: int,
    most: int,
) -> Iterator[_Decoded]:
    """The clips decoded, in order, while the pool works on the next ones: `limit` clips and `AHEAD_BYTES`, of which a
    clip counts `most`.
    """
    waiting: deque[tuple[Iterator[_Decoded], Future[tuple[list[_Decoded], bool]], int]] = deque()
    total = 0

    def first() -> Iterator[_Decoded]:
        nonlocal total
        pieces, future, size = waiting.popleft()
        total -= size
        some, more = future.result()
        while more:
            future = pool.submit(_some, pieces)  # the next ones, while the kernels work on these
            yield from some
            some, more = future.result()
        yield from some

    for index, clip in enumerate(clips):
        size = min(clip.source.size(), most)
        while waiting and (len(waiting) >= limit or total + size > AHEAD_BYTES):
            yield from first()
        pieces = decode(index, clip)
        waiting.append((pieces, pool.submit(_some, pieces), size))
        total += size
    while waiting:
        yield from first()


def _batches(clips: Iterable[_Decoded], batch_size: int, batch_samples: int) -> Iterator[list[_Decoded]]:
    """Clips in a row whose samples can go through the kernel together: of one type, and bounded when padded."""
    batch: list[_Decoded] = []
    longest = 0
    kind: np.dtype[Any] | None = None
    for features, samples in clips:
        if samples is not None:
            size = max(longest, len(samples)) * (len(batch) + 1)
            if batch and (kind not in (None, samples.dtype) or size > batch_samples):
                yield batch
                batch, longest = [], 0
            kind, longest = samples.dtype, max(longest, len(samples))
        batch.append((features, samples))
        if len(batch) == batch_size:
            yield batch
            batch, longest, kind = [], 0, None
    if batch:
        yield batch


def _some(pieces: Iterator[_Decoded]) -> tuple[list[_Decoded], bool]:
    """Decode the next pieces of a clip, in a thread: `PART_SECONDS` of them; and whether there are more."""
    some: list[_Decoded] = []
    seconds = 0.0
    for piece in pieces:
        some.append(piece)
        seconds += piece[0].duration or 0
        if piece[0].last or seconds >= PART_SECONDS:
            break
    return some, not some[-1][0].last


def _decode(index: int, clip: Clip, wanted: Extraction) -> Iterator[_Decoded]:
    """Decode a clip; its cuts and channels one by one."""
    log_mel = clip.log_mel
    if log_mel is not None:
        if wanted.ratio != 1:
            raise ValueError(
                f"log-Mels can't be resampled by {wanted.ratio:g}: give the clips' audio, or take ratios=()"
            )
        yield _given(index, clip, log_mel, wanted), None
        return
    before: tuple[Clip, audio.Audio | ClipError] | None = None
    for piece in _sounds(clip, wanted):
        if before is not None:
            yield _of_sound(index, *before, wanted, last=False)
        before = piece
    assert before is not None
    yield _of_sound(index, *before, wanted, last=True)


def _sounds(clip: Clip, wanted: Extraction) -> Iterator[tuple[Clip, audio.Audio | ClipError]]:
    """The sounds of a clip, and the clip or its section that each is; or why there is none."""
    rate = wanted.plan.sample_rate
    if wanted.several:
        yield from audio.sections(clip, rate, wanted.channel, wanted.cutting)
        return
    try:
        yield clip, audio.read(clip, rate, wanted.channel)
    except ClipError as error:
        yield clip, error


def _of_sound(index: int, clip: Clip, sound: audio.Audio | ClipError, wanted: Extraction, last: bool) -> _Decoded:
    """What there is of a clip before its log-Mel, and the samples to compute it of."""
    plan, min_frames, ratio = wanted.plan, wanted.min_frames, wanted.ratio
    if isinstance(sound, ClipError):
        return Features(index, clip, None, None, False, sound, last=last), None
    samples = sound.samples if ratio == 1 else audio.change_speed(sound.samples, ratio)
    needed = max(plan.min_samples, (min_frames - 1) * plan.hop_length)
    if len(samples) < needed:
        played = "" if ratio == 1 else f", played {ratio:g} times as fast"
        error = ClipError(
            "too-short",
            f"{clip.name} lasts {sound.duration:.3g} s, and at least {needed * ratio / plan.sample_rate:.3g} s "
            f"({min_frames} frames{played}) are needed: record longer clips, or leave it out",
        )
        return Features(index, clip, None, None, False, error, last=last), None
    facts = (sound.duration, sound.silent, None, sound.unfinished, sound.clipped, sound.fingerprint)
    return Features(index, clip, None, *facts, last=last), samples


def _given(index: int, clip: Clip, log_mel: NDArray[np.float32], wanted: Extraction) -> Features:
    """What there is of a clip that is a log-Mel."""
    try:
        checked = _checked(clip, log_mel, wanted.plan, wanted.min_frames)
    except ClipError as error:
        return Features(index, clip, None, None, False, error)
    silent = bool(checked.min() == checked.max())
    mark = audio.fingerprint(log_mel)
    return Features(index, clip, checked, None, silent, None, fingerprint=mark, frames=len(log_mel))


def _checked(clip: Clip, log_mel: NDArray[np.float32], plan: ops.LogMelPlan, min_frames: int) -> Tensor:
    frames, mels = log_mel.shape
    if mels != plan.n_mels:
        raise ClipError(
            "unreadable", f"{clip.name} has {mels} Mel bands where {plan.n_mels} are needed: [frames, mels]"
        )
    if frames < min_frames:
        raise ClipError("too-short", f"{clip.name} has {frames} frames, and at least {min_frames} are needed")
    if not np.isfinite(log_mel).all():
        raise ClipError("not-finite", f"{clip.name} has NaN or infinite values: compute it with a floor under the log")
    return torch.from_numpy(np.require(log_mel, np.float32, ["C", "W"]))  # torch warns of arrays that can't be written


class _Finisher:
    """Turns decoded batches into log-Mels on one device."""

    def __init__(self, plan: ops.LogMelPlan, backend: str, device: torch.device) -> None:
        self._plan = plan
        self._backend = backend
        self._upload = Uploader(device)
        self._limit = MemoryLimit(device)

    def finish(self, batch: list[_Decoded]) -> Iterator[Features]:
        """Yield the batch with its log-Mels on the device."""
        log_mels: list[Tensor | None] = []
        for count, part in self._limit.run(self._log_mels, [samples for _, samples in batch if samples is not None]):
            log_mels += [None] * count if part is None else part
        computed = iter(log_mels)
        for features, samples in batch:
            if samples is not None:
                log_mel = next(computed)
                error = None if log_mel is not None else self._no_room(features.clip)
                yield replace(features, log_mel=log_mel, error=error, frames=0 if log_mel is None else len(log_mel))
            elif features.log_mel is not None:
                yield replace(features, log_mel=features.log_mel.to(self._upload.device))
            else:
                yield features

    def _log_mels(self, clips: Sequence[NDArray[Any]]) -> Sequence[Tensor]:
        lengths = [len(samples) for samples in clips]
        ragged = None if len(set(lengths)) == 1 else lengths
        log_mels = ops.log_mel(self._upload(clips), self._plan, ragged, self._backend)
        return log_mels.unbind() if isinstance(log_mels, Tensor) else log_mels

    def _no_room(self, clip: Clip) -> ClipError:
        return ClipError("out-of-memory", too_large(clip.name, self._limit.device))
