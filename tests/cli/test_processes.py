"""Commands as processes of their own: Ctrl-C, terminals, encodings."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pyasd.tables import table as results

from .conftest import ROOT, command


def wait_for(path: Path, lines: int, process: subprocess.Popen[str]) -> None:
    """Until the file has so many lines."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            if path.read_bytes().count(b"\n") >= lines:
                return
        time.sleep(0.02)
    pytest.fail(f"{path} never had {lines} lines: {process.communicate()}")


def test_ctrl_c_keeps_the_rows(factory: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    clips = [factory / "fan/test/normal_id_00_00000000.wav"] * 6000
    process = subprocess.Popen(
        command("score", *clips, "-m", model, "-o", out),
        cwd=ROOT,
        stdout=-1,
        stderr=-1,
        text=True,
        start_new_session=True,
    )
    wait_for(Path(f"{out}.partial"), 3, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr == f"pyasd: stopped; the rows so far are in {out}.partial; --resume goes on with them\n"
    assert not stdout
    assert not out.exists()
    assert 2 <= len(results.read(f"{out}.partial")) < 6000


@pytest.mark.parametrize("extension", [".csv", ".parquet"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=["TERM", "HUP", "KILL"])
def test_signals_keep_the_rows(factory: Path, model: Path, tmp_path: Path, number: int, extension: str) -> None:
    out = tmp_path / f"scores{extension}"
    clips = [factory / "fan/test/normal_id_00_00000000.wav"] * 6000
    process = subprocess.Popen(
        command("score", *clips, "-m", model, "-o", out), cwd=ROOT, stdout=-1, stderr=-1, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL) and None,  # the tests may run under nohup
    )  # fmt: skip
    wait_for(Path(f"{out}.partial"), 3, process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    killed = number == signal.SIGKILL
    assert process.returncode == (-number if killed else 128 + number), stderr
    assert stderr == (
        "" if killed else f"pyasd: stopped; the rows so far are in {out}.partial; --resume goes on with them\n"
    )
    assert not stdout
    assert not out.exists()
    assert 2 <= len(results.read(f"{out}.partial")) < 6000


def test_a_signal_that_is_ignored_stays_so(factory: Path, model: Path, tmp_path: Path) -> None:
    """As under nohup."""
    clips = [factory / "fan/test/normal_id_00_00000000.wav"] * 300
    out = tmp_path / "scores.csv"
    process = subprocess.Popen(
        command("score", *clips, "-m", model, "-o", out, "--top", 0), cwd=ROOT, stdout=-1, stderr=-1, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN) and None,
    )  # fmt: skip
    wait_for(Path(f"{out}.partial"), 3, process)
    process.send_signal(signal.SIGHUP)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert len(results.read(out)) == 300


def test_a_second_run_with_one_table_says_that_the_first_is_writing(factory: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    clip = factory / "fan/test/normal_id_00_00000000.wav"
    first = subprocess.Popen(
        command("score", *[clip] * 6000, "-m", model, "-o", out), cwd=ROOT, stdout=-1, stderr=-1, text=True
    )
    wait_for(Path(f"{out}.partial"), 3, first)
    second = subprocess.run(
        command("score", clip, "-m", model, "-o", out), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert second.returncode == 2
    assert second.stderr == f"pyasd: error: another run is writing {out}: wait for it, or write to another file\n"
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert len(results.read(f"{out}.partial")) >= 2


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(factory: Path, model: Path, tmp_path: Path, closed: str) -> None:
    """What would be printed goes nowhere: not into the table, which would take the place of a closed stream."""
    out = tmp_path / "scores.csv"
    words = command("score", factory / "fan/test", tmp_path / "gone.wav", "-m", model, "-o", out)
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert ("have no score" in done.stderr) == ("2>" not in closed)
    assert "Traceback" not in done.stderr
    assert len(results.read(out)) == 13


def test_ctrl_c_while_learning(factory: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    process = subprocess.Popen(
        command("fit", factory / "fan", "-o", out, "--epochs", 100000), cwd=ROOT, stdout=-1, stderr=-1, text=True
    )
    end = time.monotonic() + 60
    while not (tmp_path / "x.safetensors.checkpoint").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.startswith("pyasd: stopped")
    assert stderr.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("name", ["fan", "f" * 200], ids=["fan", "a long path"])
def test_progress_is_for_terminals(factory: Path, model: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(factory / "fan/test", tmp_path / name)
    terminal, process_end = pty.openpty()
    arguments = command("score", tmp_path / name, "-m", model, "--top", 1)
    process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=process_end, text=True)
    os.close(process_end)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while block := os.read(terminal, 4096):
            shown += block
    os.close(terminal)
    stdout, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"scoring" in shown
    assert b"\x1b[" in shown
    assert "\x1b" not in stdout
    assert "scoring" not in stdout


def test_python_m_pyasd_and_a_narrow_encoding(factory: Path, model: Path, tmp_path: Path) -> None:
    clip = tmp_path / "漢字.wav"
    shutil.copy(factory / "fan/test/normal_id_00_00000000.wav", clip)
    done = subprocess.run(
        command("score", clip, "-m", model, "--id", "00"),
        cwd=ROOT, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert done.stdout.isascii()
    assert r"\u6f22\u5b57.wav" in done.stdout
