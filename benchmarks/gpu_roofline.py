"""Peaks of a GPU, measured on the spot: the bounds that `gpu.py` holds results against."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

EXP_ROUNDS, EXP_BLOCK = 4096, 1024

if triton is not None:

    @triton.jit
    def exp_kernel(x, rounds, BLOCK: tl.constexpr):  # noqa: ANN001, ANN201
        """Exponentials and nothing else, eight independent chains of them in each thread."""
        at = x + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(at)
        for _ in range(rounds):
            value = tl.exp2(-value)
        tl.store(at, value)


@dataclass(frozen=True)
class Work:
    """Least work of a frame, window or clip: each input read and each output written once.

    Attributes:
        products: floating-point operations of matrix products, which tensor cores can do.
        arithmetic: other floating-point operations, in float32.
        exps: exponentials.
        bytes: memory traffic.
    """

    products: float = 0
    arithmetic: float = 0
    exps: float = 0
    bytes: float = 0

    def __add__(self, other: Work) -> Work:
        """Both after one another."""
        return Work(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))


@dataclass(frozen=True)
class Roofline:
    """A device's peaks: bytes/s copied (read and written), FLOP/s of torch's matrix products by precision, and
    exponentials/s (`nan` where nothing measures them).
    """

    bandwidth: float
    bfloat16: float
    tf32: float
    float32: float
    exps: float

    def __str__(self) -> str:
        return (
            f"copy {self.bandwidth / 1e9:.0f} GB/s (read and written); matrix products {self.bfloat16 / 1e12:.1f} "
            f"TFLOP/s bfloat16, {self.tf32 / 1e12:.1f} TF32, {self.float32 / 1e12:.1f} float32; "
            f"{self.exps / 1e12:.2f} T exponentials/s"
        )

    def bound(self, work: Work, precision: str) -> tuple[float, str]:
        """Seconds below which no program with this work can get, and what limits it.

        The units work side by side, so the slowest decides. A float32-accurate product on tensor cores is three of
        TF32, or one on the float32 units where that is faster.
        """
        products = self.bfloat16 if precision == "bfloat16" else max(self.tf32 / 3, self.float32)
        limits = {
            "memory": work.bytes / self.bandwidth,
            "products": work.products / products,
            "float32 arithmetic": work.arithmetic / self.float32,
            "exponentials": 0.0 if self.exps != self.exps else work.exps / self.exps,
        }
        limit = max(limits, key=lambda name: limits[name])
        return limits[limit], limit


def fastest(run: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Seconds of the fastest of some runs, after one that isn't counted: a peak is what a device can do."""
    run()
    best = float("inf")
    for _ in range(repeats):
        best = min(best, seconds(run, 1, device))
    return best


def seconds(run: Callable[[], object], calls: int, device: torch.device) -> float:
    """Seconds a call, of `calls` calls in a row: between events on the device, where there is one."""
    if device.type == "cpu":
        begin = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - begin) / calls
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(calls):
        run()
    last.record()
    last.synchronize()
    return float(first.elapsed_time(last)) / 1e3 / calls


def measure(device: torch.device, size: int = 8192, copied: int = 1 << 30) -> Roofline:
    """Measure the peaks of `device`, from square products of `size` and copies of `copied` bytes."""
    source = torch.ones(copied // 4, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * copied / fastest(lambda: target.copy_(source), device)

    def product(dtype: torch.dtype, precision: str) -> float:
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        try:
            return 2 * size**3 / fastest(lambda: a @ b, device)
        finally:
            torch.set_float32_matmul_precision(before)

    return Roofline(
        bandwidth,
        product(torch.bfloat16, "highest"),
        product(torch.float32, "high"),
        product(torch.float32, "highest"),
        _exps(device, source),
    )


def _exps(device: torch.device, x: torch.Tensor) -> float:
    if device.type == "cpu":
        return x.numel() / fastest(lambda: torch.exp(x), device)
    if triton is None:
        return float("nan")
    programs = 64 * torch.cuda.get_device_properties(device).multi_processor_count
    programs = min(programs, x.numel() // EXP_BLOCK)
    return (
        programs * EXP_BLOCK * EXP_ROUNDS / fastest(lambda: exp_kernel[(programs,)](x, EXP_ROUNDS, EXP_BLOCK), device)
    )
