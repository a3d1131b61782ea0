"""The commands from end to end: tables on stdout, exit codes, help."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors
import safetensors.torch
import soundfile
import torch

from pyasd.factory import demo
from pyasd.tables import evaluation
from pyasd.tables import table as results

from .conftest import RATE, tone, usage_error


def test_fit_score_evaluate(pyasd, factory: Path, tmp_path: Path) -> None:
    model, scores = tmp_path / "fan.safetensors", tmp_path / "scores.csv"
    fitted = pyasd("fit", factory / "fan", "-o", model, "--epochs", 1, "--order", "middle", "--score", "conditional")
    assert fitted == (0, f"{model}: <Detector group-made + spectrum (fan: 00, 02, 04)>\n", "")
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
    outcome = pyasd("demo", "--out", tmp_path / "d", "--clips", 3, "--epochs", 1, "--seed", 3)
    assert (outcome.code, outcome.err) == (0, "")
    assert "synthetic" in outcome.out
    rows = [line.split() for line in outcome.out.splitlines() if " / " in line and "AUC" not in line]
    assert len(rows) == 3 * 4 + 1
    assert rows[0][:3] == ["conveyor", "00", "3/3"]
    assert re.search("group-made +spectrum +both +autoencoder", outcome.out)
    for name in ("model.safetensors", "scores.csv", "picture.png", "recordings/README.txt"):
        assert (tmp_path / "d" / name).is_file()
        assert str(tmp_path / "d" / Path(name).parts[0]) in outcome.out
    table = results.read(tmp_path / "d" / "scores.csv")
    assert table[["score", "score.group-made", "score.spectrum"]].notna().all(axis=None)
    assert len(table) == 54


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


def test_version(pyasd) -> None:
    assert pyasd("--version").out.split() == ["pyasd", "0.1.0"]
