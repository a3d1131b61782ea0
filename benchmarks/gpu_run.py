"""What a GPU has to say about this repository, in one go: build, self-check, native figures, tests, all figures.

    benchmarks/gpu.sh DIR                     # on a machine with a GPU, 480 s
    benchmarks/gpu.sh DIR --rehearse          # on any machine: the same script with tiny inputs on the CPU

Needs Python with torch, triton, numpy, scikit-learn, pytest and pybind11, CMake, ninja and nvcc; nothing is downloaded
or installed. Every phase is a process with a time limit of its own, and DIR has what there is after each, in at most
eight files: log.txt, build.txt, report.md, ledger.csv, results.json, tests.tar.gz. The exit code is 0 only when all
that ran went well.

PYTHON names the interpreter; PYASD_EXTENSIONS a folder of extensions that are built already.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

SWITCHES: tuple[dict[str, str], ...] = ({}, {"PYASD_WGMMA": "0"}, {"PYASD_CUDA": "0"})
"""What is switched off, should the probe hang or die with all that there is: less and less is left."""

TESTS = {
    "log_mel": ("tests/ops/test_log_mel.py",),
    "mixture": ("tests/ops/test_mixture.py",),
    "group_made": ("tests/ops/test_group_made.py",),
    "device": ("tests/test_gpu.py",),
}
"""The tests of each operator, and those of what only a device can show."""

NAMED = {
    "cuda": (
        "test_hidden_layers_run_in_their_kernel",
        "test_products_of_warpgroups_where_the_device_has_them",
        "test_a_cuda_graph_replays_on_new_samples",
        "test_values_and_gradients_equal_float64",
        "test_every_frame_size_equals_float64",
    ),
    "triton": (
        "test_a_cuda_graph_replays_on_new_samples",
        "test_values_and_gradients_equal_float64",
        "test_every_frame_size_equals_float64",
    ),
}
"""Tests without which a run proves little: the log says of each whether it passed."""


class Session:
    """The folder of results and the time that is left.

    Attributes:
        out: the folder.
        work: a temporary folder, for what doesn't come back.
        failed: whether anything went wrong so far.
        environment: of every process.
    """

    def __init__(self, out: Path, work: Path, seconds: float) -> None:
        self.out, self.work, self.failed = out, work, False
        self._end = time.monotonic() + seconds
        self.environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "PYTHONUNBUFFERED": "1"}
        self.tests = work / "tests"
        self.tests.mkdir()

    def left(self) -> float:
        """Seconds that are left."""
        return self._end - time.monotonic()

    def say(self, words: str) -> None:
        """Print a line, and keep it in log.txt."""
        line = f"{words}  [{self.left():.0f} s left]" if words.startswith("==") else words
        print(line, flush=True)
        with (self.out / "log.txt").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def start(
        self, argv: Sequence[str | Path], log: Path, extra: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to a file; `finish` ends it and all that it has started."""
        with log.open("w") as file:
            return subprocess.Popen(
                [str(part) for part in argv], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=self.environment | (extra or {}), cwd=self.work / "tree", start_new_session=True,
            )  # fmt: skip

    def finish(self, process: subprocess.Popen[bytes], seconds: float) -> int | str:
        """Return a process's exit code, "out of time", or the signal that ended it."""
        try:
            code: int | str = process.wait(max(1.0, min(seconds, self.left())))
        except subprocess.TimeoutExpired:
            code = "out of time"
        if code != 0:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return signal.Signals(-code).name if isinstance(code, int) and code < 0 else code

    def run(self, argv: Sequence[str | Path], log: Path, seconds: float, extra: dict[str, str] | None = None) -> bool:
        """Run a process; say the end of what it printed where it fails. Returns whether it went well."""
        began = time.monotonic()
        code = self.finish(self.start(argv, log, extra), seconds)
        if code != 0:
            self.failed = True
            self.say(f"{log.stem} FAILED ({code}, {time.monotonic() - began:.0f} s):\n{tail(log, 15)}")
        return code == 0

    def collect(self) -> None:
        """Put the tests' reports into one archive in the folder."""
        with tarfile.open(self.out / "tests.tar.gz", "w:gz") as archive:
            archive.add(self.tests, "tests")


