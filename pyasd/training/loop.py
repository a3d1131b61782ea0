"""The training loop of all members that learn by epochs from windows of log-Mel frames.

It holds for each of them:

- Clips, never windows, are held out for validation, the same share of each machine ID.
- An epoch is seeded by (seed, epoch) alone, and everything else that it needs is in the checkpoint: a training that
  was killed ends with the same bits as an unbroken one.
- The weights of the epoch with the lowest validation loss are kept; without held-out clips, the last epoch's.
- Training ends early when the validation loss has not sunk for `patience` epochs.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pyasd.errors import TrainingDiverged
from pyasd.settings import check_types
from pyasd.training.checkpoint import TrainingState, resume, save
from pyasd.training.data import WindowSet, random_generator
from pyasd.training.run import History, Run

CHECKPOINT_SECONDS = 5.0
"""A checkpoint is written at the end of an epoch, but not more often than this."""

LOSS_CHECK_BATCHES = 16
"""Losses are looked at (which waits for a GPU) once in so many batches, and at the end of each epoch."""

EPOCH_STEPS = 20
"""Batches of an epoch where training is by steps: several passes over few windows, or some of many."""

VALIDATION_WINDOWS = 4096
"""Held-out windows, evenly spaced, that judge such an epoch: of more it would take longer than the epoch itself."""

SETTLING_BATCHES = 16
"""Batches over which batch norm's statistics are computed anew, where `TrainingConfig.settles` asks for it."""


Schedule = Literal["constant", "cosine"]


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of every member that learns by epochs.

    Attributes:
        epochs: passes over the training windows, at most.
        steps: batches in all, at most, instead of `epochs`, so that few and many clips are learnt for as long; an epoch
            is `EPOCH_STEPS` of them then. 0 trains by epochs.
        batch_size: windows in a batch.
        learning_rate: Adam's.
        schedule: "constant", or "cosine": the learning rate sinks to zero along half a cosine over the whole training
            (Loshchilov and Hutter, 2017).
        validation: share of clips (never windows) held out.
        patience: training ends before its last epoch when the validation loss has not sunk in so many (ours).
    """

    epochs: int = 100
    steps: int = 0
    batch_size: int = 512
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
    validation: float = 0.1
    patience: int = 10

    def __post_init__(self) -> None:
        check_types(self)
        if self.steps < 0:
            raise ValueError(f"steps must be 0, for training by epochs, or more, not {self.steps}")
        if self.epochs < 1 or self.patience < 1 or self.batch_size < 2:
            raise ValueError(
                f"epochs and patience must be at least 1 and batch_size at least 2, got {self.epochs}, "
                f"{self.patience} and {self.batch_size}"
            )
        if not self.learning_rate > 0 or not 0 <= self.validation < 1:
            raise ValueError(
                f"need learning_rate > 0 and 0 <= validation < 1, got {self.learning_rate} and {self.validation}"
            )

    @property
    def all_epochs(self) -> int:
        """Epochs of the whole training."""
        return math.ceil(self.steps / EPOCH_STEPS) if self.steps else self.epochs

    @property
    def gradient_clip(self) -> float | None:
        """Largest norm of a gradient; `None` for any."""
        return None

    @property
    def settles(self) -> bool:
        """Whether batch norm's statistics are computed anew at the end of each epoch. In deep networks those of passing
        batches lag too far behind the weights.
        """
        return False


class Sampler:
    """Draws the windows of each epoch, and says which are for validation.

    Args:
        windows: what to draw from.
        group_of: the groups `[n]` int64 of the windows that begin at frames `[n]`. Where it is given, windows of every
            group are drawn equally often (see `balanced`), and validation takes means over the groups' own means.
        hop: take every so many-th window of a clip, from another first one in each epoch; in validation from its first.
    """

    def __init__(self, windows: WindowSet, group_of: Callable[[Tensor], Tensor] | None = None, hop: int = 1) -> None:
        self.windows = windows
        self._hop = hop
        validation = windows.validation
        if hop > 1:
            self._clips, self._offsets = windows.clips(windows.training).cpu(), windows.offsets(windows.training).cpu()
            self._per_clip = torch.bincount(self._clips)
            validation = validation[windows.offsets(validation) % hop == 0]
        self._groups = None if group_of is None else group_of(windows.training).cpu().numpy()
        self.validation_sets = [validation] if len(validation) else []
        if group_of is not None and len(validation):
            groups = group_of(validation)
            self.validation_sets = [validation[groups == x] for x in np.unique(groups.cpu().numpy())]

    def batches(self, batch_size: int) -> int:
        """Return the number of batches in a pass over the windows."""
        count = len(self.windows.training)
        if self._hop > 1:
            count = int((self._per_clip / self._hop).ceil().sum())
        return math.ceil(count / batch_size)

    def epoch(self, config: TrainingConfig, seed: int) -> list[Tensor]:
        """Draw an epoch's batches: the places of their windows in `windows.training`, int64, on the CPU.

        Batches are of nearly equal size: a small remainder would give batch norm poor statistics, one window none.
        """
        a_pass = self.batches(config.batch_size)
        if not config.steps:
            return list(self.order(seed).tensor_split(a_pass))
        if a_pass > EPOCH_STEPS and self._groups is None:
            generator = torch.Generator().manual_seed(seed)
            shape = EPOCH_STEPS, config.batch_size
            return list(torch.randint(len(self.windows.training), shape, generator=generator))
        passes = itertools.count(seed)
        return list(itertools.islice((x for s in passes for x in self.order(s).tensor_split(a_pass)), EPOCH_STEPS))

    def order(self, seed: int) -> Tensor:
        """Draw the windows of a pass: their places in `windows.training`, int64, on the CPU."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.windows.training), generator=generator)
        if self._hop > 1:
            choices = self._per_clip.clamp(max=self._hop)  # every clip has a window
            first = (torch.rand(len(choices), generator=generator) * choices).long()
            some = order[((self._offsets - first[self._clips]) % self._hop == 0)[order]]
            return some if len(some) > 1 else order  # batch norm needs two
        return order if self._groups is None else balanced(self._groups, generator)[order]


