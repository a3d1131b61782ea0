"""Group MADE: the density of five log-Mel frames, each predicted from those before it in an ordering.

Report section 2.1: a masked autoencoder (Germain et al., 2015) whose degrees belong to frames instead of single
inputs, and whose outputs are mixtures of Gaussians.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from pyasd import ops
from pyasd.backends.contract import LOG_SCALE_MIN, Precision
from pyasd.backends.layout import without_waiting
from pyasd.compute import Compute, by_device
from pyasd.models import dense
from pyasd.models.member import Mode, NormalScores, Scorer, register
from pyasd.models.moments import VARIANCE_FLOOR, Moments
from pyasd.models.over_time import Usual
from pyasd.models.pooling import Pooling, pool_clips
from pyasd.models.trained import TrainedConfig, TrainedMember
from pyasd.training import loop
from pyasd.training.data import TrainingSet, WindowSet, band_statistics
from pyasd.training.run import History, Run

Order = Literal["causal", "middle"]
ScoreMode = Literal["joint", "middle", "conditional", "bands"]
Condition = Literal["none", "machine-id"]

MARGINAL_FRAMES = 20_000
"""Frames, evenly spaced over the training data, from which the marginal densities are taken."""

MARGINAL_SCALE_MIN = 0.1
"""Smallest standard deviation of an initial Gaussian, in units of the band's own."""

BAND_WINDOWS_PER_PASS = {"cpu": 512, "cuda": 16384}
"""Windows whose every band's likelihood is in memory at once (5 kB each): on a CPU, they then stay in its caches. Long
clips are cut at the same places whatever they are scored with, so that a score has the same bits."""

HEAD_WEIGHT_BOUND = 0.05
"""The head's weights start uniform in +- this: the first epoch then starts near the marginal densities."""

BAND_PRIOR_CLIPS = 1
"""Weight, in clips, of the bands' mean variance in each band's own, for the score `bands` (ours): with few training
clips some band's variance is next to nothing by chance."""

CONDITION_SHARE = 8
"""One hidden unit in so many sees the machine ID alone, where the ID conditions the density."""

MIN_WINDOWS = 60
"""Windows of a clip that are scored, where it has them: in shorter clips they hop less far. With six windows alone, a
clip of a second loses what a knock tells."""

NETWORKS_KEPT = 64
"""Networks of machine IDs that a scorer keeps ready."""

NLL = "NLL, nats"

LIKELIHOODS = (
    Mode("joint", NLL, "negative log-likelihood of a window (report, Eq. 3)"),
    Mode("middle", NLL, "negative log-likelihood of a window's middle frame given the others (report, Eq. 4)"),
    Mode("conditional", NLL, "negative log-likelihood of a window without its unconditional first frame"),
)
BANDS = Mode("bands", "NLL, standard deviations", "how unlikely each Mel band is, against the machine's training clips")


