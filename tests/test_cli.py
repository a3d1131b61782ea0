"""The command line as a user meets it: exit codes, messages that name the file and the remedy, tables on stdout."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import safetensors
import safetensors.torch
import soundfile
import torch

from pyasd import cli, config, detector, evaluation, results
from pyasd.datasets import demo, miniature

ROOT = Path(__file__).resolve().parents[1]
RATE = 16000


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def pyasd(capsys: pytest.CaptureFixture[str]):
    """Runs a command in this process."""

    def run(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as stop:
            cli.app([str(x) for x in arguments], prog_name="pyasd")
        out, err = capsys.readouterr()
        return Outcome(int(stop.value.code or 0), out, err)

    return run


def usage_error(outcome: Outcome, *parts: object) -> None:
    """One clear line on stderr that says all of `parts`, nothing on stdout, no traceback."""
    assert outcome.code == 2, outcome
    assert not outcome.out
    assert outcome.err.startswith("pyasd: error: ")
    assert outcome.err.count("\n") == 1
    assert outcome.err.endswith("\n")
    for part in parts:
        assert str(part) in outcome.err


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short synthetic clips: 3 to learn from and 2 + 2 to test, of each machine."""
    folder = tmp_path_factory.mktemp("factory")
    demo.write(folder, train=3, test=2, seconds=1.0)
    return folder


