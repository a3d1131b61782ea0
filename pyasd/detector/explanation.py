"""Where in time and frequency a clip's score comes from."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Explanation(NamedTuple):
    """A clip's log-Mel, and a map of its score.

    Attributes:
        log_mel: `[frames, mels]` float32, in dB.
        score_map: `[frames, mels]` float32, each frame's and band's part of the score in the mode's unit: its mean
            negative log-likelihood in nats (Group MADE; with the mode "bands" in standard deviations above the band's
            mean), its squared error in dB squared (autoencoder), its share of the distance (`spectrum`: summed over
            bands and averaged over frames, the score) or, to first order, its share of a classifier's score. Masked in
            frames that the mode doesn't count, such as Group MADE's first: means and maxima leave them out.
            `score_map.filled()` has NaN there.
    """

    log_mel: NDArray[np.floating[Any]]
    score_map: np.ma.MaskedArray[Any, np.dtype[np.floating[Any]]]

    @classmethod
    def of(cls, log_mel: NDArray[np.floating[Any]], score_map: NDArray[np.floating[Any]]) -> Explanation:
        """Return the explanation by a map that has NaN in frames that aren't counted."""
        return cls(log_mel, np.ma.array(score_map, mask=np.isnan(score_map), fill_value=np.nan))
