"""`pyasd score --resume`: runs that are killed again and again end with the table of an unbroken run."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pyasd.tables import table as results

from .conftest import ROOT, Command, fitted, usage_error

KILLED = """
import os, signal, sys
import pyasd.detector.table as tables
from pyasd.cli import app
from pyasd.tables.writer import Writer

tables.WRITE_SECONDS = 0.0  # each row by itself
real, left = Writer.write, int(sys.argv.pop(1))

def write(self, rows):
    global left
    rows = list(rows)
    left -= len(rows)
    if left < 0:
        with open(self.partial, "ab") as file:
            file.write(b'"torn, 0.')
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, rows)

Writer.write = write
app.main()
"""
"""A run of the command line that is killed in the middle of writing a row, after as many as its first argument says."""


@pytest.fixture(scope="module")
def fast(factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(factory, tmp_path_factory.mktemp("fast"), "--system", "fast")


@pytest.fixture
def clips(factory: Path, tmp_path: Path) -> Path:
    """160 clips, a broken one among them."""
    folder = tmp_path / "clips"
    folder.mkdir()
    found = sorted((factory / "fan" / "test").glob("*.wav"))
    for i in range(160):
        shutil.copy(found[i % len(found)], folder / f"normal_id_0{i % 3 * 2}_{i:08d}.wav")
    (folder / "normal_id_00_00000051.wav").write_bytes(b"RIFF")
    return folder


@pytest.mark.parametrize(
    ("extension", "more"), [(".csv", []), (".parquet", ["--false-alarms", "50%", "--confirm", "2/3"])]
)
def test_killed_again_and_again(
    pyasd: Command, fast: Path, clips: Path, tmp_path: Path, extension: str, more: list[str]
) -> None:
    whole, parts = tmp_path / f"whole{extension}", tmp_path / f"parts{extension}"
    assert pyasd("score", clips, "-m", fast, "-o", whole, *more).code == 1  # one can't be read
    rng, rows = random.Random(extension), 0
    for kill in range(4):
        count = rng.randrange(50)
        arguments = [count, "score", clips, "-m", fast, "-o", parts, *more, *(["--resume"] if kill else [])]
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, *map(str, arguments)], cwd=ROOT, capture_output=True, check=False
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        rows += count
    assert not parts.exists()
    reading = [path for path in clips.iterdir() if path.name in set(whole_names(parts, rows))]
    for path in reading:
        path.write_bytes(b"what has a row isn't read again")
    outcome = pyasd("score", clips, "-m", fast, "-o", parts, *more, "--resume")
    assert outcome.code == 1
    assert f"160 rows are in {parts}" in outcome.err
    assert parts.read_bytes() == whole.read_bytes()
    assert sorted(x.name for x in tmp_path.iterdir()) == sorted([clips.name, whole.name, parts.name])


def whole_names(parts: Path, rows: int) -> list[str]:
    """The names in the whole rows of an unfinished table; the torn one is no row."""
    lines = Path(f"{parts}.partial").read_bytes().splitlines()[1:]
    assert len(lines) == rows + 1
    return [Path(line.split(b",")[0].decode()).name for line in lines[:-1]]


def test_failed_clips_are_tried_again_on_request(pyasd: Command, fast: Path, clips: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole.csv", tmp_path / "parts.csv"
    broken = clips / "normal_id_00_00000051.wav"
    arguments = [100, "score", clips, "-m", fast, "-o", parts]
    subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], cwd=ROOT, capture_output=True, check=False)
    shutil.copy(clips / "normal_id_00_00000000.wav", broken)
    assert pyasd("score", clips, "-m", fast, "-o", whole).code == 0
    usage_error(pyasd("score", clips, "-m", fast, "-o", parts, "--retry-failed"), "--retry-failed goes with --resume")
    assert pyasd("score", clips, "-m", fast, "-o", parts, "--resume", "--retry-failed").code == 0
    assert sorted(parts.read_bytes().splitlines()) == sorted(whole.read_bytes().splitlines())
    assert str(broken) in results.read(parts)["clip"].iloc[100 - 1 :].tolist()


def test_two_clips_of_one_name_have_a_row_each(pyasd: Command, fast: Path, clips: Path, tmp_path: Path) -> None:
    clip, out = clips / "normal_id_00_00000000.wav", tmp_path / "scores.csv"
    arguments = [2, "score", *[clip] * 5, "-m", fast, "-o", out]
    subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], cwd=ROOT, capture_output=True, check=False)
    assert pyasd("score", *[clip] * 5, "-m", fast, "-o", out, "--resume").code == 0
    table = results.read(out)
    assert len(table) == 5
    assert table["score"].nunique() == 1


def test_shares_hold_each_clip_once(pyasd: Command, fast: Path, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    whole, parts = tmp_path / "whole.parquet", [tmp_path / "scores" / f"part-{i}.parquet" for i in (1, 2, 3)]
    assert pyasd("score", clips, "-m", fast, "-o", whole).code == 1
    for i, part in enumerate(parts):
        assert pyasd("score", clips, "-m", fast, "-o", part, "--shard", f"{i + 1}/3").code in (0, 1)
        assert 30 <= len(results.read(part)) <= 80
    joined = pd.read_parquet(tmp_path / "scores").sort_values("clip", ignore_index=True)
    pd.testing.assert_frame_equal(joined, pd.read_parquet(whole).sort_values("clip", ignore_index=True))
    few = sorted(clips.iterdir())[:3]
    assert pyasd("score", *few, "-m", fast, "-o", whole, "--shard", "99/1000").code == 0  # an empty share
    assert len(results.read(whole)) == 0
    for wrong in ("0/3", "4/3", "3", "a/b", "1/0"):
        usage_error(pyasd("score", clips, "-m", fast, "--shard", wrong), "--shard is like 3/16", wrong)
    usage_error(pyasd("score", clips, "--shard", "1/2"), "give --model")
    usage_error(
        pyasd("score", clips, "-m", fast, "--false-alarms", "50%", "--confirm", "1/2", "--shard", "1/2"), "--shard"
    )


def test_what_cannot_be_gone_on_with(
    pyasd: Command, fast: Path, model: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, clip = tmp_path / "scores.csv", clips / "normal_id_00_00000000.wav"
    arguments = [2, "score", *[clip] * 5, "-m", fast, "-o", out]
    subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], cwd=ROOT, capture_output=True, check=False)
    begun = ["score", *[clip] * 5, "-o", out, "--resume"]
    before = Path(f"{out}.partial").read_bytes()
    usage_error(pyasd(*begun, "-m", model), "other", "scores.csv.partial")
    usage_error(pyasd(*begun, "-m", fast, "--channel", "mean"), "--channel 0", "--channel mean", "away")
    usage_error(pyasd(*begun, "-m", fast, "--unknown-ids", "pool"), "--unknown-ids refuse", "away")
    usage_error(pyasd(*begun, "-m", fast, "--backend", "reference"), "--backend auto", "--backend reference", "away")
    monkeypatch.setenv("PYASD_MAX_FILE_SIZE", "1K")
    usage_error(pyasd(*begun, "-m", fast), "--max-file-size 4294967296", "--max-file-size 1024", "away")
    monkeypatch.delenv("PYASD_MAX_FILE_SIZE")
    usage_error(pyasd(*begun), "give --model and --out")
    usage_error(pyasd("score", clip, "-m", fast, "--resume"), "give --model and --out")
    decided = [*begun, "-m", fast, "--false-alarms", "50%", "--confirm", "1/2"]
    usage_error(pyasd(*decided), "was begun with --false-alarms None", "away")
    usage_error(pyasd(*decided, "--retry-failed"), "--confirm looks back", "retry failed clips")
    assert Path(f"{out}.partial").read_bytes() == before
    assert pyasd(*begun, "-m", fast).code == 0
    pd.testing.assert_series_equal(
        results.read(out)["clip"], pd.Series([str(clip)] * 5, name="clip"), check_dtype=False
    )
