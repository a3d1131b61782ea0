"""From the scores of a clip's windows to the clip's score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Pooling = Literal["mean", "max", "quantile", "rank"]

POOLING_QUANTILE = 0.95
"""The quantile of `pooling="quantile"`: a fault that sounds in one window in twenty then still counts."""

POOLING_DECAY = 0.99
"""Weight of a window against that of the next higher one in `pooling="rank"` (AE-ASD's decay)."""


def pool_clips(scores: Tensor, counts: Sequence[int], pooling: Pooling) -> Tensor:
    """Pool the windows of several clips, without waiting for a GPU when pooling is `mean`.

    Args:
        scores: `[windows of all clips, modes]`, one clip after the other.
        counts: windows of each clip.
        pooling: see `pool`.

    Returns:
        `[clips, modes]` float64. Means are taken pair by pair, whatever the longest clip, so that a clip's bits don't
        depend on the others.
    """
    scores = scores.double()
    if pooling != "mean":
        return torch.stack([pool(x, pooling) for x in torch.split(scores, list(counts))])
    longest, modes = max(counts), scores.shape[1]
    size = 1 << (longest - 1).bit_length()
    number: int | Tensor = longest
    if min(counts) == longest:
        padded = nn.functional.pad(scores.view(len(counts), longest, modes), (0, 0, 0, size - longest))
    else:
        on_cpu = torch.tensor(counts)[:, None]
        number = (on_cpu.pin_memory() if scores.is_cuda else on_cpu).to(scores.device, non_blocking=True)
        within = (torch.arange(size, device=scores.device) < number)[:, :, None].expand(-1, -1, modes)
        padded = scores.new_zeros(len(counts), size, modes).masked_scatter_(within, scores)
    while padded.shape[1] > 1:  # to a zero nothing is lost: the sum is the same with any amount of padding
        low, high = padded.chunk(2, 1)
        padded = low + high
    return padded[:, 0] / number


def pool(scores: Tensor, pooling: Pooling) -> Tensor:
    """Pool the scores of a clip's windows.

    Args:
        scores: `[windows, modes]`.
        pooling: `mean` (report), `max`, `quantile`, or `rank`: windows weighted by the rank of their score.

    Returns:
        `[modes]` float64.
    """
    scores = scores.double()
    if pooling == "mean":
        return pool_clips(scores, [len(scores)], pooling)[0]
    if pooling == "max":
        return scores.amax(0)
    if pooling == "quantile":
        return torch.quantile(scores, POOLING_QUANTILE, dim=0)
    weights = POOLING_DECAY ** torch.arange(len(scores), dtype=torch.float64, device=scores.device)
    return weights @ scores.sort(0, descending=True).values / weights.sum()
