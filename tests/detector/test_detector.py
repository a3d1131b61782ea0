from __future__ import annotations

import math
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

import pyasd
from pyasd import storage
from pyasd.detector import Detector, fit, score
from pyasd.detector.detector import FORMAT
from pyasd.errors import ModelFileError
from pyasd.recipes import Recipe

TINY: dict[str, Any] = {"n_mels": 16, "hidden": (8, 8), "components": 2, "epochs": 2, "batch_size": 64}
BOTH = ("group-made", "autoencoder")


def log_mels(count: int, seed: int = 0, shift: float = 0.0) -> list[np.ndarray]:
    x = np.random.default_rng(seed).normal(-40 + shift, 8, (count, 30, 16))
    return list(x.astype(np.float32))


@pytest.fixture(scope="module")
def detector() -> Detector:
    recipe = Recipe.of_kinds(*BOTH).override(score="bands", **TINY)
    return fit(log_mels(12), recipe, ids=["00", "01"] * 6, features="log-mel")


# -- fitting, scoring, saving ------------------------------------------------------------------------------------


def test_fit_score_evaluate_a_factory(factory: Path, tmp_path: Path) -> None:
    detector = pyasd.fit(factory, out=tmp_path / "model.safetensors", **TINY)
    assert sorted(detector.machines) == ["fan", "pump"]
    assert detector.machines["fan"].ids == ("00", "02")
    assert [int(x) for x in detector.machines["fan"].baselines["group-made"].moments.count] == [6, 6]  # no test clip
    table = pyasd.score(factory, tmp_path / "model.safetensors", out=tmp_path / "scores.csv")
    assert len(table) == 24  # the test clips alone
    assert list(table["status"].unique()) == ["ok"]
    assert table["label"].tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0] * 2
    assert (table["duration"] == 1).all()
    written = pd.read_csv(tmp_path / "scores.csv", dtype={"machine_id": str}, float_precision="round_trip")
    np.testing.assert_array_equal(written["score"], table["score"])
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors", "scores.csv"]
    averages = pyasd.evaluate(table).query("machine_id == 'average'")
    assert (averages["auc"] == 1).all()


def test_anomalous_clips_are_never_learnt_from(factory: Path) -> None:
    test_clips = sorted(map(str, (factory / "fan" / "test").iterdir()))
    detector = fit(test_clips, **TINY)
    assert int(detector.machines["fan"].baselines["group-made"].moments.count.sum()) == 6
    with pytest.raises(ValueError, match="labelled anomalous"):
        fit([x for x in test_clips if "anomaly" in x], **TINY)


def test_scores_are_standardised_per_machine_id(detector: Detector) -> None:
    table = detector.score(log_mels(12), ids=["00", "01"] * 6, features="log-mel")
    for name in BOTH:
        raw = table[f"score.{name}"]
        own = (raw - raw.groupby(table["machine_id"]).transform("mean")) / raw.groupby(table["machine_id"]).transform(
            lambda x: x.std(ddof=0)
        )
        table[f"z.{name}"] = own
    both = table[[f"z.{name}" for name in BOTH]]
    np.testing.assert_allclose(table["score"], both.mean(axis=1), atol=1e-9)
    np.testing.assert_allclose(table["score.max"], both.max(axis=1), atol=1e-9)
    assert table["score.mean"].equals(table["score"].rename("score.mean"))
    largest = Detector(detector.recipe.override(combine="max"), detector.machines)
    again = largest.score(log_mels(12), ids=["00", "01"] * 6, features="log-mel")
    assert again["score"].tolist() == table["score.max"].tolist()
    assert again["score.mean"].tolist() == table["score.mean"].tolist()


