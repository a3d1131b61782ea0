"""The native operators' tests under sanitizers: `python tests/csrc/sanitize.py address` (and undefined), or `thread`.

Builds the extension by itself into build/sanitize-*, puts it beside a copy of the Python files, and runs the tests
there with the sanitizer's runtime loaded first. Needs gcc, cmake, ninja and pybind11; fails where anything is found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# librosa's numba and torch.compile bring code of their own that says nothing about ours and is slow under a sanitizer
RUNS = {
    "address": ("address,undefined", ["libasan.so", "libubsan.so"], ["tests/ops", "-k", "not librosa and not compile"]),
    "thread": ("thread", ["libtsan.so"], ["tests/ops/test_threads.py"]),
}

# torch, its OpenMP and Python are not instrumented, so that what orders their own accesses can't be seen
NOT_OURS = ("libtorch_cpu.so", "libtorch_python.so", "libgomp")

# -S keeps an editable install's import hook from finding the plain extension before the one here
PYTEST = """
import os, sys
sys.path[:0] = ["."]
sys.path += [os.environ["SITE"]]
from pyasd import _native
assert _native.__file__.startswith(os.getcwd()), _native.__file__
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def build(sanitizers: str, folder: Path) -> Path:
    """Compile the extension with `sanitizers` into a copy of the Python files; return the copy's folder."""
    import pybind11

    subprocess.run(
        ["cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DPYASD_CUDA=OFF", f"-DPYASD_SANITIZE={sanitizers}",
         "-DCMAKE_BUILD_TYPE=RelWithDebInfo", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
         f"-DPython_EXECUTABLE={sys.executable}"],
        check=True,
    )  # fmt: skip
    subprocess.run(["cmake", "--build", folder, "--target", "_native"], check=True)
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for name in ("pyasd", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tree)
    for extension in folder.glob("_native*.so"):
        shutil.copy(extension, tree / "pyasd")
    return tree


def main(which: str, *more: str) -> int:
    """Run the tests of `which`, with `more` arguments for pytest; return the exit status."""
    sanitizers, runtimes, tests = RUNS[which]
    tree = build(sanitizers, ROOT / f"build/sanitize-{which}")
    compiler = os.environ.get("CXX", "g++")
    found = [subprocess.check_output([compiler, f"-print-file-name={x}"], text=True).strip() for x in runtimes]
    suppressions = tree / "suppressions"
    lines = [*(f"called_from_lib:{name}" for name in NOT_OURS), "mutex:capsule_dealloc"]  # torch's, at Python's end
    suppressions.write_text("\n".join(lines) + "\n")
    environment = os.environ | {
        "LD_PRELOAD": " ".join(found),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
        "TSAN_OPTIONS": f"suppressions={suppressions}",
        "OMP_WAIT_POLICY": "passive",
        "SITE": sysconfig.get_path("purelib"),
    }
    # without address randomisation: ThreadSanitizer of some gcc's does not find its place in memory otherwise
    python = ["setarch", "-R", sys.executable] if which == "thread" else [sys.executable]
    command = [*python, "-S", "-c", PYTEST, "-q", "-p", "no:cacheprovider", *tests, *more]
    return subprocess.run(command, cwd=tree, env=environment).returncode


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in RUNS:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(RUNS)} [arguments for pytest]")
    sys.exit(main(*sys.argv[1:]))
