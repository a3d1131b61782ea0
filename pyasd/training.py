"""The fit loop of all models that learn from windows of log-Mel frames.

What is stated here holds for each of them:

- Clips, never windows, are held out for validation, the same share of each machine ID.
- An epoch is seeded by (seed, epoch) alone, and everything else that it needs is in the checkpoint: a training that
  was killed ends with the same bits as an unbroken one.
- The weights of the epoch with the lowest validation loss are kept; without validation clips, the last epoch's.
- Training ends early when the validation loss has not sunk for `patience` epochs.
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pyasd import storage
from pyasd.config import Precision, TrainedConfig
from pyasd.errors import ModelFileError, TrainingDiverged
from pyasd.features.windows import frame_windows
from pyasd.progress import Progress

CHECKPOINT_SECONDS = 5.0
"""A checkpoint is written at the end of an epoch, but not more often than this."""

LOSS_CHECK_BATCHES = 16
"""Losses are looked at (which waits for a GPU) once in so many batches, and at the end of each epoch."""


SETTLING_BATCHES = 16
"""Batches over which batch norm's statistics are taken anew, where that is asked for."""


@dataclass(frozen=True)
class Run:
    """How to train, as opposed to what.

    Attributes:
        seed: the same seed on the same machine, with as many threads, gives the same model, bit for bit.
        device: where to train.
        backend, precision: of the operators, see `ops`.
        checkpoint: file from which to resume where it exists, and to write to; `None` for neither.
        progress: told of each batch.
        stage: what `progress` hears as the stage.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    backend: str = "auto"
    precision: Precision = "float32"
    checkpoint: Path | None = None
    progress: Progress | None = None
    stage: str = "training"


@dataclass
class History:
    """Mean losses of each epoch over the training windows (as they were met) and over the validation windows;
    `kept` is the epoch, from 0, whose weights the model has. `accuracy` is the share of validation windows whose class
    a classifier found; empty for other models. Where groups are balanced (machine IDs), both validation
    figures are means over the groups' own means.
    """

    training: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    kept: int = -1
    accuracy: list[float] = field(default_factory=list)


def held_out(ids: Sequence[str], share: float, seed: int) -> NDArray[np.bool_]:
    """Which clips validate: of each machine ID `share` of its clips, but at least one of two or more; `[clips]`."""
    mask = np.zeros(len(ids), bool)
    for machine_id in sorted(set(ids)):
        own = np.flatnonzero([x == machine_id for x in ids])
        count = max(1, round(share * len(own))) if share > 0 and len(own) > 1 else 0
        mask[_numpy_rng(seed, "validation", machine_id).permutation(own)[:count]] = True
    return mask


def band_statistics(log_mels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each Mel band over all frames of `[frames, mels]` clips: `[mels]` float64."""
    count = sum(len(x) for x in log_mels)
    mean = torch.stack([x.double().sum(0).cpu() for x in log_mels]).sum(0) / count
    square = torch.stack([(x.double().cpu() - mean).square().sum(0) for x in log_mels]).sum(0) / count
    return mean, square.sqrt()


class WindowSet:
    """The windows of many clips, gathered by index from one packed tensor of frames: they never all exist at once.

    Args:
        log_mels: one `[frames, mels]` float32 per clip.
        frames: frames in a window; clips with fewer have no window.
        validation: which clips are held out.
        device: where the frames are to be.
        hop: frames from one window of a clip to its next.

    Attributes:
        packed: all frames, `[all frames, mels]`.
        training, validation: first frames of the windows, int64.

    Raises:
        ValueError: there are fewer than two training windows.
    """

    def __init__(
        self,
        log_mels: Sequence[Tensor],
        frames: int,
        validation: NDArray[np.bool_],
        device: torch.device,
        hop: int = 1,
    ) -> None:
        lengths = np.array([len(x) for x in log_mels], int)
        firsts = np.cumsum(lengths) - lengths
        parts: dict[bool, list[NDArray[np.int64]]] = {False: [np.empty(0, np.int64)], True: [np.empty(0, np.int64)]}
        for first, length, held in zip(firsts, lengths, validation, strict=True):
            parts[bool(held)].append(np.arange(first, first + max(length - frames + 1, 0), hop))
        self.training = torch.from_numpy(np.concatenate(parts[False])).to(device)
        self.validation = torch.from_numpy(np.concatenate(parts[True])).to(device)
        if len(self.training) < 2:
            raise ValueError(
                f"{len(log_mels)} clips make {len(self.training)} training windows of {frames} frames, and training "
                "needs at least 2: give more or longer clips"
            )
        self.packed = torch.cat(list(log_mels)).to(device)
        self._windows = frame_windows(self.packed, frames)
        self._ends = torch.from_numpy(firsts + lengths).to(device)

    def gather(self, starts: Tensor) -> Tensor:
        """The windows that begin at frames `starts`, `[len(starts), frames * mels]`."""
        return self._windows[starts]

    def clips(self, starts: Tensor) -> Tensor:
        """The clips' indices, int64, in which frames `starts` lie."""
        return torch.searchsorted(self._ends, starts, right=True)

    def digest(self) -> str:
        """SHA-256 of the frames and of the split."""
        sha = hashlib.sha256()
        for x in (self.packed, self.training, self.validation):
            sha.update(x.cpu().numpy().data)
        return sha.hexdigest()


