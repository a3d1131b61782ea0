"""The pure-torch reference: `Backend`'s own lines of torch, which every other backend is tested against."""

from __future__ import annotations

from pyasd.backends.contract import Backend


class ReferenceBackend(Backend):
    """The operators as they are defined: on any device, in float32 or float64."""

    name = "reference"


BACKEND = ReferenceBackend()
