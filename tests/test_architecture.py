"""Who may import whom, read from the sources; and that `import pyasd` is light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LEVELS = (
    {"__main__"},
    {"cli"},
    {"cli_data", "terminal"},
    {"__init__"},
    {"reproduce"},
    {"detector", "fitting", "evaluation", "datasets", "picture"},
    {
        "models",
        "training",
        "augmentation",
        "features",
        "ensemble",
        "results",
        "clips",
        "audio",
        "windows",
        "storage",
        "transfer",
        "pipeline",
    },
    {"ops"},
    {"backends"},
    {"_native", "_cuda", "kernels"},
)
"""A part may import what stands below it, and its neighbours where that makes no cycle. `config` stands below all."""

PARTS = {part: level for level, parts in enumerate(LEVELS) for part in parts} | {"config": len(LEVELS)}

ONLY = {
    "config": {"tomli"},
    "ops": {"torch", "numpy"},
    "backends": {"torch", "numpy"},
    "kernels": {"torch", "triton"},
    "windows": {"torch"},
}
"""The libraries that a part may import: these run where no audio library is installed."""


def sources() -> Iterator[tuple[str, str, Path]]:
    """Module, the part that it belongs to, and file."""
    for path in sorted((ROOT / "pyasd").rglob("*.py")):
        parts = path.relative_to(ROOT / "pyasd").with_suffix("").parts
        yield ".".join(parts), parts[0], path
    for path in sorted((ROOT / "kernels").rglob("*.py")):
        yield f"kernels.{path.stem}", "kernels", path


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever it does so, except for type checkers alone."""

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.orelse:
                yield from walk(child)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = package_of(path)[: 1 - node.level or None] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            for name in node.names:
                yield f"{base}.{name.name}"
        else:
            for child in ast.iter_child_nodes(node):
                yield from walk(child)

    return walk(ast.parse(path.read_text(encoding="utf-8")))


def package_of(path: Path) -> tuple[str, ...]:
    """The package that a file belongs to; `kernels/` is installed as `pyasd.kernels`."""
    folders = path.relative_to(ROOT).parent.parts if path.is_relative_to(ROOT) else ("pyasd", "outside")
    return ("pyasd", *folders) if folders[0] == "kernels" else folders


def own(module: str) -> str | None:
    """The part of pyasd that an imported module is, or `None`."""
    first, *rest = module.split(".")
    if first != "pyasd":
        return None
    return rest[0] if rest and rest[0] in PARTS else "__init__"


def modules() -> dict[str, set[str]]:
    """For each of our modules, those of ours that it imports."""
    names = {name for name, _, _ in sources()}
    found: dict[str, set[str]] = {}
    for name, _, path in sources():
        found[name] = set()
        for module in imports(path):
            inner = module.removeprefix("pyasd.")
            outer = inner.rpartition(".")[0]
            if own(module) == "__init__":
                found[name].add("__init__")
            elif own(module):  # compiled modules have no source
                found[name] |= set(
                    [x for x in (inner, f"{inner}.__init__", outer, f"{outer}.__init__") if x in names][:1]
                )
    return found


def test_every_part_has_its_level() -> None:
    unknown = {part for _, part, _ in sources()} - PARTS.keys()
    assert not unknown, f"say in LEVELS where {sorted(unknown)} stand"


@pytest.mark.parametrize(("name", "part", "path"), [pytest.param(*x, id=x[0]) for x in sources()])
def test_nothing_points_back(name: str, part: str, path: Path) -> None:
    for module in imports(path):
        imported = own(module)
        if imported is None or part == imported:
            continue
        assert part != "config", f"{name} imports {module}: config imports nothing of ours"
        assert PARTS[imported] >= PARTS[part], f"{name} imports {module}, which stands above it"
        if imported in ("_native", "_cuda", "kernels"):
            assert part == "backends", f"{name} imports {module}: only backends do"


@pytest.mark.parametrize(("name", "part", "path"), [pytest.param(*x, id=x[0]) for x in sources() if x[1] in ONLY])
def test_libraries(name: str, part: str, path: Path) -> None:
    libraries = {module.split(".")[0] for module in imports(path)} - set(sys.stdlib_module_names) - {"pyasd"}
    assert libraries <= ONLY[part], f"{name} needs {sorted(libraries - ONLY[part])}"
    if part == "kernels":
        ours = {module for module in imports(path) if module.startswith("pyasd.")}
        assert all(module.startswith("pyasd.kernels") for module in ours)


def test_no_cycles() -> None:
    graph = modules()
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a cycle: {' -> '.join([*trail[trail.index(name) :], name])}"
        if name not in done:
            for other in graph[name] - {name}:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("module", ["pyasd", "pyasd.ops"])
def test_importing_is_light(module: str) -> None:
    heavy = (
        "triton",
        "pandas",
        "pyarrow",
        "sklearn",
        "soundfile",
        "soxr",
        "matplotlib",
        "rich",
        "pyasd._cuda",
        "pyasd.kernels",
    )
    code = f"import sys, torch; before = set(sys.modules); import {module}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = [name for name in done.stdout.split() if any(name == x or name.startswith(f"{x}.") for x in heavy)]
    assert not loaded


def test_the_native_code_knows_python_in_its_bindings_alone() -> None:
    for path in sorted((ROOT / "csrc").rglob("*.*")):
        text = path.read_text(encoding="utf-8")
        included = re.findall(r'#\s*include\s*[<"]([^>"]+)', text)
        assert not [name for name in included if re.match(r"torch|ATen|c10|omp\.h", name)], path
        if path.parent.name != "bindings":
            assert not [name for name in included if re.match(r"pybind11|Python\.h", name)], path


def test_the_rule_would_notice(tmp_path: Path) -> None:
    """The reader sees every kind of import, and leaves out those for type checkers."""
    path = tmp_path / "a.py"
    path.write_text(
        "import os, pyasd.cli as c\nfrom pyasd import ops\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from pyasd import detector\nelse:\n    import pandas\n"
        "def f():\n    from pyasd.models.dense import x\n    from ..ops import y\n    from . import z\n"
    )
    assert list(imports(path)) == [
        "os", "pyasd.cli", "pyasd.ops", "typing.TYPE_CHECKING", "pandas", "pyasd.models.dense.x",
        "pyasd.ops.y", "pyasd.outside.z",
    ]  # fmt: skip
    assert [own(x) for x in imports(path)] == [None, "cli", "ops", None, None, "models", "ops", "__init__"]
