"""Who may import whom, read from the sources, imports for type checkers included; and that imports are light.

`pytest tests/test_architecture.py -s -k counted` prints the import graph's figures.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pyasd"

LEVELS = (
    {"__main__"},
    {"cli"},
    {"__init__"},
    {"reproduce", "factory", "runners", "report"},
    {"detector"},
    {"recipes"},
    {"models"},
    {"training"},
    {"features"},
    {"datasets"},
    {"tables"},
    {"audio"},
    {"cutting"},
    {"containers"},
    {"clips"},
    {"compute"},
    {"ops"},
    {"backends"},
    {"_native", "_cuda", "kernels"},
    {"storage"},
    {"errors", "progress", "settings"},
)
"""The rooms of pyasd, from the top. A room may import what stands below it, and its neighbours where that makes no
cycle. `__init__` is the public API, whose names are loaded when they are used."""

LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}

BASE = {"errors", "progress", "settings", "storage"}

ONLY_ROOMS = {
    "datasets": BASE | {"clips", "tables"},
    "tables": BASE | {"clips"},
    "audio": BASE | {"clips", "containers", "cutting", "backends"},
    "cutting": set(),
    "containers": set(),
    "clips": BASE,
    "compute": BASE | {"ops", "backends"},
    "ops": {"backends", "errors", "progress", "settings"},
    "backends": {"_native", "_cuda", "kernels", "errors", "progress", "settings"},
    "kernels": set(),
    "storage": {"errors", "progress", "settings"},
    "errors": set(),
    "progress": set(),
    "settings": set(),
}
"""The only rooms that these import. `audio` takes full scale from the backends' contract."""

ONLY_LIBRARIES = {
    "ops": {"torch", "numpy"},
    "backends": {"torch", "numpy"},
    "kernels": {"torch", "triton"},
    "features.windows": {"torch"},
    "errors": set(),
    "progress": set(),
    "settings": set(),
}
"""The libraries that a room or module imports besides Python's own: it runs where no other is installed."""

NO_TORCH = (
    "pyasd",
    "pyasd.clips",
    "pyasd.datasets",
    "pyasd.errors",
    "pyasd.progress",
    "pyasd.settings",
    "pyasd.storage",
)
"""Rooms that load no torch, whole packages with all their modules."""


# -- reading the sources -----------------------------------------------------------------------------------------


