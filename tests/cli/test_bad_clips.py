"""A clip that is wrong costs its own row, with its reason, and makes the exit code 1."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pyasd.tables import table as results

from .conftest import RATE, Command, tone, usage_error


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder with all that can be wrong with a clip, and the status that each is to have."""
    folder = tmp_path / "mixed clips ü"
    folder.mkdir()
    good, expected = tone(), {}

    def place(name: str, status: str) -> Path:
        expected[name] = status
        return folder / name

    place("00 zero bytes.wav", "empty").write_bytes(b"")
    soundfile.write(place("01 no samples.wav", "empty"), good[:0], RATE)
    soundfile.write(folder / "whole.wav", good, RATE)
    place("02 truncated.wav", "truncated").write_bytes((folder / "whole.wav").read_bytes()[:9000])
    (folder / "whole.wav").unlink()
    soundfile.write(folder / "whole.flac", good, RATE)
    place("03 truncated.flac", "truncated").write_bytes((folder / "whole.flac").read_bytes()[:9000])
    (folder / "whole.flac").unlink()
    place("04 text.wav", "unreadable").write_text("this is a text file")
    floats = good.astype(np.float32) / 32768
    for name, value in (("05 nan.wav", np.nan), ("06 inf.wav", np.inf)):
        broken = floats.copy()
        broken[100] = value
        soundfile.write(place(name, "not-finite"), broken, RATE, "FLOAT")
    soundfile.write(place("07 silence.wav", "silent"), good * 0, RATE)
    soundfile.write(place("08 four frames.wav", "too-short"), good[: 4 * 512 - 1], RATE)
    soundfile.write(place("09 one sample.wav", "too-short"), good[:1], RATE)
    soundfile.write(place("10 eight channels.wav", "ok"), tone(channels=8), RATE)
    soundfile.write(place("11 8 kHz.wav", "ok"), tone(1.5, 8000), 8000)
    soundfile.write(place("12 192 kHz.flac", "ok"), tone(0.7, 192000), 192000)
    soundfile.write(place("13 „Größe“ 漢字.wav", "ok"), good, RATE)
    soundfile.write(place("14 long.wav", "ok"), tone(3.3), RATE)
    return folder, expected


def test_every_bad_clip_has_its_row(
    pyasd: Command, mixed: tuple[Path, dict[str, str]], model: Path, tmp_path: Path
) -> None:
    folder, expected = mixed
    out = tmp_path / "scores.csv"
    outcome = pyasd("score", folder, "--model", model, "--id", "00", "-o", out)
    assert outcome.code == 1
    table = results.read(out)
    assert dict(zip((Path(x).name for x in table["clip"]), table["status"], strict=True)) == expected
    failed = ~table["status"].isin(["ok", "silent"])
    assert failed.sum() == 9
    assert table["score"].notna().tolist() == (~failed).tolist()
    for row in table[failed].itertuples():
        assert row.error.startswith(row.clip)  # names the file
        assert len(row.error) > len(row.clip) + 20  # and says more
    assert not (table["error"][~failed] != "").any()
    assert "9 of 15 clips have no score" in outcome.err
    assert "2 truncated" in outcome.err
    assert str(folder / "00 zero bytes.wav") in outcome.err


def test_bad_clips_are_not_learnt_from(pyasd: Command, mixed: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, _ = mixed
    out = tmp_path / "mixed.safetensors"
    outcome = pyasd("fit", folder, "-o", out, "--epochs", 1)
    assert outcome.code == 1
    assert out.is_file()
    assert "10 of 15 clips were not learnt from" in outcome.err
    assert str(folder / "00 zero bytes.wav") in outcome.err
    assert "Traceback" not in outcome.err


def test_bad_clips_without_a_model(pyasd: Command, mixed: tuple[Path, dict[str, str]]) -> None:
    folder, _ = mixed
    outcome = pyasd("score", folder)
    assert outcome.code == 1
    assert "9 of 15 clips have no score" in outcome.err
    assert outcome.out.count(".wav") + outcome.out.count(".flac") == 6


def test_channels(pyasd: Command, mixed: tuple[Path, dict[str, str]], model: Path, tmp_path: Path) -> None:
    clip = mixed[0] / "10 eight channels.wav"
    scores = {}
    for channel in ("0", "7", "mean"):
        out = tmp_path / f"{channel}.csv"
        assert pyasd("score", clip, "-m", model, "--id", "00", "--channel", channel, "-o", out).code == 0
        assert list(results.read(out)["channel"]) == [channel]
        scores[channel] = results.read(out)["score"][0]
    assert len(set(scores.values())) == 3
    outcome = pyasd("score", clip, "-m", model, "--id", "00", "--channel", "8")
    assert outcome.code == 1
    assert "no-channel" in outcome.err
    assert "0 to 7" in outcome.err


def test_a_missing_file_among_others(pyasd: Command, factory: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    clip, missing = factory / "fan/test/normal_id_00_00000000.wav", factory / "fan/test/normal_id_00_99999999.wav"
    outcome = pyasd("score", clip, missing, clip, "-m", model, "-o", out)
    assert outcome.code == 1
    assert str(missing) in outcome.err
    assert list(results.read(out)["status"]) == ["ok", "missing", "ok"]


def test_unknown_machine_ids(pyasd: Command, factory: Path, model: Path, tmp_path: Path) -> None:
    clip, out = factory / "fan/test/normal_id_00_00000000.wav", tmp_path / "scores.csv"
    outcome = pyasd("score", clip, "-m", model, "--id", "77", "-o", out)
    assert outcome.code == 1
    assert "unknown-id" in outcome.err
    assert "'77'" in outcome.err
    assert list(results.read(out)["status"]) == ["unknown-id"]
    pooled = pyasd("score", clip, "-m", model, "--id", "77", "-o", out, "--unknown-ids", "pool")
    assert pooled.code == 0
    assert list(results.read(out)["status"]) == ["pooled"]
    usage_error(pyasd("score", clip, "-m", model, "--unknown-ids", "maybe"), "maybe", "refuse")
    assert pyasd("score", factory / "pump/test", "-m", model).code == 1


def test_evaluate_tells_of_failed_clips(pyasd: Command, factory: Path, model: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "fan" / "test", tmp_path / "scores.csv"
    shutil.copytree(factory / "fan" / "test", folder)
    (folder / "anomaly_id_00_00000000.wav").write_bytes(b"")
    assert pyasd("score", folder, "-m", model, "-o", out).code == 1
    outcome = pyasd("evaluate", out)
    assert outcome.code == 1
    assert " fan" in outcome.out
    assert "1 of 12 clips have no score" in outcome.err
