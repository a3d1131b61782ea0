"""The GPU benchmark's code on the CPU, and all of gpu.sh with a stand-in for the device: its minutes are no place for a
typo.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import gpu, gpu_cases, gpu_run  # noqa: E402
from benchmarks.gpu_roofline import Roofline, Work  # noqa: E402
from pyasd import _native  # noqa: E402

CPU = torch.device("cpu")
PEAKS = Roofline(bandwidth=1e12, bfloat16=8e14, tf32=3e14, float32=5e13, exps=4e12)
KNOWN = {"date": "2026-11-26", "commit": "abc", "gpu": "H100", "torch": "2", "triton": "3"}


def xml(folder: Path, name: str, tests: int, failures: int = 0, skipped: int = 0) -> None:
    counts = f'tests="{tests}" failures="{failures}" errors="0" skipped="{skipped}"'
    (folder / f"{name}.xml").write_text(f"<testsuites><testsuite {counts}></testsuite></testsuites>")


@pytest.fixture
def _nothing_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(gpu_cases, "COPIES", 2)
    monkeypatch.setattr(gpu, "ROUND_SECONDS", 0)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "ledger.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def whose(name: str) -> str:
    return {"cpu": "cuda", "reference": "triton"}.get(name.split()[0], "peers")


@pytest.mark.usefixtures("_nothing_takes_long")
def test_every_case_and_contestant_runs_on_tiny_inputs(tmp_path: Path) -> None:
    for operator in ("log_mel", "mixture", "group_made"):
        for backend in ("cpu", "reference"):
            xml(tmp_path, f"{operator}-{backend}", tests=3, skipped=1)
    words = [str(tmp_path), "--device", "cpu", "--tiny", "--rounds", "1"]
    for only in ("cuda", "triton", "peers"):
        gpu.main([*words, "--only", only, "--tests", str(tmp_path)])
    rows = rows_of(tmp_path)
    assert list(rows[0]) == list(gpu.COLUMNS)
    cases = [make(gpu_cases.TINY, CPU, ("cpu", "reference")) for make in gpu_cases.CASES.values()]
    expected = [(case.name, contestant) for case in cases for contestant in case.contestants]
    expected.sort(key=lambda row: ("cuda", "triton", "peers").index(whose(row[1])))
    assert [(row["case"], row["contestant"]) for row in rows] == expected, "ours come first"
    for row in rows:
        if row["contestant"] == "torchaudio" and row["note"]:
            continue  # isn't everywhere
        assert row["note"] == "", row
        assert float(row["ms"]) > 0
        assert float(row["per_second"]) == pytest.approx(1e3 * int(row["units"]) / float(row["ms"]), rel=1e-2)
        assert float(row["bound_share"]) > 0
        if row["contestant"] == "eager torch":
            assert float(row["times_eager"]) == 1
    report = (tmp_path / "report.md").read_text()
    assert "no figure in it is a GPU's" in report
    assert "mixture on cpu: 2 tests passed, 1 skipped" in report
    assert all(f"| {row['contestant']} | {row['ms']} |" in report for row in rows)
    assert report.count("not measured") == len(gpu.targets(rows)), "nothing of the CPU's counts as a GPU's"


def test_a_measurement_goes_on_behind_the_contestant_that_ended_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(contestant: gpu_cases.Contestant, device: torch.device, rounds: int) -> dict[str, object]:
        if len(gpu.Results.load(tmp_path, KNOWN).rows) == 3:
            raise KeyboardInterrupt
        return {"seconds": 0.5, "peak_mib": None, "note": ""}

    monkeypatch.setattr(gpu, "measure_contestant", ends)
    words = [str(tmp_path), "--device", "cpu", "--tiny", "--only", "cuda"]
    with pytest.raises(KeyboardInterrupt):
        gpu.main(words)
    rows = rows_of(tmp_path)
    assert [row["note"] for row in rows] == ["", "", "the process ended in its turn"]
    monkeypatch.setattr(gpu, "measure_contestant", lambda *_: {"seconds": 0.1, "peak_mib": None, "note": ""})
    gpu.main(words)
    assert rows_of(tmp_path)[:3] == rows
    assert len(rows_of(tmp_path)) == 9


def test_failed_tests_are_told_beside_the_figure(tmp_path: Path) -> None:
    xml(tmp_path, "mixture-cuda", tests=5, failures=1)
    xml(tmp_path, "mixture-triton", tests=5, skipped=5)
    xml(tmp_path, "log_mel-cuda", tests=5)
    assert gpu.tested(tmp_path, "cuda", "mixture") == (False, "1 of its 5 tests failed")
    assert gpu.tested(tmp_path, "triton", "mixture") == (False, "none of its tests ran")
    assert gpu.tested(tmp_path, "triton", "log_mel") == (False, "none of its tests ran")
    assert gpu.tested(tmp_path, "cuda", "log_mel") == (True, "5 tests passed")
    (tmp_path / "log_mel-triton.xml").touch()
    assert gpu.tested(tmp_path, "triton", "log_mel") == (False, "its tests did not end")
    row = {"case": "x", "contestant": "cuda float32", "units": 10, "unit": "windows", "seconds": 0.1, "peak_mib": 1.0}
    row |= {"note": "", "operator": "mixture", "backend": "cuda", "precision": "float32", "work": vars(Work(bytes=1e6))}
    results = gpu.Results(KNOWN, vars(PEAKS), rows={"x, cuda float32": row})
    (told,) = gpu.ledger(results, tmp_path)
    assert (told["per_second"], told["note"]) == ("100", "1 of its 5 tests failed")
    assert gpu.ledger(results, None)[0]["note"] == ""


def test_a_contestant_that_fails_costs_its_own_row() -> None:
    def no_memory() -> gpu_cases.Run:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 77 GiB\nmore")

    def lost() -> gpu_cases.Run:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    ours = gpu.measure_contestant(gpu_cases.Contestant(lambda: lambda i: torch.ones(9).sum(), backend="cpu"), CPU, 3)
    assert ours["seconds"] > 0
    assert ours["note"] == ""
    peer = gpu.measure_contestant(gpu_cases.Contestant(no_memory), CPU, 3)
    assert peer == {"note": "OutOfMemoryError: CUDA out of memory. Tried to allocate 77 GiB"}
    elsewhere = gpu.measure_contestant(gpu_cases.Contestant(no_memory, backend="cuda"), CPU, 3)
    assert "can't run on cpu" in elsewhere["note"]
    with pytest.raises(RuntimeError, match="illegal memory access"):
        gpu.measure_contestant(gpu_cases.Contestant(lost), CPU, 3)


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
    rows = [row | {"units": "1", "unit": "windows"} for row in rows]
    report = gpu.report(rows, gpu.Results(KNOWN, vars(PEAKS)), None)
    assert "| head forward, float32, per second | 2.5e+07 | 3e+07 | met |" in report
    assert "| head forward, float32, times eager | 15 | 14 | missed |" in report
    assert "| head forward, bfloat16, per second | 8e+07 |  | not measured |" in report


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no CUDA device"):
        gpu.main([str(tmp_path)])


# -- the whole script, with a stand-in for the device --

STAND_IN = """
import os, sys, time

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("soundfile", "soxr", "librosa"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
does = " ".join(sys.orig_argv)
if "benchmarks.gpu_probe" in does and not os.environ.get("PYASD_WGMMA"):
    print("the probe hangs", flush=True)
    time.sleep(600)
if "benchmarks.gpu " in does:
    import dataclasses
    import torch
    from benchmarks import gpu_cases
    torch.compile = lambda function: function
    head, log_mel = gpu_cases.CASES["head"], gpu_cases.CASES["log-mel"]
    def dies(*_):
        os._exit(139)
    def head_that_dies(sizes, device, backends):
        case = head(sizes, device, backends)
        found = {k: dataclasses.replace(c, make=dies) if k == "cpu float32" else c for k, c in case.contestants.items()}
        return dataclasses.replace(case, contestants=found)
    gpu_cases.CASES["head"] = head_that_dies
    if "--only triton" in does:
        gpu_cases.CASES["log-mel"] = dies
"""

PLUGIN = """
def pytest_runtest_setup(item):
    assert item.originalname != "test_empty_batch", "it fails"
"""


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_rehearsal_of_the_whole_script(tmp_path: Path) -> None:
    """No soundfile, soxr or librosa; a probe that hangs, a contestant and a case that die, a test that fails."""
    (tmp_path / "sitecustomize.py").write_text(STAND_IN)
    (tmp_path / "stand_in.py").write_text(PLUGIN)
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    environment |= {"PYTEST_PLUGINS": "stand_in", "PYASD_EXTENSIONS": str(Path(_native.__file__).parent)}
    out = tmp_path / "out"
    run = subprocess.run(
        [ROOT / "benchmarks" / "gpu.sh", out, "--rehearse", "--seconds", "500", "--probe-seconds", "20"],
        env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    log = (out / "log.txt").read_text()
    assert log == run.stdout, run.stderr
    assert run.returncode == 1, "something failed"
    assert {path.name for path in out.iterdir()} <= {
        "log.txt", "build.txt", "report.md", "ledger.csv", "results.json", "tests.tar.gz",
    }, "a machine that is lent may hand back no more than eight files"  # fmt: skip
    assert "the probe hangs (exit code out of time)" in log
    assert "== probe PYASD_WGMMA=0" in log
    notes = {(row["case"], row["contestant"]): row["note"] for row in rows_of(out)}
    assert notes.pop(("head forward", "cpu float32")) == "the process ended in its turn"
    assert all(note == "none of its tests ran" or whose(name) == "peers" for (_, name), note in notes.items())
    cases = [make(gpu_cases.TINY, CPU, ("cpu", "reference")) for make in gpu_cases.CASES.values()]
    expected = {(case.name, name) for case in cases for name in case.contestants}
    assert expected - notes.keys() == {("head forward", "cpu float32"), ("log-Mel, int16", "reference float32")}
    report = (out / "report.md").read_text()
    assert "The process ended while these were made: log-mel (triton)." in report
    for backend, named in gpu_run.NAMED.items():
        for name in named:
            assert re.search(rf"^{backend} {name}: \d+ skipped$", log, re.MULTILINE), name
    assert "ERROR tests/ops/test_log_mel.py::test_empty_batch[cuda]" in log
    with tarfile.open(out / "tests.tar.gz") as archive:
        assert {f"tests/{name}-cuda.xml" for name in gpu_run.TESTS} <= set(archive.getnames())


def test_the_script_names_tests_that_there_are() -> None:
    for path in (path for files in gpu_run.TESTS.values() for path in files):
        assert (ROOT / path).is_file(), path
    code = "".join((ROOT / path).read_text() for files in gpu_run.TESTS.values() for path in files)
    assert not [name for names in gpu_run.NAMED.values() for name in names if f"def {name}(" not in code]
