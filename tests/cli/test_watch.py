"""`pyasd watch`: killed again and again while files land, each has its row once; alarms, signals, exit codes."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from pyasd.tables import table as results

from .conftest import ROOT, Command, command, fitted, normal_fans, usage_error
from .test_processes import wait_for
from .test_resume import KILLED


@pytest.fixture(scope="module")
def model(factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fan's model that is calibrated."""
    folder = tmp_path_factory.mktemp("fast")
    out = folder / "calibrated.safetensors"
    model = fitted(factory, folder, "--system", "fast")
    healthy = normal_fans(folder / "healthy", 20, 7)
    subprocess.run(command("calibrate", model, healthy, "-o", out), cwd=ROOT, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Some short clips."""
    folder = normal_fans(tmp_path_factory.mktemp("clips"), 4, 11)
    return [path.read_bytes() for path in sorted(folder.rglob("*.wav"))]


def names_of(out: Path) -> list[str]:
    return [Path(name).name for name in results.read(out)["clip"]]


def test_killed_in_the_middle_of_rows(model: Path, wav: list[bytes], tmp_path: Path, pyasd: Command) -> None:
    folder, out = tmp_path / "in", tmp_path / "scores.csv"
    folder.mkdir()
    landed = 0
    for kill in range(3):
        for _ in range(12):
            (folder / f"normal_id_0{landed % 3 * 2}_{landed:08}.wav").write_bytes(wav[landed % len(wav)])
            landed += 1
        arguments = [5 * kill + 3, "watch", folder, "-m", model, "-o", out, "--once", "--settle", 0.1]
        killed = subprocess.run([command()[0], "-c", KILLED, *map(str, arguments)], cwd=ROOT, check=False)
        assert killed.returncode == -signal.SIGKILL
    assert out.read_bytes().endswith(b'"torn, 0.')
    outcome = pyasd("watch", folder, "-m", model, "-o", out, "--once", "--settle", 0)
    assert outcome.err == f"pyasd: {36 - 3 - 8 - 13} new rows are in {out}\n"
    assert outcome.code == 0
    assert sorted(names_of(out)) == sorted(os.listdir(folder))
    assert sorted(os.listdir(tmp_path)) == ["in", "scores.csv", "scores.csv.json"]


def land(folder: Path, count: int, wav: list[bytes], seconds: float, killed: threading.Event) -> None:
    """Let files land within some seconds: renamed when they are whole, or written in pieces, header first. The last
    hundred wait for the last kill.
    """
    for number in range(count):
        if number == count - 100:
            killed.wait(120)
        path = folder / f"day {number // 100}" / f"normal_id_0{number % 3 * 2}_{number:08}.wav"
        path.parent.mkdir(exist_ok=True)
        content = wav[number % len(wav)]
        if number % 2:
            part = path.with_name(f"{path.name}.part")
            part.write_bytes(content)
            part.rename(path)
        else:
            with open(path, "wb", buffering=0) as file:
                for place in range(0, len(content), 4000):
                    file.write(content[place : place + 4000])
                    time.sleep(seconds / count / 10)
        time.sleep(seconds / count / 2)


@pytest.mark.slow
def test_500_files_land_while_it_is_killed_three_times(model: Path, wav: list[bytes], tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "scores.csv"
    folder.mkdir()
    rng = random.Random(0)
    killed = threading.Event()
    landing = threading.Thread(target=land, args=(folder, 500, wav, 20.0, killed))
    landing.start()
    words = command("watch", folder, "-m", model, "-o", out, "--settle", 0.5, "--poll", 0.1)
    for kill in range(3):
        process = subprocess.Popen(words, cwd=ROOT, stdout=-1, stderr=-1, text=True)
        before = out.read_bytes().count(b"\n") if out.exists() else 1
        wait_for(out, min(before + rng.randrange(20, 60), 400), process)
        process.kill()
        assert process.wait() == -signal.SIGKILL, f"kill {kill}"
    assert landing.is_alive(), "all three while files landed"
    killed.set()
    process = subprocess.Popen(words, cwd=ROOT, stdout=-1, stderr=-1, text=True)
    landing.join()
    wait_for(out, 501, process)
    time.sleep(1)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert stderr == f"pyasd: stopped; the same command goes on with {out}\n"
    table = results.read(out)
    assert len(table) == 500
    assert sorted(table["clip"]) == sorted(str(path) for path in folder.rglob("*.wav"))
    assert set(table["status"]) == {"ok"}
    assert set(table["duration"]) == {0.5}, "no file was read before it was whole"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_cleanly(model: Path, wav: list[bytes], tmp_path: Path, number: int) -> None:
    folder, out = tmp_path / "in", tmp_path / "scores.csv"
    folder.mkdir()
    words = command("watch", folder, "-m", model, "-o", out, "--settle", 0, "--poll", 0.05)
    process = subprocess.Popen(words, cwd=ROOT, stdout=-1, stderr=-1, text=True, start_new_session=True)
    wait_for(out, 1, process)
    for count in range(1, 4):
        (folder / f"normal_id_00_{count:08}.wav").write_bytes(wav[count])
        wait_for(out, 1 + count, process)
    second = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert second.stderr == f"pyasd: error: another run is writing {out}: wait for it, or write to another file\n"
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert stderr == f"pyasd: stopped; the same command goes on with {out}\n"
    assert not stdout
    assert len(results.read(out)) == 3


def test_alarms_are_printed_as_they_come(
    pyasd: Command, factory: Path, model: Path, wav: list[bytes], tmp_path: Path
) -> None:
    folder, out = tmp_path / "fan", tmp_path / "scores.csv"
    folder.mkdir()
    for path in (factory / "fan" / "test").glob("*.wav"):
        shutil.copy2(path, folder)
    (folder / "normal_id_00_00000099.wav").write_bytes(b"no audio, and never was")
    words = ["watch", folder, "-m", model, "-o", out, "--once", "--settle", 0]
    outcome = pyasd(*words, "--give-up", 0, "--false-alarms", "50%")
    assert outcome.code == 1
    assert "pyasd: no score: " in outcome.err
    assert outcome.err.endswith(f"pyasd: 13 new rows are in {out}, 1 of them without a score\n")
    table = results.read(out)
    alarms = table[table["decision"] == "anomaly"]
    assert 2 <= len(alarms) < 12
    assert outcome.out.splitlines() == [
        f"anomaly  score {row.score:.2f}  p {row.p_value:.4f}  fan {row.machine_id}  {row.clip}"
        for row in alarms.itertuples()
    ]
    other = tmp_path / "confirmed.csv"
    words[words.index(out)] = other
    outcome = pyasd(*words, "--give-up", 0, "--false-alarms", "50%", "--confirm", "2/2")
    table = results.read(other)
    confirmed = table[table["confirmed"] == "anomaly"]
    assert 0 < len(confirmed) < len(alarms)
    assert [line.split("  ")[-1] for line in outcome.out.splitlines()] == confirmed["clip"].tolist()


def test_what_cannot_be_watched(pyasd: Command, model: Path, wav: list[bytes], tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "scores.csv"
    folder.mkdir()
    (folder / "normal_id_00_00000001.wav").write_bytes(wav[0])
    words = ["watch", folder, "-m", model, "--once", "--settle", 0]
    usage_error(pyasd(*words, "-o", tmp_path / "scores.parquet"), "scores.parquet", ".csv")
    usage_error(pyasd("watch", tmp_path / "no", "-m", model, "-o", out), "no doesn't exist")
    usage_error(pyasd(*words, "-o", out, "--poll", -1), "--poll must be")
    usage_error(pyasd(*words, "-o", out, "--give-up", -1), "--give-up must be")
    usage_error(pyasd(*words, "-o", out, "--confirm", "1/2"), "--false-alarms")
    assert not out.exists()
    assert pyasd(*words, "-o", out).code == 0
    usage_error(pyasd(*words, "-o", out, "--channel", "mean"), "--channel 0", "--channel mean", "move")
    usage_error(pyasd("score", folder, "-m", model, "-o", out), "scores.csv is a table that runs add to")
    with contextlib.suppress(FileNotFoundError):
        Path(f"{out}.json").unlink()
    usage_error(pyasd(*words, "-o", out), "scores.csv.json doesn't tell what", "move")
