"""How far a clip's statistics over time lie from the nearest normal clips: for machines that run in several ways."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyasd.compute import Compute
from pyasd.models import dense
from pyasd.models.member import Member, MemberConfig, Mode, NormalScores, Scorer, register
from pyasd.models.moments import Moments
from pyasd.models.over_time import OverTime, Usual, check_statistics, of_clips, of_each, over_time
from pyasd.models.trained import VARIANCE_PRIOR_CLIPS
from pyasd.models.trimming import USUAL_NEIGHBOURS, usual
from pyasd.training.data import BAND_SCALE_FLOOR, TrainingSet
from pyasd.training.run import History, Run

MIN_CLIPS = 3
"""Clips that are compared with each other: machine IDs that have fewer are taken together."""

MAX_CLIPS = 4096
"""Clips of a machine ID that are remembered: of more, as many, evenly spaced in their order."""

RADIUS_FLOOR = 0.1
"""Smallest distance of a clip from its own neighbours, in those of a typical clip: clips may come twice."""

LEAST_RADIUS = 1e-3
"""The same in standard deviations, where all clips are alike."""

EQUAL_CLIPS = 400
"""Clips of a machine ID at which neighbours weigh as much as another member: a tenth of it where there are 20, twice as
much where there are many. What neighbours say of a density is true in the end, whatever its form, but needs clips."""

ROWS_PER_PASS = 1024
"""Clips whose distances from all others are in memory at once (32 MiB)."""


@dataclass(frozen=True)
class NeighboursConfig(MemberConfig):
    """The distance from the nearest normal clips (ours).

    Attributes:
        over_time: statistics of each Mel band over the clip's frames, as of `SpectrumConfig`.
        count: how many of the nearest clips count: their mean distance.
        local: divide distances from a normal clip by its mean distance from so many of its own neighbours, so that a
            rare way of running is as normal as a frequent one (after Breunig et al., 2000); 0 for plain distances.
    """

    over_time: tuple[OverTime, ...] = ("mean", "deviation", "change")
    count: int = 1
    local: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_statistics(self.over_time)
        if self.count < 1 or self.local < 0:
            raise ValueError(f"need count from 1 and local from 0, got count={self.count}, local={self.local}")


class _Group(NamedTuple):
    """Clips that are compared with each other: those of a machine ID, or of all IDs that have too few.

    Attributes:
        mean, scale: `[dims]` float64, in dB: features are standardised by them.
        clips: `[clips, dims]` float64, standardised.
        radius: `[clips]` float64: what distances from each clip are divided by.
        squares: `[clips]` float64: the clips' squared lengths.
    """

    mean: Tensor
    scale: Tensor
    clips: Tensor
    radius: Tensor
    squares: Tensor

    @classmethod
    def of(cls, mean: Tensor, scale: Tensor, features: Tensor, radius: Tensor | None = None) -> _Group:
        """Return the group of clips with these features `[clips, dims]`; a radius is 1 unless it is given."""
        clips = (features.double() - mean) / scale
        if radius is None:
            radius = torch.ones_like(clips[:, 0])
        return cls(mean, scale, clips, radius, clips.square().sum(1))

    def covariance(self) -> Tensor:
        """Return that of the clips' features, `[dims, dims]`, with at least the group's variances, which know more."""
        correlation = self.clips.T @ self.clips / len(self.clips)
        correlation += torch.diag((1 - correlation.diagonal()).clamp(min=0))
        return correlation * torch.outer(self.scale, self.scale)

    def standardised(self, features: Tensor) -> Tensor:
        """Features in the group's standard deviations."""
        return (features - self.mean) / self.scale

    def distances(self, z: Tensor) -> Tensor:
        """Root mean square distances over dimensions of all clips from a standardised one `[dims]`, `[clips]`; from
        several `[n, dims]`, `[n, clips]`.
        """
        products = self.clips @ z if z.ndim == 1 else z @ self.clips.T
        squares = z.square().sum(-1, keepdim=z.ndim == 2) + self.squares - 2 * products
        return (squares.clamp(min=0) / z.shape[-1]).sqrt()


