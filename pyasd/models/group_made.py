"""Group MADE: the density of five log-Mel frames, each predicted from those before it in an ordering.

Report section 2.1: a masked autoencoder (Germain et al., 2015) whose degrees belong to frames instead of single
inputs, and whose outputs are mixtures of Gaussians.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from pyasd import ops
from pyasd.backends.contract import LOG_SCALE_MIN, Precision
from pyasd.compute import Compute, by_device
from pyasd.models import dense
from pyasd.models.member import Mode, NormalScores, Scorer, register
from pyasd.models.moments import VARIANCE_FLOOR, Moments
from pyasd.models.pooling import Pooling, pool_clips
from pyasd.models.trained import TrainedConfig, TrainedMember
from pyasd.training import loop
from pyasd.training.data import TrainingSet, WindowSet, band_statistics
from pyasd.training.run import History, Run

Order = Literal["causal", "middle"]
ScoreMode = Literal["joint", "middle", "conditional", "bands"]

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
            window is another in each epoch. The report takes every window.
        hidden: widths of the hidden layers.
        components: Gaussians in the mixture of each output dimension.
        order: `causal` predicts each frame from those before it; `middle` predicts the middle frame from the
            other four (Eq. 4). Data stays in time order: only the masks' degrees change.
        log_scale_min: smallest log standard deviation of a Gaussian, in units of the band's own standard
            deviation (a hundredth: digital silence repeated would otherwise drive the density to infinity).
        score: the mode that counts; see `LIKELIHOODS` and `BANDS` (ours).
        pooling: how window scores make a clip's score. The report takes the mean.
        epochs, batch_size, learning_rate, validation, patience: see `TrainingConfig`. Adam's 1e-3 is the report's; the
            others are the challenge baseline's.
        gradient_clip: largest norm of a gradient (ours: rare windows far in the tails otherwise throw Adam off).
        variance_floor: added to the variances that batch norm divides by (ours: without it the likelihood of clips held
            out explodes, see `DenseStack.variance_floor`).
    """

    frames: int = 5
    window_hop: int = 1
    hidden: tuple[int, ...] = (128, 128, 128, 128, 32, 128, 128, 128, 128)
    components: int = 10
    order: Order = "causal"
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
        if self.frames < 2 or min(self.hidden, default=0) < self.frames - 1 or self.components < 1:
            raise ValueError(
                f"need at least 2 frames, a component and {self.frames - 1} units in each hidden layer (one for each "
                f"degree), got frames={self.frames}, components={self.components}, hidden={self.hidden}"
            )

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


