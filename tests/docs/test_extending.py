"""docs/extending.md, done: each block is taken out of the page and run in a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest

from pyasd.factory import factory

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"<!-- block: ([\w-]+) -->\n```\w+\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """A folder with `train` and `test` of three machine IDs."""
    factory.write(tmp_path / "factory", train=4, test=1, seconds=1.0)
    shutil.move(tmp_path / "factory" / "fan", tmp_path / "recordings")
    return tmp_path / "recordings"


def run(code: str, folder: Path) -> str:
    """Run code in a new process, with the modules in `folder` at hand, and return what it prints."""
    paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def install(folder: Path, module: str, code: str, project: str) -> None:
    """Put a module into `folder` as pip would: with the entry points of its pyproject.toml."""
    metadata = tomllib.loads(project)["project"]
    (folder / f"{module}.py").write_text(code, encoding="utf-8")
    info = folder / f"{module}-{metadata['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {metadata['name']}\nVersion: {metadata['version']}\n", encoding="utf-8"
    )
    lines = []
    for group, points in metadata["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {place}" for name, place in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_every_block_is_run_here() -> None:
    assert set(BLOCKS) == {
        "member", "member-package", "member-recipe", "member-use", "backend", "backend-use", "year", "year-use",
        "source", "source-use",
    }  # fmt: skip


def test_a_member(tmp_path: Path, recordings: Path) -> None:
    """A member from another package is fitted, saved, loaded, scored and explained through its entry point."""
    install(tmp_path, "pyasd_neighbours", BLOCKS["member"], BLOCKS["member-package"])
    (tmp_path / "mine.toml").write_text(BLOCKS["member-recipe"], encoding="utf-8")
    check = """
        assert detector.recipe.names == ("nearest", "spectrum") and detector.recipe["nearest"].config.count == 2
        assert table["score.nearest"].notna().all() and (table["score.nearest"] > 0).all()
        assert log_mel.shape == score_map.shape == (32, 128) and (score_map >= 0).all()
        alone = detector.score([table["clip"][3]])
        assert alone["score.nearest"][0] == table["score.nearest"][3]
    """
    output = run(BLOCKS["member-use"] + textwrap.dedent(check), tmp_path)
    assert "6 rows x 4 columns" in output
    assert "mine.safetensors" in os.listdir(tmp_path)


def test_a_backend(tmp_path: Path) -> None:
    prelude = f"""
        import sys, types
        from pyasd import backends
        module = types.ModuleType("pyasd.backends.numpy_fft")
        exec({BLOCKS["backend"]!r}, module.__dict__)
        sys.modules[module.__name__] = module
        backends.NAMES = (*backends.NAMES, "numpy_fft")
    """
    check = """
        assert backends.select("numpy_fft", torch.device("cpu")).facts()
        pcm = (samples * 3000).to(torch.int16)
        lengths = [16_000, 9_000]
        ours, reference = (ops.log_mel(pcm, plan, lengths, backend=x)[0] for x in ("numpy_fft", "reference"))
        assert (ours - reference).abs().max() < 1e-3
    """
    output = run(textwrap.dedent(prelude) + BLOCKS["backend-use"] + textwrap.dedent(check), tmp_path)
    assert output.startswith("None")


def test_a_year(tmp_path: Path) -> None:
    (tmp_path / "2099.toml").write_text(BLOCKS["year"], encoding="utf-8")
    prelude = """
        from pathlib import Path
        from pyasd.datasets import layouts
        layouts.YEARS = Path.cwd()
    """
    check = """
        import pyasd
        parts = {(entry.part, entry.clip.machine_type, entry.clip.machine_id) for entry in entries}
        assert ("development", "press", "01") in parts and ("evaluation", "mill", "00") in parts
        assert {entry.clip.domain for entry in entries} == {"source", "target"}
        table = pyasd.fit("mini2099/dev_data/press", epochs=1).score("mini2099/dev_data/press")
        figures = pyasd.evaluate(table, rule=dcase.year(2099).rule)
        assert list(figures["machine_id"]) == ["00", "01", "average"]
    """
    output = run(textwrap.dedent(prelude) + BLOCKS["year-use"] + textwrap.dedent(check), tmp_path)
    assert output == "[]\n"


def test_a_source(tmp_path: Path, recordings: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "recordings.sqlite")) as database, database:
        database.execute("CREATE TABLE clips (name TEXT, content BLOB)")
        for path in recordings.rglob("*.wav"):
            name = f"fan/{path.relative_to(recordings).as_posix()}"
            database.execute("INSERT INTO clips VALUES (?, ?)", [name, path.read_bytes()])
    (tmp_path / "pyasd_sqlite.py").write_text(BLOCKS["source"], encoding="utf-8")
    check = """
        import pickle
        from pathlib import Path
        import pytest
        from pyasd.clips import find
        assert len(table) == 18 and table["score"].notna().all() and set(table["machine_type"]) == {"fan"}
        assert set(table["split"]) == {"train", "test"}
        unpacked = pyasd.score("recordings", machine_type="fan")
        assert list(unpacked["score"]) == list(table["score"])
        source = next(find("recordings.sqlite")).source
        assert pickle.loads(pickle.dumps(source)) == source
        assert len(source.open().read()) == source.size()
        Path("damaged.sqlite").write_bytes(b"no archive" * 100)
        with pytest.raises(ValueError, match="no SQLite file of clips"):
            pyasd.score("damaged.sqlite")
    """
    run(BLOCKS["source-use"] + textwrap.dedent(check), tmp_path)
