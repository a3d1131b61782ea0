"""Windows of neighbouring log-Mel frames, as views."""

from __future__ import annotations

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
