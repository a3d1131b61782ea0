"""Windows of neighbouring log-Mel frames, as views."""

from __future__ import annotations

import torch
from torch import Tensor


def frame_windows(log_mel: Tensor, frames: int = 5) -> Tensor:
    """All windows of `frames` neighbouring frames, each flattened in time order.

    Args:
        log_mel: `[frames, mels]`, any dtype and device.
        frames: frames in a window.

    Returns:
        `[n - frames + 1, frames * mels]` for `n` frames: a view (stride `mels` from one window to the next), no
        copy unless `log_mel` itself isn't contiguous.

    Raises:
        ValueError: there are fewer frames than a window needs.
    """
    count, mels = log_mel.shape
    if count < frames:
        raise ValueError(f"a window needs {frames} frames, and there are {count}")
    return log_mel.reshape(-1).unfold(0, frames * mels, mels)


def images(log_mel: Tensor, frames: int = 64, hop: int = 8) -> Tensor:
    """Images of `frames` neighbouring frames, one every `hop` frames: what image classifiers see (report section 2.2).

    Args:
        log_mel: `[frames, mels]`, any dtype and device.
        frames: height of an image.
        hop: frames from the start of an image to that of the next; what is left over at the end is not used.

    Returns:
        `[1 + (n - frames) // hop, frames, mels]` for `n` frames (32 for the 313 frames of 10 s): a view.

    Raises:
        ValueError: there are fewer frames than an image needs; see `repeat_frames`.
    """
    if len(log_mel) < frames:
        raise ValueError(f"an image needs {frames} frames, and there are {len(log_mel)}")
    return log_mel.unfold(0, frames, hop).transpose(1, 2)


def repeat_frames(log_mel: Tensor, frames: int) -> Tensor:
    """`log_mel` `[n, mels]` itself where it has `frames` frames; else it is repeated, from its start, until it has."""
    if len(log_mel) >= frames:
        return log_mel
    return log_mel[torch.arange(frames, device=log_mel.device) % len(log_mel)]