@register
class Neighbours(Member):
    """Remember the statistics over time of normal clips.

    Attributes:
        ids: the machine IDs, sorted; empty before it has learnt any.
        group: the group of each ID, -1 where it has none: its clips are compared with all groups.
        groups: the remembered clips.
    """

    kind = "neighbours"
    Config = NeighboursConfig
    MODES = (Mode("distance", "distance, share of the usual one", "distance from the nearest normal clips"),)

    def __init__(self, name: str, config: NeighboursConfig, mels: int, seed: int = 0) -> None:
        super().__init__(name, config, mels, seed)
        self.ids: tuple[str, ...] = ()
        self.group: tuple[int, ...] = ()
        self.groups: list[_Group] = []
        self._remembered: list[NDArray[np.int64]] = []
        self.dims = mels * len(config.over_time)

    def obstacle(self, ids: Sequence[str]) -> str | None:
        """Say that there are fewer than three clips."""
        if len(ids) >= MIN_CLIPS:
            return None
        return f"{self.name} compares clips with each other: give three or more"

    def reliability(self, clips: int) -> float:
        """Return its weight: that of another member at 400 clips of a machine ID, and up to twice as much beyond."""
        return 2.0 * clips / (clips + EQUAL_CLIPS)

    def fit(self, data: TrainingSet, run: Run) -> History:
        """Remember the clips' statistics, and how far each lies from its own neighbours."""
        features = of_clips(data.log_mels, self.config.over_time)
        counts = Counter(data.ids)
        few = sorted(name for name, count in counts.items() if count < MIN_CLIPS)
        together = sum(counts[name] for name in few) >= MIN_CLIPS
        names = [name for name in sorted(counts) if counts[name] >= MIN_CLIPS]
        self.ids = tuple(sorted(counts))
        number_of = {name: number for number, name in enumerate(names)}
        self.group = tuple(number_of.get(name, len(names) if together else -1) for name in self.ids)
        place = self._places(data.ids)
        labels = [str(x) for x in place]
        robust = run.statistics == "robust"
        trimmed = robust and self.config.count < USUAL_NEIGHBOURS  # as many outvote anomalies themselves
        wanted = usual(features, labels).numpy() if trimmed else np.ones(len(data), bool)
        moments = Moments.of(features.numpy(), labels, robust, VARIANCE_PRIOR_CLIPS)
        self.groups, self._remembered = [], []
        for number in range(len(names) + together):
            (own,) = np.nonzero((place == number) & wanted)
            own = own[np.linspace(0, len(own) - 1, min(len(own), MAX_CLIPS)).round().astype(int)]
            self._remembered.append(own)
            mean, variance = (torch.from_numpy(x) for x in moments.of_id(str(number)))
            scale = variance.sqrt().clamp(min=BAND_SCALE_FLOOR)
            group = _Group.of(mean, scale, features[own].float())  # as a file has them
            self.groups.append(group._replace(radius=self._radius(group)))
        run.progress(run.stage, 1, 1, "")
        return History()

    def normal_scores(self, data: TrainingSet, run: Run) -> NormalScores:
        """Score each training clip by the others, whatever `run.statistics` asks for: it is its own nearest neighbour,
        and left out.
        """
        features = of_clips(data.log_mels, self.config.over_time)
        place = self._places(data.ids)
        scores = np.empty((len(data), 1))
        among = np.full(len(data), -1)
        for number, group in enumerate(self.groups):
            among[self._remembered[number]] = np.arange(len(group.clips))
            (own,) = np.nonzero(place == number)
            scores[own, 0] = self._left_out(group, features[own], torch.from_numpy(among[own])).numpy()
        scorer = self.scorer()
        for i in np.flatnonzero(place == -1).tolist():
            scores[i] = scorer.of_features(features[i], data.ids[i]).numpy()
        return NormalScores(scores, data.ids, VARIANCE_PRIOR_CLIPS, scores)

    def usual(self, machine_id: str | None) -> Usual | None:
        """Return the means and standard deviations of the statistics of a machine ID's clips, or of its group's."""
        number = dict(zip(self.ids, self.group, strict=True)).get(machine_id or "", -1)
        groups = self.groups if number < 0 else [self.groups[number]]
        covariances = torch.stack([x.covariance() for x in groups])
        return Usual.of(self.config.over_time, torch.stack([x.mean for x in groups]), covariances)

    def _places(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """The groups of clips of these machine IDs."""
        group_of = dict(zip(self.ids, self.group, strict=True))
        return np.array([group_of[name] for name in ids])

    def _radius(self, group: _Group) -> Tensor:
        """Each clip's mean distance from its nearest neighbours, `[clips]`."""
        if not self.config.local:
            return group.radius
        return _floored(torch.cat([near[:, : self._local(group)].mean(1) for near, _ in self._nearest(group)]))

    def _local(self, group: _Group) -> int:
        """How many of a clip's neighbours make its radius."""
        local: int = self.config.local
        return min(local, len(group.clips) - 1)

    def _nearest(self, group: _Group) -> Iterable[tuple[Tensor, Tensor]]:
        """Distances of remembered clips from their nearest neighbours, ascending, one more than count, and which these
        are, some clips at a time.
        """
        for first in range(0, len(group.clips), ROWS_PER_PASS):
            some = group.clips[first : first + ROWS_PER_PASS]
            distances = group.distances(some)
            distances[torch.arange(len(some)), torch.arange(first, first + len(some))] = torch.inf
            yield distances.topk(min(self._local(group) + 1, len(group.clips) - 1), largest=False)

    def _left_out(self, group: _Group, features: Tensor, among: Tensor) -> Tensor:
        """Scores `[clips]` of a group's training clips, each by the others; `among` are their places among the
        remembered ones, -1 where they aren't. A clip counts neither for itself nor in the others' radius.
        """
        count = min(self.config.count, len(group.clips) - 1)
        local = self._local(group)
        near = None
        if local:
            near, which = (torch.cat(x) for x in zip(*self._nearest(group), strict=True))
        scores = []
        for first in range(0, len(features), ROWS_PER_PASS):
            z, own = group.standardised(features[first : first + ROWS_PER_PASS]), among[first : first + ROWS_PER_PASS]
            distances = group.distances(z)
            remembered = (own >= 0).nonzero().squeeze(1)
            distances[remembered, own[remembered]] = torch.inf
            radius = group.radius.expand_as(distances)
            if near is not None:
                radius = radius.clone()
                for row in remembered.tolist():
                    clips, rank = (which[:, :local] == own[row]).nonzero(as_tuple=True)
                    without = near[clips].sum(1) - near[clips, rank]
                    radius[row, clips] = _floored(without / (near.shape[1] - 1), group.radius)
            scores.append((distances / radius).topk(count, largest=False).values.mean(1))
        return torch.cat(scores)

    def scorer(self, compute: Compute | None = None, modes: Sequence[str] | None = None) -> NeighboursScorer:
        """Make it ready for scoring. It is plain torch in float64 whatever the backend and the precision, and has one
        mode.
        """
        return NeighboursScorer(self, (compute or Compute()).device)

    def state(self) -> dict[str, Tensor]:
        """Return all tensors by name, on the CPU, the machine IDs' names (`ids`) and their groups among them."""
        counts = torch.tensor([len(x.clips) for x in self.groups])
        empty = torch.zeros(0, self.dims, dtype=torch.float64)
        spectra = [x.clips * x.scale + x.mean for x in self.groups]
        return {
            "ids": dense.pack_names(self.ids),
            "group": torch.tensor(self.group, dtype=torch.int64),
            "count": counts.long(),
            "mean": torch.stack([x.mean for x in self.groups]) if self.groups else empty,
            "band_scale": torch.stack([x.scale for x in self.groups]) if self.groups else empty,
            "spectra": torch.cat([empty, *spectra]).float(),
            "radius": torch.cat([empty[:, 0], *(x.radius for x in self.groups)]),
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over the tensors of `state`.

        Raises:
            ValueError: tensors are missing, unknown or of another shape.
        """
        needed = self.state()
        wrong = sorted(needed.keys() ^ state.keys())
        if wrong:
            raise ValueError(f"tensors are missing or unknown: {', '.join(wrong)}")
        ids, count, group = dense.unpack_names(state["ids"]), state["count"].tolist(), state["group"].tolist()
        clips, groups = sum(count), len(count)
        shapes = {"mean": (groups, self.dims), "band_scale": (groups, self.dims), "spectra": (clips, self.dims)}
        for name, shape in (shapes | {"radius": (clips,)}).items():
            if tuple(state[name].shape) != shape:
                raise ValueError(f"{name} has the shape {tuple(state[name].shape)}, not {shape}")
            dense.check_values(name, state[name], needed[name].dtype)
        if not (state["radius"] > 0).all() or not groups or min(count) < MIN_CLIPS:
            raise ValueError("radius must be positive, and each group have three clips")
        if len(group) != len(ids) or not set(group) <= set(range(-1, groups)):
            raise ValueError(f"the groups {group} are not those of {len(ids)} machine IDs")
        self.ids, self.group = ids, tuple(group)
        parts = (state["mean"], state["band_scale"], state["spectra"].split(count), state["radius"].split(count))
        self.groups = [_Group.of(*part) for part in zip(*parts, strict=True)]


class NeighboursScorer(Scorer):
    """Scores whole clips with a `Neighbours`."""

    def __init__(self, member: Neighbours, device: torch.device) -> None:
        self._over_time: tuple[OverTime, ...] = member.config.over_time
        self._count = member.config.count
        self._group = dict(zip(member.ids, member.group, strict=True))
        self._groups = [_Group(*(x.to(device) for x in group)) for group in member.groups]

    def score_many(self, log_mels: Sequence[Tensor], machine_ids: Sequence[str | None]) -> Tensor:
        """Compute clips' mean distances from the nearest normal clips of their machine ID: about 1 for normal clips.
        A distance is the root mean square over bands and statistics, in the ID's standard deviations, divided by the
        neighbour's distance from its own neighbours.

        Args:
            log_mels: `[frames, mels]` float32 each, in dB.
            machine_ids: where one is `None` or wasn't learnt, the nearest clips of any ID count.

        Returns:
            `[clips, 1]` float64.
        """
        pairs = zip(of_each(log_mels, self._over_time), machine_ids, strict=True)
        return torch.stack([self.of_features(x, machine_id) for x, machine_id in pairs])

    def of_features(self, features: Tensor, machine_id: str | None) -> Tensor:
        """Score a clip whose statistics are `[dims]` float64: `[1]`."""
        return torch.stack([self._nearest(group, features)[0] for group in self._candidates(machine_id)]).amin(0)[None]

    def explain(self, log_mel: Tensor, mode: str = "distance", machine_id: str | None = None) -> Tensor:
        """Compute each frame's and band's share of the score, `[frames, mels]` float32: summed over bands and averaged
        over frames they are the score.

        A band's share in the distance of means is the same in all frames; that of deviations and changes goes to the
        frames that deviate or change.
        """
        features = over_time(log_mel, self._over_time)
        scored = [(*self._nearest(group, features), group) for group in self._candidates(machine_id)]
        _, which, group = min(scored, key=lambda x: float(x[0]))
        offsets = (group.standardised(features) - group.clips[which]).square()
        distances = group.distances(group.standardised(features))[which].clamp(min=1e-12) * group.radius[which]
        shares = (offsets / (distances[:, None] * len(features))).mean(0)
        x = log_mel.double()
        total = x.new_zeros(x.shape)
        for name, share in zip(self._over_time, shares.view(len(self._over_time), -1), strict=True):
            total += share * _frames(x, name)
        return total.float()

    def _candidates(self, machine_id: str | None) -> list[_Group]:
        """The groups that a clip is compared with: its ID's own, or all."""
        number = -1 if machine_id is None else self._group.get(machine_id, -1)
        return self._groups if number < 0 else [self._groups[number]]

    def _nearest(self, group: _Group, features: Tensor) -> tuple[Tensor, Tensor]:
        """The score of a clip in a group, a scalar, and which clips are the nearest."""
        distances = group.distances(group.standardised(features)) / group.radius
        values, which = distances.topk(min(self._count, len(distances)), largest=False)
        return values.mean(), which


def _floored(radius: Tensor, typical: Tensor | None = None) -> Tensor:
    """Radii `[n]`, none next to nothing beside the median of the `typical` ones."""
    median = float((radius if typical is None else typical).median())
    return radius.clamp(min=max(LEAST_RADIUS, RADIUS_FLOOR * median))


def _frames(x: Tensor, name: OverTime) -> Tensor:
    """How much each frame and band of a clip has part in a statistic over time, `[frames, mels]`, 1 in the mean."""
    if name == "mean":
        return torch.ones_like(x)
    deviation = x - x.mean(0)
    if name == "change":
        change = x.diff(dim=0)
        deviation = torch.cat([torch.zeros_like(x[:1]), change - change.mean(0)])
    squares = deviation.square()
    mean = squares.mean(0)
    return torch.where(mean > 0, squares / mean.clamp(min=1e-300), torch.ones_like(x))