def sources() -> Iterator[tuple[str, str, Path]]:
    """Module, the room that it belongs to, and file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] != "kernels":  # built in place, a link to the folder beside
            yield ".".join(parts), parts[0], path
    for path in sorted((ROOT / "kernels").rglob("*.py")):
        yield f"kernels.{path.stem}", "kernels", path


SOURCES = [pytest.param(*x, id=x[0]) for x in sources()]


def package_of(path: Path) -> tuple[str, ...]:
    """The package that a file belongs to; `kernels/` is installed as `pyasd.kernels`."""
    folders = path.relative_to(ROOT).parent.parts if path.is_relative_to(ROOT) else ("pyasd", "outside")
    return ("pyasd", *folders) if folders[0] == "kernels" else folders


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever it does so and for whom."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = package_of(path)[: 1 - node.level or None] if node.level else ()
            base = ".".join([*package, *([node.module] if node.module else [])])
            yield from (f"{base}.{name.name}" for name in node.names)


def room_of(module: str) -> str | None:
    """The room of pyasd that an imported module is in; `None` for other packages."""
    first, *rest = module.split(".")
    if first != "pyasd":
        return None
    is_room = bool(rest) and (rest[0] in LEVEL or (PACKAGE / rest[0]).is_dir() or (PACKAGE / f"{rest[0]}.py").exists())
    return rest[0] if is_room else "__init__"


def room_graph() -> dict[str, dict[str, list[str]]]:
    """For each room, the rooms that it imports, and which of its modules do so."""
    graph: dict[str, dict[str, list[str]]] = {room: {} for _, room, _ in sources()}
    for name, room, path in sources():
        for other in {room_of(module) for module in imports(path)} - {None, room}:
            assert other is not None
            graph[room].setdefault(other, []).append(name)
    return graph


def module_graph() -> dict[str, set[str]]:
    """For each of our modules, those of ours that it imports. A package is its `__init__`."""
    names = {name for name, _, _ in sources()}
    graph: dict[str, set[str]] = {}
    for name, _, path in sources():
        graph[name] = set()
        for module in imports(path):
            if room_of(module) in (None, "_native", "_cuda"):  # compiled modules have no source
                continue
            inner = "" if module == "pyasd" else module.removeprefix("pyasd.")
            outer = inner.rpartition(".")[0]
            for one in (inner, f"{inner}.__init__".strip("."), outer, f"{outer}.__init__".strip(".")):
                if one in names:
                    graph[name].add(one)
                    break
    return graph


def cycles(graph: dict[str, Iterable[str]]) -> list[list[str]]:
    """A cycle through each knot of a graph, as the names on its way."""
    done: set[str] = set()
    cyclic: list[list[str]] = []

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            cyclic.append([*trail[trail.index(name) :], name])
        elif name not in done:
            for other in graph.get(name, ()):
                if other != name:
                    visit(other, [*trail, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    return cyclic


# -- rooms -------------------------------------------------------------------------------------------------------


def test_every_room_has_its_level() -> None:
    unknown = {room for _, room, _ in sources()} - LEVEL.keys()
    assert not unknown, f"say in LEVELS where {sorted(unknown)} stand"


@pytest.mark.parametrize(("name", "room", "path"), SOURCES)
def test_nothing_points_back(name: str, room: str, path: Path) -> None:
    for module in imports(path):
        other = room_of(module)
        if other is None or other == room:
            continue
        if room in LEVEL:
            assert other in LEVEL, f"{name} imports {module}, which has no level"
            assert LEVEL[other] >= LEVEL[room], f"{name} imports {module}, which stands above it"
        if room in ONLY_ROOMS:
            assert other in ONLY_ROOMS[room], (
                f"{name} imports {module}: {room} imports {sorted(ONLY_ROOMS[room])} alone"
            )
        if other in ("_native", "_cuda", "kernels"):
            assert room == "backends", f"{name} imports {module}: only backends do"


@pytest.mark.parametrize(
    ("name", "room", "path"), [x for x in SOURCES if {x.values[0], x.values[1]} & ONLY_LIBRARIES.keys()]
)
def test_libraries(name: str, room: str, path: Path) -> None:
    libraries = {module.split(".")[0] for module in imports(path)} - set(sys.stdlib_module_names) - {"pyasd"}
    allowed = ONLY_LIBRARIES[name if name in ONLY_LIBRARIES else room]
    assert libraries <= allowed, f"{name} needs {sorted(libraries - allowed)}"


def test_no_cycles() -> None:
    assert not cycles(dict(module_graph()))


def test_the_import_graph_is_counted(record_property: Callable[[str, object], None]) -> None:
    graph = room_graph()
    arrows = [(room, other) for room, others in graph.items() for other in others]
    up = [(room, other) for room, other in arrows if LEVEL.get(other, -1) < LEVEL.get(room, -1)]
    counts = {
        "rooms": len(graph),
        "arrows": len(arrows),
        "arrows that run back up": len(up),
        "cycles of rooms": len(cycles({room: others.keys() for room, others in graph.items()})),
        "modules": len(module_graph()),
        "cycles of modules": len(cycles(dict(module_graph()))),
    }
    for what, count in counts.items():
        record_property(what, count)
    print("; ".join(f"{what}: {count}" for what, count in counts.items()))
    assert not up
    assert counts["cycles of rooms"] == counts["cycles of modules"] == 0


# -- members -----------------------------------------------------------------------------------------------------


def member_classes() -> set[str]:
    """The names of all classes that `pyasd/models/` defines."""
    return {
        node.name
        for path in (PACKAGE / "models").rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }


def names_in(node: ast.AST, bound: dict[str, str]) -> Iterator[str]:
    """The dotted names in an expression, with what they are imported from."""
    if isinstance(node, ast.Attribute):
        for base in names_in(node.value, bound):
            yield f"{base}.{node.attr}"
    elif isinstance(node, ast.Name):
        yield bound.get(node.id, node.id)
    else:
        for child in ast.iter_child_nodes(node):
            yield from names_in(child, bound)


def questions(path: Path) -> Iterator[tuple[int, str]]:
    """Where a file asks of what class something is, and each class that it asks for, as a dotted name."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            bound |= {x.asname or x.name: f"{node.module}.{x.name}" for x in node.names}
        elif isinstance(node, ast.Import):
            bound |= {x.asname: x.name for x in node.names if x.asname}
    for node in ast.walk(tree):
        asked: list[ast.expr] = []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 2:
            asked = [node.args[1]] if node.func.id in ("isinstance", "issubclass") else []
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(ast.unparse(x).startswith("type(") or "__class__" in ast.unparse(x) for x in sides):
                asked = [x for x in sides if not isinstance(x, ast.Call)]
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        for part in asked:
            for name in names_in(part, bound):
                yield part.lineno, name


