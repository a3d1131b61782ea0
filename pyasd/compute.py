"""Choose the devices, the backend and the precision. "auto" is decided here, once; the rest is handed the choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
