"""What a detector keeps of normal clips that its models have not learnt: the scores that thresholds come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyasd.models.moments import group_by_id

CALIBRATION_CLIPS = 4096
"""Normal clips per machine ID whose scores are kept: of more, as many, evenly spaced in their order."""


@dataclass(frozen=True)
class Calibration:
    """Members' scores of normal clips that they have not learnt, of one machine type.

    Attributes:
        samples: by machine ID, sorted: the clips' scores by member, `[clips, modes]` float64 in the member's units; NaN
            in modes in which the clips were not scored.
    """

    samples: Mapping[str, Mapping[str, NDArray[np.float64]]]

    @classmethod
    def of(cls, ids: Sequence[str], scores: Mapping[str, NDArray[np.float64]]) -> Calibration:
        """Keep the clips that every member scored in some mode.

        Args:
            ids: the clips' machine IDs.
            scores: by member, `[clips, modes]`; NaN where there is none.
        """
        known = np.all([np.isfinite(x).any(1) for x in scores.values()], axis=0)
        kept = [machine_id for machine_id, ok in zip(ids, known, strict=True) if ok]
        grouped = {name: group_by_id(x[known], kept) for name, x in scores.items()}
        samples = {}
        for place, machine_id in enumerate(sorted(set(kept))):
            own = {name: groups[place] for name, groups in grouped.items()}
            count = len(next(iter(own.values())))
            some = np.linspace(0, count - 1, min(count, CALIBRATION_CLIPS)).round().astype(int)
            samples[machine_id] = {name: x[some] for name, x in own.items()}
        return cls(samples)

    def updated(self, new: Calibration) -> Calibration:
        """Return the calibration with other clips for the machine IDs of which there are new ones."""
        samples = {**self.samples, **new.samples}
        return Calibration({machine_id: samples[machine_id] for machine_id in sorted(samples)})

    def tensors(self) -> dict[str, Tensor]:
        """Return all numbers by name, for a model file: the IDs' `count`s, and each member's scores, IDs in turn."""
        samples = list(self.samples.values())
        counts = [len(next(iter(own.values()))) for own in samples]
        arrays = {f"scores/{name}": np.concatenate([own[name] for own in samples]) for name in samples[0]}
        return {"count": torch.tensor(counts)} | {name: torch.from_numpy(x) for name, x in arrays.items()}

    @classmethod
    def from_tensors(
        cls, ids: Sequence[str], modes: Mapping[str, Sequence[str]], tensors: Mapping[str, Tensor]
    ) -> Calibration:
        """Return the calibration that `tensors()` gave; `modes` are the members'.

        Raises:
            KeyError, ValueError: tensors are missing, or of another shape.
        """
        counts = tensors["count"].tolist()
        parts = {}
        for name, of_member in modes.items():
            scores = tensors[f"scores/{name}"]
            if scores.shape != (sum(counts), len(of_member)) or len(counts) != len(ids) or min(counts) < 1:
                raise ValueError(f"the calibration of {name} has the shape {tuple(scores.shape)}")
            if scores.isinf().any():
                raise ValueError(f"the calibration of {name} has infinite scores")
            parts[name] = [x.numpy() for x in scores.split(counts)]
        return cls({machine_id: {name: x[i] for name, x in parts.items()} for i, machine_id in enumerate(ids)})
