"""The Mahalanobis distance of a clip's mean log-Mel from those of normal clips: the simplest model of a machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyasd.compute import Compute
from pyasd.models import dense
from pyasd.models.member import Member, MemberConfig, Mode, NormalScores, Scorer, register
from pyasd.models.pooling import pool
from pyasd.models.trained import VARIANCE_PRIOR_CLIPS
from pyasd.training.data import BAND_SCALE_FLOOR, TrainingSet
from pyasd.training.run import History, Run

FOLDS = 50
"""Folds of the cross-validation: leave-one-out up to so many clips, and little is left out of more."""

MIN_CLIPS = 3
"""Clips that some machine ID must have: its mean, and two that deviate from it."""


@dataclass(frozen=True)
class SpectrumConfig(MemberConfig):
    """The Mahalanobis distance of a clip's mean log-Mel (ours): it has no settings."""


@register
class Spectrum(Member):
    """A normal distribution of clips' mean log-Mels: a mean for each machine ID, and a covariance that all share.

    Attributes:
        ids: the machine IDs, sorted; empty before it has learnt any.
        mean: `[ids, mels]` float64, in dB.
        inverse_covariance: `[mels, mels]` float64, in 1 / dB squared, of the covariance within IDs.
    """

    kind = "spectrum"
    Config = SpectrumConfig
    MODES = (
        Mode("mahalanobis", "share of the Mahalanobis distance", "Mahalanobis distance of the clip's mean log-Mel"),
    )

    def __init__(self, name: str, config: SpectrumConfig, mels: int, seed: int = 0) -> None:
        super().__init__(name, config, mels, seed)
        self.ids: tuple[str, ...] = ()
        self.mean = torch.zeros(0, mels, dtype=torch.float64)
        self.inverse_covariance = torch.eye(mels, dtype=torch.float64)

    def obstacle(self, ids: Sequence[str]) -> str | None:
        """Say that no machine ID has three clips, where that is so."""
        if max(Counter(ids).values()) >= MIN_CLIPS:
            return None
        compares = f"{self.name} compares an ID's clips with each other"
        return f"no machine ID has three clips, and {compares}: give three or more"

    def fit(self, data: TrainingSet, run: Run) -> History:
        """Learn from clips, all of them: nothing is held out, and there are no epochs.

        The covariance is that of the clips about the means of their machine IDs, shrunk as Ledoit and Wolf (2004) do it
        when bands are standardised, and as if one clip more, without correlations, had been seen.
        """
        self._learn(_spectra(data.log_mels), data.ids)
        run.progress(run.stage, 1, 1, "")
        return History()

    def normal_scores(self, data: TrainingSet, run: Run) -> NormalScores:
        """Score each training clip as if it were held out, whatever `run.statistics` asks for; see `cross_validate`."""
        return NormalScores(self.cross_validate(data.log_mels, data.ids), data.ids, VARIANCE_PRIOR_CLIPS)

    def cross_validate(self, log_mels: Sequence[Tensor], ids: Sequence[str]) -> NDArray[np.float64]:
        """Score each clip by a model of the others: a covariance lies too near to the clips that it was computed from.

        `FOLDS` folds deal out the clips of each ID in turn; the only clip of an ID, without which nothing is known of
        that ID, gets the mean of the others' scores.

        Returns:
            `[clips, 1]` float64.
        """
        spectra = _spectra(log_mels)
        machine_ids = np.array(ids)
        fold = np.empty(len(ids), int)
        fold[np.argsort(machine_ids, kind="stable")] = np.arange(len(ids)) % FOLDS
        scores = np.full((len(ids), 1), np.nan)
        for out in (fold == x for x in range(FOLDS)):
            others = Spectrum(self.name, self.config, spectra.shape[1])
            known = np.isin(machine_ids, machine_ids[~out]) & out
            if known.any():
                others._learn(spectra[~out], machine_ids[~out].tolist())
                scorer = others.scorer()
                scores[known] = [scorer.of_spectrum(spectra[i], ids[i]) for i in np.flatnonzero(known).tolist()]
        return np.where(np.isnan(scores), np.nanmean(scores), scores)

    def _learn(self, spectra: Tensor, ids: Sequence[str]) -> None:
        from sklearn.covariance import ledoit_wolf  # here, as it takes a second to import

        self.ids = tuple(sorted(set(ids)))
        place = torch.tensor([self.ids.index(x) for x in ids])
        count = torch.bincount(place).double()
        total = spectra.new_zeros(len(self.ids), spectra.shape[1]).index_add_(0, place, spectra)
        self.mean = total / count[:, None]
        residual = spectra - self.mean[place]
        freedom = max(len(ids) - len(self.ids), 1)
        scale = (residual.square().sum(0) / freedom).sqrt().clamp(min=BAND_SCALE_FLOOR)
        shrunk, _ = ledoit_wolf((residual / scale).numpy(), assume_centered=True)
        # Residuals of n clips have fewer degrees of freedom; and two clips' residuals look perfectly correlated.
        covariance = (torch.from_numpy(shrunk) * len(ids) + torch.eye(len(scale))) / (freedom + 1)
        self.inverse_covariance = (torch.linalg.inv(covariance) / torch.outer(scale, scale)).contiguous()

    def scorer(self, compute: Compute | None = None, modes: Sequence[str] | None = None) -> SpectrumScorer:
        """Make it ready for scoring. It is plain torch in float64 whatever the backend and the precision, and has one
        mode.
        """
        return SpectrumScorer(self, (compute or Compute()).device)

    def state(self) -> dict[str, Tensor]:
        """Return all tensors by name, on the CPU, the machine IDs' names (`ids`) among them."""
        return {"ids": dense.pack_names(self.ids), "mean": self.mean, "precision": self.inverse_covariance}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over the tensors of `state`.

        Raises:
            ValueError: tensors are missing, unknown or of another shape.
        """
        ids = dense.unpack_names(state.get("ids", torch.empty(0)))
        shapes = {name: tuple(x.shape) for name, x in state.items() if name != "ids"}
        if shapes != {"mean": (len(ids), self.mels), "precision": (self.mels, self.mels)}:
            raise ValueError(f"tensors are missing, unknown or of another shape: {', '.join(shapes)}")
        self.ids, self.mean, self.inverse_covariance = ids, state["mean"], state["precision"]


class SpectrumScorer(Scorer):
    """Scores whole clips with a `Spectrum`."""

    def __init__(self, spectrum: Spectrum, device: torch.device) -> None:
        self._ids = spectrum.ids
        self._mean = spectrum.mean.to(device)
        self._inverse_covariance = spectrum.inverse_covariance.to(device)

    def score_many(self, log_mels: Sequence[Tensor], machine_ids: Sequence[str | None]) -> Tensor:
        """Compute how far clips' mean log-Mels lie from their machine ID's mean: the Mahalanobis distance (Mahalanobis,
        1936) over the root of the number of bands, so that it is about 1 for normal clips.

        Args:
            log_mels: `[frames, mels]` float32 each, in dB.
            machine_ids: where one is `None` or wasn't learnt, the nearest ID's mean counts.

        Returns:
            `[clips, 1]` float64.
        """
        pairs = zip(log_mels, machine_ids, strict=True)
        return torch.stack([self.of_spectrum(pool(x, "mean"), machine_id) for x, machine_id in pairs])

    def of_spectrum(self, spectrum: Tensor, machine_id: str | None) -> Tensor:
        """Score a clip whose mean log-Mel is `[mels]` float64: `[1]`."""
        return self._shares(spectrum, self._means(machine_id)).sum(1).amin(0, keepdim=True).clamp(min=0).sqrt()

    def explain(self, log_mel: Tensor, mode: str = "mahalanobis", machine_id: str | None = None) -> Tensor:
        """Compute each frame's and band's share of the score, `[frames, mels]` float32: summed over bands and averaged
        over frames they are the score. Shares of bands that deviate as the others let expect can be negative.
        """
        spectrum, means = pool(log_mel, "mean"), self._means(machine_id)
        squares = self._shares(spectrum, means).sum(1)
        mean = means[squares.argmin()]
        slope = (spectrum - mean) @ self._inverse_covariance / (len(mean) * squares.amin().sqrt().clamp(min=1e-12))
        return ((log_mel - mean) * slope).float()

    def _means(self, machine_id: str | None) -> Tensor:
        if machine_id not in self._ids:
            return self._mean
        place = self._ids.index(machine_id)
        return self._mean[place : place + 1]

    def _shares(self, spectrum: Tensor, means: Tensor) -> Tensor:
        """Each band's share of the squared score about each of the means, `[ids, mels]`."""
        deviation = spectrum - means
        return deviation * (deviation @ self._inverse_covariance) / len(spectrum)


def _spectra(log_mels: Sequence[Tensor]) -> Tensor:
    """Clips' mean log-Mels, `[clips, mels]` float64 on the CPU."""
    return torch.stack([pool(x, "mean").cpu() for x in log_mels])
