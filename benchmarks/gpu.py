"""Times of the operators on a GPU against torch's and the device's own bounds.

    python -m benchmarks.gpu DIR                              # every case and contestant
    python -m benchmarks.gpu DIR --only cuda --case head      # these alone, beside what DIR has already
    python -m benchmarks.gpu DIR --report --tests DIR/tests   # no measurement: the tables anew, and the tests' verdicts

Keeps what was measured in DIR/results.json and writes DIR/ledger.csv and DIR/report.md from it after every contestant,
so that nothing is lost when the next one ends the process. Times are medians of rounds between events on the device;
each call takes another input, and the inputs together are larger than the second-level cache. A contestant that fails
costs its own row; one that lasts longer than `--patience` ends the process, and `gpu_run.py` goes on behind it.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import faulthandler
import json
import os
import statistics
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_cases
from benchmarks.gpu_cases import Case, Contestant, Run
from benchmarks.gpu_roofline import Roofline, Work, measure, seconds
from pyasd import backends
from pyasd.errors import BackendUnavailable

COLUMNS = (
    "date", "commit", "gpu", "torch", "triton", "case", "contestant", "units", "unit", "ms", "per_second",
    "times_eager", "times_compile", "peak_mib", "bound_ms", "limit", "bound_share", "note",
)  # fmt: skip

ROUND_SECONDS = 0.02
"""A round of a contestant repeats its call until it lasts about this long."""

TARGETS: tuple[tuple[str, str, str, float], ...] = (
    ("log-Mel, int16", "float32", "per_second", 4e8),
    ("log-Mel, int16", "float32", "times_eager", 4),
    ("head forward", "bfloat16", "per_second", 8e7),
    ("head forward", "float32", "per_second", 2.5e7),
    ("head forward", "float32", "times_compile", 5),
    ("head forward", "float32", "times_eager", 15),
    ("head forward + backward", "float32", "times_compile", 3),
    ("samples to clip score", "bfloat16", "per_second", 150_000),
)
"""Targets of the CUDA kernels on an H100 or H200: case, precision, column, value."""


@dataclass
class Results:
    """What has been measured so far, as DIR/results.json has it.

    Attributes:
        known: date, commit, GPU and versions, as in the ledger.
        roofline: the device's peaks, or nothing yet.
        making: the case that is being made, and for whom: it is to blame should the process have ended.
        died: those that ended the process so, and are left out from then on.
        rows: of each contestant that had its turn, by "case, contestant".
    """

    known: dict[str, str]
    roofline: dict[str, float] = field(default_factory=dict)
    making: str = ""
    died: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path, known: dict[str, str]) -> Results:
        """Read what `folder` has; nothing is measured yet where it has nothing."""
        path = folder / "results.json"
        return cls(**json.loads(path.read_text())) if path.exists() else cls(known)

    def save(self, folder: Path, tests: Path | None = None) -> None:
        """Write results.json whole or not at all, then the tables."""
        partial = folder / "results.json.partial"
        partial.write_text(json.dumps(asdict(self), indent=1))
        partial.replace(folder / "results.json")
        rows = ledger(self, tests)
        with (folder / "ledger.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        (folder / "report.md").write_text(report(rows, self, tests))


def tested(tests: Path, backend: str, operator: str) -> tuple[bool, str]:
    """Return whether an operator's tests on a backend have passed, and a summary in words.

    pytest's XML is in `tests`, one file or several named "<operator>-<backend>...", empty where tests did not end.
    """
    total = failed = skipped = 0
    for path in sorted(tests.glob(f"{operator}-{backend}*.xml")):
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


def peak_mib(run: Run, device: torch.device) -> float | None:
    """MiB that one call takes at its peak."""
    if device.type == "cpu":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = run(0)
    torch.cuda.synchronize(device)
    del result
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def measure_contestant(contestant: Contestant, device: torch.device, rounds: int) -> dict[str, Any]:
    """Return a contestant's `seconds` (the median of a call's), `rounds` and `peak_mib`, or a `note` that says why not.

    Raises:
        RuntimeError: the device is lost, and with it every later figure of this process.
    """
    if contestant.backend is not None:
        try:
            backends.select(contestant.backend, device)
        except BackendUnavailable as error:
            return {"note": str(error)}
    try:
        run = contestant.make()
        for i in range(gpu_cases.COPIES):  # compiles, and fills the allocator's pools
            run(i)
        peak = peak_mib(run, device)
        once = seconds(_turns(run), gpu_cases.COPIES, device)
        calls = max(gpu_cases.COPIES, min(1000, round(ROUND_SECONDS / max(once, 1e-9))))
        times = [seconds(_turns(run), calls, device) for _ in range(rounds)]
        return {"seconds": statistics.median(times), "spread": max(times) / min(times), "peak_mib": peak, "note": ""}
    except Exception as error:  # a peer that lacks memory or doesn't compile, or a fault of ours: its row says so
        if "CUDA error" in str(error):
            raise
        return {"note": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[:200]}


def _turns(run: Run) -> Callable[[], object]:
    """`run` with the number of the call."""
    number = iter(range(sys.maxsize))
    return lambda: run(next(number))


def ledger(results: Results, tests: Path | None) -> list[dict[str, str]]:
    """Return the ledger's rows: with ratios to torch's, and a note where a backend's tests failed."""
    roofline = Roofline(**results.roofline) if results.roofline else None
    rows = []
    for row in results.rows.values():
        cells = results.known | {key: str(row[key]) for key in ("case", "contestant", "units", "unit", "note")}
        if "seconds" in row and roofline is not None:
            bound, limit = roofline.bound(Work(**row["work"]), row["precision"])
            bound *= row["units"]
            cells |= {
                "ms": f"{row['seconds'] * 1e3:.4f}",
                "per_second": f"{row['units'] / row['seconds']:.4g}",
                "times_eager": _times(results, "eager torch", row),
                "times_compile": _times(results, "torch.compile", row),
                "peak_mib": "" if row["peak_mib"] is None else f"{row['peak_mib']:.1f}",
                "bound_ms": f"{bound * 1e3:.4f}",
                "limit": limit,
                "bound_share": f"{bound / row['seconds']:.3g}",
            }
            if tests is not None and row["backend"] is not None:
                passed, words = tested(tests, row["backend"], row["operator"])
                cells["note"] = "" if passed else words
        rows.append({column: "" for column in COLUMNS} | cells)
    return rows


