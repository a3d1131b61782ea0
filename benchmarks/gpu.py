"""Times of the operators on a GPU against torch's and the device's own bounds.

    python -m benchmarks.gpu DIR                        # all cases, 150 s
    python -m benchmarks.gpu DIR --tests DIR/tests      # only what its tests have passed: `gpu.sh` does it all

Writes DIR/ledger.csv and DIR/report.md after every case. Times are medians over rounds in which the contestants
take turns, between events on the device; each call takes another input, and the inputs together are larger than the
second-level cache. A contestant that fails costs its own row.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import os
import statistics
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_cases
from benchmarks.gpu_cases import Case, Contestant, Run
from benchmarks.gpu_roofline import Roofline, measure, seconds
from pyasd import backends

OPERATORS = ("log_mel", "mixture", "group_made")
"""Each has its tests in tests/ops/test_<operator>.py."""

COLUMNS = (
    "date", "commit", "gpu", "torch", "triton", "case", "contestant", "units", "unit", "ms", "per_second",
    "times_eager", "times_compile", "peak_mib", "bound_ms", "limit", "bound_share", "note",
)  # fmt: skip

ROUND_SECONDS = 0.02
"""A round of a contestant repeats its call until it lasts about this long."""

TARGETS: tuple[tuple[str, str, str, float], ...] = (
    ("log-Mel, int16", "float32", "per_second", 5e8),
    ("log-Mel, int16", "float32", "times_eager", 4),
    ("head forward", "bfloat16", "per_second", 8e7),
    ("head forward", "float32", "per_second", 2.5e7),
    ("head forward", "float32", "times_compile", 5),
    ("head forward", "float32", "times_eager", 15),
    ("head forward + backward", "float32", "times_compile", 3),
    ("samples to clip score", "bfloat16", "per_second", 150_000),
)
"""Targets of the CUDA kernels on an H200: case, precision, column, value."""


@dataclass
class Result:
    """A contestant's times, or why it has none.

    Attributes:
        seconds: a call's, of each round; empty where there is only a `note` that says why.
        peak_mib: memory that a call takes beyond what was there before it.
    """

    contestant: Contestant
    seconds: list[float] = field(default_factory=list)
    peak_mib: float = float("nan")
    note: str = ""

    @property
    def median(self) -> float:
        """Seconds a call, `nan` without any."""
        return statistics.median(self.seconds) if self.seconds else float("nan")


def tested(tests: Path, operator: str, backend: str) -> tuple[bool, str]:
    """Return whether an operator's tests on a backend have passed, and a summary in words.

    pytest's XML is in `tests`: one file or several, which are empty where tests did not end.
    """
    total = failed = skipped = 0
    paths = sorted(tests.glob(f"{operator}-{backend}*.xml"))
    for path in paths:
        try:
            counts = next(ET.parse(path).iter("testsuite")).attrib
        except (ET.ParseError, StopIteration):
            return False, "its tests did not end"
        total, skipped = total + int(counts["tests"]), skipped + int(counts["skipped"])
        failed += int(counts["failures"]) + int(counts["errors"])
    if failed:
        return False, f"{failed} of its {total} tests failed"
    if total == skipped:
        return False, "none of its tests ran"
    return True, f"{total - skipped} tests passed" + (f", {skipped} skipped" if skipped else "")


def refused(contestant: Contestant, operator: str, device: torch.device, tests: Path | None) -> str | None:
    """Return why a contestant of ours isn't measured."""
    if contestant.backend is None:
        return None
    reason = backends.available(device)[contestant.backend]
    if reason is None and tests is not None:
        passed, words = tested(tests, operator, contestant.backend)
        reason = None if passed else words
    return reason


