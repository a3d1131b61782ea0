"""`score` without a model: clips ranked by each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

import pyasd
from pyasd.recipes import Recipe

MELS = 16
HOW: dict[str, Any] = {"features": "log-mel", "device": "cpu", "n_mels": MELS}


def log_mels(count: int, seed: int = 0, shift: float = 0.0, frames: int = 30) -> list[NDArray[np.float32]]:
    x = np.random.default_rng(seed).normal(-40, 8, (count, frames, MELS)) + np.linspace(0, shift, MELS)
    return list(x.astype(np.float32))


def write(folder: Path, count: int, seed: int, prefix: str = "normal_id_00_") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, x in enumerate(np.random.default_rng(seed).normal(size=(count, 16000))):
        soundfile.write(folder / f"{prefix}{i:08}.wav", 0.1 * x, 16000)


def test_scores_are_those_of_the_ten_nearest_others() -> None:
    """By hand: scikit-learn's neighbours, each clip left out, in median absolute deviations; both members' mean."""
    clips = log_mels(24)
    table = pyasd.score(clips, ids="00", **HOW)
    means = np.stack([x.mean(0, dtype=np.float64) for x in clips])
    change = np.stack([np.diff(x.astype(np.float64), axis=0).std(0) for x in clips])
    spread = np.hstack([means, np.stack([x.std(0, dtype=np.float64) for x in clips]), change])
    z = []
    for name, features in (("nearest", means), ("spread", spread)):
        deviation = np.median(np.abs(features - np.median(features, 0)), 0) / 0.6744897501960817
        scaled = features / np.sqrt((23 * deviation**2 + 4 * deviation**2) / 27).clip(0.1)
        distances, _ = NearestNeighbors(n_neighbors=10).fit(scaled).kneighbors()
        raw = distances.mean(1) / np.sqrt(features.shape[1])
        np.testing.assert_allclose(table[f"score.{name}"], raw, rtol=1e-4)
        centred = raw - np.median(raw)
        z.append(centred / (np.median(np.abs(centred)) / 0.6744897501960817))
    np.testing.assert_allclose(table["score"], np.mean(np.sign(z) * np.log1p(np.abs(z)), 0), rtol=1e-3, atol=1e-3)
    assert table.attrs["modes"] == {"nearest": "distance", "spread": "distance"}


def test_the_odd_ones_come_first() -> None:
    odd = log_mels(2, seed=9, shift=25.0)
    clips = [*log_mels(10), odd[0], *log_mels(10, seed=1), odd[1]]
    table = pyasd.score(clips, **HOW)
    assert len(table) == 22
    assert set(table["score"].nlargest(2).index) == {10, 21}


def test_five_odd_ones_of_a_kind_are_not_explained_away() -> None:
    clips = [*log_mels(20), *log_mels(5, seed=9, shift=12.0)]
    table = pyasd.score(clips, **HOW)
    assert set(table["score"].nlargest(5).index) == {20, 21, 22, 23, 24}


def test_every_clip_is_ranked_whatever_its_name(factory: Path) -> None:
    table = pyasd.score(factory)
    assert len(table) == 48
    assert table["score"].notna().all()
    assert table["clip"].is_monotonic_increasing


def test_each_machine_id_is_ranked_by_its_own_clips() -> None:
    """Each ID's clips are like those of its own, however unlike the other's."""
    clips, ids = [*log_mels(12), *log_mels(12, 1, shift=40.0)], ["00"] * 12 + ["01"] * 12
    alone = pd.concat([pyasd.score(clips[:12], ids="00", **HOW), pyasd.score(clips[12:], ids="01", **HOW)])
    np.testing.assert_allclose(pyasd.score(clips, ids=ids, **HOW)["score.nearest"], alone["score.nearest"], rtol=0.2)


def test_files_that_cannot_be_read_and_silent_ones_have_their_rows(tmp_path: Path) -> None:
    write(tmp_path / "clips", 8, seed=0)
    (tmp_path / "clips" / "broken.wav").write_bytes(b"no audio")
    soundfile.write(tmp_path / "clips" / "quiet.wav", np.zeros(16000), 16000)
    out = tmp_path / "ranking.csv"
    table = pyasd.score(tmp_path / "clips", machine_type="", ids="00", out=out).set_index("clip")
    table.index = [Path(x).name for x in table.index]
    assert table["status"].value_counts().to_dict() == {"ok": 8, "unreadable": 1, "silent": 1}
    assert np.isnan(table.loc["broken.wav", "score"])
    assert table["score"].idxmax() == "quiet.wav"
    assert "broken.wav" in table.loc["broken.wav", "error"]
    assert len(pd.read_csv(out)) == 10


def test_machine_types_with_too_few_clips_cost_their_rows_alone(tmp_path: Path) -> None:
    write(tmp_path / "fan" / "train", 6, seed=0)
    write(tmp_path / "pump" / "train", 2, seed=1)
    table = pyasd.score(tmp_path)
    assert table["status"].tolist() == ["ok"] * 6 + ["too-few"] * 2
    assert table["score"].isna().tolist() == [False] * 6 + [True] * 2
    assert table["error"].iloc[-1].endswith("`pyasd fit` makes one)")


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_clips_are_refused_before_they_are_read(count: int) -> None:
    heard: list[str] = []
    with pytest.raises(ValueError, match=r"of . clips? none can be called the odd one: give three or more"):
        pyasd.score(log_mels(count), progress=lambda *what: heard.append(what[0]), **HOW)
    assert not heard


def test_three_clips_are_ranked() -> None:
    table = pyasd.score([*log_mels(2), *log_mels(1, 3, shift=30.0)], **HOW)
    assert table["score"].idxmax() == 2
    assert np.isfinite(table["score"]).all()


def test_equal_clips_are_ranked() -> None:
    table = pyasd.score([*(log_mels(1) * 5), *log_mels(1, 3)], **HOW)
    assert table["score"].idxmax() == 5
    assert np.isfinite(table["score"]).all()


def test_other_members_can_rank() -> None:
    clips = [*log_mels(20), *log_mels(2, 1, shift=20.0)]
    table = pyasd.score(clips, ids="00", members=("spectrum", "spread"), **HOW)
    assert set(table["score"].nlargest(2).index) == {20, 21}


def test_settings_and_decisions_do_not_go_with_everything() -> None:
    detector = pyasd.fit(log_mels(4), Recipe.of_kinds("spectrum").override(n_mels=MELS), ids="00", features="log-mel")
    with pytest.raises(TypeError, match=r"^count, local: settings are for ranking without a model, and one is given"):
        pyasd.score(log_mels(2), detector, ids="00", features="log-mel", count=3, local=2)
    with pytest.raises(TypeError, match="decisions need a model"):
        pyasd.score(log_mels(4), false_alarms=0.1, **HOW)
    with pytest.raises(TypeError, match="no setting 'epochs'"):
        pyasd.score(log_mels(4), epochs=1, **HOW)


@pytest.mark.slow
def test_ten_real_anomalies_among_normals_rank_on_top(real_data: Path, tmp_path: Path) -> None:
    files = sorted((real_data / "uav" / "UAV" / "test").glob("*.flac"))
    anomalies = [x for x in files if x.name.startswith("anomaly")]
    for file in [x for x in files if x.name.startswith("normal")] + anomalies[::14][:10]:
        (tmp_path / file.name).symlink_to(file)
    table = pyasd.score(tmp_path)
    assert len(table) == 99
    assert table.nlargest(10, "score")["label"].tolist() == [1] * 10
