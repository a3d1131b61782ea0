"""The kernels as nvcc compiles them: no registers spilled, and no atomics, on any architecture."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCES = sorted((Path(__file__).resolve().parents[2] / "csrc" / "cuda").glob("*.cu"))
ARCHITECTURES = {"80": "80", "86": "86", "89": "89", "90a": "90a", "120": "90"}
"""Those of devices, and whose PTX they get: the last is one of those that come later, for which the driver compiles."""


class Usage(NamedTuple):
    """Of one kernel on one architecture: registers of a thread, and bytes that it keeps in memory for want of them."""

    kernel: str
    architecture: str
    registers: int
    spilled: int


def compile_for(source: Path, architecture: str, folder: Path) -> tuple[list[Usage], str]:
    """What ptxas says of the kernels of a file, and their PTX."""
    own = folder / f"{source.stem}.{architecture}"
    own.mkdir()
    command = ["nvcc", "-std=c++17", "-O3", f"-I{source.parents[1]}", "-Xptxas", "-v", "--keep", "--keep-dir", str(own)]
    command += ["-gencode", f"arch=compute_{ARCHITECTURES[architecture]},code=sm_{architecture}", "-c", str(source)]
    done = subprocess.run([*command, "-o", str(own / "out.o")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = re.findall(
        r"entry function '(\w+)' for.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        done.stderr,
        re.DOTALL,
    )
    usages = [Usage(name, architecture, int(registers), int(a) + int(b)) for name, a, b, registers in found]
    return usages, "".join(path.read_text() for path in own.glob("*.ptx"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list[Usage], str]]:
    if shutil.which("nvcc") is None:
        pytest.skip("no nvcc on the PATH")
    folder = tmp_path_factory.mktemp("compiled")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(
            pool.map(lambda job: compile_for(job[0], job[1], folder), [(s, a) for a in ARCHITECTURES for s in SOURCES])
        )


def test_nothing_spills(compiled: list[tuple[list[Usage], str]]) -> None:
    usages = [usage for found, _ in compiled for usage in found]
    for name in ("forward_kernel", "backward_input_kernel", "backward_weight_kernel", "log_mel_kernel", "trunk_kernel"):
        assert {u.architecture for u in usages if name in u.kernel} == ARCHITECTURES.keys(), name
    large_frames_later = Usage("_ZN5pyasd4cuda14log_mel_kernelILi2048EEEvNS0_10LogMelArgsE", "120", 128, 8)
    assert [usage for usage in usages if usage.spilled] in ([], [large_frames_later])
    assert all(usage.registers <= 255 for usage in usages)


def test_compute_capability_9_has_products_of_warpgroups(compiled: list[tuple[list[Usage], str]]) -> None:
    for usages, ptx in compiled:
        forward = [u for u in usages if "forward_kernel" in u.kernel]
        assert ("wgmma.mma_async" in ptx) == bool(forward and forward[0].architecture == "90a")


def test_sums_have_no_atomics(compiled: list[tuple[list[Usage], str]]) -> None:
    """Sums in a fixed order have the same bits every time."""
    assert any("mma.sync" in ptx for _, ptx in compiled)
    assert not [ptx for _, ptx in compiled if re.search(r"^\s*(@\S+\s+)?(atom|red)\.", ptx, re.MULTILINE)]
