"""The Mahalanobis distance of a clip's statistics over time from those of normal clips, a machine's simplest model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyasd.compute import Compute
from pyasd.models import dense, shrinkage
from pyasd.models.member import Member, MemberConfig, Mode, NormalScores, Scorer, register
from pyasd.models.over_time import OverTime, Usual, check_statistics, of_each
from pyasd.models.trained import VARIANCE_PRIOR_CLIPS
from pyasd.models.trimming import usual
from pyasd.training.data import BAND_SCALE_FLOOR, TrainingSet
from pyasd.training.run import History, Run

FOLDS = 50
"""Folds of the cross-validation: leave-one-out up to so many clips, and little is left out of more."""

MIN_CLIPS = 3
"""Clips that some machine ID must have: its mean, and two that deviate from it."""


MAX_IDS = 256
"""Machine IDs that can have a covariance each: 1.2 MB for three statistics of 128 bands."""

Covariance = Literal["shared", "held-out"]


@dataclass(frozen=True)
class SpectrumConfig(MemberConfig):
    """The Mahalanobis distance of a clip's statistics over time (ours).

    Attributes:
        over_time: statistics of each Mel band over the clip's frames, see `OverTime`.
        covariance: "shared" by all machine IDs and shrunk as Ledoit and Wolf (2004) do it; or each ID's own, shrunk to
            the shared one and to its diagonal as far as held-out clips like it best (see `shrinkage`).
    """

    over_time: tuple[OverTime, ...] = ("mean",)
    covariance: Covariance = "shared"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_statistics(self.over_time)


@register
class Spectrum(Member):
    """A normal distribution of clips' statistics over time for each machine ID.

    Attributes:
        ids: the machine IDs, sorted; empty before it has learnt any.
        mean: `[ids, dims]` float64, in dB; `dims` are the statistics, one after the other, of all bands.
        inverse_covariance: in 1 / dB squared, float64: `[dims, dims]` where IDs share it, else `[ids, dims, dims]`.
    """

    kind = "spectrum"
    Config: ClassVar[type[MemberConfig]] = SpectrumConfig
    MODES = (
        Mode(
            "mahalanobis",
            "share of the Mahalanobis distance",
            "Mahalanobis distance of the clip's mean spectrum, or of more statistics",
        ),
    )

    def __init__(self, name: str, config: Any, mels: int, seed: int = 0) -> None:
        super().__init__(name, config, mels, seed)
        self.ids: tuple[str, ...] = ()
        self.mean = torch.zeros(0, self.dims, dtype=torch.float64)
        self.inverse_covariance = torch.zeros(0, dtype=torch.float64)
        self._held_out: NDArray[np.float64] | None = None

    @property
    def dims(self) -> int:
        """The features of a clip."""
        return self.mels * len(self.config.over_time)

    @property
    def adds_up(self) -> bool:
        """Whether frames' features are those of a clip, averaged: shares of frames then add up to the score."""
        return bool(self.config.over_time == ("mean",))

    def features(self, log_mels: Sequence[Tensor]) -> Tensor:
        """Compute what is compared of clips, `[clips, dims]` float64, on their device."""
        return of_each(log_mels, self.config.over_time)

    def _features_of_all(self, log_mels: Iterable[Tensor]) -> Tensor:
        """The same on the CPU, of clips that may be more than a device holds."""
        return torch.cat([self.features([x]).cpu() for x in log_mels])

    def obstacle(self, ids: Sequence[str]) -> str | None:
        """Say that no machine ID has three clips, or that there are too many for a covariance each."""
        count = len(set(ids))
        if self.config.covariance == "held-out" and count > MAX_IDS:
            return (
                f'{self.name} keeps a covariance of each machine ID, and there are {count:,}: take covariance="shared"'
            )
        if max(Counter(ids).values()) >= MIN_CLIPS:
            return None
        compares = f"{self.name} compares an ID's clips with each other"
        return f"no machine ID has three clips, and {compares}: give three or more"

    def fit(self, data: TrainingSet, run: Run) -> History:
        """Learn from clips, all of them: nothing is held out, and there are no epochs.

        A shared covariance is that of the clips about the means of their machine IDs, shrunk as Ledoit and Wolf (2004)
        do it when bands are standardised, and as if one clip more, without correlations, had been seen.
        """
        features = self._features_of_all(data.log_mels)
        learnt = usual(features, data.ids) if run.statistics == "robust" else torch.ones(len(data), dtype=torch.bool)
        ids = np.array(data.ids)[learnt.numpy()].tolist()
        if self.config.covariance == "shared":
            self._learn(features[learnt], ids)
        else:
            self.ids = tuple(sorted(set(data.ids)))
            self.mean, self.inverse_covariance, held_out = shrinkage.fit(features[learnt], ids)
            scores = torch.empty(len(data), 1, dtype=torch.float64)
            scores[learnt, 0] = torch.where(held_out.isnan(), held_out.nanmean(), held_out)
            scorer = self.scorer()
            for i in (~learnt).nonzero().flatten().tolist():
                scores[i] = scorer.of_spectrum(features[i], data.ids[i])
            self._held_out = scores.numpy()
        run.progress(run.stage, 1, 1, "")
        return History()

    def normal_scores(self, data: TrainingSet, run: Run) -> NormalScores:
        """Score each training clip as if it were held out, whatever `run.statistics` asks for; see `cross_validate`."""
        robust = run.statistics == "robust"
        held_out = self.cross_validate(data.log_mels, data.ids, robust) if self._held_out is None else self._held_out
        counts = Counter(data.ids)
        alone = np.array([counts[machine_id] == 1 for machine_id in data.ids])  # nothing but it tells of its ID
        return NormalScores(held_out, data.ids, VARIANCE_PRIOR_CLIPS, np.where(alone[:, None], np.nan, held_out))

    def cross_validate(
        self, log_mels: Sequence[Tensor], ids: Sequence[str], robust: bool = False
    ) -> NDArray[np.float64]:
        """Score each clip by a model of the others: a covariance lies too near to the clips that it was computed from.

        `FOLDS` folds deal out the clips of each ID in turn; the only clip of an ID, without which nothing is known of
        that ID, gets the mean of the others' scores. Where some may be anomalous (`robust`), models learn the `usual`
        ones among the others.

        Returns:
            `[clips, 1]` float64.
        """
        spectra = self._features_of_all(log_mels)
        machine_ids = np.array(ids)
        wanted = usual(spectra, ids).numpy() if robust else np.ones(len(ids), bool)
        fold = np.empty(len(ids), int)
        fold[np.argsort(machine_ids, kind="stable")] = np.arange(len(ids)) % FOLDS
        scores = np.full((len(ids), 1), np.nan)
        for out in (fold == x for x in range(FOLDS)):
            others = type(self)(self.name, self.config, self.mels)
            learnt = ~out & wanted
            known = np.isin(machine_ids, machine_ids[learnt]) & out
            if known.any():
                others._learn(spectra[learnt], machine_ids[learnt].tolist())
                scorer = others.scorer()
                scores[known] = [scorer.of_spectrum(spectra[i], ids[i]) for i in np.flatnonzero(known).tolist()]
        return np.where(np.isnan(scores), np.nanmean(scores), scores)

    def usual(self, machine_id: str | None) -> Usual | None:
        """Return the means of a machine ID's statistics, and from the inverse covariance their standard deviations."""
        row = slice(None) if machine_id not in self.ids else [self.ids.index(machine_id)]
        shared = self.inverse_covariance.ndim == 2
        covariances = torch.linalg.inv(self.inverse_covariance[None] if shared else self.inverse_covariance[row])
        return Usual.of(self.config.over_time, self.mean[row], covariances)

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
        precision = (self.dims, self.dims) if self.config.covariance == "shared" else (len(ids), self.dims, self.dims)
        if shapes != {"mean": (len(ids), self.dims), "precision": precision}:
            raise ValueError(f"tensors are missing, unknown or of another shape: {', '.join(shapes)}")
        for name in shapes:
            dense.check_values(name, state[name], torch.float64)
        if not (state["precision"].diagonal(dim1=-2, dim2=-1) > 0).all():
            raise ValueError("precision must have a positive diagonal")
        self.ids, self.mean, self.inverse_covariance = ids, state["mean"], state["precision"]