def fit(
    module: nn.Module,
    loss: Callable[[Tensor], Tensor],
    windows: WindowSet,
    config: TrainedConfig,
    run: Run,
    gradient_clip: float | None = None,
    cosine: bool = False,
    settle: bool = False,
    group_of: Callable[[Tensor], Tensor] | None = None,
) -> History:
    """Train `module` with Adam, in place; it ends in evaluation mode with the weights of the epoch that is kept.

    Args:
        module: on `run.device`, and initialised: a resumed training overwrites its state.
        loss: of the windows that begin at frames `[n]`, their mean loss; calls `module`. A classifier's gives the
            share of windows whose class it found, too: `[2]`. Its random numbers are torch's own.
        windows: what to learn from.
        config: epochs, batch size and learning rate.
        run: seed, checkpoint and progress.
        gradient_clip: largest norm of the gradient.
        cosine: the learning rate sinks to zero, over all epochs, along half a cosine (Loshchilov and Hutter, 2017).
        settle: batch norm's statistics are taken anew at the end of each epoch, over `SETTLING_BATCHES`. In deep
            networks those met in passing lag too far behind the weights.
        group_of: the groups `[n]`, int64, of the windows that begin at frames `[n]`. Where it is given, windows of
            every group are drawn equally often (see `balanced`), and validation takes means over the groups' own means.

    Raises:
        TrainingDiverged: the loss is no longer finite.
    """
    optimizer = torch.optim.Adam(module.parameters(), lr=config.learning_rate, fused=True)
    state = _State(module, optimizer, History(), {})
    fingerprint = f"{asdict(config)} {run.seed} {run.precision} {windows.digest()}"
    if run.checkpoint is not None:
        _resume(state, run.checkpoint, fingerprint)
    history = state.history
    batches = math.ceil(len(windows.training) / config.batch_size)
    groups = None if group_of is None else group_of(windows.training).cpu().numpy()
    validation_sets = [windows.validation]
    if group_of is not None and len(windows.validation):
        own = group_of(windows.validation)
        validation_sets = [windows.validation[own == which] for which in np.unique(own.cpu().numpy())]
    written = time.monotonic()
    while not _finished(history, config):
        epoch = len(history.training)
        module.train()
        seed = int(_numpy_rng(run.seed, "epoch", str(epoch)).integers(2**62))
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(windows.training), generator=generator)
        if groups is not None:
            order = balanced(groups, generator)[order]
        losses = torch.zeros(batches, device=windows.training.device)
        with torch.random.fork_rng([run.device] if run.device.type == "cuda" else []):
            torch.manual_seed(seed)
            # Batches of nearly equal size: a small remainder would give batch norm poor statistics, one window none.
            for batch, chosen in enumerate(order.to(windows.training.device).tensor_split(batches)):
                if cosine:
                    done = (epoch + batch / batches) / config.epochs
                    for group in optimizer.param_groups:
                        group["lr"] = config.learning_rate * (1 + math.cos(math.pi * done)) / 2
                value = loss(windows.training[chosen]).view(-1)[0]
                optimizer.zero_grad()
                value.backward()  # type: ignore[no-untyped-call]
                if gradient_clip is not None:
                    nn.utils.clip_grad_norm_(module.parameters(), gradient_clip)
                optimizer.step()
                losses[batch] = value.detach() * len(chosen)
                if (batch + 1) % LOSS_CHECK_BATCHES == 0 or batch + 1 == batches:
                    _check_finite(losses, epoch, config.learning_rate)
                if run.progress is not None:
                    done_batches = epoch * batches + batch + 1
                    run.progress(run.stage, done_batches, config.epochs * batches, _info(history, config))
            if settle:
                some = order[: SETTLING_BATCHES * config.batch_size].to(windows.training.device)
                _settle(module, loss, windows.training[some].tensor_split(min(batches, SETTLING_BATCHES)))
        history.training.append(losses.double().sum().item() / len(windows.training))
        if len(windows.validation):
            validation, *accuracy = _validate(module, loss, validation_sets, config.batch_size)
            history.validation.append(validation)
            history.accuracy += accuracy
            if not math.isfinite(validation):
                raise TrainingDiverged(f"the validation loss is {validation} after epoch {epoch + 1}")
        if not history.validation or history.validation[-1] == min(history.validation):
            history.kept = epoch
            state.best = {name: x.detach().clone() for name, x in module.state_dict().items()}
        due = time.monotonic() - written >= CHECKPOINT_SECONDS or _finished(history, config)
        if run.checkpoint is not None and due:
            _save(state, run.checkpoint, fingerprint)
            written = time.monotonic()
    module.load_state_dict(state.best)
    module.eval()
    return history


