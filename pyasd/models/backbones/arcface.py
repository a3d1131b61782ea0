"""ArcFace (Deng et al., 2019): classes as directions, the true one made harder to reach by an angular margin."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SQUARED_SINE_MIN = 1e-7
"""The squared sine of an angle is taken to be at least this: the square root's gradient is then finite."""


class ArcFace(nn.Module):
    """The last layer: scaled cosines between an embedding and a direction per class.

    Args:
        inputs: length of the embedding.
        classes: outputs.
        margin: radians that are added to the angle to the true class in training.
        scale: multiplies the cosines.

    Attributes:
        weight: `[classes, inputs]`, the directions; only their directions count.
    """

    def __init__(self, inputs: int, classes: int, margin: float = 0.5, scale: float = 30.0) -> None:
        super().__init__()
        self.margin, self.scale = margin, scale
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(classes, inputs)))

    def forward(self, embedding: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits `[n, classes]` of embeddings `[n, inputs]`; with the true classes `labels`, `[n]` int64, the margin
        is on them, and on no other class. Scoring gives no labels.
        """
        cosine = nn.functional.linear(nn.functional.normalize(embedding), nn.functional.normalize(self.weight))
        if labels is None:
            return self.scale * cosine
        true = cosine.gather(1, labels[:, None])
        return self.scale * cosine.scatter(1, labels[:, None], widen(true, self.margin))


def widen(cosine: Tensor, margin: float) -> Tensor:
    """`cos(angle + margin)` from `cos(angle)`, while the sum is below pi. Beyond, where that would rise again, it goes
    on falling in a straight line, without a jump.
    """
    sine = ((1 - cosine) * (1 + cosine)).clamp(min=SQUARED_SINE_MIN).sqrt()
    widened = cosine * math.cos(margin) - sine * math.sin(margin)
    return torch.where(cosine > -math.cos(margin), widened, cosine - (1 - math.cos(margin)))
