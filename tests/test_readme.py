"""README and documentation, done: lengths, commands, links, and every Python block."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from pyasd.cli import app as cli
from pyasd.factory import factory, miniature

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "csrc").rglob("*.md"),
        *(ROOT / "kernels").glob("*.md"),
    ]
)
MOST_WORDS = 900


def names(pages: list[Path]) -> list[str]:
    return [page.relative_to(ROOT).as_posix() for page in pages]


def python_blocks(text: str) -> list[str]:
    """The Python of a page that isn't a numbered block of docs/extending.md, which has a test of its own."""
    return re.findall(r"(?<!-->\n)```python\n(.*?)```", text, re.DOTALL)


def prose(page: Path) -> str:
    """A page without blocks of code."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_its_length() -> None:
    text = re.sub(r"<!--.*?-->", "", README, flags=re.DOTALL)
    assert len(re.findall(r"\S+", text)) <= MOST_WORDS


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with what the pages speak of: recordings, and a miniature of a data set."""
    factory.write(tmp_path / "factory", train=2, test=1, seconds=1.0)
    shutil.move(tmp_path / "factory" / "fan", tmp_path / "recordings")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def quickly(block: str) -> str:
    """The same code with one epoch, whether it names its epochs or not."""
    block = re.sub(r", epochs=\d+", "", block)
    return re.sub(r"(pyasd\.fit\([^()]*)\)", r"\1, epochs=1)", block)


def run(page: Path) -> dict[str, Any]:
    """Run all Python of a page, block after block."""
    namespace: dict[str, Any] = {}
    blocks = python_blocks(page.read_text(encoding="utf-8"))
    assert blocks
    for block in blocks:
        exec(compile(quickly(block), page.name, "exec"), namespace)
    return namespace


def test_its_python_runs(folder: Path) -> None:
    after = run(ROOT / "README.md")
    assert after["log_mel"].shape == after["score_map"].shape == (32, 128)
    code = python_blocks(README)[0].splitlines()
    assert len([line for line in code if line]) == 6


def test_the_guides_python_runs(folder: Path) -> None:
    after = run(ROOT / "docs" / "guide.md")
    assert len(after["ranking"]) == 6
    assert len(after["table"]) == 2


def test_the_data_sets_python_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    miniature.write(folder / "dcase2020", 2020, train=1, test=1, seconds=1.0, machines=("fan",))
    run(ROOT / "docs" / "datasets.md")
    output = capsys.readouterr().out.splitlines()
    assert output[0] == "additional fan 01 train  0"
    assert "ToyCar: no clips are there in train/ of the development part" in output[-1]
    assert len(list((folder / "mini").glob("*.zip"))) == 21


def test_no_page_with_python_is_left_out() -> None:
    with_python = {page.name for page in PAGES if python_blocks(page.read_text(encoding="utf-8"))}
    assert with_python == {"README.md", "guide.md", "datasets.md"}


def test_its_output_is_of_the_commands_form(folder: Path) -> None:
    """The README's ranking has the heads and columns that `pyasd score` prints."""
    shown = re.search(r"```\n( score .*?)```", README, re.DOTALL)
    assert shown is not None
    head, line, *rows = shown[1].splitlines()
    result = CliRunner().invoke(cli.app, ["score", "recordings/test", "--top", "5"])
    assert result.exit_code == 0, result.output
    printed = [x for x in result.output.splitlines() if x.strip() and not x.startswith("pyasd: ")]
    assert head.split() == printed[0].split()
    assert set(line.strip()) == set(printed[1].strip())
    pattern = re.compile(r"\s*-?\d+\.\d\d   ok       \S+\.wav\s*")
    assert len(rows) == len(printed[2:]) == 5
    assert all(pattern.fullmatch(x) for x in [*rows, *printed[2:]])


def commands() -> dict[str, Any]:
    return typer.main.get_command(cli.app).commands  # type: ignore[attr-defined, no-any-return]


def invocations() -> Iterator[tuple[str, list[str]]]:
    """Every `pyasd ...` of the pages: its command, and its arguments."""
    known = "|".join(commands())
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for call in re.findall(rf"(?:^|`|&& )pyasd ((?:{known})\b[^`#\n&>|]*)", text, re.MULTILINE):
        name, *arguments = shlex.split(call)
        yield name, arguments


def test_every_command_is_documented() -> None:
    assert {name for name, _ in invocations()} == set(commands())


def test_commands_have_the_options_that_pages_give_them() -> None:
    for name, arguments in invocations():
        options = {option for parameter in commands()[name].params for option in parameter.opts}
        given = {x for x in arguments if x.startswith("-")} - {"-"}  # standard input
        assert given <= options | {"--help"}, (name, arguments)


def slug(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]*))?\)", prose(page)):
        there = page.parent / target if target else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            anchors = {slug(x) for x in re.findall(r"^#+ (.*)$", prose(there), re.MULTILINE)}
            assert anchor in anchors, f"{page.name}: {target}#{anchor}"


def test_every_page_and_picture_is_linked() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for path in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*.png")]:
        assert f"{path.name})" in text or f"{path.name}#" in text, path.name


def test_ci_finds_its_commands() -> None:
    assert re.search(r"<!-- command: tests -->\n```sh\n.*&& pytest\n```", README)
    assert re.search(r"<!-- command: demo -->\n```sh\n.*&& pyasd demo\n```", README)


def test_the_citation_is_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.*)"$', project, re.MULTILINE)
    assert version is not None
    assert re.search(rf"^version: {re.escape(version[1])}$", citation, re.MULTILINE)
