"""The command `pyasd reproduce`."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyasd.cli import app as cli
from pyasd.reproduce import units


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.app([str(x) for x in arguments], prog_name="pyasd")
    return int(stop.value.code or 0), *capsys.readouterr()


def test_the_command(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    code, out, err = command(
        capsys, "reproduce", "dcase2020", "--data", data, "--systems", 4, "--machines", "fan", "pump", "--quick",
        "--out", tmp_path, "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    assert err.count("NO reproduction") == 2
    assert "note: these recordings are synthetic" in err
    lines = [x for x in out.splitlines() if x.strip()]
    assert lines[0].startswith("Development set, per machine ID and averaged")
    assert lines[1].split() == ["AUC", "(pAUC),", "%", "fan", "pump", "average"]
    names = ["baseline", "baseline's README", "difference", "system 4", "report", "difference"]
    assert all(line.strip().startswith(name) for line, name in zip(lines[3:9], names, strict=True))
    assert lines[-1] == f"{tmp_path / 'report.md'}: the report"


def test_what_the_command_refuses(capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (["dcase2019", "--data", data], "no data set 'dcase2019'"),
        (["dcase2021", "--data", data], "the report's Table 1 is of dcase2020"),
        (["dcase2020", "--data", tmp_path / "none"], "there is no folder"),
        (["dcase2020", "--data", data, "--systems", "1", "7"], "no system 7"),
        (["dcase2020", "--data", data, "--machines", "lathe"], "no machine type lathe"),
    ):
        code, out, err = command(capsys, "reproduce", *arguments, "-o", tmp_path / "out")
        assert (code, out) == (2, "")
        assert err.startswith("pyasd: error: ")
        assert message in err
    assert not (tmp_path / "out").exists()


def test_ctrl_c_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(units, "fit", interrupted)
    code, _, err = command(capsys, "reproduce", "dcase2020", "--data", data, "--systems", 4, "-o", tmp_path)
    assert code == 130
    assert err == f"pyasd: stopped; the same command goes on with what is in {tmp_path}\n"
