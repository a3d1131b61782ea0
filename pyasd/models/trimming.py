"""Which training clips to learn from where some may be anomalous."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pyasd.models.moments import Moments
from pyasd.training.data import BAND_SCALE_FLOOR

USUAL_SHARE = 0.75
"""Share of an ID's clips that are learnt where some may be anomalous (`Run.statistics` "robust"): those that lie
nearest to their neighbours."""

USUAL_NEIGHBOURS = 10
"""How many: more than anomalies of one kind, which are each other's nearest."""


def usual(features: Tensor, ids: Sequence[str]) -> Tensor:
    """Choose the clips that lie nearest to others of their machine ID, `[clips]`: `USUAL_SHARE` of each ID's.

    What is learnt from anomalies explains them away, and the mean distance from ten neighbours doesn't learn.

    Args:
        features: `[clips, dims]` float64.
        ids: the clips' machine IDs.
    """
    from sklearn.neighbors import NearestNeighbors  # here, as it takes a second to import

    machine_ids = np.array(ids)
    chosen = torch.zeros(len(ids), dtype=torch.bool)
    for machine_id in sorted(set(ids)):
        places = np.flatnonzero(machine_ids == machine_id)
        count = math.ceil(USUAL_SHARE * len(places))
        if count >= len(places) - 1:
            chosen[places] = True
            continue
        own = features[places].numpy()
        _, variance = Moments.of(own, [machine_id] * len(own), robust=True).of_id(machine_id)
        z = own / np.sqrt(variance).clip(BAND_SCALE_FLOOR)
        distances, _ = NearestNeighbors(n_neighbors=min(USUAL_NEIGHBOURS, len(own) - 1)).fit(z).kneighbors()
        chosen[places[np.argsort(distances.mean(1), kind="stable")[:count]]] = True
    return chosen