def peak_mib(run: Run, device: torch.device) -> float:
    """MiB that one call takes at its peak."""
    if device.type == "cpu":
        return float("nan")
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = run(0)
    torch.cuda.synchronize(device)
    del result
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def measure_case(
    case: Case, device: torch.device, rounds: int, deadline: float, tests: Path | None
) -> dict[str, Result]:
    """Return every contestant's result. Those whose turn comes after `deadline` (of `time.monotonic`) are left out."""
    results = {name: Result(contestant) for name, contestant in case.contestants.items()}
    ready: dict[str, tuple[Run, int]] = {}
    for name, result in results.items():
        reason = refused(result.contestant, case.operator, device, tests)
        if reason is None and time.monotonic() > deadline:
            reason = "out of time"
        if reason is not None:
            result.note = reason
            continue
        try:
            run = result.contestant.make()
            for i in range(gpu_cases.COPIES):  # compiles, and fills the allocator's pools
                run(i)
            result.peak_mib = peak_mib(run, device)
            once = seconds(_turns(run), gpu_cases.COPIES, device)
            ready[name] = run, max(gpu_cases.COPIES, min(1000, round(ROUND_SECONDS / max(once, 1e-9))))
        except Exception as error:  # a peer that lacks memory or doesn't compile, or a fault of ours: its row says so
            result.note = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[:200]
            if "CUDA error" in str(error):
                raise  # the device is lost, and every later figure with it
    for _ in range(rounds):
        for name, (run, calls) in ready.items():
            if time.monotonic() > deadline and results[name].seconds:
                continue
            results[name].seconds.append(seconds(_turns(run), calls, device))
    return results


def _turns(run: Run) -> Callable[[], object]:
    """`run` with the number of the call."""
    number = iter(range(sys.maxsize))
    return lambda: run(next(number))


def rows_of(case: Case, results: dict[str, Result], roofline: Roofline, known: dict[str, str]) -> list[dict[str, str]]:
    """Return the ledger's rows of a case."""
    rows = []
    for name, result in results.items():
        bound, limit = roofline.bound(case.work, result.contestant.precision)
        bound *= case.units
        row = known | {"case": case.name, "contestant": name, "units": str(case.units), "unit": case.unit}
        if result.seconds:
            row |= {
                "ms": f"{result.median * 1e3:.4f}",
                "per_second": f"{case.units / result.median:.4g}",
                "times_eager": _times(results, case.eager, result),
                "times_compile": _times(results, case.compiled, result),
                "peak_mib": f"{result.peak_mib:.1f}",
                "bound_ms": f"{bound * 1e3:.4f}",
                "limit": limit,
                "bound_share": f"{bound / result.median:.3f}",
            }
        rows.append({column: "" for column in COLUMNS} | row | {"note": result.note})
    return rows


def _times(results: dict[str, Result], peer: str, ours: Result) -> str:
    """Return how many times as fast as a peer in the same precision, else in float32: the median of rounds' ratios."""
    same = results.get(f"{peer} {ours.contestant.precision}")
    other = same if same is not None and same.seconds else results.get(peer)
    if other is None or not other.seconds:
        return ""
    return f"{statistics.median(a / b for a, b in zip(other.seconds, ours.seconds, strict=False)):.2f}"


def report(rows: list[dict[str, str]], roofline: Roofline, facts: list[str]) -> str:
    """Return the rows as Markdown, and the targets with what was reached."""
    lines = ["# GPU report", "", *facts, "", f"Measured peaks: {roofline}.", ""]
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case]
        lines += [
            f"## {case} ({own[0]['units']} {own[0]['unit']} a call)",
            "",
            f"| | ms a call | {own[0]['unit']}/s | x eager | x compile | peak MiB | share of the bound | |",
            "|---|---:|---:|---:|---:|---:|---:|---|",
        ]
        for row in own:
            share = f"{float(row['bound_share']):.0%} ({row['limit']})" if row["bound_share"] else ""
            cells = (row[x] for x in ("contestant", "ms", "per_second", "times_eager", "times_compile", "peak_mib"))
            lines.append(f"| {' | '.join(cells)} | {share} | {row['note']} |")
        lines.append("")
    lines += ["## Targets (stated for an H200)", "", "| | target | measured | |", "|---|---:|---:|---|"]
    for name, target, value in targets(rows):
        met = "not measured" if value != value else "met" if value >= target else "missed"
        lines.append(f"| {name} | {target:.4g} | {'' if value != value else f'{value:.4g}'} | {met} |")
    return "\n".join([*lines, ""])


