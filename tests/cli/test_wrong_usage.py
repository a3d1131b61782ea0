"""Wrong usage: exit code 2 and one line that names the file and the remedy."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import soundfile

from pyasd import storage
from pyasd.detector import table as detector_table
from pyasd.recipes import files
from pyasd.tables import table as results
from pyasd.tables.writer import Writer

from .conftest import RATE, Command, tone, usage_error


def test_missing_path(pyasd: Command, model: Path, tmp_path: Path) -> None:
    missing = tmp_path / "no such folder"
    usage_error(pyasd("score", missing, "--model", model), missing, "check the spelling")
    usage_error(pyasd("score", missing), missing)
    usage_error(pyasd("fit", missing, "-o", tmp_path / "x.safetensors"), missing)
    usage_error(pyasd("evaluate", tmp_path / "scores.csv"), tmp_path / "scores.csv")
    assert list(tmp_path.iterdir()) == []


def test_empty_folder(pyasd: Command, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing to hear")
    usage_error(pyasd("score", folder, "--model", model), folder, ".wav", ".flac")
    usage_error(pyasd("fit", folder, "-o", tmp_path / "x.safetensors"), folder, ".wav")
    usage_error(pyasd("score", folder / "*.wav"), folder)


def test_no_readable_clip(pyasd: Command, model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    for name in ("normal_id_00_00000000.wav", "normal_id_00_00000001.wav"):
        (folder / name).write_text("this is not audio")
    usage_error(pyasd("fit", folder, "-o", tmp_path / "x.safetensors"), folder, "00000000.wav", "convert it")
    usage_error(pyasd("score", folder), folder)
    outcome = pyasd("score", folder, "--model", model, "-o", tmp_path / "scores.csv")
    assert outcome.code == 1
    assert "2 of 2 clips have no score (2 unreadable)" in outcome.err
    assert list(results.read(tmp_path / "scores.csv")["status"]) == ["unreadable"] * 2


def test_bad_model_files(pyasd: Command, factory: Path, model: Path, tmp_path: Path) -> None:
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
    tensors, header = storage.read(model)
    storage.write(bad, tensors, header | {"format": 99})
    usage_error(pyasd("score", clip, "--model", bad), bad, "format 99", "upgrade")
    usage_error(pyasd("score", clip, "--model", tmp_path), tmp_path)


@pytest.mark.parametrize("place", ["nowhere/out", "file/out", "", "/proc/out"])
def test_unwritable_output(pyasd: Command, factory: Path, model: Path, tmp_path: Path, place: str) -> None:
    """Found before any work is done. (As root, a folder without the right to write would not do.)"""
    (tmp_path / "file").write_text("")
    folder = tmp_path / place if place else tmp_path
    clip = factory / "fan/test/normal_id_00_00000000.wav"
    csv, tensors = (Path(f"{folder}{x}") if place else folder for x in (".csv", ".safetensors"))
    if place:
        usage_error(pyasd("score", clip, "--model", model, "-o", csv), csv.parent)
    usage_error(pyasd("fit", factory / "fan", "-o", tensors, "--epochs", 1), tensors.parent if place else tensors)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_an_unknown_kind_of_table(pyasd: Command, factory: Path, model: Path, tmp_path: Path) -> None:
    usage_error(
        pyasd("score", factory / "fan/test", "-m", model, "-o", tmp_path / "x.xlsx"), "x.xlsx", ".csv", ".parquet"
    )


def test_recipes_are_listed_and_printed(pyasd: Command) -> None:
    listed = pyasd("recipes")
    assert listed.code == 0
    for name in files.names():
        recipe = files.find(name)
        assert f"{' + '.join(recipe.names)}" in listed.out
        printed = pyasd("recipes", name)
        assert printed.out == files.path_of(name).read_text()
    usage_error(pyasd("recipes", "5"), "group-made", "'5'")


def test_fit_by_a_recipe_of_ones_own(pyasd: Command, factory: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('members = ["autoencoder"]\n[autoencoder]\nhidden = [8]\nepochs = 1\n')
    out = tmp_path / "fan.safetensors"
    assert pyasd("fit", factory / "fan", "-o", out, "--system", recipe).code == 0
    recipe.write_text('members = ["autoencoder"]\n[autoencoder]\nepoch = 1\n')
    usage_error(pyasd("fit", factory / "fan", "-o", out, "--system", recipe), recipe, "'epoch'", "epochs")


def test_full_disk(pyasd: Command, factory: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "scores.csv"
    rows: list[object] = []
    real = Writer._flush
    monkeypatch.setattr(detector_table, "BATCH_CLIPS", 3)

    def flush(self: Writer) -> None:
        rows.append(self)
        if len(rows) > 2:  # the columns' names, and three rows
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self)

    monkeypatch.setattr(Writer, "_flush", flush)
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
def test_wrong_values(pyasd: Command, factory: Path, tmp_path: Path, arguments: list[str], parts: list[str]) -> None:
    usage_error(pyasd("fit", factory / "fan", "-o", tmp_path / "x.safetensors", "--epochs", 1, *arguments), *parts)
    assert not (tmp_path / "x.safetensors").exists()


def test_wrong_usage_that_typer_finds(pyasd: Command, tmp_path: Path) -> None:
    for arguments in (["fit", tmp_path], ["bogus"], ["score"], ["fit", tmp_path, "-o", "x", "--epochs", "0"]):
        outcome = pyasd(*arguments)
        assert outcome.code == 2
        assert "Traceback" not in outcome.err


def test_evaluate_what_cannot_be(pyasd: Command, factory: Path, model: Path, tmp_path: Path) -> None:
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
    for rate in ("0", "1.5", "nan"):
        usage_error(pyasd("evaluate", out, "--max-fpr", rate), f"--max-fpr must be above 0 and at most 1, not {rate}")
