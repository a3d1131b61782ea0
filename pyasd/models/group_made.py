"""Group MADE: the density of five log-Mel frames, each predicted from those before it in an ordering.

Report section 2.1: a masked autoencoder (Germain et al., 2015) whose degrees belong to frames instead of single
inputs, and whose outputs are mixtures of Gaussians.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from pyasd import ops, training
from pyasd.config import BAND_SCALE_FLOOR, GroupMadeConfig, Order, Pooling, Precision
from pyasd.models import dense

MARGINAL_FRAMES = 20_000
"""Frames, evenly spaced over the training data, from which the marginal densities are taken."""

MARGINAL_SCALE_MIN = 0.1
"""Smallest standard deviation of an initial Gaussian, in units of the band's own."""

HEAD_WEIGHT_BOUND = 0.05
"""The head's weights start uniform in +- this: the first epoch then starts near the marginal densities."""


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


class GroupMade(nn.Module):
    """Group MADE over windows of log-Mel frames.

    Args:
        config: see `config.GroupMadeConfig`.
        mels: Mel bands.
        seed: of the initial weights.

    Attributes:
        band_mean, band_scale: `[mels]`, in dB: the training data's, by which inputs are standardised.
    """

    name: ClassVar[str] = "group-made"
    modes: ClassVar[tuple[str, ...]] = ("joint", "middle", "conditional")

    band_mean: Tensor
    band_scale: Tensor

    def __init__(self, config: GroupMadeConfig, mels: int, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.mels = mels
        self.default_mode = config.score
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

    def head(self, weight: Tensor, bias: Tensor) -> ops.MixtureHead:
        """An output layer of this shape, with the degrees that make it autoregressive."""
        config = self.config
        hidden = hidden_degrees(config.hidden[-1], config.frames)
        return ops.MixtureHead(weight, bias, hidden, self.degrees, config.components, config.log_scale_min)

    def forward(self, windows: Tensor, backend: str = "auto", precision: Precision = "float32") -> Tensor:
        """Each frame's log-likelihood given the frames before it in the ordering, per dB.

        Args:
            windows: `[n, frames * mels]` float32, in dB, in time order.
            backend, precision: see `ops.mixture_log_prob`.

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

    def fit(self, log_mels: Sequence[Tensor], ids: Sequence[str], run: training.Run) -> training.History:
        """Learn from clips: standardisation and marginals first, then every window's joint likelihood (Eq. 3).

        Args:
            log_mels: `[frames, mels]` float32 per clip, in dB.
            ids: their machine IDs, for the choice of the clips held out.
            run: seed, device, checkpoint, progress.

        Raises:
            ValueError: there are fewer than two windows.
            TrainingDiverged: the loss is no longer finite.
        """
        config = self.config
        validation = training.held_out(ids, config.validation, run.seed)
        windows = training.WindowSet(log_mels, config.frames, validation, run.device)
        self._start_from([x for x, held in zip(log_mels, validation, strict=True) if not held])
        self.to(run.device)

        def loss(starts: Tensor) -> Tensor:
            return self.mean_loss(windows.gather(starts), run.backend, run.precision)

        return training.fit(self, loss, windows, config, run, config.gradient_clip)

    @torch.no_grad()
    def _start_from(self, log_mels: Sequence[Tensor]) -> None:
        """Take standardisation and initial biases from the training data: the network starts at the marginal density
        of each band, and the first frame's mixture, which sees no input, is there from the beginning.
        """
        mean, scale = training.band_statistics(log_mels)
        self.band_mean.copy_(mean)
        self.band_scale.copy_(scale.clamp(min=BAND_SCALE_FLOOR))
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

    def scorer(
        self, device: torch.device | str = "cpu", backend: str = "auto", precision: Precision = "float32"
    ) -> Scorer:
        """The network as it is now, made ready for scoring on `device`."""
        return Scorer(self, torch.device(device), backend, precision)

    def state(self) -> dict[str, Tensor]:
        """All tensors by name, on the CPU."""
        return dense.state_of(self)

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over the tensors of `state`. Raises ValueError where they don't fit."""
        dense.load_state(self, state)


class Scorer:
    """Scores whole clips with a `GroupMade`, whose batch norm and masks are folded into plain layers."""

    def __init__(self, made: GroupMade, device: torch.device, backend: str, precision: Precision) -> None:
        self._network = ops.GroupMadeNetwork(
            made.band_mean.clone().to(device),
            made.band_scale.clone().to(device),
            tuple(made.trunk.fold(device)),
            made.head(made.head_weight.detach().clone().to(device), made.head_bias.detach().clone().to(device)),
        )
        self._pooling: Pooling = made.config.pooling
        self._backend, self._precision = backend, precision
        self._frames = made.config.frames
        frames = range(self._frames)
        self._places = {
            "joint": list(frames),
            "middle": [len(frames) // 2],
            "conditional": [t for t in frames if made.degrees[t] > 1],
        }
        self._columns = [torch.tensor(places, device=device) for places in self._places.values()]

    def score(self, log_mel: Tensor, machine_id: str | None = None) -> Tensor:
        """`score_many` of one clip: `[modes]` float64."""
        return self.score_many([log_mel], [machine_id])[0]

    def score_many(self, log_mels: Sequence[Tensor], machine_ids: Sequence[str | None]) -> Tensor:
        """Clips' negative log-likelihoods, in nats per window, in all of `GroupMade.modes` from one pass over all of
        them; a clip's bits don't depend on the others, and a GPU is not waited for.

        `joint`: of the whole window (Eq. 3). `middle`: of its middle frame given those before it in the ordering:
        the four others for the order `middle` (Eq. 4), the earlier two for `causal`. `conditional`: of all frames
        but the one that comes first in the ordering and is conditioned on nothing.

        Args:
            log_mels: `[frames, mels]` float32 each, in dB, at least one window long.
            machine_ids: make no difference here.

        Returns:
            `[clips, 3]` float64: windows are summed and pooled in float64.
        """
        lengths = [len(x) for x in log_mels]
        packed = torch.cat(list(log_mels))
        nll = ops.group_made_score(packed, self._network, None, self._backend, self._precision, lengths=lengths)
        by_mode = torch.stack([nll.index_select(1, columns).sum(1) for columns in self._columns], 1)
        return dense.pool_clips(by_mode, [n - self._frames + 1 for n in lengths], self._pooling)

    def explain(self, log_mel: Tensor, mode: str, machine_id: str | None = None) -> Tensor:
        """Where a clip's score comes from: the mean negative log-likelihood of each frame and band, in nats,
        `[frames, mels]` float32, over the windows in which `mode` counts the frame; NaN where none does.
        """
        places = self._places[mode]
        nll = ops.group_made_score(log_mel, self._network, places, self._backend, self._precision, per_dim=True)
        return dense.spread_over_frames(nll, places)