def tail(log: Path, lines: int) -> str:
    """Return the last lines of a file."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def build(session: Session, python: str) -> bool:
    """Put a copy of the Python files beside fresh extensions, so that nothing has to be installed."""
    tree = session.work / "tree"
    tree.mkdir()
    for name in ("pyasd", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copytree(ROOT / "kernels", tree / "pyasd" / "kernels", dirs_exist_ok=True)
    shutil.copy(ROOT / "pyproject.toml", tree)
    ready = os.environ.get("PYASD_EXTENSIONS")
    folder = Path(ready) if ready else session.work / "build"
    if not ready:
        capability = subprocess.run(
            ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"], capture_output=True, text=True
        ).stdout if shutil.which("nvidia-smi") else ""  # fmt: skip
        number = capability.strip().splitlines()[0].replace(".", "").strip() if capability.strip() else ""
        options = [f"-DCMAKE_CUDA_ARCHITECTURES={'90a' if number == '90' else number}-real"] if number.isdigit() else []
        cuda = "ON" if shutil.which("nvcc") else "AUTO"
        session.say(f"== build, CUDA {cuda} {' '.join(options)}")
        pybind11 = subprocess.run([python, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True).stdout
        configure: list[str | Path] = [
            "cmake",
            "-S",
            ROOT,
            "-B",
            folder,
            "-G",
            "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            *options,
        ]
        configure += [f"-DPYASD_CUDA={cuda}", f"-Dpybind11_DIR={pybind11.strip()}", f"-DPython_EXECUTABLE={python}"]
        log = session.out / "build.txt"
        if not session.run(configure, log, 60) or not session.run(["cmake", "--build", folder], log, 200):
            return False
    extensions = sorted(folder.glob("_*.so"))
    for extension in extensions:
        shutil.copy(extension, tree / "pyasd")
    session.say(f"extensions: {', '.join(x.name for x in extensions) or 'NONE'}")
    return bool(extensions)


def probe(session: Session, python: str, seconds: float) -> bool:
    """Ask what the CUDA backend can do; where that hangs or dies, switch wgmma off, then the backend.

    The switches that work stay in the session's environment. Returns whether there is a device.
    """
    for number, switches in enumerate(SWITCHES):
        log = session.work / f"probe-{number}.txt"
        label = "".join(f" {name}={value}" for name, value in switches.items())
        session.say(f"== probe{label}")
        code = session.finish(session.start([python, "-m", "benchmarks.gpu_probe"], log, switches), seconds)
        session.say(f"{tail(log, 15)} (exit code {code})")
        if code == 0:
            session.environment |= switches
            return True
        if "no CUDA device" in log.read_text(errors="replace"):
            return False
        session.failed = True
    return False


def test(session: Session, python: str, seconds: float, triton_processes: int) -> None:
    """Run the GPU tests of every operator on each backend, side by side, since Triton compiles on the way."""
    session.say(f"== tests, {seconds:.0f} s at most")
    running = {}
    for backend in ("cuda", "triton"):
        for operator, files in TESTS.items():
            name = f"{operator}-{backend}"
            xml = session.tests / f"{name}.xml"
            xml.touch()  # stays empty when the tests don't end
            argv: list[str | Path] = [
                python,
                "-m",
                "pytest",
                "-q",
                "-rfEs",
                "--tb=short",
                "-p",
                "no:cacheprovider",
                "--junitxml",
                xml,
            ]
            argv += ["-m", f"gpu and {backend}", *files]
            if backend == "triton" and triton_processes > 1:
                argv += ["-n", str(triton_processes)]
            running[name] = session.start(argv, session.tests / f"{name}.txt")
    end = time.monotonic() + seconds
    for name, process in running.items():
        code = session.finish(process, end - time.monotonic())
        log = session.tests / f"{name}.txt"
        session.failed |= code != 0
        session.say(f"{name}: {tail(log, 1)} (exit code {code})")
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith(("FAILED", "ERROR")):
                session.say("  " + line[:220])
    for backend, names in NAMED.items():
        outcomes = outcomes_of(session.tests, backend)
        for name in names:
            session.say(f"{backend} {name}: {outcomes.get(name, 'NOT COLLECTED')}")
            session.failed |= name not in outcomes
    session.collect()


def outcomes_of(tests: Path, backend: str) -> dict[str, str]:
    """Return of each test of a backend, by its name without parameters, how many of its cases passed, failed, ..."""
    counts: dict[str, dict[str, int]] = {}
    for path in sorted(tests.glob(f"*-{backend}.xml")):
        try:
            cases = list(ET.parse(path).iter("testcase"))
        except ET.ParseError:
            continue
        for case in cases:
            how = next((x.tag for x in case if x.tag in ("skipped", "failure", "error")), "passed")
            own = counts.setdefault(case.get("name", "").split("[")[0], {})
            own[how] = own.get(how, 0) + 1
    return {name: ", ".join(f"{n} {how}" for how, n in sorted(own.items())) for name, own in counts.items()}


def measure(session: Session, python: str, only: str, seconds: float, options: Sequence[str]) -> None:
    """Measure one group of contestants, process after process until each has had its turn."""
    session.say(f"== figures: {only}, {seconds:.0f} s at most")
    end = time.monotonic() + seconds
    for attempt in range(8):
        log = session.work / f"figures-{only}-{attempt}.txt"
        left = end - time.monotonic()
        if left < 5:
            break
        argv: list[str | Path] = [
            python,
            "-m",
            "benchmarks.gpu",
            session.out,
            "--only",
            only,
            "--seconds",
            f"{left:.0f}",
            *options,
        ]
        went_well = session.run(argv, log, left)
        session.say(tail(log, 40) if went_well else "")
        if went_well:
            break


def sanitize(session: Session, python: str) -> None:
    """Run compute-sanitizer over our kernels alone, in what time is left."""
    session.say("== compute-sanitizer")
    log = session.tests / "sanitizer.txt"
    argv = [python, "-m", "pytest", "-q", "-rfEs", "-p", "no:cacheprovider", "-m", "gpu", "tests/test_sanitizer.py"]
    code = session.finish(session.start(argv, log), session.left() - 5)
    session.failed |= code not in (0, "out of time")
    session.say(f"sanitizer: {tail(log, 1)} (exit code {code})")
    session.collect()


def commit() -> str:
    """Return the commit under test, with a + where files have changed since."""
    if "PYASD_COMMIT" in os.environ:
        return os.environ["PYASD_COMMIT"]
    described = subprocess.run(
        ["git", "-C", ROOT, "describe", "--always", "--dirty=+"], capture_output=True, text=True
    ).stdout  # fmt: skip
    return described.strip() or "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the results")
    parser.add_argument("--seconds", type=float, default=480, help="time for all of it (default 480)")
    parser.add_argument("--probe-seconds", type=float, default=60, help="time for a self-check (default 60)")
    parser.add_argument("--skip", action="append", default=[], choices=("tests", "triton", "peers", "sanitizer"))
    parser.add_argument("--rehearse", action="store_true", help="tiny inputs on the CPU: no figure is a GPU's")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    out = args.out.resolve()
    (out / "log.txt").unlink(missing_ok=True)
    python = sys.executable
    with tempfile.TemporaryDirectory() as work:
        session = Session(out, Path(work), args.seconds)
        session.environment["PYASD_COMMIT"] = commit()
        if not build(session, python):
            session.say("nothing was built: nothing can be tested or measured")
            return 1
        session.environment["PYTHONPATH"] = os.pathsep.join(
            [str(session.work / "tree"), *filter(None, [os.environ.get("PYTHONPATH")])]
        )
        if not probe(session, python, args.probe_seconds) and not args.rehearse:
            session.say("no CUDA device that can be used: nothing can be tested or measured")
            return 1
        options = ["--device", "cpu", "--tiny", "--rounds", "1"] if args.rehearse else []
        parallel = max(1, min(4, (os.cpu_count() or 1) // 4))
        measure(session, python, "cuda", min(100, session.left() / 4), options)
        if "tests" not in args.skip:
            test(session, python, min(230, session.left() / 2), parallel)
            options += ["--tests", str(session.tests)]
        for only in ("triton", "peers"):
            if only not in args.skip:
                measure(session, python, only, min(120, session.left() / (3 if only == "triton" else 1.5)), options)
        session.run([python, "-m", "benchmarks.gpu", out, "--report", *options], session.work / "report.txt", 60)
        if "sanitizer" not in args.skip and session.left() > 25:
            sanitize(session, python)
        session.say(f"== done, {'something FAILED' if session.failed else 'all went well'}: {out}/report.md")
        return int(session.failed)


if __name__ == "__main__":
    sys.exit(main())
