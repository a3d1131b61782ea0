"""Tests of the tests: modules with one small fault at a time, each against the tests that mirror the module.

    python -m benchmarks.mutants                             # the modules in MODULES, 40 faults of each
    python -m benchmarks.mutants pyasd/audio.py --most 0     # all faults of one module
    python -m benchmarks.mutants --survivors                 # only lists what survived so far

A fault that no test notices has survived: a test is missing, or the fault changes nothing (benchmarks/equivalent.csv
lists those that were looked at, with the reason). What was tried is kept in build/mutants.jsonl, and not tried again
unless the module or its tests change: a run that was ended goes on where it was.

Each fault is tried in a forked process, whose own processes see it too. One that takes five times as long as the tests
do without it counts as noticed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import importlib
import importlib.util
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from benchmarks.mutations import Mutation, mutations

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "mutants.jsonl"
EQUIVALENT = ROOT / "benchmarks" / "equivalent.csv"
"""Faults that change nothing, by module and name, and why."""

HOOK = ROOT / "benchmarks" / "mutated" / "sitecustomize.py"

MODULES: dict[str, tuple[str, ...]] = {
    "pyasd/storage.py": (),
    "pyasd/settings.py": (),
    "pyasd/compute.py": ("tests/detector/test_callers_torch.py",),
    "pyasd/clips/names.py": (),
    "pyasd/clips/sources.py": ("tests/clips/test_find.py",),
    "pyasd/containers/riff.py": ("tests/containers",),
    "pyasd/containers/mpeg.py": ("tests/containers",),
    "pyasd/containers/ogg.py": ("tests/containers",),
    "pyasd/containers/others.py": ("tests/containers",),
    "pyasd/features/log_mels.py": (),
    "pyasd/features/windows.py": (),
    "pyasd/training/data.py": (),
    "pyasd/models/moments.py": (),
    "pyasd/models/pooling.py": (),
    "pyasd/detector/statistics.py": (),
    "pyasd/detector/calibration.py": ("tests/detector/test_decisions.py",),
    "pyasd/detector/decisions.py": ("tests/detector/test_calibration.py",),
    "pyasd/tables/evaluation.py": ("tests/tables/test_decisions.py",),
}
"""Modules whose tests take seconds, and what tests them besides the file of that name."""

_HEAVY = (
    "torch", "pandas", "pyarrow.parquet", "soundfile", "soxr", "scipy.stats", "librosa", "safetensors.torch",
    "hypothesis", "pytest_benchmark.plugin", "pytest_cov.plugin",
)  # fmt: skip
"""Imported once, before the processes fork."""


@dataclass(frozen=True)
class Result:
    """Tell what became of a fault.

    Attributes:
        module: its file, from the project's root.
        digest: of the module and its tests.
        name: see `Mutation.name`.
        line: in the module.
        outcome: "killed", "timeout" or "survived".
    """

    module: str
    digest: str
    name: str
    line: int
    outcome: str


def tests_of(module: str) -> list[str]:
    """Return the tests that mirror a module, and those that MODULES names besides."""
    path = Path(module)
    mirrored = Path("tests", *path.parts[1:-1], f"test_{path.name}")
    besides = list(MODULES.get(module, ()))
    if (ROOT / mirrored).exists() and not any(mirrored.is_relative_to(x) for x in besides):
        besides.insert(0, str(mirrored))
    return besides


def digest(module: str, tests: Sequence[str]) -> str:
    """Return the SHA-256 of a module and its tests."""
    sha = hashlib.sha256()
    for name in (module, *tests):
        path = ROOT / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            sha.update(file.read_bytes())
    return sha.hexdigest()


def _run_tests(module: str, tests: Sequence[str], text: Path | None) -> int:
    """Fork a process that runs the tests, with the module's text from a file; return its id. It ends with 0 where all
    tests pass.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()  # so that what it starts can be ended with it
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        os.chdir(ROOT)
        os.environ.pop("PYTEST_ADDOPTS", None)  # its plugins may be among those that are left out
        if text is not None:
            name = ".".join(Path(module).with_suffix("").parts)
            os.environ["PYASD_MUTANT"] = "\n".join((name, str(ROOT / module), str(text)))
            os.environ["PYTHONPATH"] = os.pathsep.join([str(HOOK.parent), os.environ.get("PYTHONPATH", "")])
            spec = importlib.util.spec_from_file_location("mutated", HOOK)
            assert spec is not None
            assert spec.loader is not None
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))
    finally:
        os._exit(code)


@dataclass
class _Running:
    mutation: Mutation
    since: float
    text: Path