def hidden_degrees(units: int, frames: int) -> tuple[int, ...]:
    """Degrees 1 ... frames - 1 in equal shares (as nearly as can be), ascending: the masks are prefixes then."""
    return tuple(1 + unit * (frames - 1) // units for unit in range(units))


@register
class GroupMade(TrainedMember, nn.Module):
    """Group MADE over windows of log-Mel frames.

    Attributes:
        band_mean, band_scale: `[mels]`, in dB: the training data's, by which inputs are standardised.
        bands: what each Mel band's conditional negative log-likelihood, in nats per window, is like in the training
            clips of each machine ID: its modes are the bands. `None` before `fit`.
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
            *(torch.tensor(hidden_degrees(units, config.frames)) for units in config.hidden),
        ]
        masks = [(before <= after[:, None]).float() for before, after in itertools.pairwise(layer_degrees)]
        self.trunk = dense.DenseStack([dims, *config.hidden], generator, masks)
        outputs = 3 * dims * config.components
        self.head_weight = nn.Parameter(
            HEAD_WEIGHT_BOUND * (2 * torch.rand(outputs, config.hidden[-1], generator=generator) - 1)
        )
        self.head_bias = nn.Parameter(torch.zeros(outputs))
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
        hidden = hidden_degrees(config.hidden[-1], config.frames)
        return ops.MixtureHead(weight, bias, hidden, self.degrees, config.components, config.log_scale_min)

    def forward(self, windows: Tensor, backend: str = "auto", precision: Precision = "float32") -> Tensor:
        """Compute each frame's log-likelihood given the frames before it in the ordering, per dB.

        Args:
            windows: `[n, frames * mels]` float32, in dB, in time order.
            backend: see `ops.mixture_log_prob`.
            precision: see `ops.mixture_log_prob`.

        Returns:
            `[n, frames]` float32, in nats, frames in time order: their sum is the log density of a window in dB
            (the standardisation's Jacobian is included).
        """
        z, head = self._standardise(windows), self.head(self.head_weight, self.head_bias)
        log_prob = ops.mixture_log_prob(self.trunk(z), z, head, backend, precision)
        return log_prob - self.band_scale.log().sum()

    def mean_loss(self, windows: Tensor, backend: str = "auto", precision: Precision = "float32") -> Tensor:
        """The windows' mean negative log-likelihood in nats per dimension, a scalar: with its gradients in one pass."""
        z, head = self._standardise(windows), self.head(self.head_weight, self.head_bias)
        loss = ops.mixture_log_likelihood(self.trunk(z), z, head, backend, precision, scale=-1 / z.numel())
        return loss + self.band_scale.log().mean()

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
        self.to(compute.device)

        def loss(starts: Tensor) -> Tensor:
            return self.mean_loss(windows.gather(starts), compute.backend, compute.precision)

        with self.trunk.variance_floor(config.variance_floor):
            history = loop.fit(self, loss, loop.Sampler(windows, hop=config.window_hop), config, run)
        self._learn_bands(data, run)
        return history

    def _learn_bands(self, data: TrainingSet, run: Run) -> None:
        """Learn what the score `bands` compares with. Variances lean a little on the machine type's mean one."""
        scorer = self.scorer(run.compute, [])
        nll = []
        for done, log_mel in enumerate(data.log_mels):
            nll.append(scorer.band_nll([log_mel.to(run.compute.device)]).cpu())
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

    def scorer(self, compute: Compute | None = None, modes: Sequence[str] | None = None) -> GroupMadeScorer:
        """Make the network ready for scoring, as it is now."""
        return GroupMadeScorer(self, compute or Compute(), self.mode_names if modes is None else modes)

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
        dense.load_state(self, weights)


_BAND_MOMENTS = ("count", "mean", "variance")


class GroupMadeScorer(Scorer):
    """Scores whole clips with a `GroupMade`, whose batch norm and masks are folded into plain layers."""

    def __init__(self, made: GroupMade, compute: Compute, modes: Sequence[str]) -> None:
        device = compute.device
        self._network = ops.GroupMadeNetwork(
            made.band_mean.clone().to(device),
            made.band_scale.clone().to(device),
            tuple(made.trunk.fold(device)),
            made.head(made.head_weight.detach().clone().to(device), made.head_bias.detach().clone().to(device)),
        )
        self._pooling: Pooling = made.config.pooling
        self._backend, self._precision = compute.backend, compute.precision
        self._frames, self._hop = made.config.frames, made.config.window_hop
        frames = range(self._frames)
        conditional = [t for t in frames if made.degrees[t] > 1]
        self._places = {
            "joint": list(frames),
            "middle": [len(frames) // 2],
            "conditional": conditional,
            "bands": conditional,
        }
        self._modes = tuple(modes)
        self._columns = {mode: torch.tensor(places, device=device) for mode, places in self._places.items()}
        if made.bands is not None:
            known = [*made.bands.ids, None]
            self._ids = {machine_id: row for row, machine_id in enumerate(known)}
            moments = (np.stack(x) for x in zip(*(made.bands.of_id(x) for x in known), strict=True))
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
            machine_ids: of the clips; for `bands`, `None` or one that wasn't learnt takes the statistics of all.

        Returns:
            `[clips, modes]` float64: windows are summed and pooled in float64.
        """
        scores = {}
        summed = [mode for mode in self._modes if mode != "bands"]
        if summed:
            lengths = [len(x) for x in log_mels]
            packed = torch.cat(list(log_mels))
            places = sorted({place for mode in summed for place in self._places[mode]})
            nll = ops.group_made_score(
                packed, self._network, places, self._backend, self._precision, lengths=lengths, hop=self._hop
            )
            by_mode = torch.stack([nll.index_select(1, self._columns[mode]).sum(1) for mode in summed], 1)
            pooled = pool_clips(by_mode, [self._windows(n) for n in lengths], self._pooling)
            scores = dict(zip(summed, pooled.unbind(1), strict=True))
        if "bands" in self._modes:
            scores["bands"] = (
                self._deviations(self.band_nll(log_mels), machine_ids).clamp(min=0).square().mean(1).sqrt()
            )
        return torch.stack([scores[mode] for mode in self._modes], 1)

    def band_nll(self, log_mels: Sequence[Tensor]) -> Tensor:
        """Compute each band's conditional negative log-likelihood, `[clips, mels]` float64, in nats per window."""
        counts = [self._windows(len(x)) for x in log_mels]
        parts = []
        for pieces in self._passes(log_mels):
            nll = ops.group_made_score(
                torch.cat(pieces), self._network, self._places["bands"], self._backend, self._precision, per_dim=True,
                lengths=[len(x) for x in pieces], hop=self._hop,
            )  # fmt: skip
            parts.append(nll.index_select(1, self._columns["bands"]).sum(1))
        return pool_clips(torch.cat(parts), counts, self._pooling)

    def score_without(self, log_mel: Tensor, machine_id: str, count: int) -> float:
        """Compute the score `bands` of one of the `count` training clips of a machine ID, as if the bands' means and
        variances had been learnt from the others (in closed form; the variances' prior stays).
        """
        z = self._deviations(self.band_nll([log_mel.to(self._mean.device)]), [machine_id]).clamp(min=0)
        own = count / (count - 1) * z.square()  # of the clip's share in the sum of squares
        kept = count - 1 + BAND_PRIOR_CLIPS
        z = z * count / (count - 1) * (kept / (count + BAND_PRIOR_CLIPS - own)).sqrt()
        return float(z.square().mean().sqrt())

    def _windows(self, frames: int) -> int:
        """Windows of a clip of so many frames."""
        return 1 + (frames - self._frames) // self._hop

    def _passes(self, log_mels: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Clips in turn, several to a pass, or pieces of long ones."""
        most, hop = by_device(BAND_WINDOWS_PER_PASS, log_mels[0].device), self._hop
        some: list[Tensor] = []
        windows = 0
        for log_mel in log_mels:
            for first in range(0, self._windows(len(log_mel)), most):
                piece = log_mel[first * hop : (first + most - 1) * hop + self._frames]
                if some and windows + self._windows(len(piece)) > most:
                    yield some
                    some, windows = [], 0
                some.append(piece)
                windows += self._windows(len(piece))
        yield some

    def _deviations(self, nll: Tensor, machine_ids: Sequence[str | None]) -> Tensor:
        """How many standard deviations bands' likelihoods `[clips, mels]` lie above their means in normal clips."""
        rows = torch.tensor([self._ids.get(machine_id, self._ids[None]) for machine_id in machine_ids])
        rows = (rows.pin_memory() if nll.is_cuda else rows).to(nll.device, non_blocking=True)
        return (nll - self._mean[rows]) / self._scale[rows]

    def explain(self, log_mel: Tensor, mode: str, machine_id: str | None = None) -> Tensor:
        """Map where a clip's score comes from: the mean negative log-likelihood of each frame and band over the windows
        in which `mode` counts the frame, `[frames, mels]` float32, in nats; NaN where none does. With `bands`, in
        standard deviations above the band's mean, as if the whole clip were like that frame. Every window counts,
        whatever the config's hop.
        """
        places = self._places[mode]
        nll = ops.group_made_score(log_mel, self._network, places, self._backend, self._precision, per_dim=True)
        spread = dense.spread_over_frames(nll, places)
        if mode != "bands":
            return spread
        return self._deviations(spread.double() * len(places), [machine_id] * len(spread)).float()
