"""The tile operations alone: their emulation against exact arithmetic, their instructions against intrinsics."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pyasd.backends import cpu

COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler to build the check with")

FLAGS = {"base": [], "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma"]}


def compile_tile(out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).resolve()
    command = [str(COMPILER), "-std=c++17", "-O3", "-ffp-contract=off", f"-I{here.parents[2] / 'csrc'}", *flags]
    return subprocess.run([*command, str(here.with_name("tile.cpp")), "-o", str(out)], capture_output=True, text=True)


@pytest.fixture(scope="module", params=[name for name in cpu.supported_isas() if name in FLAGS])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    out = tmp_path_factory.mktemp("tile") / "tile.so"
    done = compile_tile(out, "-DPYASD_EMULATE_TILES", "-shared", "-fPIC", *FLAGS[request.param])
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(out))


def address(x: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.ctypes.data)


def bfloat16(x: NDArray[np.float32]) -> NDArray[np.uint16]:
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def value(bits: np.uint16) -> float:
    return float(np.array([int(bits) << 16], np.uint32).view(np.float32)[0])


def flushed(x: float) -> Fraction:
    return Fraction(x) if abs(x) >= 2.0**-126 else Fraction(0)


def rounded(x: Fraction) -> Fraction:
    """To float32: 24 bits, to nearest, ties to even, denormals to zero."""
    if x == 0:
        return x
    exponent = x.numerator.bit_length() - x.denominator.bit_length()
    exponent -= abs(x) < Fraction(2) ** exponent
    unit = Fraction(2) ** (exponent - 23)
    result = round(x / unit) * unit  # Python rounds halves to even
    return result if abs(result) >= Fraction(2) ** -126 else Fraction(0)


def exact_product(a: NDArray[np.uint16], b: NDArray[np.uint16], c: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intel's description of TDPBF16PS, in rational numbers; a [m, k, 2], b [k, n, 2], c [m, n]."""
    out = np.empty_like(c)
    for m in range(c.shape[0]):
        for n in range(c.shape[1]):
            sums = []
            for half in (0, 1):
                total = Fraction(0)
                for k in range(a.shape[1]):
                    total = rounded(total + flushed(value(a[m, k, half])) * flushed(value(b[k, n, half])))
                sums.append(total)
            out[m, n] = float(rounded(flushed(float(c[m, n])) + rounded(sums[0] + sums[1])))
    return out


def run(
    library: ctypes.CDLL, a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], claimed: int | None = None
) -> NDArray[np.float32]:
    """c + a b, with `c` a part of a larger array whose other elements must stay as they are."""
    m, k, n = a.shape[0], a.shape[1], b.shape[1]
    around = np.full(c.size + 64, -7, np.float32)
    around[32:-32] = c.ravel()
    library.product(address(a), address(b), address(around[32:]), m, k, n, k if claimed is None else claimed)
    assert (around[:32] == -7).all()
    assert (around[-32:] == -7).all()
    return around[32:-32].reshape(c.shape)


@pytest.mark.parametrize(("m", "k", "n"), [(16, 16, 4), (3, 5, 7), (1, 2, 16), (13, 1, 16)])
@pytest.mark.parametrize("spread", [3, 30, 125])  # powers of two that factors reach: sums that cancel, and denormals
def test_emulation_is_exact_arithmetic_rounded_at_each_step(
    library: ctypes.CDLL, m: int, k: int, n: int, spread: int
) -> None:
    rng = np.random.default_rng(0)

    def random(*shape: int) -> NDArray[np.float32]:
        power = -np.floor(rng.uniform(0, spread, shape))
        return (rng.standard_normal(shape) * 2.0**power).astype(np.float32)

    a, b, c = bfloat16(random(m, k, 2)), bfloat16(random(k, n, 2)), random(m, n)
    got = run(library, a, b, c)
    assert np.array_equal(got, exact_product(a, b, c))


def test_denormals_are_zeros(library: ctypes.CDLL) -> None:
    one, tiny, huge = bfloat16(np.array([1, 2.0**-130, 2.0**100], np.float32))
    a = np.array([[[tiny, one]], [[one, tiny]], [[one, one]]], np.uint16)
    b = np.array([[[huge, 0], [one, huge], [bfloat16(np.array([2.0**-126], np.float32))[0], 0]]], np.uint16)
    c = np.full((3, 3), 2.0**-130, np.float32)
    c[2, 2] = -(2.0**-126) * 1.5  # the sum is a denormal
    assert np.array_equal(run(library, a, b, c), [[0, 2.0**100, 0], [2.0**100, 1, 2.0**-126], [2.0**100, 2.0**100, 0]])


def test_infinity_and_nan_stay_in_their_row(library: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    a = bfloat16(rng.standard_normal((4, 3, 2)).astype(np.float32))
    b = bfloat16(rng.standard_normal((3, 5, 2)).astype(np.float32))
    clean = run(library, a, b, np.zeros((4, 5), np.float32))
    a[1, 2, 0], a[2, 0, 1] = bfloat16(np.array([np.nan, np.inf], np.float32))
    got = run(library, a, b, np.zeros((4, 5), np.float32))
    assert np.isnan(got[1]).all()
    assert np.array_equal(got[2], np.sign([value(x) for x in b[0, :, 1]]) * np.inf)
    assert np.array_equal(got[[0, 3]], clean[[0, 3]])


def ends_by(call: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        faulthandler.disable()  # no report of what is expected
        call()
        os._exit(0)
    return -os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_misuse_is_a_trap(library: ctypes.CDLL) -> None:
    a, b, c = np.zeros((4, 8, 2), np.uint16), np.zeros((4, 5, 2), np.uint16), np.zeros((4, 5), np.float32)
    assert ends_by(lambda: run(library, a[:, :4].copy(), b, c)) == 0
    assert ends_by(lambda: run(library, a[:, :4].copy(), b, c, claimed=3)) in (signal.SIGILL, signal.SIGTRAP)
    assert ends_by(lambda: library.store_unconfigured(address(c))) in (signal.SIGILL, signal.SIGTRAP)
    over = np.zeros((17, 1, 2), np.uint16)
    assert ends_by(lambda: run(library, over, b[:1], np.zeros((17, 5), np.float32))) in (signal.SIGILL, signal.SIGTRAP)


def test_instructions_are_the_intrinsics(tmp_path: Path) -> None:
    out = tmp_path / "tile.s"
    if compile_tile(out, "-S", "-mamx-tile", "-mamx-bf16").returncode:
        pytest.skip("this compiler has no AMX")
    found: dict[str, list[str]] = {}
    for line in out.read_text().splitlines():
        if line.startswith(("ours:", "theirs:")):
            name = line.rstrip(":")
            found[name] = []
        elif line.split() and line.split()[0] in ("ldtilecfg", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease"):
            found[name].append(" ".join(line.split()))
    assert len(found["ours"]) == 5
    assert found["ours"] == found["theirs"]