@pytest.mark.parametrize(("name", "room", "path"), [x for x in SOURCES if x.values[1] != "models"])
def test_nobody_asks_which_member_it_is(name: str, room: str, path: Path) -> None:
    classes = member_classes()
    assert {"Member", "MemberConfig", "GroupMade", "Spectrum"} <= classes
    asked = [
        f"line {line}: {what}"
        for line, what in questions(path)
        if what.startswith("pyasd.models") or ("." not in what and what in classes)
    ]
    assert not asked, f"{name} asks of what class a member is: make it a method or an attribute of Member"


# -- light imports -----------------------------------------------------------------------------------------------


def python(code: str) -> str:
    """What a fresh Python prints."""
    done = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str) -> set[str]:
    """The modules in a fresh Python after some code, by full name."""
    return set(python(f"{code}\nimport sys\nprint(*sys.modules)").split("\n")[-2].split())


def submodules(module: str) -> list[str]:
    """A module of ours, and all in it if it is a package other than pyasd itself."""
    folder = ROOT.joinpath(*module.split("."))
    if module == "pyasd" or not folder.is_dir():
        return [module]
    inner = [path.relative_to(ROOT).with_suffix("").parts for path in sorted(folder.rglob("*.py"))]
    return [".".join(parts).removesuffix(".__init__") for parts in inner]


@pytest.mark.parametrize("module", NO_TORCH)
def test_rooms_without_torch(module: str) -> None:
    modules = loaded_by("\n".join(f"import {name}" for name in submodules(module)))
    assert not {"torch", "triton"} & modules


def test_operators_load_torch_and_numpy_alone() -> None:
    code = "import sys, torch\nbefore = set(sys.modules)\nimport pyasd.ops, pyasd.backends, pyasd.compute\n"
    loaded = python(f"{code}print(*(set(sys.modules) - before))").split()
    heavy = {"triton", "pandas", "pyarrow", "sklearn", "soundfile", "soxr", "matplotlib", "rich", "safetensors"}
    assert "pyasd.ops" in loaded
    assert not [x for x in loaded if x.split(".")[0] in heavy or x.startswith(("pyasd._cuda", "pyasd.kernels"))]


OPENED = """
import json, sys
opened = []
def heard(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        opened.append(str(arguments[0]))
{before}
sys.addaudithook(heard)
import {module}
print(json.dumps(opened))
"""


def files_opened(module: str, before: str = "") -> list[str]:
    """The files that importing a module opens, beside those of Python's own that hold code."""
    opened = json.loads(python(OPENED.format(module=module, before=before)).splitlines()[-1])
    return [path for path in opened if not re.search(r"\.pyc?$", path)]


def test_importing_pyasd_opens_no_file() -> None:
    assert not files_opened("pyasd")


