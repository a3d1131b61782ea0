"""The compiled extension: which architectures it has code for, and that its kernels keep to their registers."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import pytest

ARCHITECTURES = {"sm_80", "sm_86", "sm_89", "sm_90a"}


class Usage(NamedTuple):
    """Of one kernel on one architecture: registers of a thread; bytes that a thread keeps in memory."""

    architecture: str
    kernel: str
    registers: int
    stack: int
    local: int


@pytest.fixture(scope="module")
def extension() -> str:
    spec = importlib.util.find_spec("pyasd._cuda")
    if spec is None or spec.origin is None:
        pytest.skip("pyasd._cuda is not built here: the build found no CUDA compiler")
    if shutil.which("cuobjdump") is None:
        pytest.skip("no cuobjdump on the PATH")
    return spec.origin


def dump(extension: str, *options: str) -> str:
    return subprocess.run(["cuobjdump", *options, extension], check=True, capture_output=True, text=True).stdout


def usages(extension: str) -> Iterator[Usage]:
    architecture = ""
    for line in dump(extension, "--dump-resource-usage").splitlines():
        if found := re.search(r"arch = (sm_\w+)", line):
            architecture = found[1]
        if found := re.search(r"Function (\S+):", line):
            kernel = found[1]
        if found := re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", line):
            yield Usage(architecture, kernel, *(int(x) for x in found.groups()))


def test_every_architecture_has_every_kernel_and_nothing_spills(extension: str) -> None:
    found = list(usages(extension))
    kernels = {usage.kernel for usage in found}
    for name in ("forward_kernel", "pack_kernel", "sum_kernel"):
        assert any(name in kernel for kernel in kernels), name
    assert {(usage.architecture, usage.kernel) for usage in found} >= {(a, k) for a in ARCHITECTURES for k in kernels}
    for usage in found:
        assert usage.stack == usage.local == 0, usage


def test_newer_architectures_get_ptx(extension: str) -> None:
    assert "sm_90.ptx" in dump(extension, "--list-ptx")


def test_sums_have_no_atomics(extension: str) -> None:
    """Sums in a fixed order have the same bits every time."""
    assert not re.search(r"\b(ATOM|RED|ATOMG|ATOMS)\b", dump(extension, "--dump-sass", "--gpu-architecture", "sm_90a"))
