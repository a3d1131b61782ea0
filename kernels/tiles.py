"""Tile sizes, warps and pipeline stages of the kernels, for NVIDIA's and AMD's GPUs, in one table.

They were chosen by what the compiler reports (README.md: nothing, or next to nothing, leaves the registers, and
shared memory fits the smallest GPU served), and those of the mixture for NVIDIA by a run on an H200. 64 windows in 8
warps are not among them: with Triton 3.6 `input_kernel` then reads beyond its memory on sm_90. They depend on the
kernel alone, never on the batch, so that the same input gives the same bits wherever it stands.
"""

from __future__ import annotations

import torch

TILES: dict[str, dict[str, tuple[dict[str, int], dict[str, int]]]] = {
    "mixture": {
        "nvidia": ({"BLOCK_W": 64, "BLOCK_D": 16, "BLOCK_K": 32}, {"num_warps": 4, "num_stages": 2}),
        "amd": ({"BLOCK_W": 64, "BLOCK_D": 16, "BLOCK_K": 32}, {"num_warps": 8, "num_stages": 2}),
    },
    "mixture_backward": {
        "nvidia": ({"BLOCK_W": 128, "BLOCK_D": 16, "BLOCK_K": 32, "BLOCK_H": 64}, {"num_warps": 8, "num_stages": 2}),
        "amd": ({"BLOCK_W": 64, "BLOCK_D": 16, "BLOCK_K": 32, "BLOCK_H": 128}, {"num_warps": 8, "num_stages": 2}),
    },
    "trunk": {
        "nvidia": ({"BLOCK_W": 64, "BLOCK_K": 32}, {"num_warps": 8, "num_stages": 2}),
        "amd": ({"BLOCK_W": 64, "BLOCK_K": 32}, {"num_warps": 8, "num_stages": 1}),
    },
}
"""By kernel and vendor: the tile, and how it is launched. W are windows, D dimensions, K the depth of a product's step,
H the most hidden units whose gradients a program makes; for more, several compute the same outputs.
"""


def vendor() -> str:
    """Return whose GPUs this build of torch drives: "nvidia" or "amd"."""
    return "amd" if torch.version.hip else "nvidia"


def tiles(kernel: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return the tile and the launch options of a kernel."""
    return TILES[kernel][vendor()]


def products() -> str:
    """Return how float32 factors are multiplied: three products of TF32 are as good as one of float32 (README.md),
    which AMD's matrix units have.
    """
    return "ieee" if vendor() == "amd" else "tf32x3"
