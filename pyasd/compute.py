"""Choose the devices, the backend and the precision. "auto" is decided here, once; the rest is handed the choice."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from pyasd.backends.contract import Precision

CPU = torch.device("cpu")

Value = TypeVar("Value")


def by_device(table: Mapping[str, Value], device: torch.device) -> Value:
    """Look up a device's type in a table of sizes; types that it hasn't take the CPU's."""
    return table.get(device.type, table["cpu"])


@dataclass(frozen=True)
class Compute:
    """Where features and models run, and in which arithmetic.

    Attributes:
        devices: several share the scoring; the first one trains.
        backend: of the operators: "auto", "reference", "cpu", "cuda" or "triton".
        precision: of the operators' matrix products.
        mixed: nobody asked for a precision: a member may train in bfloat16 where its device is faster so.
    """

    devices: tuple[torch.device, ...] = (CPU,)
    backend: str = "auto"
    precision: Precision = "float32"
    mixed: bool = False

    @property
    def device(self) -> torch.device:
        """The first device."""
        return self.devices[0]

    def on(self, devices: Sequence[torch.device]) -> Compute:
        """Return the same on other devices."""
        return replace(self, devices=tuple(devices))

    @classmethod
    def choose(cls, device: str = "auto", backend: str = "auto", precision: str = "auto") -> Compute:
        """Decide what "auto" stands for: a GPU where there is one, and float32.

        Args:
            device: a torch device, or several of one type: "cuda:0,cuda:1".
            backend: see `Compute`.
            precision: "auto", "float32" or "bfloat16".

        Raises:
            ValueError: there is no such device here, or no such precision.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            devices = [torch.empty(0, device=name.strip()).device for name in device.split(",")]
        except (RuntimeError, AssertionError):  # a build without CUDA asserts
            raise ValueError(f'torch has no device {device!r} here: give device="cpu"') from None
        if len({x.type for x in devices}) > 1:
            raise ValueError(f"devices must be of one type, not {device!r}")
        if precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision must be 'auto', 'float32' or 'bfloat16', not {precision!r}")
        chosen: Precision = "bfloat16" if precision == "bfloat16" else "float32"
        return cls(tuple(devices), backend, chosen, precision == "auto")


class _DefaultType:
    """Torch's default type is the whole process's: the first that enters sets float32, the last that leaves sets back
    what was there, whichever threads they are.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = torch.float32

    def enter(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._before = torch.get_default_dtype()
                torch.set_default_dtype(torch.float32)
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                torch.set_default_dtype(self._before)


_default_type = _DefaultType()

_forked = False


def _mark_fork() -> None:
    global _forked  # noqa: PLW0603 (a fact of this process)
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_fork)


@contextlib.contextmanager
def plain_torch() -> Iterator[None]:
    """Run with torch's settings as they are in a fresh process: gradients, no inference mode, no autocast, float32 and
    the CPU as defaults. The caller's come back at the end. All but the default type are of this thread alone.

    A forked process gets one thread of torch, and keeps it: OpenMP would wait for threads that the fork left behind.
    """
    if _forked and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        _default_type.enter()
        stack.callback(_default_type.leave)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device() != CPU:
            stack.enter_context(CPU)
        yield


def in_plain_torch(items: Generator[Value, None, None]) -> Iterator[Value]:
    """Yield what a generator yields; it runs in `plain_torch`, and what happens between two items does not."""
    with contextlib.closing(items):
        while True:
            try:
                with plain_torch():
                    item = next(items)
            except StopIteration:
                return
            yield item