def _times(results: Results, peer: str, ours: dict[str, Any]) -> str:
    """Return how many times as fast as a peer in the same precision, else in float32."""
    for name in (f"{peer} {ours['precision']}", peer):
        other = results.rows.get(f"{ours['case']}, {name}", {})
        if "seconds" in other:
            return f"{other['seconds'] / ours['seconds']:.2f}"
    return ""


def report(rows: list[dict[str, str]], results: Results, tests: Path | None) -> str:
    """Return the rows as Markdown, and the targets with what was reached."""
    lines = ["# GPU report", "", ", ".join(f"{k} {v}" for k, v in results.known.items()) + ". Times are medians.", ""]
    if results.known["gpu"] == "none":
        lines += ["**This ran on the CPU to try the code: no figure in it is a GPU's.**", ""]
    if results.roofline:
        lines += [f"Measured peaks: {Roofline(**results.roofline)}.", ""]
    if tests is not None:
        names = sorted({(row["operator"], row["backend"]) for row in results.rows.values() if row["backend"]})
        lines += [*(f"- {operator} on {b}: {tested(tests, b, operator)[1]}" for operator, b in names), ""]
    if results.died:
        lines += [f"The process ended while these were made: {', '.join(results.died)}.", ""]
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
    lines += ["## Targets (stated for an H100 or H200)", "", "| | target | measured | |", "|---|---:|---:|---|"]
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
    parser.add_argument("out", type=Path, help="folder for results.json, ledger.csv and report.md")
    parser.add_argument("--case", action="append", choices=gpu_cases.CASES, help="which (default: all)")
    parser.add_argument("--only", choices=("cuda", "triton", "peers"), help="whose calls (default: everyone's)")
    parser.add_argument("--tests", type=Path, help="folder of the tests' XML, for the notes")
    parser.add_argument("--seconds", type=float, default=300, help="time for all cases (default 300)")
    parser.add_argument("--patience", type=float, default=60, help="time for one contestant (default 60)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default 7)")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ...; cpu tries the code, not the speed")
    parser.add_argument("--tiny", action="store_true", help="tiny inputs, to try the code")
    parser.add_argument("--report", action="store_true", help="measure nothing: write the tables anew")
    args = parser.parse_args(arguments)
    device = torch.device(args.device)
    if device.type == "cuda" and not args.report and not torch.cuda.is_available():
        sys.exit("no CUDA device: torch finds none, so nothing is measured")
    args.out.mkdir(parents=True, exist_ok=True)
    known = {
        "date": datetime.date.today().isoformat(),
        "commit": os.environ.get("PYASD_COMMIT", "unknown"),
        "gpu": "none" if device.type == "cpu" or args.report else torch.cuda.get_device_name(device),
        "torch": str(torch.__version__),
        "triton": _version("triton"),
    }
    results = Results.load(args.out, known)
    if not args.report:
        _run(args, device, results)
    results.save(args.out, args.tests)


