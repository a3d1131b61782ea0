"""Time and peak memory of the operators against their peers and the processor's own bounds, on one thread.

    python -m benchmarks                      # all cases, prints the tables
    python -m benchmarks head --ledger        # one case, and adds its rows to benchmarks/ledger.csv
    python -m benchmarks --isa avx2           # no contestant may use more than AVX2

A case is measured only after its operator's tests pass. Contestants take turns, round by round, and each ratio is the
median of the rounds' own ratios, so that a machine whose speed drifts changes the times more than the ratios.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import cases
from benchmarks.roofline import Roofline, measure
from pyasd.backends import cpu

ROOT = Path(__file__).resolve().parent.parent
LEDGER = ROOT / "benchmarks" / "ledger.csv"
COLUMNS = (
    "date", "commit", "cpu", "isa", "threads", "torch", "case", "contestant", "clips", "ms_per_clip",
    "times_pyasd", "peak_mib", "bound_ms_per_clip", "bound_share",
)  # fmt: skip


def require_green(tests: str) -> None:
    """No figure without a passing test of the same operator."""
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", tests], cwd=ROOT, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"{tests} fails, so nothing is measured:\n{run.stdout[-2000:]}")


def runs(name: str, run: cases.Contestant) -> bool:
    """Return whether a contestant runs: torch.compile's C++ doesn't compile for every instruction set. Ours must."""
    try:
        run()
    except Exception as error:
        if name.startswith("pyasd"):
            raise
        print(f"{name} doesn't run here: {type(error).__name__}")
        return False
    return True


def interleave(case: cases.Case, rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after a round that isn't counted: who fails in it doesn't take part."""
    times: dict[str, list[float]] = {name: [] for name, run in case.contestants.items() if runs(name, run)}
    for _ in range(rounds):
        for name, seconds in times.items():
            begin = time.perf_counter()
            case.contestants[name]()
            seconds.append(time.perf_counter() - begin)
    return times


def peak_memory(case_key: str, contestant: str) -> float:
    """MiB that one call adds to a fresh process's resident memory at its peak, beyond its input, after a call on one
    clip that loads and compiles what is needed.
    """
    code = (
        "import gc, json, sys, torch; torch.set_num_threads(1)\n"
        "from benchmarks import cases\n"
        "make, name = cases.CASES[sys.argv[1]], sys.argv[2]\n"
        "make(1).contestants[name]()\n"
        "run = make().contestants[name]\n"
        "def status(key): return int(next(x for x in open('/proc/self/status') if x.startswith(key)).split()[1])\n"
        "gc.collect()\n"
        "open('/proc/self/clear_refs', 'w').write('5'); before = status('VmRSS'); run()\n"
        "print(json.dumps((status('VmHWM') - before) / 1024))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, case_key, contestant], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return float(json.loads(run.stdout.splitlines()[-1]))


def processor() -> str:
    """Return the processor's name as the system gives it."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """Return the checked-out commit, with a + where the tree has changes that count."""
    run = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    return run.stdout.strip() or "unknown"


def report(key: str, rounds: int, roofline: Roofline, with_memory: bool) -> list[dict[str, object]]:
    """Measure a case, print its table, and return its rows for the ledger."""
    case = cases.CASES[key]()
    require_green(case.tests)
    times = interleave(case, rounds)
    roofline = roofline.or_better(measure())
    print(f"\n### {case.name}, {case.clips} clips of 10 s, {cpu.isa()}\n")
    print("| | ms per clip (median) | times pyasd's | peak memory, MiB | share of the bound |")
    print("|---|---:|---:|---:|---:|")
    rows = []
    for name, seconds in times.items():
        per_clip = statistics.median(seconds) / case.clips * 1e3
        ratio = statistics.median(a / b for a, b in zip(seconds, times["pyasd"], strict=True))
        memory = f"{peak_memory(key, name):.1f}" if with_memory else ""
        bound, _ = case.bound(roofline, name)
        share = bound * 1e3 / per_clip
        print(f"| {name} | {per_clip:.3f} | {ratio:.2f} | {memory} | {share:.0%} |")
        rows.append(
            dict(
                zip(
                    COLUMNS,
                    (
                        datetime.date.today().isoformat(), commit(), processor(), cpu.isa(), case.threads_of(name),
                        torch.__version__, case.name, name, case.clips, f"{per_clip:.4f}", f"{ratio:.3f}",
                        memory, f"{bound * 1e3:.4f}", f"{share:.3f}",
                    ),
                    strict=True,
                )
            )
        )  # fmt: skip
    bound, limit = case.bound(roofline, "pyasd")
    print(f"\nBound of the first: {bound * 1e3:.3f} ms a clip, by {limit} ({roofline}). {case.note}".rstrip())
    return rows


LIMITS = {
    "base": ("default", "SSE4_2", "SSE41"),
    "avx2": ("avx2", "AVX2", "AVX2"),
    "avx512": ("avx512", "AVX512", "AVX512_CORE"),
}
"""Settings that keep ATen, MKL and oneDNN to an instruction set (MKL heeds it on Intel's processors alone)."""


def limit(isa: str) -> None:
    """Start anew with every contestant limited to an instruction set: libraries read that at their start."""
    names = ("PYASD_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")
    wanted = dict(zip(names, (isa, *LIMITS[isa]), strict=True))
    if all(os.environ.get(name) == value for name, value in wanted.items()):
        return
    os.environ |= wanted
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", help=f"{', '.join(cases.CASES)} (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--ledger", action="store_true", help=f"add the rows to {LEDGER.relative_to(ROOT)}")
    parser.add_argument("--isa", choices=LIMITS, help="limit every contestant to this instruction set")
    parser.add_argument("--no-memory", action="store_true", help="don't measure peak memory")
    args = parser.parse_args()
    unknown = set(args.case) - set(cases.CASES)
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; choose from {', '.join(cases.CASES)}")
    if args.isa:
        limit(args.isa)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    roofline = measure()
    print(f"{processor()}, {cpu.isa()}, torch {torch.__version__}, commit {commit()}")
    rows = []
    for key in args.case or cases.CASES:
        rows += report(key, args.rounds, roofline, not args.no_memory)
    if args.ledger:
        new = not LEDGER.exists()
        with LEDGER.open("a", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
