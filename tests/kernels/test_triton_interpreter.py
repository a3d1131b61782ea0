"""The cases of `in_interpreter.py`, each by its name: they run with `TRITON_INTERPRET=1`, which decides how kernels are
made, once a process, and therefore in a process of their own.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

pytest.importorskip("triton")

CASES = Path(__file__).with_name("in_interpreter.py")
NAMES = [x.name for x in ast.parse(CASES.read_text()).body if isinstance(x, ast.FunctionDef) and x.name[:5] == "test_"]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What was wrong with each case, by the name of its function: "" for those that passed."""
    folder = tmp_path_factory.mktemp("interpreter")
    run = subprocess.run(
        [sys.executable, "-c", "import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))",
         "-q", "-p", "no:cacheprovider", "--junitxml", folder / "cases.xml", "--rootdir", str(CASES.parents[2]), CASES],
        cwd=folder,  # not the repository's root, whose source tree would hide an installed package
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )  # fmt: skip
    assert run.returncode in (0, 1), run.stdout[-8000:] + run.stderr[-2000:]
    found: dict[str, list[str]] = {}
    for case in ET.parse(folder / "cases.xml").iter("testcase"):
        name = case.attrib["name"].partition("[")[0]
        found.setdefault(name, []).append("".join(f"{case.attrib['name']} {x.tag}: {x.text}" for x in case))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_in_the_interpreter(name: str, outcomes: dict[str, list[str]]) -> None:
    assert outcomes[name], "it ran"
    assert not any(outcomes[name]), "\n".join(outcomes[name])[-8000:]