def targets(rows: list[dict[str, str]]) -> list[tuple[str, float, float]]:
    """Return each target: what, its value, and what was measured (`nan` where nothing was)."""
    by_name = {(row["case"], row["contestant"]): row for row in rows}

    def number(case: str, contestant: str, column: str) -> float:
        text = by_name.get((case, contestant), {}).get(column, "")
        return float(text) if text else float("nan")

    found = []
    for case, precision, column, target in TARGETS:
        what = f"{case}, {precision}, {column.replace('_', ' ')}"
        found.append((what, target, number(case, f"cuda {precision}", column)))
    memory = number("head forward + backward", "torch.compile", "peak_mib")
    ours = number("head forward + backward", "cuda float32", "peak_mib")
    found.append(
        ("head forward + backward, memory of torch.compile / ours", 20, memory / ours if ours else float("nan"))
    )
    for case, precision in (("head forward", "float32"), ("head forward", "bfloat16"), ("log-Mel, int16", "float32")):
        native = number(case, f"cuda {precision}", "per_second")
        found.append(
            (f"triton / cuda, {case}, {precision}", 0.6, number(case, f"triton {precision}", "per_second") / native)
        )
        found.append(
            (f"triton / torch.compile, {case}, {precision}", 2, number(case, f"triton {precision}", "times_compile"))
        )
    return found


def _version(name: str) -> str:
    try:
        return str(__import__(name).__version__)
    except ImportError:
        return "none"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for ledger.csv and report.md")
    parser.add_argument("--case", action="append", choices=gpu_cases.CASES, help="which (default: all)")
    parser.add_argument("--tests", type=Path, help="folder of the tests' XML; without it nothing is asked for")
    parser.add_argument("--seconds", type=float, default=150, help="time for all cases (default 150)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default 7)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ...; cpu tries the code, not the speed")
    parser.add_argument("--tiny", action="store_true", help="tiny inputs, to try the code")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device: torch finds none, so nothing is measured")
    args.out.mkdir(parents=True, exist_ok=True)
    sizes = gpu_cases.TINY if args.tiny else gpu_cases.FULL
    names = ("cpu", "reference") if device.type == "cpu" else ("cuda", "triton")
    deadline = time.monotonic() + args.seconds
    gpu = "none" if device.type == "cpu" else torch.cuda.get_device_name(device)
    known = {
        "date": datetime.date.today().isoformat(),
        "commit": os.environ.get("PYASD_COMMIT", "unknown"),
        "gpu": gpu,
        "torch": str(torch.__version__),
        "triton": _version("triton"),
    }
    facts = [", ".join(f"{name} {value}" for name, value in known.items()) + ". Times are medians."]
    if args.tests is not None:
        pairs = [(operator, backend) for operator in OPERATORS for backend in names]
        facts += ["", *(f"- {o} on {b}: {tested(args.tests, o, b)[1]}" for o, b in pairs)]
    if device.type == "cuda":
        with torch.cuda.device(device):
            _run(args, device, sizes, names, deadline, known, facts)
    else:
        facts.append("**This ran on the CPU to try the code: no figure in it is a GPU's.**")
        _run(args, device, sizes, names, deadline, known, facts)


def _run(
    args: Any, device: torch.device, sizes: gpu_cases.Sizes, names: tuple[str, ...], deadline: float,
    known: dict[str, str], facts: list[str],
) -> None:  # fmt: skip
    roofline = measure(device, *((256, 1 << 20) if args.tiny else ()))
    print(f"{known['gpu']}: {roofline}", flush=True)
    rows: list[dict[str, str]] = []
    keys = args.case or list(gpu_cases.CASES)
    for number, key in enumerate(keys):
        now = time.monotonic()
        share = now + max(0.0, deadline - now) / (len(keys) - number)
        torch._dynamo.reset()
        case = gpu_cases.CASES[key](sizes, device, names)
        results = measure_case(case, device, args.rounds, share, args.tests)
        rows += rows_of(case, results, roofline, known)
        for row in rows[-len(results) :]:
            print(
                f"{row['case']:24} {row['contestant']:32} {row['per_second']:>10} {row['unit']}/s {row['note']}",
                flush=True,
            )
        with (args.out / "ledger.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        (args.out / "report.md").write_text(report(rows, roofline, facts))
        del case, results
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