class SpectrumScorer(Scorer):
    """Scores whole clips with a `Spectrum`."""

    def __init__(self, spectrum: Spectrum, device: torch.device) -> None:
        self._ids = spectrum.ids
        self._features = spectrum.features
        self._adds_up = spectrum.adds_up
        self._mean = spectrum.mean.to(device)
        self._inverse_covariance = spectrum.inverse_covariance.to(device)

    def score_many(self, log_mels: Sequence[Tensor], machine_ids: Sequence[str | None]) -> Tensor:
        """Compute how far clips' statistics lie from their machine ID's mean: the Mahalanobis distance (Mahalanobis,
        1936) over the root of the number of dimensions, so that it is about 1 for normal clips.

        Args:
            log_mels: `[frames, mels]` float32 each, in dB.
            machine_ids: where one is `None` or wasn't learnt, the nearest ID's mean counts.

        Returns:
            `[clips, 1]` float64.
        """
        pairs = zip(self._features(log_mels), machine_ids, strict=True)
        return torch.stack([self.of_spectrum(x, machine_id) for x, machine_id in pairs])

    def of_spectrum(self, spectrum: Tensor, machine_id: str | None) -> Tensor:
        """Score a clip whose statistics are `[dims]` float64: `[1]`."""
        return self._shares(spectrum, self._rows(machine_id)).sum(1).amin(0, keepdim=True).clamp(min=0).sqrt()

    def explain(self, log_mel: Tensor, mode: str = "mahalanobis", machine_id: str | None = None) -> Tensor:
        """Compute each frame's and band's share of the score, `[frames, mels]` float32.

        With the mean alone, shares summed over bands and averaged over frames are the score. With further statistics
        they are its gradient times how far the band is from its mean: the score to first order. Shares of bands that
        deviate as the others let expect can be negative.
        """
        rows = self._rows(machine_id)
        features = self._features([log_mel])[0]
        squares = self._shares(features, rows).sum(1)
        row = rows[int(squares.argmin())]
        if self._adds_up:
            mean, inverse = self._mean[row], self._inverse_covariance
            inverse = inverse if inverse.ndim == 2 else inverse[row]
            slope = (features - mean) @ inverse / (len(mean) * squares.amin().sqrt().clamp(min=1e-12))
            return ((log_mel - mean) * slope).float()
        with torch.enable_grad():
            x = log_mel.detach().double().requires_grad_()
            score = self._shares(self._features([x])[0], [row]).sum().clamp(min=1e-24).sqrt()
            (gradient,) = torch.autograd.grad(score, x)
        return (gradient * (log_mel - log_mel.double().mean(0)) * len(log_mel)).nan_to_num().float()

    def _rows(self, machine_id: str | None) -> list[int]:
        """Places of the machine IDs that a clip is compared with: its own, or all where that wasn't learnt."""
        return [self._ids.index(machine_id)] if machine_id in self._ids else list(range(len(self._ids)))

    def _shares(self, spectrum: Tensor, rows: list[int]) -> Tensor:
        """Each dimension's share of the squared score about the means of some machine IDs, `[rows, dims]`."""
        deviation = spectrum - self._mean[rows]
        if self._inverse_covariance.ndim == 2:
            return deviation * (deviation @ self._inverse_covariance) / len(spectrum)
        products = [x @ self._inverse_covariance[row] for x, row in zip(deviation, rows, strict=True)]
        return deviation * torch.stack(products) / len(spectrum)