@pytest.mark.parametrize(
    "modules", ["pyasd.ops", "pyasd.recipes.files", "pyasd.detector, pyasd.models, pyasd.datasets, pyasd.tables.table"]
)
def test_importing_opens_no_data_file(modules: str) -> None:
    """Recipes and years are read when they are asked for. What libraries open is their own affair."""
    libraries = "import torch, numpy" if modules == "pyasd.ops" else "import torch, pandas, pyarrow.parquet"
    opened = files_opened(modules, libraries)
    assert not [path for path in opened if path.endswith(".toml") or Path(path).is_relative_to(PACKAGE)]


def test_help_loads_no_torch() -> None:
    code = (
        "import runpy, sys\nsys.argv = ['pyasd', '--help']\ntry:\n    runpy.run_module('pyasd', run_name='__main__')\n"
    )
    assert not {"torch", "pandas", "sklearn"} & loaded_by(f"{code}except SystemExit:\n    print()")


# -- other rules -------------------------------------------------------------------------------------------------


def test_the_native_code_knows_python_in_its_bindings_alone() -> None:
    for path in sorted((ROOT / "csrc").rglob("*.*")):
        text = path.read_text(encoding="utf-8")
        included = re.findall(r'#\s*include\s*[<"]([^>"]+)', text)
        assert not [name for name in included if re.match(r"torch|ATen|c10|omp\.h", name)], path
        if path.parent.name != "bindings":
            assert not [name for name in included if re.match(r"pybind11|Python\.h", name)], path


# -- these tests themselves --------------------------------------------------------------------------------------


def test_the_reader_sees_every_kind_of_import(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        "import os, pyasd.cli as c\nfrom pyasd import ops\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from pyasd import detector\nelse:\n    import pandas\n"
        "def f():\n    from pyasd.models.dense import x\n    from ..ops import y\n    from . import z\n"
    )
    assert sorted(imports(path)) == [
        "os", "pandas", "pyasd.cli", "pyasd.detector", "pyasd.models.dense.x", "pyasd.ops", "pyasd.ops.y",
        "pyasd.outside.z", "typing.TYPE_CHECKING",
    ]  # fmt: skip
    assert [room_of(x) for x in ("os", "pyasd", "pyasd.load", "pyasd.ops.log_mel", "pyasd.models.dense.x")] == [
        None, "__init__", "__init__", "ops", "models",
    ]  # fmt: skip


def test_the_reader_sees_every_question(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        "from pyasd import models\nfrom pyasd.models import Spectrum as S, group_made\n"
        "import pyasd.models.member as m\nisinstance(x, models.GroupMade)\nisinstance(x, (int, S))\n"
        "issubclass(x, m.Member | None)\n"
        "type(x) is group_made.GroupMade\nx.__class__ == S\nisinstance(x, Spectrum)\n"
        "match x:\n    case models.Spectrum():\n        pass\n"
        "type(x) is not Tensor\nisinstance(x, str)\nx == S\n"
    )
    asked = [what for _, what in questions(path)]
    assert [x for x in asked if x.startswith("pyasd.models")] == [
        "pyasd.models.GroupMade", "pyasd.models.Spectrum", "pyasd.models.member.Member",
        "pyasd.models.group_made.GroupMade", "pyasd.models.Spectrum", "pyasd.models.Spectrum",
    ]  # fmt: skip
    assert {"Spectrum", "Tensor", "int", "str"} <= set(asked)


def test_cycles_are_seen() -> None:
    assert cycles({"a": ["b"], "b": ["c"], "c": ["b"], "d": ["a"]}) == [["b", "c", "b"]]
    assert cycles({"a": ["a", "b"], "b": []}) == []


def test_an_opened_file_is_heard(tmp_path: Path) -> None:
    (tmp_path / "reader.py").write_text(f"open({str(tmp_path / 'reader.py')!r}).close()\nopen('/dev/null').close()\n")
    assert files_opened("reader", f"sys.path.insert(0, {str(tmp_path)!r})") == ["/dev/null"]
