"""CUDA kernels, and devices as the runtime built into the extension sees them (csrc/bindings/cuda.cpp).

Arguments that are addresses come from `tensor.data_ptr()`; `stream` is a `cudaStream_t`.
"""

from collections.abc import Sequence
from typing import Any

runtime_version: int
max_groups: int

def device_count() -> tuple[int, str]: ...
def device(index: int) -> dict[str, Any]: ...
def loaded(device: int) -> None: ...

class MixtureHead:
    def __init__(
        self,
        *,
        dims: int,
        prefix: Sequence[int],
        components: int,
        hidden: int,
        log_scale_min: float,
        bfloat16: bool,
    ) -> None: ...
    @property
    def packed_size(self) -> int: ...
    @property
    def units(self) -> int: ...
    def fits(self, *, device: int, backward: bool) -> bool: ...
    def pack(self, *, weight: int, bias: int, packed: int, device: int, stream: int) -> None: ...
    def forward(
        self,
        *,
        packed: int,
        hidden: int,
        hidden_stride: int,
        target: int,
        target_stride: int,
        windows: int,
        out: int,
        per_dim: bool,
        partial: int,
        device: int,
        stream: int,
    ) -> None: ...
    def backward_workspace(self, windows: int) -> int: ...
    def backward(
        self,
        *,
        packed: int,
        grad: int,
        hidden: int,
        hidden_stride: int,
        target: int,
        target_stride: int,
        windows: int,
        per_dim: bool,
        workspace: int,
        d_hidden: int,
        d_target: int,
        d_weight: int,
        d_bias: int,
        device: int,
        stream: int,
    ) -> None: ...
