"""Small faults in modules, and what becomes of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import mutants
from benchmarks.mutations import mutations

SOURCE = '''
"""A text."""
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

LIMIT: int | None = 3


@cache(maxsize=4)
def f(a: int = 5, b: str = "x" + "y") -> int:
    """Another text with a < b."""
    assert a < 9
    if a < LIMIT and b:
        raise ValueError(f"{a + 1} is too small" + "!")
    for x in range(a):
        g(x[1:], not a, strict=True)
    a += min(a, 0.5)
    return -a if a == 1 else a + 2
'''


def test_each_change_is_of_something_that_is_computed() -> None:
    found = [(x.line, x.inside, f"{x.before} -> {x.after}") for x in mutations(SOURCE)]
    assert found == [
        (12, "f", "5 -> 6"),
        (15, "f", "if a < LIMIT and b: -> if False:"),
        (15, "f", "a < LIMIT and b -> b"),
        (15, "f", "a < LIMIT and b -> a < LIMIT"),
        (15, "f", "a < LIMIT -> a <= LIMIT"),
        (16, "f", "raise ValueError(f'{a + 1} is too small' + '!') -> pass"),
        (18, "f", "g(x[1:], not a, strict=True) -> pass"),
        (18, "f", "1: -> :"),
        (18, "f", "1 -> 2"),
        (18, "f", "not a -> a"),
        (19, "f", "a += min(a, 0.5) -> pass"),
        (19, "f", "min(a, 0.5) -> max(a, 0.5)"),
        (19, "f", "0.5 -> 1.0"),
        (20, "f", "-a if a == 1 else a + 2 -> -a"),
        (20, "f", "-a if a == 1 else a + 2 -> a + 2"),
        (20, "f", "a == 1 -> a != 1"),
        (20, "f", "1 -> 2 (again, 2)"),
        (20, "f", "-a -> a"),
        (20, "f", "a + 2 -> a - 2"),
        (20, "f", "2 -> 3"),
    ]


def test_a_file_has_one_change_alone() -> None:
    whole = compile_of(SOURCE)
    for x in mutations(SOURCE):
        assert sum(a != b for a, b in zip(compile_of(x.source), whole, strict=True)) == 1, x.name


def compile_of(source: str) -> list[str]:
    """Lines as Python writes them, each change of which is one line; a change to `pass` has it in its place."""
    import ast

    return [line for line in ast.unparse(ast.parse(source)).splitlines() if line.strip()]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project of one module, in a folder of its own, of which half is tested."""
    (tmp_path / "pyasd_toy").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "pyasd_toy/sums.py").write_text(
        "def total(a, b):\n    return a + b\n\n\ndef least(a, b):\n    return min(a, b)\n"
    )
    (tmp_path / "tests/test_sums.py").write_text(
        "import subprocess, sys\nfrom pyasd_toy.sums import total\n\n\n"
        "def test_total():\n"
        "    code = 'from pyasd_toy.sums import total; print(total(2, 2))'\n"
        "    assert subprocess.run([sys.executable, '-c', code], capture_output=True).stdout == b'4\\n'\n"
    )
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "MODULES", {"pyasd_toy/sums.py": ()})
    monkeypatch.setattr(mutants, "_HEAVY", ())
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which `main` sets
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_run_tells_what_survived_and_goes_on_where_it_was(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = project / "build" / "mutants.jsonl"
    arguments = ["--results", str(results), "--jobs", "2"]
    mutants.main(arguments)
    printed = capsys.readouterr().out
    outcomes = {(x := json.loads(line))["name"]: x["outcome"] for line in results.read_text().splitlines()}
    assert outcomes == {"total: a + b -> a - b": "killed", "least: min(a, b) -> max(a, b)": "survived"}
    assert "| `pyasd_toy/sums.py` | 2 | 1 | 0 | 1 | 50.0 % |" in printed
    assert "pyasd_toy/sums.py:6: least: min(a, b) -> max(a, b)" in printed
    tried: list[str] = []
    real = mutants._run_tests

    def spy(module: str, tests: list[str], text: Path | None) -> int:
        tried.append("as it is" if text is None else text.read_text())
        return real(module, tests, text)

    monkeypatch.setattr(mutants, "_run_tests", spy)
    first, _ = results.read_text().splitlines(keepends=True)
    results.write_text(first)
    mutants.main(arguments)
    assert len(tried) == 2, "the tests as they are, and what wasn't known yet"
    assert capsys.readouterr().out.splitlines()[:4] == printed.splitlines()[:4]
    equivalent = project / "equivalent.csv"
    equivalent.write_text('module,name,reason\npyasd_toy/sums.py,"least: min(a, b) -> max(a, b)",nobody calls it\n')
    monkeypatch.setattr(mutants, "EQUIVALENT", equivalent)
    mutants.main([*arguments, "--survivors"])
    assert "| `pyasd_toy/sums.py` | 2 | 1 | 1 | 0 | 100.0 % |" in capsys.readouterr().out
    with (project / "tests/test_sums.py").open("a") as file:
        file.write("\n")
    mutants.main([*arguments, "--survivors"])
    assert "| all | 0 | 0 | 0 | 0 |" in capsys.readouterr().out, "another test may tell more"


def test_what_takes_too_long_is_ended(project: Path) -> None:
    (endless,) = (x for x in mutations("def total(a, b):\n    while a < b:\n        a += 1\n") if "pass" in x.after)
    (project / "tests/test_sums.py").write_text(
        "from pyasd_toy.sums import total\n\n\ndef test_total():\n    total(1, 2)\n"
    )
    (result,) = mutants.judge("pyasd_toy/sums.py", ["tests/test_sums.py"], [endless], 1, 4)
    assert (result.outcome, result.line, result.name) == ("timeout", 3, "total: a += 1 -> pass")


def test_tests_that_fail_as_they_are_end_it(project: Path) -> None:
    (project / "tests/test_sums.py").write_text("def test_it():\n    assert False\n")
    with pytest.raises(SystemExit, match="fail as they are"):
        mutants.main(["--results", str(project / "x")])
    os.remove(project / "tests/test_sums.py")
    with pytest.raises(SystemExit, match="has no tests that mirror it"):
        mutants.main(["--results", str(project / "x")])