def balanced(groups: NDArray[np.int64], generator: torch.Generator) -> Tensor:
    """Choose the windows of an epoch, ascending, as many as there are: every group equally often.

    Windows of a group are drawn equally often, or once more; the most frequent groups take what remains. Where groups
    are equally frequent already, each window is drawn once.

    Args:
        groups: of the windows, `[windows]`.
        generator: for the choice of those that come once more.

    Returns:
        `[windows]` int64, places in `groups`.
    """
    names, counts = np.unique(groups, return_counts=True)
    share, remainder = divmod(len(groups), len(names))
    drawn = []
    for rank, which in enumerate(np.argsort(-counts, kind="stable")):
        places = torch.from_numpy(np.flatnonzero(groups == names[which]))
        times, rest = divmod(share + (rank < remainder), len(places))
        drawn += [places] * times
        if rest:
            drawn.append(places[torch.randperm(len(places), generator=generator)[:rest]])
    return torch.cat(drawn).sort().values


def fit(
    module: nn.Module, loss: Callable[[Tensor], Tensor], sampler: Sampler, config: TrainingConfig, run: Run
) -> History:
    """Train `module` with Adam, in place; it ends in evaluation mode with the weights of the epoch that is kept.

    Args:
        module: on the run's device, and initialised: a resumed training overwrites its state.
        loss: of the windows that begin at frames `[n]`, their mean loss; calls `module`. A classifier's gives the
            share of windows whose class it found, too: `[2]`. Its random numbers are torch's own.
        sampler: draws what to learn from.
        config: epochs, batch size, learning rate and how it changes.
        run: seed, device, checkpoint and progress.

    Raises:
        TrainingDiverged: the loss is no longer finite.
    """
    optimizer = torch.optim.Adam(module.parameters(), lr=config.learning_rate, fused=True)
    state = TrainingState(module, optimizer, History(), {})
    fingerprint = f"{asdict(config)} {run.seed} {run.compute.precision} {sampler.windows.digest()}"
    if run.checkpoint is not None:
        resume(state, run.checkpoint, fingerprint)
    history = state.history
    written = time.monotonic()
    while not _finished(history, config):
        epoch = len(history.training)
        history.training.append(_epoch(state, loss, sampler, config, run))
        if sampler.validation_sets:
            sets = [_some(x) for x in sampler.validation_sets] if config.steps else sampler.validation_sets
            validation, *accuracy = _validate(module, loss, sets, config.batch_size)
            history.validation.append(validation)
            history.accuracy += accuracy
            if not math.isfinite(validation):
                raise TrainingDiverged(f"the validation loss is {validation} after epoch {epoch + 1}")
        if not history.validation or history.validation[-1] == min(history.validation):
            history.kept = epoch
            state.best = {name: x.detach().clone() for name, x in module.state_dict().items()}
        due = time.monotonic() - written >= CHECKPOINT_SECONDS or _finished(history, config)
        if run.checkpoint is not None and due:
            save(state, run.checkpoint, fingerprint)
            written = time.monotonic()
    module.load_state_dict(state.best)
    module.eval()
    return history