@dataclass(frozen=True)
class GroupMadeConfig(TrainedConfig):
    """Group MADE: report section 2.1.

    Attributes:
        frames: log-Mel frames (the groups) in a window.
        window_hop: frames from one window of a clip to its next, in scoring and in training, where each clip's first
            window is another in each epoch. Clips of few windows are scored by more of them (`MIN_WINDOWS`). The report
            takes every window.
        hidden: widths of the hidden layers.
        components: Gaussians in the mixture of each output dimension.
        order: `causal` predicts each frame from those before it; `middle` predicts the middle frame from the
            other four (Eq. 4). Data stays in time order: only the masks' degrees change.
        condition: `machine-id` gives the network the clip's machine ID, before all frames of the ordering (ours). The
            report has one density for all IDs, to which a clip that sounds like another healthy ID is normal.
        log_scale_min: smallest log standard deviation of a Gaussian, in units of the band's own standard
            deviation (a hundredth: digital silence repeated would otherwise drive the density to infinity).
        score: the mode that counts; see `LIKELIHOODS` and `BANDS` (ours).
        pooling: how window scores make a clip's score. The report takes the mean.
        epochs, steps, batch_size, learning_rate, schedule, validation, patience: see `TrainingConfig`. Adam's 1e-3 is
            the report's; the others are the challenge baseline's.
        gradient_clip: largest norm of a gradient (ours: rare windows far in the tails otherwise throw Adam off).
        variance_floor: added to the variances that batch norm divides by (ours: without it the likelihood of clips held
            out explodes, see `DenseStack.variance_floor`).
    """

    frames: int = 5
    window_hop: int = 1
    hidden: tuple[int, ...] = (128, 128, 128, 128, 32, 128, 128, 128, 128)
    components: int = 10
    order: Order = "causal"
    condition: Condition = "none"
    log_scale_min: float = LOG_SCALE_MIN
    score: ScoreMode = "joint"
    pooling: Pooling = "mean"
    gradient_clip: float = 10.0
    variance_floor: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.window_hop <= self.frames or not 0 <= self.variance_floor < math.inf:
            raise ValueError(
                f"need window_hop from 1 to {self.frames}, the frames of a window, and variance_floor from 0, got "
                f"window_hop={self.window_hop}, variance_floor={self.variance_floor}"
            )
        least = self.frames - 1 + self.conditioned
        if self.frames < 2 or min(self.hidden, default=0) < least or self.components < 1:
            raise ValueError(
                f"need at least 2 frames, a component and {least} units in each hidden layer (one for each "
                f"degree), got frames={self.frames}, components={self.components}, hidden={self.hidden}"
            )

    @property
    def conditioned(self) -> bool:
        """Whether the machine ID conditions the density."""
        return self.condition == "machine-id"

    def hidden_degrees(self, units: int) -> tuple[int, ...]:
        """The degrees of a hidden layer of this network."""
        return hidden_degrees(units, self.frames, self.conditioned)

    @property
    def min_frames(self) -> int:
        """Log-Mel frames that a clip must have: a window."""
        return self.frames