def judge(module: str, tests: Sequence[str], some: Sequence[Mutation], jobs: int, limit: float) -> Iterator[Result]:
    """Run the tests against each fault, `jobs` at a time; `limit` is in seconds."""
    stamp = digest(module, tests)
    waiting, running = list(reversed(some)), dict[int, _Running]()
    with tempfile.TemporaryDirectory() as folder:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    mutation = waiting.pop()
                    text = Path(folder, f"{len(waiting)}.py")
                    text.write_text(mutation.source, encoding="utf-8")
                    running[_run_tests(module, tests, text)] = _Running(mutation, time.monotonic(), text)
                time.sleep(0.01)
                for child, of in list(running.items()):
                    done, status = os.waitpid(child, os.WNOHANG)
                    late = not done and time.monotonic() - of.since > limit
                    if late:
                        _end(child)
                    if done or late:
                        outcome = "timeout" if late else "survived" if status == 0 else "killed"
                        del running[child]
                        yield Result(module, stamp, of.mutation.name, of.mutation.line, outcome)
        finally:
            for child in running:
                _end(child)


def _end(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # before it has a group of its own there is none to end
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def read_results(path: Path) -> list[Result]:
    """Read what was tried before: the results whose module and tests are still the same."""
    if not path.exists():
        return []
    known = [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    stamps = {x.module: digest(x.module, tests_of(x.module)) for x in known if (ROOT / x.module).exists()}
    return [x for x in known if stamps.get(x.module) == x.digest]


def survey(module: str, most: int, seed: int, jobs: int, path: Path) -> None:
    """Try a module's faults that weren't tried yet, and add what becomes of them to `path`."""
    tests = tests_of(module)
    if not tests:
        sys.exit(f"{module} has no tests that mirror it: name them in MODULES")
    some = list(mutations((ROOT / module).read_text(encoding="utf-8")))
    if most and len(some) > most:
        chosen = random.Random(f"{seed} {module}").sample(range(len(some)), most)
        some = [some[i] for i in sorted(chosen)]
    tried = {x.name for x in read_results(path) if x.module == module}
    some = [x for x in some if x.name not in tried]
    if not some:
        return
    begun = time.monotonic()
    if os.waitpid(_run_tests(module, tests, None), 0)[1]:
        sys.exit(f"{' '.join(tests)} fail as they are: python -m pytest {' '.join(tests)}")
    limit = max(10.0, 5 * jobs * (time.monotonic() - begun))
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        for done, result in enumerate(judge(module, tests, some, jobs, limit), 1):
            file.write(json.dumps(asdict(result)) + "\n")
            file.flush()
            if sys.stderr.isatty():
                print(f"\r{module}: {done} of {len(some)}", end="\n" * (done == len(some)), file=sys.stderr, flush=True)


def report(results: Sequence[Result]) -> str:
    """Return a table by module, and the list of what survived."""
    lines = ["| module | faults | noticed | equivalent | survived | noticed of all but equivalent |"]
    lines.append("|---|---|---|---|---|---|")
    survived = []
    total = [0, 0, 0]
    with open(EQUIVALENT, encoding="utf-8", newline="") as file:
        known = {(row["module"], row["name"]) for row in csv.DictReader(file)}
    for module in dict.fromkeys(x.module for x in results):
        own = [x for x in results if x.module == module]
        left = [x for x in own if x.outcome == "survived"]
        equivalent = [x for x in left if (module, x.name) in known]
        survived += [x for x in left if x not in equivalent]
        counts = [len(own), len(own) - len(left), len(equivalent)]
        total = [a + b for a, b in zip(total, counts, strict=True)]
        lines.append(_line(f"`{module}`", *counts))
    lines.append(_line("all", *total))
    return "\n".join([*lines, "", *(f"{x.module}:{x.line}: {x.name}" for x in survived)])


def _line(name: str, faults: int, noticed: int, equivalent: int) -> str:
    share = f"{100 * noticed / max(1, faults - equivalent):.1f} %"
    return f"| {name} | {faults} | {noticed} | {equivalent} | {faults - noticed - equivalent} | {share} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Try faults, and print what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", help="files under pyasd/; those in MODULES unless given")
    parser.add_argument("--most", type=int, default=40, help="faults of a module, drawn by the seed; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--survivors", action="store_true", help="try nothing, only print what is known")
    given = parser.parse_args(arguments)
    modules = given.modules or list(MODULES)
    if not given.survivors:
        os.environ["OMP_NUM_THREADS"] = "1"
        for name in _HEAVY:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        for module in modules:
            survey(module, given.most, given.seed, given.jobs, given.results)
    print(report([x for x in read_results(given.results) if x.module in modules]))


if __name__ == "__main__":
    main()
