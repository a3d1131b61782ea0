"""CUDA kernels, and devices as the runtime built into the extension sees them (csrc/bindings/cuda.cpp).

Arguments that are addresses come from `tensor.data_ptr()`; `stream` is a `cudaStream_t`.
"""

from collections.abc import Sequence
from typing import TypedDict

from pyasd.backends.layout import Layer

class Device(TypedDict):
    name: str
    capability: tuple[int, int]
    multiprocessors: int
    memory: int

runtime_version: int
max_groups: int
max_trunk_width: int

def device_count() -> tuple[int, str]: ...
def device(index: int) -> Device: ...
def loaded(device: int) -> None: ...
def log_mel_supported(n_fft: int) -> bool: ...
def log_mel(
    *,
    n_fft: int,
    hop_length: int,
    n_mels: int,
    reflect: bool,
    floor_add: bool,
    eps: float,
    window: int,
    twiddle: int,
    band_start: int,
    band_count: int,
    band_offset: int,
    band_weights: int,
    samples: int,
    is_int16: bool,
    clips: int,
    clip_stride: int,
    length: int,
    lengths: int,
    first: int,
    frames: int,
    out: int,
    device: int,
    stream: int,
) -> None: ...

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
        wanted: Sequence[bool],
        out: int,
        per_dim: bool,
        partial: int,
        warpgroups: bool,
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

class Trunk:
    def __init__(self, *, layers: Sequence[Layer], mels: int, bfloat16: bool) -> None: ...
    @property
    def packed(self) -> bytes: ...
    def fits(self, *, device: int) -> bool: ...
    def forward(
        self,
        *,
        packed: int,
        log_mel: int,
        windows: int,
        band_mean: int,
        band_scale: int,
        z: int,
        hidden: int,
        device: int,
        stream: int,
    ) -> None: ...