def frame_degrees(frames: int, order: Order) -> tuple[int, ...]:
    """Each frame's degree, in time order: its position, from 1, in the autoregressive ordering.

    `causal` orders frames as they are; `middle` puts the middle one last: five frames are ordered 1, 2, 4, 5, 3 and
    have the degrees 1, 2, 5, 3, 4.
    """
    ordering = list(range(frames))
    if order == "middle":
        ordering.append(ordering.pop(frames // 2))
    return tuple(ordering.index(frame) + 1 for frame in range(frames))


def hidden_degrees(units: int, frames: int, conditioned: bool = False) -> tuple[int, ...]:
    """Degrees 1 ... frames - 1 in equal shares (as nearly as can be), ascending: the masks are prefixes then.

    Units that see the machine ID alone have degree 0 and come first: all frames see these, the first one too.
    """
    free = max(1, units // CONDITION_SHARE) if conditioned else 0
    return (0,) * free + tuple(1 + unit * (frames - 1) // (units - free) for unit in range(units - free))


@register
class GroupMade(TrainedMember, nn.Module):
    """Group MADE over windows of log-Mel frames.

    Attributes:
        band_mean, band_scale: `[mels]`, in dB: the training data's, by which inputs are standardised.
        bands: what each Mel band's conditional negative log-likelihood, in nats per window, is like in the training
            clips of each machine ID: its modes are the bands. `None` before `fit`.
        id_weight: `[ids, hidden[0]]`: what each machine ID adds to the first layer's sums, where it conditions the
            density; no rows before `fit`.
    """

    kind = "group-made"
    Config = GroupMadeConfig
    MODES = (*LIKELIHOODS, BANDS)

    config: GroupMadeConfig
    band_mean: Tensor
    band_scale: Tensor

    def __init__(self, name: str, config: GroupMadeConfig, mels: int, seed: int = 0) -> None:
        self.size(config, mels)  # refuses what is too large before it is made
        super().__init__(name, config, mels, seed)
        self.bands: Moments | None = None
        self.degrees = frame_degrees(config.frames, config.order)
        dims = config.frames * mels
        generator = torch.Generator().manual_seed(seed)
        layer_degrees = [
            torch.tensor(self.degrees).repeat_interleave(mels),
            *(torch.tensor(config.hidden_degrees(units)) for units in config.hidden),
        ]
        masks = [(before <= after[:, None]).float() for before, after in itertools.pairwise(layer_degrees)]
        self.trunk = dense.DenseStack([dims, *config.hidden], generator, masks)
        outputs = 3 * dims * config.components
        self.head_weight = nn.Parameter(
            HEAD_WEIGHT_BOUND * (2 * torch.rand(outputs, config.hidden[-1], generator=generator) - 1)
        )
        self.head_bias = nn.Parameter(torch.zeros(outputs))
        if config.conditioned:
            self.id_weight = nn.Parameter(torch.empty(0, config.hidden[0]))
        self.register_buffer("band_mean", torch.zeros(mels))
        self.register_buffer("band_scale", torch.ones(mels))
        self.eval()

    @classmethod
    def size(cls, config: GroupMadeConfig, mels: int) -> int:
        """Return its number of weights; see `Member.size`."""
        dims = config.frames * mels
        return dense.count_weights([dims, *config.hidden, 3 * dims * config.components])

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The scores that it can give as it is now: `bands` once it has learnt."""
        return LIKELIHOODS if self.bands is None else self.MODES

    @property
    def default_mode(self) -> str:
        """The mode that the config names."""
        return self.config.score

    def head(self, weight: Tensor, bias: Tensor) -> ops.MixtureHead:
        """An output layer of this shape, with the degrees that make it autoregressive."""
        config = self.config
        hidden = config.hidden_degrees(config.hidden[-1])
        return ops.MixtureHead(weight, bias, hidden, self.degrees, config.components, config.log_scale_min)

    def forward(
        self,
        windows: Tensor,
        backend: str = "auto",
        precision: Precision = "float32",
        ids: Tensor | None = None,
    ) -> Tensor:
        """Compute each frame's log-likelihood given the frames before it in the ordering, per dB.

        Args:
            windows: `[n, frames * mels]` float32, in dB, in time order.
            backend: see `ops.mixture_log_prob`.
            precision: see `ops.mixture_log_prob`.
            ids: `[n]` int64, rows of `id_weight`, where the machine ID conditions the density.

        Returns:
            `[n, frames]` float32, in nats, frames in time order: their sum is the log density of a window in dB
            (the standardisation's Jacobian is included).
        """
        z, head = self._standardise(windows), self.head(self.head_weight, self.head_bias)
        log_prob = ops.mixture_log_prob(self._trunk(z, ids), z, head, backend, precision)
        return log_prob - self.band_scale.log().sum()

    def mean_loss(
        self,
        windows: Tensor,
        backend: str = "auto",
        precision: Precision = "float32",
        ids: Tensor | None = None,
    ) -> Tensor:
        """The windows' mean negative log-likelihood in nats per dimension, a scalar: with its gradients in one pass."""
        z, head = self._standardise(windows), self.head(self.head_weight, self.head_bias)
        hidden = self._trunk(z, ids)
        loss = ops.mixture_log_likelihood(hidden, z, head, backend, precision, scale=-1 / z.numel())
        return loss + self.band_scale.log().mean()

    def _trunk(self, z: Tensor, ids: Tensor | None) -> Tensor:
        hidden: Tensor = self.trunk(z, self.id_weight[ids] if self.config.conditioned else None)
        return hidden

    def _standardise(self, windows: Tensor) -> Tensor:
        return ((windows.view(len(windows), -1, self.mels) - self.band_mean) / self.band_scale).flatten(1)

    def fit(self, data: TrainingSet, run: Run) -> History:
        """Learn from clips: standardisation and marginals first, then windows' joint likelihood (Eq. 3), then
        what each band's likelihood is like.

        Raises:
            ValueError: there are fewer than two windows.
            TrainingDiverged: the loss is no longer finite.
        """
        config, compute = self.config, run.compute
        validation = data.held_out(config.validation)
        windows = WindowSet(data.log_mels, config.frames, validation, compute.device)
        self._start_from(data.log_mels.select(np.flatnonzero(~validation).tolist()))
        names = sorted(set(data.ids))
        if config.conditioned:  # of variance 1, as the units that see nothing else shall differ by ID
            generator = torch.Generator().manual_seed(self.seed)
            self.id_weight = nn.Parameter(torch.randn(len(names), config.hidden[0], generator=generator))
        self.to(compute.device)
        id_of_clip = torch.tensor([names.index(x) for x in data.ids], device=compute.device)

        def loss(starts: Tensor) -> Tensor:
            ids = id_of_clip[windows.clips(starts)] if config.conditioned else None
            return self.mean_loss(windows.gather(starts), compute.backend, compute.precision, ids)

        with self.trunk.variance_floor(config.variance_floor):
            history = loop.fit(self, loss, loop.Sampler(windows, hop=config.window_hop), config, run)
        self._learn_bands(data, run)
        return history

    def _learn_bands(self, data: TrainingSet, run: Run) -> None:
        """Learn what the score `bands` compares with. Variances lean a little on the machine type's mean one."""
        scorer = GroupMadeScorer(self, run.compute, [], sorted(set(data.ids)))
        nll = []
        for done, (log_mel, machine_id) in enumerate(zip(data.log_mels, data.ids, strict=True)):
            nll.append(scorer.band_nll([log_mel.to(run.compute.device)], [machine_id]).cpu())
            run.progress(f"{run.stage}: bands", done + 1, len(data), "")
        bands = Moments.of(torch.cat(nll).numpy(), data.ids, run.statistics == "robust")
        count = bands.count[:, None]
        prior = np.average(bands.variance.mean(1), weights=bands.count)
        variance = (count * bands.variance + BAND_PRIOR_CLIPS * prior) / (count + BAND_PRIOR_CLIPS)
        self.bands = replace(bands, variance=variance)

    def normal_scores(self, data: TrainingSet, run: Run) -> NormalScores:
        """Score clips as `TrainedMember` does; those held out unlearnt also by `bands`, by statistics of the others."""
        normal = super().normal_scores(data, run)
        chosen = np.flatnonzero(data.held_out(self.config.validation)).tolist()
        if normal.unlearnt is not None and chosen and run.statistics != "robust":  # a clip hardly moves a median
            counts, scorer = Counter(data.ids), self.scorer(run.compute, ["bands"])
            ids = [data.ids[i] for i in chosen]
            scores = [scorer.score_without(data.log_mels[i], x, counts[x]) for i, x in zip(chosen, ids, strict=True)]
            normal.unlearnt[chosen, self.mode_names.index("bands")] = scores
        return normal

    @torch.no_grad()
    def _start_from(self, log_mels: Sequence[Tensor]) -> None:
        """Take standardisation and initial biases from the training data: the network starts at the marginal density
        of each band, and the first frame's mixture, which sees no input, is there from the beginning.
        """
        mean, scale = band_statistics(log_mels)
        self.band_mean.copy_(mean)
        self.band_scale.copy_(scale)
        step = math.ceil(sum(len(x) for x in log_mels) / MARGINAL_FRAMES)
        some = torch.cat([x[::step].cpu() for x in log_mels])
        z = ((some - self.band_mean.cpu()) / self.band_scale.cpu()).double()
        components = self.config.components
        edges = torch.quantile(z, torch.linspace(0, 1, 2 * components + 1, dtype=z.dtype), dim=0)
        scale = (edges[2::2] - edges[:-2:2]) / math.sqrt(12)  # a uniform density between two quantiles
        log_scale = scale.clamp(min=MARGINAL_SCALE_MIN).log()
        start = torch.stack([torch.zeros_like(log_scale), edges[1::2], log_scale])  # [3, components, mels]
        bias = start.transpose(1, 2)[:, None].expand(3, self.config.frames, self.mels, components)
        self.head_bias.copy_(bias.flatten())

    def usual(self, machine_id: str | None) -> Usual | None:
        """Return mean and deviation of the bands over all frames it learnt: neither clips nor machine IDs are told
        apart.
        """
        mean, deviation = (x.cpu().double().numpy() for x in (self.band_mean, self.band_scale))
        return Usual({"mean": mean, "deviation": deviation}, {}, float(deviation.mean()))

    def scorer(self, compute: Compute | None = None, modes: Sequence[str] | None = None) -> GroupMadeScorer:
        """Make the network ready for scoring, as it is now."""
        ids = [] if self.bands is None else self.bands.ids
        return GroupMadeScorer(self, compute or Compute(), self.mode_names if modes is None else modes, ids)

    def state(self) -> dict[str, Tensor]:
        """Return all tensors by name, on the CPU, the machine IDs' names (`ids`) and the bands' moments among them."""
        if self.bands is None:
            return dense.state_of(self)
        moments = {f"bands.{name}": torch.from_numpy(getattr(self.bands, name)) for name in _BAND_MOMENTS}
        return dense.state_of(self) | {"ids": dense.pack_names(self.bands.ids)} | moments

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over the tensors of `state`.

        Raises:
            ValueError: tensors are missing, unknown or of another shape.
        """
        weights = dict(state)
        if "ids" in weights:
            ids = dense.unpack_names(weights.pop("ids"))
            count, mean, variance = (weights.pop(f"bands.{x}", torch.empty(0)).numpy() for x in _BAND_MOMENTS)
            self.bands = Moments(ids, count, mean, variance).check("bands", self.mels)
            if self.config.conditioned:
                self.id_weight = nn.Parameter(torch.empty(len(ids), self.config.hidden[0]))
        dense.load_state(self, weights)


_BAND_MOMENTS = ("count", "mean", "variance")


class GroupMadeScorer(Scorer):
    """Scores whole clips with a `GroupMade`, whose batch norm and masks are folded into plain layers."""

    def __init__(self, made: GroupMade, compute: Compute, modes: Sequence[str], ids: Sequence[str]) -> None:
        device = compute.device
        self._network = ops.GroupMadeNetwork(
            made.band_mean.clone().to(device),
            made.band_scale.clone().to(device),
            tuple(made.trunk.fold(device)),
            made.head(made.head_weight.detach().clone().to(device), made.head_bias.detach().clone().to(device)),
        )
        self._shifts = made.trunk.fold_shifts(made.id_weight, device) if made.config.conditioned else None
        self._network_of = lru_cache(NETWORKS_KEPT)(self._shifted)
        self._ids = {machine_id: row for row, machine_id in enumerate([*ids, None])}
        self._pooling: Pooling = made.config.pooling
        self._backend, self._precision = compute.backend, compute.precision
        self._frames, self._hop = made.config.frames, made.config.window_hop
        frames = range(self._frames)
        conditional = [t for t in frames if made.degrees[t] > 1]  # all but the first, whatever the order
        self._conditional = slice(conditional[0], None)
        self._places = {
            "joint": list(frames),
            "middle": [len(frames) // 2],
            "conditional": conditional,
            "bands": conditional,
        }
        self._modes = tuple(modes)
        self._columns = {mode: torch.tensor(places, device=device) for mode, places in self._places.items()}
        if made.bands is not None:
            moments = (np.stack(x) for x in zip(*(made.bands.of_id(x) for x in self._ids), strict=True))
            mean, variance = (torch.from_numpy(x).to(device) for x in moments)
            self._mean, self._scale = mean, variance.clamp(min=VARIANCE_FLOOR).sqrt()

    def score_many(self, log_mels: Sequence[Tensor], machine_ids: Sequence[str | None]) -> Tensor:
        """Score clips together; a clip's bits don't depend on the others, and a GPU is not waited for.

        In nats per window: `joint` is the negative log-likelihood of the whole window (Eq. 3). `middle`: of its
        middle frame given those before it in the ordering: the four others for the order `middle` (Eq. 4), the
        earlier two for `causal`. `conditional`: of all frames but the one that comes first in the ordering and is
        conditioned on nothing.

        `bands` is the root mean square over the Mel bands of `max(z, 0)`, where z is how many standard deviations
        the band's conditional negative log-likelihood lies above its mean over the machine ID's training clips. A
        fault that sounds in a few quiet bands then isn't lost in what the others vary by.

        Args:
            log_mels: `[frames, mels]` float32 each, in dB, at least one window long.
            machine_ids: of the clips. `None`, or one that wasn't learnt, takes the `bands` of all; where the ID
                conditions the density, the clip has the lowest score that any of the learnt IDs gives it.

        Returns:
            `[clips, modes]` float64: windows are summed and pooled in float64.
        """
        rows = [self._rows(machine_id) for machine_id in machine_ids]
        each = [log_mel for log_mel, some in zip(log_mels, rows, strict=True) for _ in some]
        scores = self._score_as(each, [row for some in rows for row in some])
        if len(each) == len(log_mels):
            return scores
        return torch.stack([x.amin(0) for x in torch.split(scores, [len(some) for some in rows])])

    def band_nll(self, log_mels: Sequence[Tensor], machine_ids: Sequence[str]) -> Tensor:
        """Compute each band's conditional negative log-likelihood, `[clips, mels]` float64, in nats per window."""
        return self._each_network(log_mels, [self._ids[x] for x in machine_ids], self._band_nll)

    def _rows(self, machine_id: str | None) -> list[int]:
        """The machine IDs, or the statistics of all (the last row), as which a clip is scored."""
        of_all = len(self._ids) - 1
        row = self._ids.get(machine_id, of_all)
        return [row] if self._shifts is None or row < of_all else list(range(of_all))

    def _score_as(self, log_mels: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
        """Score clips as of those machine IDs."""
        scores = {}
        summed = [mode for mode in self._modes if mode != "bands"]
        if summed:
            pooled = self._each_network(log_mels, rows, self._summed)
            scores = dict(zip(summed, pooled.unbind(1), strict=True))
        if "bands" in self._modes:
            nll = self._each_network(log_mels, rows, self._band_nll)
            scores["bands"] = self._deviations(nll, rows).clamp(min=0).square().mean(1).sqrt()
        return torch.stack([scores[mode] for mode in self._modes], 1)

    def _each_network(
        self,
        log_mels: Sequence[Tensor],
        rows: Sequence[int],
        function: Callable[[list[Tensor], ops.GroupMadeNetwork, int], Tensor],
    ) -> Tensor:
        """`function` of clips that share a network and a hop, `[clips, columns]`, in the clips' order."""
        groups: dict[tuple[int, int], list[int]] = {}
        for place, (log_mel, row) in enumerate(zip(log_mels, rows, strict=True)):
            windows = 1 + len(log_mel) - self._frames
            hop = max(1, min(self._hop, windows // MIN_WINDOWS))
            groups.setdefault((row if self._shifts is not None else -1, hop), []).append(place)
        parts = [
            function([log_mels[i] for i in places], self._network_of(row), hop) for (row, hop), places in groups.items()
        ]
        order = torch.from_numpy(np.argsort(np.concatenate(list(groups.values()))))
        return torch.cat(parts)[without_waiting(order, parts[0].device)] if len(parts) > 1 else parts[0]

    def _shifted(self, row: int) -> ops.GroupMadeNetwork:
        """The network of a machine ID; -1 is that of all."""
        if self._shifts is None or row < 0:
            return self._network
        (weight, bias), *others = self._network.layers
        return replace(self._network, layers=((weight, bias + self._shifts[row]), *others))

    def _summed(self, log_mels: list[Tensor], network: ops.GroupMadeNetwork, hop: int) -> Tensor:
        """Scores in all modes but `bands`, `[clips, modes]`."""
        summed = [mode for mode in self._modes if mode != "bands"]
        places = sorted({place for mode in summed for place in self._places[mode]})
        lengths = [len(x) for x in log_mels]
        nll = ops.group_made_score(
            torch.cat(log_mels), network, places, self._backend, self._precision, lengths=lengths, hop=hop
        )
        by_mode = torch.stack([nll.index_select(1, self._columns[mode]).sum(1) for mode in summed], 1)
        return pool_clips(by_mode, [self._windows(n, hop) for n in lengths], self._pooling)

    def _band_nll(self, log_mels: list[Tensor], network: ops.GroupMadeNetwork, hop: int) -> Tensor:
        parts = []
        for pieces in self._passes(log_mels, hop):
            nll = ops.group_made_score(
                torch.cat(pieces), network, self._places["bands"], self._backend, self._precision, per_dim=True,
                lengths=[len(x) for x in pieces], hop=hop,
            )  # fmt: skip
            parts.append(nll[:, self._conditional].sum(1))
        return pool_clips(torch.cat(parts), [self._windows(len(x), hop) for x in log_mels], self._pooling)

    def score_without(self, log_mel: Tensor, machine_id: str, count: int) -> float:
        """Compute the score `bands` of one of the `count` training clips of a machine ID, as if the bands' means and
        variances had been learnt from the others (in closed form; the variances' prior stays).
        """
        nll = self.band_nll([log_mel.to(self._mean.device)], [machine_id])
        z = self._deviations(nll, [self._ids[machine_id]]).clamp(min=0)
        own = count / (count - 1) * z.square()  # of the clip's share in the sum of squares
        kept = count - 1 + BAND_PRIOR_CLIPS
        z = z * count / (count - 1) * (kept / (count + BAND_PRIOR_CLIPS - own)).sqrt()
        return float(z.square().mean().sqrt())

    def _windows(self, frames: int, hop: int) -> int:
        """Windows of a clip of so many frames."""
        return 1 + (frames - self._frames) // hop

    def _passes(self, log_mels: Sequence[Tensor], hop: int) -> Iterator[list[Tensor]]:
        """Clips in turn, several to a pass, or pieces of long ones."""
        most = by_device(BAND_WINDOWS_PER_PASS, log_mels[0].device)
        some: list[Tensor] = []
        windows = 0
        for log_mel in log_mels:
            for first in range(0, self._windows(len(log_mel), hop), most):
                piece = log_mel[first * hop : (first + most - 1) * hop + self._frames]
                if windows + self._windows(len(piece), hop) > most:
                    yield some
                    some, windows = [], 0
                some.append(piece)
                windows += self._windows(len(piece), hop)
        yield some

    def _deviations(self, nll: Tensor, rows: Sequence[int]) -> Tensor:
        """How many standard deviations bands' likelihoods `[clips, mels]` lie above their means in normal clips."""
        row = without_waiting(torch.tensor(rows), nll.device)
        return (nll - self._mean[row]) / self._scale[row]

    def explain(self, log_mel: Tensor, mode: str, machine_id: str | None = None) -> Tensor:
        """Map where a clip's score comes from: the mean negative log-likelihood of each frame and band over the windows
        in which `mode` counts the frame, `[frames, mels]` float32, in nats; NaN where none does. With `bands`, in
        standard deviations above the band's mean, as if the whole clip were like that frame. Every window counts,
        whatever the config's hop.
        """
        places, rows = self._places[mode], self._rows(machine_id)
        row = rows[0]
        if len(rows) > 1:
            scores = self._score_as([log_mel] * len(rows), rows)
            row = rows[int(scores[:, self._modes.index(mode)].argmin())]
        nll = ops.group_made_score(log_mel, self._network_of(row), places, self._backend, self._precision, per_dim=True)
        spread = dense.spread_over_frames(nll, places)
        if mode != "bands":
            return spread
        return self._deviations(spread.double() * len(places), [row] * len(spread)).float()