def _epoch(
    state: TrainingState, loss: Callable[[Tensor], Tensor], sampler: Sampler, config: TrainingConfig, run: Run
) -> float:
    """Learn from one epoch's windows; return their mean loss."""
    module, history, windows, device = state.module, state.history, sampler.windows, run.compute.device
    epoch = len(history.training)
    module.train()
    seed = int(random_generator(run.seed, "epoch", str(epoch)).integers(2**62))
    drawn = [x.to(windows.training.device) for x in sampler.epoch(config, seed)]
    batches = len(drawn)
    losses = torch.zeros(batches, device=windows.training.device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for batch, chosen in enumerate(drawn):
            if config.schedule == "cosine":
                done = (epoch + batch / batches) / config.all_epochs
                for group in state.optimizer.param_groups:
                    group["lr"] = config.learning_rate * (1 + math.cos(math.pi * done)) / 2
            value = loss(windows.training[chosen]).view(-1)[0]
            state.optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            if config.gradient_clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), config.gradient_clip)
            state.optimizer.step()
            losses[batch] = value.detach() * len(chosen)
            if (batch + 1) % LOSS_CHECK_BATCHES == 0 or batch + 1 == batches:
                _check_finite(losses, epoch, config.learning_rate)
            run.progress(run.stage, epoch * batches + batch + 1, config.all_epochs * batches, _info(history, config))
        if config.settles:
            some = torch.cat(drawn)[: SETTLING_BATCHES * config.batch_size]
            _settle(module, loss, windows.training[some].tensor_split(min(batches, SETTLING_BATCHES)))
    return losses.double().sum().item() / sum(len(x) for x in drawn)


def _some(starts: Tensor) -> Tensor:
    """Evenly spaced ones of many windows."""
    return starts[:: math.ceil(len(starts) / VALIDATION_WINDOWS)]


def _finished(history: History, config: TrainingConfig) -> bool:
    done = len(history.training)
    return done >= config.all_epochs or (bool(history.validation) and done - 1 - history.kept >= config.patience)


def _settle(module: nn.Module, loss: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    with torch.no_grad():
        for batch in batches:
            loss(batch)


def _validate(
    module: nn.Module, loss: Callable[[Tensor], Tensor], sets: Sequence[Tensor], batch_size: int
) -> list[float]:
    """Means over the sets of what `loss` gives on average over the windows of each."""
    module.eval()
    means = []
    with torch.no_grad():
        for starts in sets:
            sums = [loss(x).double().view(-1) * len(x) for x in torch.split(starts, batch_size)]
            means.append(torch.stack(sums).sum(0) / len(starts))
    return [float(x) for x in torch.stack(means).mean(0)]


def _check_finite(losses: Tensor, epoch: int, learning_rate: float) -> None:
    bad = torch.nonzero(~torch.isfinite(losses))
    if len(bad):
        first = int(bad[0])
        raise TrainingDiverged(
            f"the loss became {losses[first].item()} in epoch {epoch + 1}, batch {first + 1}: try a smaller "
            f"learning_rate than {learning_rate:g}"
        )


def _info(history: History, config: TrainingConfig) -> str:
    info = f"epoch {len(history.training) + 1}/{config.all_epochs}"
    if history.training:
        info += f", loss {history.training[-1]:.4g}"
    if history.validation:
        info += f", validation {history.validation[-1]:.4g}"
    if history.accuracy:
        info += f", accuracy {history.accuracy[-1]:.1%}"
    return info
