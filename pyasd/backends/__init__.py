"""The choice of a backend: `select` is the one place where it is decided which implementation of an operator runs.

A backend is a subclass of `contract.Backend`, whose methods default to the reference. To add one: write a module with
an instance called `BACKEND`, add its name to `NAMES` and `PREFERENCE`, and run the tests, which compare every available
backend with the float64 reference.
"""

from __future__ import annotations

import importlib
import os
from functools import lru_cache
from typing import TYPE_CHECKING

from pyasd.errors import BackendUnavailable

if TYPE_CHECKING:
    import torch

    from pyasd.backends.contract import Backend

PREFERENCE = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}
"""For each type of device, the backends that `auto` tries, best first."""

NAMES = ("reference", "cpu", "cuda", "triton")


def select(name: str, device: torch.device) -> Backend:
    """Return the backend that runs on `device`.

    Args:
        name: a backend's name, or "auto": the environment variable `PYASD_BACKEND` if it is set, else the best
            one that can run. Only the automatic choice falls back.
        device: where the tensors are.

    Raises:
        BackendUnavailable: the backend asked for by name is unknown, or can't run on `device`.
    """
    if name == "auto":
        name = os.environ.get("PYASD_BACKEND") or "auto"
    if name != "auto":
        reason = _unavailable(name, device)
        if reason is not None:
            raise BackendUnavailable(f"backend {name!r} can't run on {device}: {reason}")
        return load(name)
    for candidate in PREFERENCE.get(device.type, ("reference",)):
        if _unavailable(candidate, device) is None:
            return load(candidate)
    raise AssertionError("the reference runs everywhere")


def available(device: torch.device | None = None) -> dict[str, str | None]:
    """Return every backend by name: `None` if it can run on this machine (on `device`), else the reason why not."""
    return {name: _unavailable(name, device) for name in NAMES}


@lru_cache(maxsize=None)
def _unavailable(name: str, device: torch.device | None) -> str | None:
    if name not in NAMES:
        return f"there is no such backend; choose from auto, {', '.join(NAMES)}"
    try:
        return load(name).unavailable(device)
    except ImportError as error:
        return f"it can't be imported: {error}"


@lru_cache(maxsize=None)
def load(name: str) -> Backend:
    """Return the backend of that name of `NAMES`, whether it can run here or not; its module is imported only now."""
    backend: Backend = importlib.import_module(f"pyasd.backends.{name}").BACKEND
    return backend
