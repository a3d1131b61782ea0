"""What the README promises, done."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer.main

from pyasd.cli import app as cli
from pyasd.factory import factory as synthetic

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = tmp_path / "factory"
    synthetic.write(factory, train=2, test=1, seconds=1.0)
    shutil.move(factory / "fan", tmp_path / "recordings")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    code = block.replace("epochs=20", "epochs=1").replace(
        'score("recordings/test") ', 'score("recordings/test", epochs=1)'
    )
    assert code.count("epochs=1") == 2
    found: dict[str, object] = {}
    exec(code, found)
    assert found["log_mel"].shape == found["score_map"].shape == (32, 128)  # type: ignore[attr-defined]


def test_its_commands_exist() -> None:
    """Every `pyasd ...` of the README and docs/ has a command and options that there are, and none is left out."""
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    pages = [README, *(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))]
    told = re.findall(rf"(?:^|`|&& )pyasd ((?:{'|'.join(commands)})\b[^`#\n&>]*)", "\n".join(pages), re.MULTILINE)
    assert {shlex.split(x)[0] for x in told} == set(commands)
    for text in told:
        name, *arguments = shlex.split(text)
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {x for x in arguments if x.startswith("-")} <= options | {"--help"}, text


def test_its_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_ci_finds_its_test_command() -> None:
    assert re.search(r"<!-- command: tests -->\n```sh\n.*&& pytest\n```", README)
    assert re.search(r"<!-- command: demo -->\n```sh\n.*&& pyasd demo\n```", README)
