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


def evenly(clips: NDArray[np.float64], most: int | None = None) -> NDArray[np.float64]:
    """Return some of the rows of `clips`, evenly spaced: `most` at most, or `CALIBRATION_CLIPS`."""
    count = min(len(clips), CALIBRATION_CLIPS if most is None else most)
    some: NDArray[np.float64] = clips[np.linspace(0, len(clips) - 1, count).round().astype(int)]
    return some


@dataclass(frozen=True)
class Calibration:
    """Members' scores of normal clips that they have not learnt, of one machine type.

    Attributes:
        samples: by machine ID, sorted: the clips' scores by member, `[clips, modes]` float64 in the member's units; NaN
            in modes in which the clips were not scored.
        training: the machine IDs whose clips are training clips, held out or scored by models of the others.
    """

    samples: Mapping[str, Mapping[str, NDArray[np.float64]]]
    training: frozenset[str] = frozenset()

    @classmethod
    def of(cls, ids: Sequence[str], scores: Mapping[str, NDArray[np.float64]], training: bool = False) -> Calibration:
        """Keep the clips that every member scored in some mode.

        Args:
            ids: the clips' machine IDs.
            scores: by member, `[clips, modes]`; NaN where there is none.
            training: whether they are training clips.
        """
        known = np.all([np.isfinite(x).any(1) for x in scores.values()], axis=0)
        kept = [machine_id for machine_id, ok in zip(ids, known, strict=True) if ok]
        grouped = {name: group_by_id(x[known], kept) for name, x in scores.items()}
        samples = {}
        for place, machine_id in enumerate(sorted(set(kept))):
            own = {name: groups[place] for name, groups in grouped.items()}
            samples[machine_id] = {name: evenly(x) for name, x in own.items()}
        return cls(samples, frozenset(samples if training else ()))

    def updated(self, new: Calibration) -> Calibration:
        """Return the calibration with other clips for the machine IDs of which there are new ones."""
        samples = {**self.samples, **new.samples}
        ordered = {machine_id: samples[machine_id] for machine_id in sorted(samples)}
        return Calibration(ordered, self.training.difference(new.samples) | new.training)

    def joined(self, new: Calibration) -> Calibration:
        """Return the calibration with these clips beside those that there are."""
        samples = dict(self.samples)
        for machine_id, scores in new.samples.items():
            before = samples.get(machine_id)
            both = {name: x if before is None else np.concatenate([before[name], x]) for name, x in scores.items()}
            samples[machine_id] = {name: evenly(x) for name, x in both.items()}
        return Calibration({machine_id: samples[machine_id] for machine_id in sorted(samples)}, self.training)

    def tensors(self) -> dict[str, Tensor]:
        """Return all numbers by name, for a model file: the IDs' `count`s, whether their clips are `training` clips,
        and each member's scores, IDs in turn.
        """
        samples = list(self.samples.values())
        counts = [len(next(iter(own.values()))) for own in samples]
        arrays = {f"scores/{name}": np.concatenate([own[name] for own in samples]) for name in samples[0]}
        training = torch.tensor([machine_id in self.training for machine_id in self.samples])
        return {"count": torch.tensor(counts), "training": training} | {
            name: torch.from_numpy(x) for name, x in arrays.items()
        }

    @classmethod
    def from_tensors(
        cls, ids: Sequence[str], modes: Mapping[str, Sequence[str]], tensors: Mapping[str, Tensor]
    ) -> Calibration:
        """Return the calibration that `tensors()` gave; `modes` are the members'.

        Raises:
            KeyError, ValueError: tensors are missing, or of another shape.
        """
        counts, training = tensors["count"].tolist(), tensors["training"].tolist()
        parts = {}
        for name, of_member in modes.items():
            scores = tensors[f"scores/{name}"]
            if scores.shape != (sum(counts), len(of_member)) or len(counts) != len(ids) or min(counts) < 1:
                raise ValueError(f"the calibration of {name} has the shape {tuple(scores.shape)}")
            if scores.isinf().any():
                raise ValueError(f"the calibration of {name} has infinite scores")
            parts[name] = [x.numpy() for x in scores.split(counts)]
        samples = {machine_id: {name: x[i] for name, x in parts.items()} for i, machine_id in enumerate(ids)}
        return cls(samples, frozenset(x for x, known in zip(ids, training, strict=True) if known))
