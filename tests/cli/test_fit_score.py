"""The commands from end to end: `fit`, `score` and `evaluate`; tables on stdout, exit codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from pyasd import storage
from pyasd.tables import evaluation
from pyasd.tables import table as results

from .conftest import RATE, Command, tone


def test_fit_score_evaluate(pyasd: Command, factory: Path, tmp_path: Path) -> None:
    model, scores = tmp_path / "fan.safetensors", tmp_path / "scores.csv"
    fitted = pyasd("fit", factory / "fan", "-o", model, "--epochs", 1, "--order", "middle", "--score", "conditional")
    members = "group-made + spectrum + spread + modulation + neighbours"
    assert fitted == (0, f"{model}: <Detector {members} (fan: 00, 02, 04)>\n", "")
    recipe = storage.read(model)[1]["recipe"]
    made = next(member for member in recipe["member"] if member["kind"] == "group-made")
    assert (made["order"], made["score"]) == ("middle", "conditional")
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


def test_parquet_and_another_score(pyasd: Command, factory: Path, model: Path, tmp_path: Path) -> None:
    tables = []
    for name, mode in (("joint.parquet", "joint"), ("middle.parquet", "middle")):
        out = tmp_path / name
        assert pyasd("score", factory / "fan/test", "-m", model, "-o", out, "--score", mode, "--top", 0).out == ""
        tables.append(pd.read_parquet(out))
    assert not np.allclose(tables[0]["score"], tables[1]["score"])
    assert pyasd("evaluate", tmp_path / "joint.parquet", "--score", "score.group-made").code == 0


def test_autoencoder(pyasd: Command, factory: Path, tmp_path: Path) -> None:
    out = tmp_path / "ae.safetensors"
    outcome = pyasd("fit", factory / "pump", "-o", out, "--system", "autoencoder", "--epochs", 1)
    assert outcome == (0, f"{out}: <Detector autoencoder (pump: 00, 02, 04)>\n", "")


def test_a_plain_folder_without_a_model(pyasd: Command, tmp_path: Path) -> None:
    """What a newcomer does first. Names are anything; one clip is unlike the others."""
    for i in range(6):
        soundfile.write(tmp_path / f"Halle 3 [{i}] Pümpe.wav", tone()[: RATE - i], RATE)
    odd = tmp_path / "odd: [bold] :smile:.wav"
    soundfile.write(odd, (8000 * np.sin(np.arange(RATE) * 0.7)).astype(np.int16), RATE)
    outcome = pyasd("score", tmp_path)
    assert (outcome.code, outcome.err) == (0, "")
    rows = [line for line in outcome.out.splitlines() if ".wav" in line]
    assert len(rows) == 7
    assert rows[0].rstrip().endswith(str(odd))
    assert "Halle 3 [0] Pümpe.wav" in outcome.out


def test_a_dry_run_shows_what_would_be_learnt(pyasd: Command, factory: Path) -> None:
    shown = pyasd("fit", factory / "fan", "--dry-run")
    assert (shown.code, shown.err) == (0, "")
    lines = [line.split() for line in shown.out.splitlines()]
    folder = str(factory / "fan")
    clips = {split: len(list((factory / "fan" / split).glob("normal_id_00_*"))) for split in ("train", "test")}
    assert [str(clips["train"]), "yes", "fan", "00", "train", "normal", f"{folder}/train"] in lines
    assert [str(clips["test"]), "no", "fan", "00", "test", "normal", f"{folder}/test"] in lines
    without = pyasd("fit", factory / "fan")
    assert without.code == 2
    assert "--out" in without.err


def test_folders_are_machines_in_fitting_and_in_scoring(pyasd: Command, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, gain in (("pump1", 3000), ("pump2", 300)):
        (tmp_path / "recordings" / name).mkdir(parents=True)
        for i in range(6):
            samples = (gain * rng.standard_normal(RATE)).astype(np.int16)
            soundfile.write(tmp_path / "recordings" / name / f"{i}.wav", samples, RATE)
    model, table = tmp_path / "pumps.safetensors", tmp_path / "scores.csv"
    fitted = pyasd("fit", tmp_path / "recordings", "-o", model, "--system", "fast")
    assert fitted.code == 0
    assert "folders pump1, pump2 are taken for machine types" in fitted.err
    assert "(pump1: ; pump2: )" in fitted.out
    (tmp_path / "recordings" / "new.wav").write_bytes((tmp_path / "recordings/pump1/0.wav").read_bytes())
    scored = pyasd("score", tmp_path / "recordings", "--model", model, "-o", table)
    assert scored.code == 1
    rows = results.read(table)
    assert list(rows["machine_type"]) == ["", *["pump1"] * 6, *["pump2"] * 6]
    assert list(rows["status"]) == ["unknown-id"] + ["ok"] * 12
    together = pyasd("fit", tmp_path / "recordings", "-o", model, "--system", "fast", "--machines", "none")
    assert (together.code, together.err) == (0, "")
