"""Checkpoints: everything that an unfinished training needs to go on to the same bits."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pyasd import storage
from pyasd.errors import ModelFileError
from pyasd.training.run import History


@dataclass
class TrainingState:
    """A training under way.

    Attributes:
        module, optimizer: as they are now.
        history: the epochs so far.
        best: the weights of the best epoch so far, by name.
    """

    module: nn.Module
    optimizer: torch.optim.Adam
    history: History
    best: dict[str, Tensor]


def save(state: TrainingState, path: Path, fingerprint: str) -> None:
    """Write the state to `path`, atomically; `fingerprint` says of which training it is.

    Raises:
        OSError: the file can't be written.
    """
    tensors = {f"model.{name}": x for name, x in state.module.state_dict().items()}
    tensors |= {f"best.{name}": x for name, x in state.best.items()}
    for index, moments in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": x for name, x in moments.items()}
    path.parent.mkdir(exist_ok=True)
    storage.write(path, tensors, {"fingerprint": fingerprint, "history": asdict(state.history)})


def resume(state: TrainingState, path: Path, fingerprint: str) -> None:
    """Take over the checkpoint at `path`, if there is one of this very training; else warn and leave `state` alone."""
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
    for x, values in state.optimizer.state.items():  # of the parameter's strides, without which sums round otherwise
        values |= {key: torch.empty_like(x).copy_(y) for key, y in values.items() if y.shape == x.shape}
