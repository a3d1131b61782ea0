"""Whole-clip scoring by Group MADE: checks, and which windows belong to which clip."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyasd import backends
from pyasd.backends.contract import GroupMadeNetwork, Precision
from pyasd.backends.layout import without_waiting


def group_made_score(
    log_mel: Tensor,
    network: GroupMadeNetwork,
    groups: Sequence[int] | None = None,
    backend: str = "auto",
    precision: Precision = "float32",
    per_dim: bool = False,
    lengths: Sequence[int] | None = None,
    hop: int = 1,
) -> Tensor:
    """Compute negative log-likelihoods of the windows of a clip, or of a batch, from the log-Mel, without gradients.

        z = frame_windows((log_mel - band_mean) / band_scale, groups)      # [windows, groups * mels]
        hidden = z
        for weight, bias in layers: hidden = relu(hidden @ weight.T + bias)
        nll = log(band_scale).sum() - mixture_log_prob(hidden, z, head)

    Report section 2.1, Eq. 3; the standardisation's Jacobian is included, so that densities are per dB.

    Args:
        log_mel: `[frames, mels]` float32, in dB, of a clip, or of several that follow one another.
        network: see `GroupMadeNetwork`.
        groups: the groups that are wanted, from 0, in time order; the others are NaN, and cost nothing where the
            backend can skip them. `None` wants all.
        backend: "auto", "reference", "cpu", "cuda" or "triton".
        precision: of the layers' products and the head's, see `mixture_log_prob`.
        per_dim: return each frame's and band's own, for likelihood maps.
        lengths: frames of each clip, none fewer than the head has groups; `None` is one clip. No window reaches from
            one clip into the next, and a clip's results are those that it has alone.
        hop: frames from one window of a clip to its next; what is left over at its end is not used. With several, the
            frames are copied once, and a window costs what it costs with one.

    Returns:
        `[windows, groups]`, or `[windows, groups, mels]` with `per_dim`, float64, in nats: the windows of all clips
        one after the other, `1 + (length - groups) // hop` of each.

    Raises:
        TypeError, ValueError: `hop` is less than 1, `log_mel` has another dtype or shape, the network is of another
            dtype or on another device, or `lengths` don't fit.
        BackendUnavailable: the backend asked for can't run on this machine or device.
    """
    shape = network.head.shape
    clip_lengths = [len(log_mel)] if lengths is None else [int(n) for n in lengths]
    _check(log_mel, network, clip_lengths, lengths is None)
    if hop < 1:
        raise ValueError(f"windows must move on by at least one frame, not by {hop}")
    wanted = tuple(range(shape.groups)) if groups is None else tuple(groups)
    chosen = backends.select(backend, log_mel.device)
    with torch.no_grad():
        if len(clip_lengths) > 1 and not chosen.batch_invariant:
            each = [_rows(x, [len(x)], network, hop) for x in torch.split(log_mel, clip_lengths)]
            log_prob = torch.cat(
                [chosen.group_made_log_prob(x.log_mel, x.network, wanted, precision, per_dim) for x in each]
            )
        elif clip_lengths:  # one call for all clips: the few windows across their seams are then left out
            rows = _rows(log_mel, clip_lengths, network, hop)
            log_prob = chosen.group_made_log_prob(rows.log_mel, rows.network, wanted, precision, per_dim)
            if len(clip_lengths) > 1 and rows.per_window > 1:  # else none reaches across a seam
                log_prob = log_prob[_windows_within(rows.lengths, rows.per_window, log_mel.device)]
        else:
            log_prob = log_mel.new_empty(0, shape.dims if per_dim else shape.groups)
        mels = len(network.band_mean)
        jacobian = network.band_scale.double().log().view(1, 1, mels)
        if per_dim:
            return jacobian - log_prob.view(-1, shape.groups, mels)
        return jacobian.sum(2) - log_prob


class _Rows(NamedTuple):
    """Clips as backends take them: a window begins at every row, and reads on through the rows behind it.

    Attributes:
        log_mel: `[rows, hop * mels]`: so many frames make a row, and `groups - 1` more rows than windows are there.
        network: the same, with statistics of the bands for a whole row.
        lengths: rows of each clip.
        per_window: rows that a window reaches into.
    """

    log_mel: Tensor
    network: GroupMadeNetwork
    lengths: list[int]
    per_window: int


_of_rows: weakref.WeakKeyDictionary[GroupMadeNetwork, dict[int, GroupMadeNetwork]] = weakref.WeakKeyDictionary()
"""Networks whose windows hop, by hop: backends keep what they derive from them."""


def _rows(log_mel: Tensor, lengths: list[int], network: GroupMadeNetwork, hop: int) -> _Rows:
    """Lay clips out in rows of `hop` frames. With a hop of 1 they are there already."""
    groups = network.head.shape.groups
    if hop == 1:
        return _Rows(log_mel, network, lengths, groups)
    known = _of_rows.setdefault(network, {})
    if hop not in known:
        mean, scale = network.band_mean.repeat(hop), network.band_scale.repeat(hop)
        known[hop] = GroupMadeNetwork(mean, scale, network.layers, network.head)
    per_window = -(-groups // hop)
    counts = [(n - groups) // hop + per_window for n in lengths]
    rows = log_mel.new_zeros(sum(counts) + groups - per_window, hop * log_mel.shape[1])
    frames = rows.view(-1, log_mel.shape[1])
    first = 0
    for clip, count in zip(torch.split(log_mel, lengths), counts, strict=True):
        frames[first * hop : (first + count) * hop][: len(clip)] = clip[: count * hop]
        first += count
    return _Rows(rows, known[hop], counts, per_window)


def _check(log_mel: Tensor, network: GroupMadeNetwork, lengths: list[int], one_clip: bool) -> None:
    """Raise the TypeError or ValueError that `group_made_score` documents."""
    head, mels = network.head, len(network.band_mean)
    frames = head.shape.groups
    if log_mel.dtype != torch.float32:
        raise TypeError(f"log_mel must be float32, not {log_mel.dtype}")
    if log_mel.ndim != 2 or log_mel.shape[1] != mels or min(lengths, default=frames) < frames:
        raise ValueError(
            f"log_mel must be [at least {frames} frames a clip, {mels}], not {list(log_mel.shape)}"
            + ("" if one_clip else f" of clips of {min(lengths, default=0)} frames and more")
        )
    tensors = (network.band_mean, network.band_scale, *itertools.chain(*network.layers), head.weight, head.bias)
    elsewhere = {f"{x.dtype} on {x.device}" for x in tensors if (x.dtype, x.device) != (log_mel.dtype, log_mel.device)}
    if elsewhere:
        raise ValueError(f"the network must be float32 on {log_mel.device} as log_mel is, not {', '.join(elsewhere)}")
    if sum(lengths) != len(log_mel):
        raise ValueError(f"lengths add up to {sum(lengths)}, and log_mel has {len(log_mel)} frames")


def _windows_within(lengths: list[int], frames: int, device: torch.device) -> Tensor:
    """Return the indices of the windows of `frames` frames within one clip, on `device`, without waiting for it."""
    if len(set(lengths)) == 1:  # no copy from the host, so that a CUDA graph can hold it
        starts = torch.arange(len(lengths), device=device)[:, None] * lengths[0]
        return (starts + torch.arange(lengths[0] - frames + 1, device=device)).flatten()
    ends = np.cumsum(lengths)
    rows = np.concatenate([np.arange(e - n, e - frames + 1) for e, n in zip(ends, lengths, strict=True)])
    return without_waiting(torch.from_numpy(rows), device)
