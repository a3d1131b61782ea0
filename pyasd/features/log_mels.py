"""Clips to log-Mel spectrograms: decoding in threads, in bounded memory, beside the kernels, on one device or more."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyasd import audio, augmentation, ops
from pyasd.clips import Clip
from pyasd.errors import ClipError
from pyasd.features.transfer import MemoryLimit, Uploader, too_large

AHEAD_BYTES = 256 << 20
"""Files being decoded ahead of the kernels, by their size on disk: hour-long ones then wait for each other."""

BATCH_SAMPLES = {"cpu": 1 << 24, "cuda": 1 << 26}
"""Samples in a padded batch: long clips go through the kernels in smaller batches, down to one."""

BATCH_CLIPS = {"cpu": 16, "cuda": 256}
"""Clips in one call of the kernels. A GPU needs many to be kept busy."""


@dataclass(frozen=True)
class Features:
    """What became of one clip.

    Attributes:
        index: the clip's place in the input.
        clip: the clip.
        log_mel: `[frames, mels]` float32, dB, on the device; `None` where there is an `error`.
        duration: seconds; `None` where it isn't known (clips that can't be read, or are log-Mels already).
        silent: all samples are equal (digital silence).
        error: why there is no log-Mel.
    """

    index: int
    clip: Clip
    log_mel: Tensor | None
    duration: float | None
    silent: bool
    error: ClipError | None


def extract(
    clips: Sequence[Clip],
    plan: ops.LogMelPlan,
    *,
    channel: audio.Channel = 0,
    backend: str = "auto",
    device: torch.device | str | Sequence[torch.device] = "cpu",
    min_frames: int = 5,
    ratio: float = 1.0,
    workers: int | None = None,
    batch_size: int | None = None,
) -> Iterator[Features]:
    """Log-Mels of clips, one item per clip in their order, whatever fails.

    Threads decode ahead of the kernels: two batches of clips at most, so that memory doesn't grow with the number
    of clips. They end with the iterator, also when it is abandoned or interrupted.

    Args:
        clips: files, arrays of samples, or log-Mels, which are checked and passed on.
        plan: the features wanted; clips at other rates are resampled to its own.
        channel: which channel, from 0, or "mean".
        backend: of `ops.log_mel`.
        device: where the log-Mels are computed, and stay; of several devices each gets a batch in turn. A GPU is never
            waited for, and gets smaller batches where its memory ends.
        min_frames: clips with fewer frames are errors, "too-short".
        ratio: how many times as fast clips are played; see `augmentation.resample`.
        workers: threads that decode; `None` is one per CPU, at most 8.
        batch_size: clips in one call of the kernels; `None` is as many as suit the device, see `BATCH_CLIPS`.

    Raises:
        ValueError: `channel` can't be one, or log-Mels are to be played at another `ratio`.
        BackendUnavailable: the backend asked for can't run.
    """
    audio.check_channel(channel)
    if ratio != 1 and any(clip.log_mel is not None for clip in clips):
        raise ValueError(f"log-Mels can't be resampled by {ratio:g}: give the clips' audio, or take ratios=()")
    if workers is None:
        workers = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    devices = [torch.device(device)] if isinstance(device, (str, torch.device)) else list(device)
    kind = devices[0].type if devices[0].type in BATCH_CLIPS else "cpu"
    decode = partial(_decode, plan=plan, channel=channel, min_frames=min_frames, ratio=ratio)
    finish = [partial(_finish, plan=plan, backend=backend, up=Uploader(x), limit=MemoryLimit(x)) for x in devices]
    return _extract(clips, decode, finish, workers, batch_size or BATCH_CLIPS[kind], BATCH_SAMPLES[kind])


_Decoded = tuple[Features, NDArray[Any] | None]
"""What a thread makes of a clip, and its samples where they still have to go through the kernel."""


def _extract(
    clips: Sequence[Clip],
    decode: Callable[[int, Clip], _Decoded],
    finish: Sequence[Callable[[list[_Decoded]], Iterator[Features]]],
    workers: int,
    batch_size: int,
    batch_samples: int,
) -> Iterator[Features]:
    pool = ThreadPoolExecutor(workers, "pyasd-decode")
    try:
        decoded = _ahead(pool, clips, decode, 2 * batch_size)
        for number, batch in enumerate(_batches(decoded, batch_size, batch_samples)):
            yield from finish[number % len(finish)](batch)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor, clips: Sequence[Clip], decode: Callable[[int, Clip], _Decoded], limit: int
) -> Iterator[_Decoded]:
    """The clips decoded, in order, while the pool works on the next ones: `limit` clips and `AHEAD_BYTES`."""
    waiting: deque[tuple[Future[_Decoded], int]] = deque()
    total = 0
    for index, clip in enumerate(clips):
        size = clip.source.size()
        while waiting and (len(waiting) >= limit or total + size > AHEAD_BYTES):
            future, done = waiting.popleft()
            total -= done
            yield future.result()
        waiting.append((pool.submit(decode, index, clip), size))
        total += size
    while waiting:
        yield waiting.popleft()[0].result()


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


def _decode(
    index: int, clip: Clip, plan: ops.LogMelPlan, channel: audio.Channel, min_frames: int, ratio: float
) -> _Decoded:
    """What a thread does with one clip."""
    try:
        if clip.log_mel is not None:
            log_mel = _checked(clip, clip.log_mel, plan, min_frames)
            return Features(index, clip, log_mel, None, bool(log_mel.min() == log_mel.max()), None), None
        sound = audio.read(clip, plan.sample_rate, channel)
        samples = sound.samples if ratio == 1 else augmentation.resample(sound.samples, ratio)
        needed = max(plan.min_samples, (min_frames - 1) * plan.hop_length)
        if len(samples) < needed:
            played = "" if ratio == 1 else f", played {ratio:g} times as fast"
            raise ClipError(
                "too-short",
                f"{clip.name} lasts {sound.duration:.3g} s, and at least {needed * ratio / plan.sample_rate:.3g} s "
                f"({min_frames} frames{played}) are needed: record longer clips, or leave it out",
            )
    except ClipError as error:
        return Features(index, clip, None, None, False, error), None
    return Features(index, clip, None, sound.duration, sound.silent, None), samples


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


def _finish(
    batch: list[_Decoded], plan: ops.LogMelPlan, backend: str, up: Uploader, limit: MemoryLimit
) -> Iterator[Features]:
    """The batch with its log-Mels on the device."""

    def log_mels_of(heard: Sequence[NDArray[Any]]) -> Sequence[Tensor]:
        lengths = [len(samples) for samples in heard]
        if len(set(lengths)) == 1:
            return ops.log_mel(up(heard), plan, backend=backend).unbind()  # type: ignore[union-attr]
        return ops.log_mel(up(heard), plan, lengths, backend=backend)  # type: ignore[return-value]

    log_mels: list[Tensor | None] = []
    for count, part in limit.run(log_mels_of, [samples for _, samples in batch if samples is not None]):
        log_mels += [None] * count if part is None else part
    found = iter(log_mels)
    for features, samples in batch:
        if samples is not None:
            log_mel = next(found)
            error = None if log_mel is not None else _no_room(features.clip, limit)
            yield replace(features, log_mel=log_mel, error=error)
        elif features.log_mel is not None:
            yield replace(features, log_mel=features.log_mel.to(up.device))
        else:
            yield features


def _no_room(clip: Clip, limit: MemoryLimit) -> ClipError:
    return ClipError("out-of-memory", too_large(clip.name, limit.device))
