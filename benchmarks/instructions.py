"""Instructions that the three hot loops execute, counted by valgrind: the same number on a busy machine.

    python -m benchmarks.instructions [--isa avx2] [--native FILE]

Counts log-Mel of a 10-s clip, and of its 309 windows the mixture head forward, and value and gradients in one pass:
each from the difference between several calls and one. valgrind 3.19 knows AVX2, not AVX-512. `--native` takes another
build's extension, to compare with. Needs valgrind.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

LOOPS = {"log-mel": 20, "head": 2, "head-backward": 2}
"""Calls that are counted in each: what a start of Python differs by from one to the next must not show."""


def call(native: Any, loop: str, data: dict[str, Any], isa: int, times: int) -> None:
    """Run the loop so many times, by the extension alone: torch would take valgrind minutes to load."""
    address = {name: x.ctypes.data for name, x in data.items()}
    if loop == "log-mel":
        tables = {name: address[name] for name in ("window", "starts", "counts", "weights")}
        plan = native.LogMelPlan(
            n_fft=1024, hop_length=512, n_mels=128, reflect=True, floor_add=False, eps=2.22e-16, **tables
        )
        out = np.empty((313, 128), np.float32)
        for _ in range(times):
            plan(
                samples=address["samples"], is_int16=True, clip_stride=160000, lengths=[160000], out=out.ctypes.data,
                isa=isa, threads=1,
            )  # fmt: skip
        return
    head = native.MixtureHead(
        dims=640, prefix=[0, 32, 64, 96, 128], components=10, hidden=128, log_scale_min=-4.6, bfloat16=False, isa=isa
    )
    packed = np.empty(head.packed_size + 16, np.float32)
    weights = {"weight": address["weight"], "bias": address["bias"], "packed": packed.ctypes.data, "threads": 1}
    head.pack(**weights)
    rows = {
        "packed": packed.ctypes.data, "hidden": address["hidden"], "hidden_stride": 128, "target": address["target"],
        "target_stride": 640, "windows": 309, "per_dim": False, "threads": 1,
    }  # fmt: skip
    out = np.empty((309, 5), np.float32)
    for _ in range(times):
        if loop == "head":
            head.forward(out=out.ctypes.data, **rows)
        else:  # a training step, whose weights are new
            head.pack(**weights)
            grads = {f"d_{name}": np.empty_like(data[name]) for name in ("hidden", "target", "weight", "bias")}
            head.backward(
                rows=address["weight"], rows_stride=128, grad=0, uniform_grad=1.0, log_prob=out.ctypes.data,
                **{name: x.ctypes.data for name, x in grads.items()}, **rows,
            )  # fmt: skip


def child(file: str, loop: str, data: str, isa: int, times: int) -> None:
    """Run one loop: what valgrind counts."""
    spec = importlib.util.spec_from_file_location("_native", file)
    assert spec is not None
    assert spec.loader is not None
    native = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(native)
    call(native, loop, dict(np.load(data)), isa, times)


def count(*arguments: object) -> int:
    """Instructions of a child with these arguments."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
    code = f"from benchmarks.instructions import child; child(*{list(arguments)!r})"
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    run = subprocess.run(
        [*command, sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    found = re.search(r"Collected : (\d+)", run.stderr)
    assert found is not None, run.stderr
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", default="avx2", choices=("base", "avx2"))
    parser.add_argument("--native", help="an extension _native*.so (default: the installed one)")
    args = parser.parse_args()
    from pyasd import _native, ops
    from pyasd.backends import cpu

    file = args.native or _native.__file__
    rng = np.random.default_rng(0)
    plan = ops.LogMelPlan()
    starts, counts, weights = plan.mel_weights
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "data.npz")
        np.savez(
            path,
            samples=(3000 * rng.standard_normal(160000)).astype(np.int16),
            window=plan.window, starts=starts, counts=counts, weights=weights,
            weight=(0.1 * rng.standard_normal((19200, 128))).astype(np.float32),
            bias=(0.3 * rng.standard_normal(19200)).astype(np.float32),
            hidden=np.maximum(0, rng.standard_normal((309, 128))).astype(np.float32),
            target=rng.standard_normal((309, 640)).astype(np.float32),
        )  # fmt: skip
        for loop, calls in LOOPS.items():
            isa = cpu.ISAS.index(args.isa)
            once, more = (count(file, loop, path, isa, times) for times in (1, 1 + calls))
            print(f"{loop}, {args.isa}: {(more - once) / calls / 1e6:.2f} million instructions a clip", flush=True)


if __name__ == "__main__":
    main()