def test_save_and_load_score_the_same(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "Modell mit Lücke.safetensors"
    detector.save(path)
    loaded = pyasd.load(path)
    assert loaded.recipe == detector.recipe
    assert loaded.versions == detector.versions
    assert loaded.machines[""].histories == detector.machines[""].histories
    clips = log_mels(3, seed=1)
    pd.testing.assert_frame_equal(
        loaded.score(clips, ids="00", features="log-mel"), detector.score(clips, ids="00", features="log-mel")
    )
    loaded.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_same_clip_same_bits_whatever_the_batch(detector: Detector) -> None:
    clips = log_mels(40, seed=2)
    together = detector.score(clips, ids="00", features="log-mel")
    alone = detector.score(clips[17], ids="00", features="log-mel")
    assert alone["score"][0] == together["score"][17]
    backwards = detector.score(clips[::-1], ids="00", features="log-mel")
    assert backwards["score"].tolist() == together["score"].tolist()[::-1]


def test_same_seed_same_file(tmp_path: Path) -> None:
    for name in "ab":
        fit(log_mels(4), features="log-mel", out=tmp_path / name, seed=3, **TINY)
    fit(log_mels(4), features="log-mel", out=tmp_path / "c", seed=4, **TINY)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_every_score_mode_has_its_own_statistics(detector: Detector) -> None:
    clips, ids = log_mels(12), ["00", "01"] * 6
    tables = {
        m: detector.score(clips, ids=ids, features="log-mel", score_mode=m) for m in ("joint", "conditional", "bands")
    }
    assert not np.allclose(tables["joint"]["score"], tables["conditional"]["score"])
    assert (tables["joint"]["score.group-made"] > tables["conditional"]["score.group-made"]).all()
    assert (tables["joint"]["score.autoencoder"] == tables["conditional"]["score.autoencoder"]).all()
    for table in tables.values():
        np.testing.assert_allclose(table["score"].groupby(table["machine_id"]).mean(), 0, atol=1e-9)
    default = detector.score(clips, ids=ids, features="log-mel")
    pd.testing.assert_frame_equal(default, tables["bands"])
    assert default.attrs == {"precision": "float32", "modes": {"group-made": "bands", "autoencoder": "mse"}}
    with pytest.raises(ValueError, match="bands, conditional, joint, middle, mse"):
        detector.score(clips, ids=ids, features="log-mel", score_mode="best")


def test_explain_adds_up_to_the_score(detector: Detector) -> None:
    clip = log_mels(1, seed=4)[0][:5]  # one window
    explanation = detector.explain(clip, ids="00", features="log-mel", score_mode="joint")
    np.testing.assert_array_equal(explanation.log_mel, clip)
    raw = detector.score(clip, ids="00", features="log-mel", score_mode="joint")["score.group-made"][0]
    assert explanation.score_map.sum(dtype=np.float64) == pytest.approx(raw, rel=1e-5)
    error = detector.explain(clip, ids="00", features="log-mel", member="autoencoder").score_map
    assert error.mean(dtype=np.float64) == pytest.approx(
        detector.score(clip, ids="00", features="log-mel")["score.autoencoder"][0], rel=1e-5
    )
    with pytest.raises(ValueError, match=r"^no member 'mobilenet'; this detector has group-made, autoencoder$"):
        detector.explain(clip, features="log-mel", member="mobilenet")


def test_frames_that_a_mode_does_not_count_are_masked(detector: Detector) -> None:
    clip = log_mels(1, seed=4)[0]
    for mode, uncounted in {"joint": [], "conditional": [0], "bands": [0], "middle": [0, 1, 28, 29]}.items():
        shown = detector.explain(clip, ids="00", features="log-mel", score_mode=mode).score_map
        assert shown.shape == clip.shape
        mask = np.ma.getmaskarray(shown)
        assert np.flatnonzero(mask.all(1)).tolist() == np.flatnonzero(mask.any(1)).tolist() == uncounted
        assert np.isfinite([shown.mean(), shown.max()]).all()
        assert np.isnan(shown.filled()).sum() == 16 * len(uncounted)


# -- what is wrong with clips ------------------------------------------------------------------------------------


def test_unknown_machine_id_is_refused_or_pooled(detector: Detector) -> None:
    clips = log_mels(3, seed=5)
    refused = detector.score(clips, ids=["00", "77", ""], features="log-mel")
    assert refused["status"].tolist() == ["ok", "unknown-id", "unknown-id"]
    assert refused["score"].isna().tolist() == [False, True, True]
    assert "'77'" in refused["error"][1]
    assert "unknown_ids" in refused["error"][1]
    pooled = detector.score(clips, ids=["00", "77", ""], features="log-mel", unknown_ids="pool")
    assert pooled["status"].tolist() == ["ok", "pooled", "pooled"]
    assert pooled["score"].notna().all()
    assert pooled["score"][0] == refused["score"][0]
    with pytest.raises(ValueError, match="unknown_ids must be one of refuse, pool, not 'guess'"):
        detector.score(clips, ids="00", features="log-mel", unknown_ids="guess")  # type: ignore[arg-type]


def test_unknown_machine_type_is_refused() -> None:
    detector = fit(log_mels(4), features="log-mel", machine_type="fan", ids="00", **TINY)
    clips = log_mels(1)
    assert detector.score(clips, ids="00", features="log-mel")["status"].tolist() == ["ok"]  # nothing contradicts
    table = detector.score(clips, ids="00", features="log-mel", machine_type="valve")
    assert table["status"].tolist() == ["unknown-id"]
    assert "fan" in table["error"][0]


def test_bad_clips_have_rows_of_their_own(factory: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "text.wav").write_text("this is no sound")
    soundfile.write(tmp_path / "short.wav", 0.1 * rng.normal(size=600), 16000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(tmp_path / "good.wav", 0.1 * rng.normal(size=16000), 16000)
    detector = fit(factory / "fan" / "train", **TINY)
    clips = [tmp_path / f"{name}.wav" for name in ("good", "text", "gone", "short", "silent")]
    table = detector.score(clips, ids="00")
    assert table["clip"].tolist() == list(map(str, clips))
    assert table["status"].tolist() == ["ok", "unreadable", "missing", "too-short", "silent"]
    assert table["score"].notna().tolist() == [True, False, False, False, True]
    assert np.isfinite(table["score"][4])
    assert [bool(x) for x in table["error"]] == [False, True, True, True, False]
    assert all(str(clips[i]) in table["error"][i] for i in (1, 2, 3))


def test_what_a_crashed_recorder_left_is_scored_as_the_whole_file(tmp_path: Path) -> None:
    whole, crashed = tmp_path / "whole.wav", tmp_path / "crashed.wav"
    soundfile.write(whole, np.random.default_rng(0).normal(0, 0.1, 32000), 16000)
    content = bytearray(whole.read_bytes())
    content[4:8] = content[40:44] = bytes(4)
    crashed.write_bytes(content)
    learnt = fit(log_mels(6), features="log-mel", members=("spectrum",), n_mels=16)
    table = learnt.score([whole, crashed])
    assert table["status"].tolist() == ["ok", "unfinished"]
    assert table["score"].nunique() == 1
    assert table["error"].tolist() == ["", ""]


def test_clips_that_cannot_be_learnt_from_are_skipped_and_listed(factory: Path, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("this is no sound")
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    bad = [tmp_path / "text.wav", tmp_path / "silent.wav"]
    good = sorted((factory / "fan" / "train").iterdir())[:4]
    with pytest.warns(UserWarning, match=r"2 of 6 clips.*text\.wav"):
        detector = fit([*bad, *good], machine_type="fan", **TINY)
    assert [(x["clip"], x["status"]) for x in detector.skipped] == [
        (str(bad[0]), "unreadable"),
        (str(bad[1]), "silent"),
    ]
    with pytest.raises(ValueError, match=r"none of the 2 .* can be learnt from.*text\.wav"):
        fit(bad, **TINY)


def test_a_place_without_clips_is_passed_over(factory: Path, tmp_path: Path) -> None:
    """It tells no machine type, so that it is none of its own, and hides none of the others'."""
    with tarfile.open(tmp_path / "cut.tar", "w") as file:
        file.add(factory / "fan" / "train", "fan/train")
    whole = (tmp_path / "cut.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 10240 * 10240 - 20480])
    (tmp_path / "bad.zip").write_bytes(b"no archive")
    given = [tmp_path / "cut.tar", tmp_path / "bad.zip"]
    with pytest.warns(UserWarning, match="2 of .* clips were not learnt from"):
        detector = fit(given, **TINY)
    assert list(detector.machines) == ["fan"]
    assert {x["status"] for x in detector.skipped} == {"truncated", "unreadable"}
    assert set(pyasd.plan(given)["machine_type"]) == {"fan"}
    with pytest.raises(ValueError, match=r"nothing to learn from: .*bad\.zip is no whole zip archive"):
        fit([tmp_path / "bad.zip", tmp_path / "bad.zip"], **TINY)


def test_a_table_of_scores_is_scored_again(factory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(factory)
    with tarfile.open("fan.tar", "w") as file:
        file.add("fan", "fan")
    (tmp_path / "tables").mkdir()
    detector = fit("fan", **TINY)
    for clips in ("fan", "fan.tar"):
        for suffix in (".csv", ".parquet"):
            out = tmp_path / "tables" / f"scores{suffix}"
            table = detector.score(clips, out=out)
            pd.testing.assert_frame_equal(detector.score(out), table)
            pd.testing.assert_frame_equal(detector.score(table), table)
    assert fit(table.assign(label=0), **TINY).machines.keys() == {"fan"}
    assert detector.calibrate(table.assign(label=0)) is not None


# -- what is wrong with arguments and files ----------------------------------------------------------------------


def test_unknown_settings_name_near_matches() -> None:
    with pytest.raises(TypeError, match=r"'epoch'.*epochs"):
        fit(log_mels(2), features="log-mel", epoch=3)
    with pytest.raises(ValueError, match=r"autoencoder, .*group-made.*'groupmade'"):
        fit(log_mels(2), "groupmade", features="log-mel")
    with pytest.raises(TypeError, match="settings are for ranking without a model"):
        score(log_mels(2), Detector(Recipe.of_kinds("group-made"), {}), features="log-mel", epochs=3)
    with pytest.raises(ValueError, match="precision"):
        fit(log_mels(2), features="log-mel", precision="float16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_told() -> None:
    with pytest.raises(ValueError, match="cuda"):
        fit(log_mels(2), features="log-mel", device="cuda")


def test_output_is_tried_before_anything_is_learnt(tmp_path: Path) -> None:
    started: list[str] = []
    with pytest.raises(FileNotFoundError, match="nowhere"):
        fit(log_mels(2), features="log-mel", out=tmp_path / "nowhere" / "x", progress=lambda *what: started.append("x"))
    with pytest.raises(OSError, match="nowhere"):
        score(
            log_mels(3),
            features="log-mel",
            out=tmp_path / "nowhere" / "x.csv",
            progress=lambda *what: started.append("x"),
        )
    assert not started


@pytest.mark.parametrize("keep", [0, 50, -1])
def test_truncated_model_file_is_told(detector: Detector, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    detector.save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelFileError, match=r"model\.safetensors is truncated"):
        pyasd.score(log_mels(1), path, features="log-mel")


def test_model_file_of_a_newer_format_is_told(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    detector.save(path)
    tensors, header = storage.read(path)
    storage.write(path, tensors, header | {"format": FORMAT + 1, "versions": {"pyasd": "9.9"}, "machines": "other"})
    with pytest.raises(ModelFileError, match=rf"format {FORMAT + 1}.*pyasd 9\.9.*upgrade"):
        pyasd.load(path)


def test_what_is_no_model_is_told(detector: Detector, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("clip,score\n" + "x.wav,1\n" * 20)
    with pytest.raises(ModelFileError, match=r"scores\.csv is not a model file"):
        pyasd.load(path)
    with pytest.raises(FileNotFoundError, match="gone"):
        pyasd.load(tmp_path / "gone.safetensors")
    detector.save(path)
    tensors, header = storage.read(path)
    missing = {name: x for name, x in tensors.items() if "head_bias" not in name}
    storage.write(path, missing, header)
    with pytest.raises(ModelFileError, match="head_bias"):
        pyasd.load(path)
    storage.write(path, {}, {"format": FORMAT})
    with pytest.raises(ModelFileError, match="not a whole detector"):
        pyasd.load(path)


@pytest.fixture
def stored(detector: Detector, tmp_path: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """A model file, its tensors and its header."""
    path = tmp_path / "model.safetensors"
    detector.save(path)
    return path, *storage.read(path)


@pytest.mark.parametrize(
    ("tensor", "value", "told"),
    [
        ("statistics.variance", -1.0, "negative"),
        ("statistics.variance", 0.0, "is 0, and its scores differ"),
        ("statistics.variance", math.inf, "not finite"),
        ("statistics.mean", math.inf, "not finite"),
        ("statistics.mean", 1e30, "outside the scores"),
        ("statistics.count", 0, "no clip"),
        ("statistics.sample", math.nan, "sample of normal scores"),
        ("statistics.sample", math.inf, "sample of normal scores"),
        ("bands.variance", -1.0, "bands: a variance is negative"),
        ("head_weight", math.nan, "head_weight is not finite"),
        ("trunk.bn1.running_var", -1.0, "running_var must be positive"),
        ("band_scale", 0.0, "band_scale must be positive"),
    ],
)
def test_numbers_that_no_fit_gives_are_told(stored: Any, tensor: str, value: float, told: str) -> None:
    path, tensors, header = stored
    changed = tensors[f"0/group-made/{tensor}"].clone()
    changed.view(-1)[0] = value
    storage.write(path, tensors | {f"0/group-made/{tensor}": changed}, header)
    with pytest.raises(ModelFileError, match=rf"model\.safetensors is not a whole detector.*{told}"):
        pyasd.load(path)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (("format",), "x", ""),
        (("machines",), [], "no machine"),
        (("machines", 0, "members"), {}, "it has no members, or they know other machine IDs"),
        (("machines", 0, "machine_type"), 5, "5 is no machine type"),
        (("machines", 0, "members", "group-made", "modes"), [], "modes"),
        (("machines", 0, "members", "group-made", "ids"), [1, 2], "no machine IDs"),
        (("recipe", "member", 0, "components"), 10**7, "weights"),
        (("recipe", "member", 0, "components"), 20, "its settings ask for"),
        (("recipe", "member", 0, "hidden"), [10**9], "weights"),
        (("recipe", "member", 0, "frames"), 10**9, "units"),
        (("recipe", "features", "n_mels"), 10**8, "n_mels from 1 to"),
        (("recipe", "features", "n_fft"), 10**9, "n_fft must be"),
    ],
)
def test_headers_of_no_model_are_told_before_anything_is_made(
    stored: Any, place: tuple[Any, ...], value: Any, told: str
) -> None:
    path, tensors, header = stored
    part = header
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    storage.write(path, tensors, header)
    began = time.perf_counter()
    with pytest.raises(ModelFileError, match=rf"model\.safetensors is not a whole detector.*{told}"):
        pyasd.load(path)
    assert time.perf_counter() - began < 1


# -- the package -------------------------------------------------------------------------------------------------


def test_import_is_light() -> None:
    code = (
        "import sys, pyasd; assert pyasd.__version__; "
        "print([x for x in ('torch', 'pandas', 'sklearn', 'soundfile', 'triton') if x in sys.modules]); "
        "assert callable(pyasd.fit) and 'torch' in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_api_names() -> None:
    assert {"fit", "load", "score", "evaluate", "Detector", "__version__"} <= set(dir(pyasd))
    assert pyasd.Detector is Detector
    with pytest.raises(AttributeError, match="fitt"):
        _ = pyasd.fitt