def _run(args: argparse.Namespace, device: torch.device, results: Results) -> None:
    # A device that is lent for minutes has none for a call that never ends: this ends the process and says where.
    deadline = time.monotonic() + args.seconds
    stand_ins = {"cuda": "cpu", "triton": "reference"} if device.type == "cpu" else {"cuda": "cuda", "triton": "triton"}
    ours = [backend for name, backend in stand_ins.items() if args.only in (None, name)]
    faulthandler.dump_traceback_later(args.patience, exit=True)
    if not results.roofline:
        results.roofline = asdict(measure(device, *((256, 1 << 20) if args.tiny else ())))
        print(f"{results.known['gpu']}: {Roofline(**results.roofline)}", flush=True)
    if results.making:
        results.died.append(results.making)
    for key in args.case or list(gpu_cases.CASES):
        results.making = f"{key} ({args.only or 'all'})"
        if results.making in results.died:
            continue
        results.save(args.out)
        torch._dynamo.reset()
        case = gpu_cases.CASES[key](gpu_cases.TINY if args.tiny else gpu_cases.FULL, device, tuple(ours))
        results.making = ""
        for name, contestant in case.contestants.items():
            known_row = f"{case.name}, {name}"
            if contestant.backend is None and args.only not in (None, "peers"):
                continue
            if known_row in results.rows:
                continue  # had its turn, in an earlier process
            faulthandler.dump_traceback_later(args.patience, exit=True)
            results.rows[known_row] = _row(case, name, contestant, {"note": "the process ended in its turn"})
            results.save(args.out)
            if time.monotonic() > deadline:
                made: dict[str, Any] = {"note": "out of time"}
            else:
                made = measure_contestant(contestant, device, args.rounds)
            row = results.rows[known_row] = _row(case, name, contestant, made)
            results.save(args.out)
            speed = f"{case.units / row['seconds']:.4g} {case.unit}/s" if "seconds" in row else ""
            print(f"{case.name:24} {name:32} {speed:>20} {row['note']}", flush=True)
        del case
        if device.type == "cuda":
            torch.cuda.empty_cache()
    results.making = ""
    faulthandler.cancel_dump_traceback_later()


def _row(case: Case, name: str, contestant: Contestant, made: dict[str, Any]) -> dict[str, Any]:
    return {
        "case": case.name, "contestant": name, "units": case.units, "unit": case.unit, "work": asdict(case.work),
        "operator": case.operator, "precision": contestant.precision, "backend": contestant.backend, **made,
    }  # fmt: skip


if __name__ == "__main__":
    main()
