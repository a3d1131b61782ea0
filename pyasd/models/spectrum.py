"""The Mahalanobis distance of a clip's mean log-Mel from those of normal clips: the simplest model of a machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyasd import training
from pyasd.config import BAND_SCALE_FLOOR, Precision
from pyasd.models import dense

FOLDS = 50
"""Of the cross-validation: every clip by itself up to so many clips, and little is left out of more."""


class Spectrum:
    """A normal distribution of clips' mean log-Mels: a mean for each machine ID, and a covariance that all share.

    Args:
        mels: Mel bands.

    Attributes:
        ids: the machine IDs, sorted; empty before it has learnt any.
        mean: `[ids, mels]` float64, in dB.
        precision: `[mels, mels]` float64, in 1 / dB squared: the inverse of the covariance within IDs.
    """

    name: ClassVar[str] = "spectrum"
    modes: ClassVar[tuple[str, ...]] = ("mahalanobis",)
    default_mode: ClassVar[str] = "mahalanobis"

    def __init__(self, mels: int) -> None:
        self.ids: tuple[str, ...] = ()
        self.mean = torch.zeros(0, mels, dtype=torch.float64)
        self.precision = torch.eye(mels, dtype=torch.float64)

    def fit(self, log_mels: Sequence[Tensor], ids: Sequence[str], run: training.Run) -> training.History:
        """Learn from clips, all of them: nothing is held out, and there are no epochs.

        The covariance is that of the clips about the means of their machine IDs, shrunk as Ledoit and Wolf (2004) do it
        when bands are standardised, and as if one clip more, without correlations, had been seen.

        Args:
            log_mels: `[frames, mels]` float32 per clip, in dB.
            ids: their machine IDs.
            run: its progress is told.
        """
        self._learn(_spectra(log_mels), ids)
        if run.progress is not None:
            run.progress(run.stage, 1, 1, "")
        return training.History()

    def cross_validate(self, log_mels: Sequence[Tensor], ids: Sequence[str]) -> NDArray[np.float64]:
        """What each of the clips that it learns from would score if it were left out: what a covariance was made of
        lies too near to it. `FOLDS` folds deal out the clips of each ID in turn; the only clip of an ID, without
        which nothing is known of that ID, gets the mean of the others' scores.

        Returns:
            `[clips, 1]` float64.
        """
        spectra = _spectra(log_mels)
        own = np.array(ids)
        fold = np.empty(len(own), int)
        fold[np.argsort(own, kind="stable")] = np.arange(len(own)) % FOLDS
        scores = np.full((len(own), 1), np.nan)
        for out in (fold == x for x in range(FOLDS)):
            left = Spectrum(spectra.shape[1])
            known = np.isin(own, own[~out]) & out
            if known.any():
                left._learn(spectra[~out], own[~out].tolist())
                scorer = left.scorer()
                scores[known] = [scorer.of_spectrum(spectra[i], own[i]) for i in np.flatnonzero(known)]
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
        self.precision = (torch.linalg.inv(covariance) / torch.outer(scale, scale)).contiguous()

    def scorer(
        self,
        device: torch.device | str = "cpu",
        backend: str = "auto",
        precision: Precision = "float32",
        modes: Sequence[str] | None = None,
    ) -> Scorer:
        """The member made ready for scoring on `device`. It is plain torch in float64 whatever the backend and the
        precision, and has one mode.
        """
        return Scorer(self, torch.device(device))

    def state(self) -> dict[str, Tensor]:
        """All tensors by name, on the CPU, the machine IDs' names (`ids`) among them."""
        return {"ids": dense.pack_names(self.ids), "mean": self.mean, "precision": self.precision}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over the tensors of `state`. Raises ValueError where they don't fit."""
        ids = dense.unpack_names(state.get("ids", torch.empty(0)))
        mels = self.precision.shape[0]
        shapes = {name: tuple(x.shape) for name, x in state.items() if name != "ids"}
        if shapes != {"mean": (len(ids), mels), "precision": (mels, mels)}:
            raise ValueError(f"tensors are missing, unknown or of another shape: {', '.join(shapes)}")
        self.ids, self.mean, self.precision = ids, state["mean"], state["precision"]


class Scorer:
    """Scores whole clips with a `Spectrum`."""

    def __init__(self, spectrum: Spectrum, device: torch.device) -> None:
        self._ids = spectrum.ids
        self._mean, self._precision = spectrum.mean.to(device), spectrum.precision.to(device)

    def score(self, log_mel: Tensor, machine_id: str | None = None) -> Tensor:
        """How far a clip's mean log-Mel lies from its machine ID's mean: the Mahalanobis distance (Mahalanobis, 1936)
        over the root of the number of bands, so that it is about 1 for normal clips.

        Args:
            log_mel: `[frames, mels]` float32, in dB.
            machine_id: where it is `None` or wasn't learnt, the nearest ID's mean counts.

        Returns:
            `[1]` float64.
        """
        return self.of_spectrum(dense.pool(log_mel, "mean"), machine_id)

    def of_spectrum(self, spectrum: Tensor, machine_id: str | None) -> Tensor:
        """The score `[1]` of a clip whose mean log-Mel is `[mels]` float64."""
        return self._shares(spectrum, self._means(machine_id)).sum(1).amin(0, keepdim=True).clamp(min=0).sqrt()

    def explain(self, log_mel: Tensor, mode: str = "mahalanobis", machine_id: str | None = None) -> Tensor:
        """Each frame's and band's share of the score, `[frames, mels]` float32: summed over bands and averaged over
        frames they are the score. Shares of bands that deviate as the others let expect can be negative.
        """
        spectrum, means = dense.pool(log_mel, "mean"), self._means(machine_id)
        squares = self._shares(spectrum, means).sum(1)
        mean = means[squares.argmin()]
        slope = (spectrum - mean) @ self._precision / (len(mean) * squares.amin().sqrt().clamp(min=1e-12))
        return ((log_mel - mean) * slope).float()

    def _means(self, machine_id: str | None) -> Tensor:
        if machine_id not in self._ids:
            return self._mean
        place = self._ids.index(machine_id)
        return self._mean[place : place + 1]

    def _shares(self, spectrum: Tensor, means: Tensor) -> Tensor:
        """Each band's share of the squared score about each of the means, `[ids, mels]`."""
        deviation = spectrum - means
        return deviation * (deviation @ self._precision) / len(spectrum)


def _spectra(log_mels: Sequence[Tensor]) -> Tensor:
    """Clips' mean log-Mels, `[clips, mels]` float64 on the CPU."""
    return torch.stack([dense.pool(x, "mean").cpu() for x in log_mels])
