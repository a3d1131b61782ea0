"""What the training clips' recordings were like, and what of a new one is unlike them: the table's column `note`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyasd.features import conditions
from pyasd.features.log_mels import Features
from pyasd.models.moments import group_by_id
from pyasd.tables.table import LEARNT

FACTS = (*conditions.FACTS, "clipped", "duration")

MARGIN = {"level": 2.0, "noise floor": 4.0, "bandwidth": 2.5}
"""By how many dB a clip may lie outside the range of its machine ID's training clips. With this, none of 650 normal
and 9 of 981 faulty test clips of six real sets have a note; MP3 at 16 kHz moves the bandwidth by 3.4 dB. Both were in
sight when they were chosen; no score depends on them."""

CLIPPED_SHARE = 0.001
"""How many more samples, as a share, may lie at a clip's extremes than twice those of any training clip."""

LENGTHS = 2.0
"""How many times as long as any training clip, or as short, a clip may be."""


@dataclass(frozen=True)
class Conditions:
    """What the training clips of a machine type were like.

    Attributes:
        ids: machine IDs, sorted.
        ranges: `[ids, facts, 2]` float64: the lowest and the highest value of each of `FACTS`, the first three a little
            further apart: `n` clips leave out the ends, by an `n - 1`th of their range; NaN where none is known.
        fingerprints: of the clips, int64, ascending.
    """

    ids: tuple[str, ...]
    ranges: NDArray[np.float64]
    fingerprints: NDArray[np.int64]

    @classmethod
    def of(cls, log_mels: Sequence[Tensor], items: Sequence[Features], ids: Sequence[str]) -> Conditions:
        """Look at training clips: their log-Mels, what was found besides, and their machine IDs."""
        heard = conditions.of_log_mels(log_mels).cpu().numpy()
        rest = [[np.nan if x.clipped is None else x.clipped, float(x.frames)] for x in items]
        values = np.concatenate([heard, np.array(rest)], 1)
        names = tuple(sorted(set(ids)))
        groups = group_by_id(values, ids)
        ranges = np.stack([np.stack([x.min(0), x.max(0)], 1) for x in groups])
        unseen = np.array([(x.max(0) - x.min(0)) / max(len(x) - 1, 1) for x in groups])[:, : len(MARGIN)]
        ranges[:, : len(MARGIN)] += np.stack([-unseen, unseen], 2)
        known = sorted({x.fingerprint for x in items if x.fingerprint is not None})
        return cls(names, ranges, np.array(known, np.int64))

    def notes(self, heard: Sequence[float], item: Features, machine_id: str | None) -> str:
        """Say in which facts a clip lies outside the range of its machine ID's training clips, and whether it is one of
        these: words joined by commas.

        Args:
            heard: what `of_log_mels` computed.
            item: the clip.
            machine_id: its ID; `None` for the range of all.
        """
        ranges = self.ranges if machine_id is None else self.ranges[[self.ids.index(machine_id)]]
        lowest, highest = ranges[:, :, 0].min(0), ranges[:, :, 1].max(0)
        clipped = np.nan if item.clipped is None else item.clipped
        found = []
        for name, value, low, high in zip(FACTS, (*heard, clipped, item.frames), lowest, highest, strict=True):
            if name == "clipped":
                outside = value > 2 * high + CLIPPED_SHARE
            elif name == "duration":
                outside = not low / LENGTHS <= value <= high * LENGTHS
            else:
                outside = not low - MARGIN[name] <= value <= high + MARGIN[name]
            if outside:
                found.append(name)
        place = np.searchsorted(self.fingerprints, item.fingerprint or 0)
        if place < len(self.fingerprints) and self.fingerprints[place] == item.fingerprint:
            found.append(LEARNT)
        return ", ".join(found)

    def tensors(self) -> dict[str, Tensor]:
        """Return all numbers by name, for a model file."""
        return {"ranges": torch.from_numpy(self.ranges), "fingerprints": torch.from_numpy(self.fingerprints)}

    @classmethod
    def from_tensors(cls, ids: Sequence[str], tensors: Mapping[str, Tensor]) -> Conditions:
        """Return the conditions that `tensors()` gave.

        Raises:
            KeyError, ValueError: tensors are missing, or of another shape or type.
        """
        ranges, fingerprints = tensors["ranges"].numpy(), tensors["fingerprints"].numpy()
        if ranges.shape != (len(ids), len(FACTS), 2) or (ranges[:, :, 0] > ranges[:, :, 1]).any():
            raise ValueError(f"the training clips' conditions are no ranges of {len(ids)} machine IDs")
        if fingerprints.dtype != np.int64 or fingerprints.ndim != 1 or (fingerprints[1:] <= fingerprints[:-1]).any():
            raise ValueError("the training clips' fingerprints are none")
        return cls(tuple(ids), ranges, fingerprints)
