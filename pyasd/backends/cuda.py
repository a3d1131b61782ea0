"""The native CUDA backend. So far `pyasd._cuda` only reports devices: its kernels are yet to be written, so that CUDA
tensors go to the Triton kernels.
"""

from __future__ import annotations

import torch


def unavailable(device: torch.device | None = None) -> str | None:
    """Why this backend can't run on `device`."""
    try:
        from pyasd import _cuda
    except ImportError:
        return "the extension pyasd._cuda is not built here: the build found no CUDA compiler"
    count, reason = _cuda.device_count()
    if count == 0:
        return f"no CUDA device: {reason}" if reason else "no CUDA device"
    return "this release has no native CUDA kernels yet"