@pytest.fixture(scope="session")
def model(factory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fan's model, from the command itself."""
    path = tmp_path_factory.mktemp("model") / "fan.safetensors"
    with pytest.raises(SystemExit) as stop:
        cli.app(["fit", str(factory / "fan"), "-o", str(path), "--epochs", "1"], prog_name="pyasd")
    assert stop.value.code == 0
    return path


def tone(seconds: float = 1.0, rate: int = RATE, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(7)
    return (3000 * rng.standard_normal((int(seconds * rate), channels))).astype(np.int16)


# -- the whole way -----------------------------------------------------------------------------------------------


def test_fit_score_evaluate(pyasd, factory: Path, tmp_path: Path) -> None:
    model, scores = tmp_path / "fan.safetensors", tmp_path / "scores.csv"
    fitted = pyasd("fit", factory / "fan", "-o", model, "--epochs", 1, "--order", "middle", "--score", "conditional")
    assert fitted == (0, f"{model}: <Detector group-made (fan: 00, 02, 04)>\n", "")
    with safetensors.safe_open(model, "pt") as file:
        recipe = json.loads(file.metadata()["pyasd"])["recipe"]
    assert (recipe["group_made"]["order"], recipe["group_made"]["score"]) == ("middle", "conditional")
    assert [path.name for path in tmp_path.iterdir()] == ["fan.safetensors"]

    scored = pyasd("score", factory / "fan", "--model", model, "-o", scores, "--top", 3)
    assert scored.code == 0
    assert scored.err == f"pyasd: 12 rows are in {scores}\n"
    table = results.read(scores)
    assert len(table) == 12  # train/ is not scored
    assert set(table["status"]) == {"ok"}
    best = table.nlargest(3, "score")
    rows = [line.split() for line in scored.out.splitlines() if ".wav" in line]
    assert [row[-1] for row in rows] == list(best["clip"])
    assert [float(row[0]) for row in rows] == pytest.approx(list(best["score"]), abs=0.006)

    evaluated = pyasd("evaluate", scores)
    assert (evaluated.code, evaluated.err) == (0, "")
    rows = [line.split() for line in evaluated.out.splitlines() if line.startswith(" fan")]
    expected = evaluation.evaluate(table)
    assert [row[1] for row in rows] == ["00", "02", "04", "average"]
    for row, auc, pauc in zip(rows, expected["auc"], expected["pauc"], strict=True):
        assert [float(x) for x in row[-2:]] == pytest.approx([100 * auc, 100 * pauc], abs=0.06)


def test_parquet_and_another_score(pyasd, factory: Path, model: Path, tmp_path: Path) -> None:
    tables = []
    for name, mode in (("joint.parquet", "joint"), ("middle.parquet", "middle")):
        out = tmp_path / name
        assert pyasd("score", factory / "fan/test", "-m", model, "-o", out, "--score", mode, "--top", 0).out == ""
        tables.append(pd.read_parquet(out))
    assert not np.allclose(tables[0]["score"], tables[1]["score"])
    assert pyasd("evaluate", tmp_path / "joint.parquet", "--score", "score.group-made").code == 0


def test_autoencoder(pyasd, factory: Path, tmp_path: Path) -> None:
    out = tmp_path / "ae.safetensors"
    outcome = pyasd("fit", factory / "pump", "-o", out, "--system", "autoencoder", "--epochs", 1)
    assert outcome == (0, f"{out}: <Detector autoencoder (pump: 00, 02, 04)>\n", "")


def test_a_plain_folder_without_a_model(pyasd, tmp_path: Path) -> None:
    """What a newcomer does first. Names are anything; one clip is unlike the others."""
    for i in range(6):
        soundfile.write(tmp_path / f"Halle 3 [{i}] Pümpe.wav", tone()[: RATE - i], RATE)
    odd = tmp_path / "odd: [bold] :smile:.wav"
    soundfile.write(odd, (8000 * np.sin(np.arange(RATE) * 0.7)).astype(np.int16), RATE)
    outcome = pyasd("score", tmp_path, "--epochs", 2)
    assert (outcome.code, outcome.err) == (0, "")
    rows = [line for line in outcome.out.splitlines() if ".wav" in line]
    assert len(rows) == 7
    assert rows[0].rstrip().endswith(str(odd))
    assert "Halle 3 [0] Pümpe.wav" in outcome.out


def test_demo(pyasd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.run.__kwdefaults__, "seconds", 1.0)
    outcome = pyasd("demo", "--out", tmp_path / "d", "--clips", 2, "--epochs", 1, "--seed", 3)
    assert (outcome.code, outcome.err) == (0, "")
    assert "synthetic" in outcome.out
    rows = [line.split() for line in outcome.out.splitlines() if " / " in line and "AUC" not in line]
    assert len(rows) == 3 * 4 + 1
    assert rows[0][:3] == ["conveyor", "00", "2/2"]
    for name in ("model.safetensors", "scores.csv", "picture.png", "recordings/README.txt"):
        assert (tmp_path / "d" / name).is_file()
        assert str(tmp_path / "d" / Path(name).parts[0]) in outcome.out
    table = results.read(tmp_path / "d" / "scores.csv")
    assert {"score.group-made", "score.autoencoder"} <= set(table)
    assert len(table) == 36


def test_demo_without_matplotlib(pyasd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.run.__kwdefaults__, "seconds", 1.0)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    outcome = pyasd("demo", "--out", tmp_path, "--clips", 2, "--epochs", 1)
    assert outcome.code == 0
    assert "pip install 'pyasd[pictures]'" in outcome.err
    assert not (tmp_path / "picture.png").exists()


def test_demo_keeps_off_other_folders(pyasd, tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "mine.wav").write_bytes(b"mine")
    usage_error(pyasd("demo", "--out", tmp_path), tmp_path / "recordings", "choose an empty folder")


def test_doctor(pyasd) -> None:
    outcome = pyasd("doctor")
    facts = {line[:18].strip(): line[18:] for line in outcome.out.splitlines()}
    assert outcome.code == (0 if facts["backend cpu"] == "ready" else 1)
    assert {"pyasd", "torch", "CPU kernels", "GPU", "backend reference", "backend cuda", "soundfile"} <= facts.keys()
    assert facts["backend reference"] == "ready"


@pytest.mark.parametrize(
    ("cuda", "hip", "words"),
    [
        (None, None, "is a build without CUDA and ROCm"),
        ("13.0", None, "no driver answers, or it is older than CUDA 13.0 needs"),
        (None, "6.4", "no driver answers, or it is older than ROCm 6.4 needs"),
    ],
)
def test_doctor_says_why_there_is_no_gpu(
    pyasd, monkeypatch: pytest.MonkeyPatch, cuda: str | None, hip: str | None, words: str
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    facts = {line[:18].strip(): line[18:] for line in pyasd("doctor").out.splitlines()}
    assert words in facts["GPU"]
    for backend in ("cuda", "triton"):
        assert facts[f"backend {backend}"] != "ready"


@pytest.mark.parametrize("why", [None, "the self-check of the hidden layers (float32) disagrees with the reference"])
def test_doctor_says_which_cuda_kernels_run(pyasd, monkeypatch: pytest.MonkeyPatch, why: str | None) -> None:
    from pyasd import backends
    from pyasd.backends import cuda

    monkeypatch.setattr(backends, "available", lambda: dict.fromkeys(backends.NAMES))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda, "hidden_layers_obstacle", lambda device: why)
    monkeypatch.setattr(cuda, "warpgroups_obstacle", lambda device: why)
    facts = {line[:18].strip(): line[18:] for line in pyasd("doctor").out.splitlines()}
    assert facts["backend cuda"] == "ready"
    assert facts["CUDA trunk"] == ("ready" if why is None else f"in torch: {why}")
    assert facts["CUDA wgmma"] == ("ready" if why is None else f"not used: {why}")


def test_doctor_without_the_native_kernels(pyasd, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyasd import backends

    monkeypatch.setattr(backends, "available", lambda: dict.fromkeys(backends.NAMES, "it is not built here"))
    outcome = pyasd("doctor")
    assert outcome.code == 1
    assert "it is not built here" in outcome.out
    assert "install pyasd again" in outcome.err


def test_help_teaches(pyasd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    for command in ("fit", "score", "evaluate", "download", "reproduce", "demo", "doctor"):
        assert command in pyasd("--help").out
        outcome = pyasd(command, "-h")
        assert outcome.code == 0
        assert command == "doctor" or f"pyasd {command}" in outcome.out  # an example


# -- wrong usage -------------------------------------------------------------------------------------------------


def test_missing_path(pyasd, model: Path, tmp_path: Path) -> None:
    missing = tmp_path / "no such folder"
    usage_error(pyasd("score", missing, "--model", model), missing, "check the spelling")
    usage_error(pyasd("score", missing), missing)
    usage_error(pyasd("fit", missing, "-o", tmp_path / "x.safetensors"), missing)
    usage_error(pyasd("evaluate", tmp_path / "scores.csv"), tmp_path / "scores.csv")
    assert list(tmp_path.iterdir()) == []


def test_empty_folder(pyasd, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing to hear")
    usage_error(pyasd("score", folder, "--model", model), folder, ".wav", ".flac")
    usage_error(pyasd("fit", folder, "-o", tmp_path / "x.safetensors"), folder, ".wav")
    usage_error(pyasd("score", folder / "*.wav"), folder)


def test_no_readable_clip(pyasd, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for name in ("normal_id_00_00000000.wav", "normal_id_00_00000001.wav"):
        (folder / name).write_text("this is not audio")
    usage_error(pyasd("fit", folder, "-o", tmp_path / "x.safetensors"), folder, "00000000.wav", "convert it")
    usage_error(pyasd("score", folder), folder)
    outcome = pyasd("score", folder, "--model", model, "-o", tmp_path / "scores.csv")
    assert outcome.code == 1
    assert "2 of 2 clips have no score (2 unreadable)" in outcome.err
    assert list(results.read(tmp_path / "scores.csv")["status"]) == ["unreadable"] * 2


def test_bad_model_files(pyasd, factory: Path, model: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    clip = factory / "fan/test/normal_id_00_00000000.wav"
    usage_error(pyasd("score", clip, "--model", bad), bad)
    bad.write_bytes(model.read_bytes()[:-1000])
    usage_error(pyasd("score", clip, "--model", bad), bad, "truncated")
    bad.write_text("score,clip\n")
    usage_error(pyasd("score", clip, "--model", bad), bad, "pyasd fit")
    shutil.copy(clip, bad)
    usage_error(pyasd("score", clip, "--model", bad), bad, "pyasd fit")
    safetensors.torch.save_file({}, bad)
    usage_error(pyasd("score", clip, "--model", bad), bad, "pyasd fit")
    with safetensors.safe_open(model, "pt") as file:
        header = json.loads(file.metadata()["pyasd"]) | {"format": 99}
    safetensors.torch.save_file(safetensors.torch.load_file(model), bad, {"pyasd": json.dumps(header)})
    usage_error(pyasd("score", clip, "--model", bad), bad, "format 99", "upgrade")
    usage_error(pyasd("score", clip, "--model", tmp_path), tmp_path)


@pytest.mark.parametrize("place", ["nowhere/out", "file/out", "", "/proc/out"])
def test_unwritable_output(pyasd, factory: Path, model: Path, tmp_path: Path, place: str) -> None:
    """Found before any work is done. (As root, a folder without the right to write would not do.)"""
    (tmp_path / "file").write_text("")
    folder = tmp_path / place if place else tmp_path
    clip = factory / "fan/test/normal_id_00_00000000.wav"
    csv, tensors = (Path(f"{folder}{x}") if place else folder for x in (".csv", ".safetensors"))
    if place:
        usage_error(pyasd("score", clip, "--model", model, "-o", csv), csv.parent)
    usage_error(pyasd("fit", factory / "fan", "-o", tensors, "--epochs", 1), tensors.parent if place else tensors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_an_unknown_kind_of_table(pyasd, factory: Path, model: Path, tmp_path: Path) -> None:
    usage_error(
        pyasd("score", factory / "fan/test", "-m", model, "-o", tmp_path / "x.xlsx"), "x.xlsx", ".csv", ".parquet"
    )


def test_recipes_are_listed_and_printed(pyasd) -> None:
    listed = pyasd("recipes")
    assert listed.code == 0
    for name, recipe in config.SYSTEMS.items():
        assert f"{' + '.join(recipe.members)}" in listed.out
        printed = pyasd("recipes", name)
        assert printed.out == config.recipe_path(name).read_text()
    usage_error(pyasd("recipes", "5"), "group-made", "'5'")


def test_fit_by_a_recipe_of_ones_own(pyasd, factory: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('members = ["autoencoder"]\n[autoencoder]\nhidden = [8]\nepochs = 1\n')
    out = tmp_path / "fan.safetensors"
    assert pyasd("fit", factory / "fan", "-o", out, "--system", recipe).code == 0
    recipe.write_text('members = ["autoencoder"]\n[autoencoder]\nepoch = 1\n')
    usage_error(pyasd("fit", factory / "fan", "-o", out, "--system", recipe), recipe, "'epoch'", "epochs")


def test_full_disk(pyasd, factory: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "scores.csv"
    rows: list[object] = []
    real = results.Writer._flush
    monkeypatch.setattr(detector, "BATCH_CLIPS", 3)

    def flush(self: results.Writer) -> None:
        rows.append(self)
        if len(rows) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self)

    monkeypatch.setattr(results.Writer, "_flush", flush)
    usage_error(pyasd("score", factory / "fan/test", "-m", model, "-o", out), out, "disk is full", "make room")
    assert not out.exists()
    assert len(results.read(f"{out}.partial")) == 3


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--system", "made"], ["made", "group-made", "autoencoder"]),
        (["--order", "backwards"], ["backwards", "causal", "middle"]),
        (["--score", "mean"], ["joint", "conditional"]),
        (["--channel", "left"], ["channel", "left", "mean"]),
        (["--system", "autoencoder", "--order", "middle"], ["order"]),
        (["--device", "cuda:77"], ["cuda:77"]),
        (["--device", "banana"], ["banana"]),
        (["--backend", "banana"], ["banana", "reference"]),
        (["--precision", "int8"], ["int8", "float32"]),
    ],
)
def test_wrong_values(pyasd, factory: Path, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    usage_error(pyasd("fit", factory / "fan", "-o", tmp_path / "x.safetensors", "--epochs", 1, *arguments), *parts)
    assert not (tmp_path / "x.safetensors").exists()


def test_wrong_usage_that_typer_finds(pyasd, tmp_path: Path) -> None:
    for arguments in (["fit", tmp_path], ["bogus"], ["score"], ["fit", tmp_path, "-o", "x", "--epochs", "0"]):
        outcome = pyasd(*arguments)
        assert outcome.code == 2
        assert "Traceback" not in outcome.err


def test_settings_of_a_fit_beside_a_model(pyasd, factory: Path, model: Path) -> None:
    usage_error(pyasd("score", factory / "fan/test", "-m", model, "--epochs", 3), "epochs", "model is given")


def test_evaluate_what_cannot_be(pyasd, factory: Path, model: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.wav"
    soundfile.write(plain, tone(), RATE)
    out = tmp_path / "scores.csv"
    assert pyasd("score", plain, "-m", model, "--id", "00", "-o", out).code == 0
    usage_error(pyasd("evaluate", out), "no clip has a label", "normal_id_00_00000000.wav")
    out.write_text("a,b\n1,2\n")
    usage_error(pyasd("evaluate", out), out, "pyasd score")
    usage_error(pyasd("evaluate", model), model, ".csv")
    assert pyasd("score", factory / "fan/test", "-m", model, "-o", out).code == 0
    usage_error(pyasd("evaluate", out, "--score", "score.banana"), "score.banana", "score.group-made")


# -- bad clips ---------------------------------------------------------------------------------------------------


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


def test_every_bad_clip_has_its_row(pyasd, mixed: tuple[Path, dict[str, str]], model: Path, tmp_path: Path) -> None:
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


def test_bad_clips_are_not_learnt_from(pyasd, mixed: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    folder, _ = mixed
    out = tmp_path / "mixed.safetensors"
    outcome = pyasd("fit", folder, "-o", out, "--epochs", 1)
    assert outcome.code == 1
    assert out.is_file()
    assert "10 of 15 clips were not learnt from" in outcome.err
    assert str(folder / "00 zero bytes.wav") in outcome.err
    assert "Traceback" not in outcome.err


def test_bad_clips_without_a_model(pyasd, mixed: tuple[Path, dict[str, str]]) -> None:
    folder, _ = mixed
    outcome = pyasd("score", folder, "--epochs", 1)
    assert outcome.code == 1
    assert "9 of 15 clips have no score" in outcome.err
    assert outcome.out.count(".wav") + outcome.out.count(".flac") == 6


def test_channels(pyasd, mixed: tuple[Path, dict[str, str]], model: Path, tmp_path: Path) -> None:
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


def test_a_missing_file_among_others(pyasd, factory: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    clip, missing = factory / "fan/test/normal_id_00_00000000.wav", factory / "fan/test/normal_id_00_99999999.wav"
    outcome = pyasd("score", clip, missing, clip, "-m", model, "-o", out)
    assert outcome.code == 1
    assert str(missing) in outcome.err
    assert list(results.read(out)["status"]) == ["ok", "missing", "ok"]


def test_unknown_machine_ids(pyasd, factory: Path, model: Path, tmp_path: Path) -> None:
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


def test_evaluate_tells_of_failed_clips(pyasd, factory: Path, model: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "fan" / "test", tmp_path / "scores.csv"
    shutil.copytree(factory / "fan" / "test", folder)
    (folder / "anomaly_id_00_00000000.wav").write_bytes(b"")
    assert pyasd("score", folder, "-m", model, "-o", out).code == 1
    outcome = pyasd("evaluate", out)
    assert outcome.code == 1
    assert " fan" in outcome.out
    assert "1 of 12 clips have no score" in outcome.err


# -- processes ---------------------------------------------------------------------------------------------------


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "pyasd", *(str(x) for x in arguments)]


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
    assert stderr == f"pyasd: stopped; the rows so far are in {out}.partial\n"
    assert not stdout
    assert not out.exists()
    assert 2 <= len(results.read(f"{out}.partial")) < 6000


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


def test_version(pyasd) -> None:
    assert pyasd("--version").out.split() == ["pyasd", "0.1.0"]


# -- the challenges' data sets -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("year", "machine", "channel"), [(2021, "fan", 0), (2025, "valve", 0), (2026, "fan", 1)])
def test_later_years_from_folders_to_figures(pyasd, tmp_path: Path, year: int, machine: str, channel: int) -> None:
    miniature.write(tmp_path / "data", year, machines=[machine], train=3, test=2, seconds=1.0)
    folder, model, scores = tmp_path / "data" / "dev_data" / machine, tmp_path / "m.safetensors", tmp_path / "s.csv"
    sections = ["00", "01", "02"] if year == 2021 else ["00"]
    fitted = pyasd("fit", folder, "-o", model, "--epochs", 1, "--channel", channel)
    assert fitted.out == f"{model}: <Detector group-made ({machine}: {', '.join(sections)})>\n"
    assert pyasd("score", folder, "-m", model, "-o", scores, "--top", 0, "--channel", channel).code == 0
    assert len(results.read(scores)) == 8 * len(sections)
    evaluated = pyasd("evaluate", scores, "--rule", year)
    assert evaluated.code == 0
    lines = [line.split() for line in evaluated.out.splitlines() if line.strip()]
    figures = evaluation.RULES[str(year)]
    assert "official" in lines[0]
    assert lines[0].count("%") == len(figures) + 1
    expected = evaluation.evaluate(scores, rule=str(year))
    assert [float(x) for x in lines[2][-len(figures) :]] == pytest.approx(
        [100 * expected[name][0] for name in figures], abs=0.06
    )
    assert float(lines[-1][-1]) == pytest.approx(100 * expected["official"].iloc[-1], abs=0.06)


def test_an_evaluation_set_with_the_organisers_list(pyasd, tmp_path: Path) -> None:
    miniature.write(tmp_path / "data", 2020, machines=["pump"], train=3, test=2, seconds=1.0)
    folder, model, scores = tmp_path / "data/eval_data/pump", tmp_path / "m.safetensors", tmp_path / "s.parquet"
    assert pyasd("fit", folder, "-o", model, "--epochs", 1).code == 0
    assert pyasd("score", folder, "-m", model, "-o", scores, "--top", 0).code == 0
    usage_error(pyasd("evaluate", scores), "no clip has a label", "eval_data_list_")
    outcome = pyasd("evaluate", scores, "--labels", tmp_path / "data/eval_data_list_2020.csv")
    assert outcome.code == 0
    assert [line.split()[1] for line in outcome.out.splitlines() if line.startswith(" pump")] == [
        "01",
        "03",
        "05",
        "average",
    ]
    pooled = pyasd("evaluate", scores, "--labels", tmp_path / "data/eval_data_list_2020.csv", "--rule", "pooled")
    (line,) = (line for line in pooled.out.splitlines() if line.startswith(" pump") and "pooled" in line)
    assert line.split()[:4] == ["pump", "pooled", "6", "6"]
    usage_error(pyasd("evaluate", scores, "--rule", "2023"), "eval_data_list_")
    usage_error(pyasd("evaluate", scores, "--rule", "1999"), "no rule '1999'", "2026")


def test_archives_without_unpacking(pyasd, factory: Path, model: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "fan"), "zip", factory, "fan")
    packed = tmp_path / "packed.safetensors"
    assert (
        pyasd("fit", archive, "-o", packed, "--epochs", 1).out == f"{packed}: <Detector group-made (fan: 00, 02, 04)>\n"
    )
    tables = []
    for clips, fitted, name in ((archive, packed, "packed.csv"), (factory / "fan", model, "plain.csv")):
        assert pyasd("score", clips, "-m", fitted, "-o", tmp_path / name, "--top", 0).code == 0
        tables.append(results.read(tmp_path / name))
    assert tables[0]["score"].tolist() == tables[1]["score"].tolist()
    assert tables[0]["clip"][0] == f"{archive}/fan/test/anomaly_id_00_00000000.wav"


def test_a_miniature(pyasd, tmp_path: Path) -> None:
    outcome = pyasd("demo", "--layout", "dcase2023", "--out", tmp_path / "mini", "--clips", 2)
    assert outcome == (0, f"{tmp_path / 'mini'}: 140 synthetic clips in the layout of dcase2023\n", "")
    usage_error(pyasd("demo", "--layout", "dcase2023", "--out", tmp_path / "mini"), "is not empty")
    usage_error(pyasd("demo", "--layout", "dcase1999", "--out", tmp_path / "other"), "no data set 'dcase1999'")
