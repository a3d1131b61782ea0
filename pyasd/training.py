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
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pyasd import storage
from pyasd.config import AutoencoderConfig, GroupMadeConfig, Precision
from pyasd.windows import frame_windows

CHECKPOINT_SECONDS = 5.0
"""A checkpoint is written at the end of an epoch, but not more often than this."""

LOSS_CHECK_BATCHES = 16
"""Losses are looked at (which waits for a GPU) once in so many batches, and at the end of each epoch."""


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite; the message names the epoch and the batch."""


class Progress(Protocol):
    """Called as work goes on: `done` of `total` steps of a `stage`, and a few words of `info`."""

    def __call__(self, stage: str, done: int, total: int, info: str) -> None:
        """Hears of one more step."""


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
    `kept` is the epoch, from 0, whose weights the model has.
    """

    training: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    kept: int = -1


def held_out(ids: Sequence[str], share: float, seed: int) -> NDArray[np.bool_]:
    """Which clips validate: of each machine ID `share` of its clips, but at least one of two or more; `[clips]`."""
    mask = np.zeros(len(ids), bool)
    for machine_id in sorted(set(ids)):
        own = np.flatnonzero([x == machine_id for x in ids])
        count = max(1, round(share * len(own))) if share > 0 and len(own) > 1 else 0
        mask[_numpy_rng(seed, "validation", machine_id).permutation(own)[:count]] = True
    return mask


class WindowSet:
    """The windows of many clips, gathered by index from one packed tensor of frames: they never all exist at once.

    Args:
        log_mels: one `[frames, mels]` float32 per clip.
        frames: frames in a window; clips with fewer have no window.
        validation: which clips are held out.
        device: where the frames are to be.

    Attributes:
        packed: all frames, `[all frames, mels]`.
        training, validation: first frames of the windows, int64.

    Raises:
        ValueError: there are fewer than two training windows.
    """

    def __init__(
        self, log_mels: Sequence[Tensor], frames: int, validation: NDArray[np.bool_], device: torch.device
    ) -> None:
        lengths = np.array([len(x) for x in log_mels], int)
        firsts = np.cumsum(lengths) - lengths
        parts: dict[bool, list[NDArray[np.int64]]] = {False: [np.empty(0, np.int64)], True: [np.empty(0, np.int64)]}
        for first, length, held in zip(firsts, lengths, validation, strict=True):
            parts[bool(held)].append(np.arange(first, first + max(length - frames + 1, 0)))
        self.training = torch.from_numpy(np.concatenate(parts[False])).to(device)
        self.validation = torch.from_numpy(np.concatenate(parts[True])).to(device)
        if len(self.training) < 2:
            raise ValueError(
                f"{len(log_mels)} clips make {len(self.training)} training windows of {frames} frames, and training "
                "needs at least 2: give more or longer clips"
            )
        self.packed = torch.cat(list(log_mels)).to(device)
        self._windows = frame_windows(self.packed, frames)

    def gather(self, starts: Tensor) -> Tensor:
        """The windows that begin at frames `starts`, `[len(starts), frames * mels]`."""
        return self._windows[starts]

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
    config: GroupMadeConfig | AutoencoderConfig,
    run: Run,
    gradient_clip: float | None = None,
) -> History:
    """Train `module` with Adam, in place; it ends in evaluation mode with the weights of the epoch that is kept.

    Args:
        module: on `run.device`, and initialised: a resumed training overwrites its state.
        loss: of a batch of windows `[n, dims]`, its mean; calls `module`.
        windows: what to learn from.
        config: epochs, batch size and learning rate.
        run: seed, checkpoint and progress.
        gradient_clip: largest norm of the gradient.

    Raises:
        TrainingDiverged: the loss is no longer finite.
    """
    optimizer = torch.optim.Adam(module.parameters(), lr=config.learning_rate)
    state = _State(module, optimizer, History(), {})
    fingerprint = f"{asdict(config)} {run.seed} {run.precision} {windows.digest()}"
    if run.checkpoint is not None:
        _resume(state, run.checkpoint, fingerprint)
    history = state.history
    batches = math.ceil(len(windows.training) / config.batch_size)
    written = time.monotonic()
    while not _finished(history, config):
        epoch = len(history.training)
        module.train()
        generator = torch.Generator().manual_seed(int(_numpy_rng(run.seed, "epoch", str(epoch)).integers(2**62)))
        order = torch.randperm(len(windows.training), generator=generator).to(windows.training.device)
        losses = torch.zeros(batches, device=windows.training.device)
        # Batches of nearly equal size: a small remainder would give batch norm poor statistics, one window none.
        for batch, chosen in enumerate(order.tensor_split(batches)):
            value = loss(windows.gather(windows.training[chosen]))
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            if gradient_clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), gradient_clip)
            optimizer.step()
            losses[batch] = value.detach() * len(chosen)
            if (batch + 1) % LOSS_CHECK_BATCHES == 0 or batch + 1 == batches:
                _check_finite(losses, epoch, config.learning_rate)
            if run.progress is not None:
                run.progress(run.stage, epoch * batches + batch + 1, config.epochs * batches, _info(history, config))
        history.training.append(losses.double().sum().item() / len(windows.training))
        if len(windows.validation):
            history.validation.append(_validate(module, loss, windows, config.batch_size))
            if not math.isfinite(history.validation[-1]):
                raise TrainingDiverged(f"the validation loss is {history.validation[-1]} after epoch {epoch + 1}")
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


def _finished(history: History, config: GroupMadeConfig | AutoencoderConfig) -> bool:
    done = len(history.training)
    return done >= config.epochs or (bool(history.validation) and done - 1 - history.kept >= config.patience)


def _validate(module: nn.Module, loss: Callable[[Tensor], Tensor], windows: WindowSet, batch_size: int) -> float:
    module.eval()
    with torch.no_grad():
        sums = [loss(windows.gather(x)).double() * len(x) for x in torch.split(windows.validation, batch_size)]
    return float(torch.stack(sums).sum()) / len(windows.validation)


def _check_finite(losses: Tensor, epoch: int, learning_rate: float) -> None:
    bad = torch.nonzero(~torch.isfinite(losses))
    if len(bad):
        first = int(bad[0])
        raise TrainingDiverged(
            f"the loss became {losses[first].item()} in epoch {epoch + 1}, batch {first + 1}: try a smaller "
            f"learning_rate than {learning_rate:g}"
        )


def _info(history: History, config: GroupMadeConfig | AutoencoderConfig) -> str:
    info = f"epoch {len(history.training) + 1}/{config.epochs}"
    if history.training:
        info += f", loss {history.training[-1]:.4g}"
    if history.validation:
        info += f", validation {history.validation[-1]:.4g}"
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
    except storage.ModelFileError as error:
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
