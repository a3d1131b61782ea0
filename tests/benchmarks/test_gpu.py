"""The GPU benchmark's code on the CPU, and gpu.sh up to where a GPU is needed: its minutes are no place for a typo."""

from __future__ import annotations

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import gpu, gpu_cases  # noqa: E402
from benchmarks.gpu_roofline import Roofline, Work  # noqa: E402

CPU = torch.device("cpu")
PEAKS = Roofline(bandwidth=1e12, bfloat16=8e14, tf32=3e14, float32=5e13, exps=4e12)


def xml(folder: Path, name: str, tests: int, failures: int = 0, skipped: int = 0) -> None:
    counts = f'tests="{tests}" failures="{failures}" errors="0" skipped="{skipped}"'
    (folder / f"{name}.xml").write_text(f"<testsuites><testsuite {counts}></testsuite></testsuites>")


@pytest.fixture
def _nothing_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(gpu_cases, "COPIES", 2)
    monkeypatch.setattr(gpu, "ROUND_SECONDS", 0)


@pytest.mark.usefixtures("_nothing_takes_long")
def test_every_case_and_contestant_runs_on_tiny_inputs(tmp_path: Path) -> None:
    for operator in gpu.OPERATORS:
        for backend in ("cpu", "reference"):
            xml(tmp_path, f"{operator}-{backend}", tests=3, skipped=1)
    words = [str(tmp_path), "--tests", str(tmp_path), "--device", "cpu", "--tiny", "--rounds", "1", "--seconds", "500"]
    gpu.main(words)
    with (tmp_path / "ledger.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(gpu.COLUMNS)
    cases = [make(gpu_cases.TINY, CPU, ("cpu", "reference")) for make in gpu_cases.CASES.values()]
    assert [(row["case"], row["contestant"]) for row in rows] == [
        (case.name, contestant) for case in cases for contestant in case.contestants
    ]
    for row in rows:
        if row["contestant"] == "torchaudio" and row["note"]:
            continue  # isn't everywhere
        assert row["note"] == "", row
        assert float(row["ms"]) > 0
        assert float(row["per_second"]) == pytest.approx(1e3 * int(row["units"]) / float(row["ms"]), rel=1e-2)
        assert float(row["bound_share"]) > 0
    report = (tmp_path / "report.md").read_text()
    assert "no figure in it is a GPU's" in report
    assert "mixture on cpu: 2 tests passed, 1 skipped" in report
    assert all(f"| {row['contestant']} | {row['ms']} |" in report for row in rows)
    assert report.count("not measured") == len(gpu.targets(rows)), "nothing of the CPU's counts as a GPU's"


def test_no_figure_without_passing_tests(tmp_path: Path) -> None:
    xml(tmp_path, "mixture-cuda", tests=5, failures=1)
    xml(tmp_path, "mixture-triton", tests=5, skipped=5)
    xml(tmp_path, "log_mel-cuda", tests=5)
    assert gpu.tested(tmp_path, "mixture", "cuda") == (False, "1 of its 5 tests failed")
    assert gpu.tested(tmp_path, "mixture", "triton") == (False, "none of its tests ran")
    assert gpu.tested(tmp_path, "log_mel", "triton") == (False, "none of its tests ran")
    (tmp_path / "log_mel-triton.xml").touch()
    assert gpu.tested(tmp_path, "log_mel", "triton") == (False, "its tests did not end")
    xml(tmp_path, "group_made-cuda-a", tests=3, skipped=1)
    xml(tmp_path, "group_made-cuda-b", tests=4)
    assert gpu.tested(tmp_path, "group_made", "cuda") == (True, "6 tests passed, 1 skipped")
    (tmp_path / "group_made-cuda-c.xml").touch()
    assert gpu.tested(tmp_path, "group_made", "cuda") == (False, "its tests did not end")
    assert gpu.tested(tmp_path, "log_mel", "cuda") == (True, "5 tests passed")
    xml(tmp_path, "mixture-cpu", tests=5, failures=2)
    ours = gpu_cases.Contestant(lambda: lambda i: 1 / 0, "float32", "cpu")
    assert gpu.refused(ours, "mixture", CPU, tmp_path) == "2 of its 5 tests failed"
    assert gpu.refused(ours, "mixture", CPU, None) is None
    peer = gpu_cases.Contestant(ours.make)
    assert gpu.refused(peer, "mixture", CPU, tmp_path) is None


def test_a_contestant_that_fails_costs_its_own_row() -> None:
    def no_memory() -> gpu_cases.Run:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 77 GiB\nmore")

    case = gpu_cases.Case(
        "x", "mixture", "windows", 10, Work(bytes=1e6),
        {"cpu float32": gpu_cases.Contestant(lambda: lambda i: torch.ones(9).sum(), backend="cpu"),
         "eager torch": gpu_cases.Contestant(no_memory)},
    )  # fmt: skip
    results = gpu.measure_case(case, CPU, 3, deadline=float("inf"), tests=None)
    ours, peer = gpu.rows_of(case, results, PEAKS, {})
    assert len(results["cpu float32"].seconds) == 3
    assert ours["note"] == ours["times_eager"] == ""
    assert float(ours["bound_ms"]) == pytest.approx(1e-2), "ten windows of a megabyte at a terabyte a second"
    assert peer["note"] == "OutOfMemoryError: CUDA out of memory. Tried to allocate 77 GiB"
    assert peer["ms"] == peer["per_second"] == ""
    late = gpu.measure_case(case, CPU, 3, deadline=0, tests=None)
    assert {result.note for result in late.values()} == {"out of time"}


def test_the_slowest_unit_bounds() -> None:
    work = Work(products=4e14, arithmetic=5e12, exps=4e11, bytes=2e11)
    assert PEAKS.bound(work, "bfloat16") == (0.5, "products")
    assert PEAKS.bound(work, "float32") == (4.0, "products")
    assert PEAKS.bound(Work(exps=4e12, bytes=1e11), "bfloat16") == (1.0, "exponentials")
    assert PEAKS.bound(Work(arithmetic=1e14), "float32") == (2.0, "float32 arithmetic")


def test_targets_are_read_off_the_rows() -> None:
    empty = dict.fromkeys(gpu.COLUMNS, "")
    rows = [
        empty | {"case": "head forward", "contestant": "cuda float32", "per_second": "3e7", "times_eager": "14"},
        empty | {"case": "head forward", "contestant": "triton float32", "per_second": "2.1e7", "times_compile": "3"},
    ]
    found = {what: (target, value) for what, target, value in gpu.targets(rows)}
    assert found["head forward, float32, per second"] == (2.5e7, 3e7)
    assert found["triton / cuda, head forward, float32"][1] == pytest.approx(0.7)
    report = gpu.report([row | {"units": "1", "unit": "windows"} for row in rows], PEAKS, [])
    assert "| head forward, float32, per second | 2.5e+07 | 3e+07 | met |" in report
    assert "| head forward, float32, times eager | 15 | 14 | missed |" in report
    assert "| head forward, bfloat16, per second | 8e+07 |  | not measured |" in report


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no CUDA device"):
        gpu.main([str(tmp_path)])


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.skipif(not shutil.which("cmake") or not shutil.which("ninja"), reason="cmake and ninja are needed")
def test_the_script_builds_and_stops_where_a_gpu_is_needed(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "gpu.sh"
    bare = "import sys; sys.meta_path = [x for x in sys.meta_path if 'Scikit' not in type(x).__name__]"
    (tmp_path / "sitecustomize.py").write_text(bare)
    environment = {**os.environ, "PYTHON": sys.executable, "PYASD_GPU_SECONDS": "540", "PYTHONPATH": str(tmp_path)}
    run = subprocess.run([script, tmp_path / "out"], env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 1
    assert "no CUDA device: torch finds none" in run.stderr
    assert "backend cpu: ready" in run.stdout
    assert not (tmp_path / "out" / "ledger.csv").exists()


def test_the_script_names_tests_that_there_are() -> None:
    script = (ROOT / "benchmarks" / "gpu.sh").read_text(encoding="utf-8")
    named = set(re.findall(r"\btests/\w[\w/]*\.py", script))
    assert named
    assert not [path for path in sorted(named) if not (ROOT / path).is_file()]
