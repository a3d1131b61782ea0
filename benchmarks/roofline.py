"""Peaks of one core, measured on the spot: the bounds that results are held against."""

from __future__ import annotations

import time
from dataclasses import astuple, dataclass

import torch

from pyasd import _native
from pyasd.backends import cpu


@dataclass(frozen=True)
class Roofline:
    """One core's peaks with the instruction set in use: FLOP/s of float32 and of products of bfloat16 factors,
    exponentials/s, bytes/s read from memory.
    """

    flops: float
    bfloat16_flops: float
    exps: float
    bandwidth: float

    def __str__(self) -> str:
        return (
            f"one core: {self.flops / 1e9:.0f} GFLOP/s of float32 multiply-adds, {self.bfloat16_flops / 1e9:.0f} of "
            f"bfloat16 products, {self.exps / 1e9:.1f} G exponentials/s, {self.bandwidth / 1e9:.1f} GB/s read"
        )

    def or_better(self, other: Roofline) -> Roofline:
        """The higher of each peak: a busy machine shows less than it can do, never more."""
        return Roofline(*(max(a, b) for a, b in zip(astuple(self), astuple(other), strict=True)))

    def bound(self, products: float, flop: float, exp: float, size: float, bfloat16: bool) -> tuple[float, str]:
        """Seconds below which no program with this work can get, and what limits it.

        Multiply-adds and exponentials share the same units, so their times add; memory goes on beside them. Products as
        exact as float32's take six of bfloat16 factors (csrc/README.md, AMX), where those are so much quicker.
        """
        rate = max(self.flops, self.bfloat16_flops if bfloat16 else self.bfloat16_flops / 6)
        arithmetic = products / rate + flop / self.flops + exp / self.exps
        memory = size / self.bandwidth
        return (arithmetic, "arithmetic") if arithmetic > memory else (memory, "memory")


def measure(repeats: int = 7) -> Roofline:
    """The best of several short runs each: a peak is what the machine can do, not what it did on average."""
    number = cpu.ISAS.index(cpu.isa())
    big = torch.ones(1 << 26)  # 256 MiB: larger than any cache of a core

    def best(work: float, run: object) -> float:
        fastest = float("inf")
        for _ in range(repeats):
            begin = time.perf_counter()
            run()  # type: ignore[operator]
            fastest = min(fastest, time.perf_counter() - begin)
        return work / fastest

    rounds = 4_000_000
    flop = _native.probe_fma(1, number) * rounds
    pairs = _native.probe_pairs(1, number) * rounds
    exp = _native.probe_exp(1, number) * rounds
    return Roofline(
        best(flop, lambda: _native.probe_fma(rounds, number)),
        best(pairs, lambda: _native.probe_pairs(rounds, number)),
        best(exp, lambda: _native.probe_exp(rounds, number)),
        best(big.numel() * 4, lambda: big.sum()),
    )
