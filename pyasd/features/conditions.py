"""What a recording is like, apart from the machine in it: facts that tell another microphone, gain or encoding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

QUIET_SHARE = 0.05
"""Share of the frames, the quietest, whose loudest one is the noise floor."""

FACTS = ("level", "noise floor", "bandwidth")
"""The facts that `of_log_mels` computes."""


def of_log_mels(log_mels: Sequence[Tensor]) -> Tensor:
    """Compute facts about recordings, `[clips, 3]` float64 in dB, on their device, without waiting for it.

    - level: the mean of all frames and bands. A gain of 6 dB moves it by 6.
    - noise floor: the mean over bands of a frame that only a twentieth of the frames are quieter than.
    - bandwidth: how far the mean of the highest quarter of the bands lies above that of all. Resampling, MP3 and
      telephones leave little there.

    Args:
        log_mels: `[frames, mels]` float32 each, in dB.
    """
    facts = []
    for log_mel in log_mels:
        frames, bands = log_mel.mean(1), log_mel.mean(0)
        level = frames.mean()
        floor = frames.kthvalue(math.ceil(QUIET_SHARE * len(frames))).values
        facts.append(torch.stack([level, floor, bands[-(len(bands) // 4 or 1) :].mean() - level]))
    return torch.stack(facts).double()
