"""The common part of members that learn by epochs from windows, with some clips held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyasd.models.member import Member, MemberConfig, NormalScores
from pyasd.training.data import TrainingSet
from pyasd.training.loop import TrainingConfig
from pyasd.training.run import Run

CLIPS_PER_PASS = 64
"""Normal clips whose scores are computed together."""

VARIANCE_PRIOR_CLIPS = 4
"""Weight, in clips, of the machine IDs' mean variance in each ID's own, where a few held-out clips tell it (ours). An
estimate from n clips errs by sqrt(2 / (n - 1)) of itself, and variances of a type's IDs are taken to differ by
sqrt(2 / 4) of their mean: between Group MADE's in training, by half of it, and the classifiers', by more."""


@dataclass(frozen=True)
class TrainedConfig(TrainingConfig, MemberConfig):
    """The settings of a member that learns by epochs."""


class TrainedMember(Member):
    """A member that learns by epochs. Its normal scores are those of the clips that `Run.statistics` names."""

    config: TrainedConfig

    def normal_scores(self, data: TrainingSet, run: Run) -> NormalScores:
        """Score the training clips in all modes: the held-out ones alone, or all of them.

        Raises:
            ValueError: held-out scores are asked for, and a machine ID has no held-out clip, or none has two.
        """
        held_out = data.held_out(self.config.validation)
        if run.statistics != "held-out":
            scores = self.score_clips(data, run, range(len(data)))
            return NormalScores(scores, data.ids, 0.0, np.where(held_out[:, None], scores, np.nan))
        chosen = np.flatnonzero(held_out).tolist()
        counts = Counter(data.ids[i] for i in chosen)
        missing = sorted(set(data.ids) - set(counts))
        if missing or max(counts.values()) < 2:
            raise ValueError(
                "held-out statistics need a held-out clip of each machine ID, and two of some ID: "
                + (f"{', '.join(map(repr, missing))} have none" if missing else "each has one")
                + '. Raise validation=, give more clips, or take statistics="training"'
            )
        scores = self.score_clips(data, run, chosen)
        unlearnt = np.full((len(data), scores.shape[1]), np.nan)
        unlearnt[chosen] = scores
        return NormalScores(scores, [data.ids[i] for i in chosen], VARIANCE_PRIOR_CLIPS, unlearnt)

    def score_clips(self, data: TrainingSet, run: Run, places: Sequence[int]) -> NDArray[np.float64]:
        """Score some of the clips that it learnt from, `[places, modes]` float64."""
        scorer = self.scorer(run.compute)
        scores = []
        for first in range(0, len(places), CLIPS_PER_PASS):
            batch = places[first : first + CLIPS_PER_PASS]
            of_batch = scorer.score_many([data.log_mels[i] for i in batch], [data.ids[i] for i in batch])
            scores.append(of_batch.cpu().numpy())
            run.progress(f"scoring normal {data.clips_name}", first + len(batch), len(places), self.name)
        return np.concatenate(scores)