def _finished(history: History, config: TrainedConfig) -> bool:
    done = len(history.training)
    return done >= config.epochs or (bool(history.validation) and done - 1 - history.kept >= config.patience)


def _settle(module: nn.Module, loss: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    with torch.no_grad():
        for batch in batches:
            loss(batch)


def balanced(groups: NDArray[np.int64], generator: torch.Generator) -> Tensor:
    """Which windows an epoch sees, ascending, as many as there are: of each group equally often (the most frequent
    ones take what remains), and of a group each equally often, or once more. Where groups are equally frequent
    already, that is each window once.

    Args:
        groups: of the windows, `[windows]`.
        generator: for the choice of those that come once more.

    Returns:
        `[windows]` int64, places in `groups`.
    """
    found, counts = np.unique(groups, return_counts=True)
    share, remainder = divmod(len(groups), len(found))
    drawn = []
    for rank, which in enumerate(np.argsort(-counts, kind="stable")):
        own = torch.from_numpy(np.flatnonzero(groups == found[which]))
        times, rest = divmod(share + (rank < remainder), len(own))
        drawn += [own] * times
        if rest:
            drawn.append(own[torch.randperm(len(own), generator=generator)[:rest]])
    return torch.cat(drawn).sort().values


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
    return torch.stack(means).mean(0).tolist()


def _check_finite(losses: Tensor, epoch: int, learning_rate: float) -> None:
    bad = torch.nonzero(~torch.isfinite(losses))
    if len(bad):
        first = int(bad[0])
        raise TrainingDiverged(
            f"the loss became {losses[first].item()} in epoch {epoch + 1}, batch {first + 1}: try a smaller "
            f"learning_rate than {learning_rate:g}"
        )


def _info(history: History, config: TrainedConfig) -> str:
    info = f"epoch {len(history.training) + 1}/{config.epochs}"
    if history.training:
        info += f", loss {history.training[-1]:.4g}"
    if history.validation:
        info += f", validation {history.validation[-1]:.4g}"
    if history.accuracy:
        info += f", accuracy {history.accuracy[-1]:.1%}"
    return info


def _numpy_rng(seed: int, *purpose: str) -> np.random.Generator:
    """A generator for one purpose: the same for equal arguments, independent of those for others."""
    digest = hashlib.sha256(repr((seed, purpose)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


# -- checkpoints -------------------------------------------------------------------------------------------------


@dataclass
class _State:
    module: nn.Module
    optimizer: torch.optim.Adam
    history: History
    best: dict[str, Tensor]


def _save(state: _State, path: Path, fingerprint: str) -> None:
    tensors = {f"model.{name}": x for name, x in state.module.state_dict().items()}
    tensors |= {f"best.{name}": x for name, x in state.best.items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": x for name, x in moments.items()}
    path.parent.mkdir(exist_ok=True)
    storage.write(path, tensors, {"fingerprint": fingerprint, "history": asdict(state.history)})


def _resume(state: _State, path: Path, fingerprint: str) -> None:
    """Take over the checkpoint at `path`, where there is one, of this very training."""
    if not path.exists():
        return
    try:
        tensors, header = storage.read(path)
    except ModelFileError as error:
        warnings.warn(f"training starts anew: {error}", stacklevel=3)
        return
    if header.get("fingerprint") != fingerprint:
        warnings.warn(
            f"training starts anew: the checkpoint {path} is of other clips, settings or another seed", stacklevel=3
        )
        return
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "optimizer": {}}
    for name, x in tensors.items():
        part, rest = name.split(".", 1)
        parts[part][rest] = x
    device = next(state.module.parameters()).device
    state.module.load_state_dict(parts["model"])
    state.best = {name: x.to(device) for name, x in parts["best"].items()}
    state.history = History(**header["history"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, x in parts["optimizer"].items():
        index, key = name.split(".")
        moments.setdefault(int(index), {})[key] = x
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    for x, own in state.optimizer.state.items():  # of the parameter's strides, without which sums round otherwise
        own |= {key: torch.empty_like(x).copy_(y) for key, y in own.items() if y.shape == x.shape}
