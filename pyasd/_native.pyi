"""CPU kernels (csrc/bindings/native.cpp). Arguments that are addresses come from `tensor.data_ptr()`."""

from collections.abc import Sequence

from pyasd.backends.layout import Layer

def isa_obstacle(isa: int) -> str | None: ...
def probe_fma(rounds: int, isa: int) -> float: ...
def probe_pairs(rounds: int, isa: int) -> float: ...
def probe_exp(rounds: int, isa: int) -> float: ...

class LogMelPlan:
    def __init__(
        self,
        *,
        n_fft: int,
        hop_length: int,
        n_mels: int,
        reflect: bool,
        floor_add: bool,
        eps: float,
        window: int,
        starts: int,
        counts: int,
        weights: int,
    ) -> None: ...
    def __call__(
        self,
        *,
        samples: int,
        is_int16: bool,
        clip_stride: int,
        lengths: Sequence[int],
        out: int,
        isa: int,
        threads: int,
    ) -> None: ...

class MixtureHead:
    packed_size: int
    def __init__(
        self,
        *,
        dims: int,
        prefix: Sequence[int],
        components: int,
        hidden: int,
        log_scale_min: float,
        bfloat16: bool,
        isa: int,
    ) -> None: ...
    def pack(self, *, weight: int, bias: int, packed: int, threads: int) -> None: ...
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
        threads: int,
    ) -> None: ...
    def backward(
        self,
        *,
        packed: int,
        rows: int,
        rows_stride: int,
        grad: int,
        uniform_grad: float,
        hidden: int,
        hidden_stride: int,
        target: int,
        target_stride: int,
        windows: int,
        per_dim: bool,
        d_hidden: int,
        d_target: int,
        d_weight: int,
        d_bias: int,
        log_prob: int,
        threads: int,
    ) -> None: ...

class GroupMade:
    def __init__(self, *, layers: Sequence[Layer], frame: int, bfloat16: bool, isa: int) -> None: ...
    def forward(
        self,
        *,
        head: MixtureHead,
        packed: int,
        log_mel: int,
        windows: int,
        mels: int,
        band_mean: int,
        inverse_scale: int,
        wanted: Sequence[int],
        out: int,
        per_dim: bool,
        threads: int,
    ) -> None: ...
