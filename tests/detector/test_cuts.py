"""Long recordings: cuts and channels are scored, ranked and learnt as files that somebody has cut out of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

import pyasd
from pyasd import Detector
from pyasd.clips import find
from pyasd.cutting import Cutting
from pyasd.features.log_mels import Extraction, extract
from pyasd.ops import LogMelPlan

RATE = 48_000
SECONDS = 6.5
SCORES = ["score", "score.mean", "score.max", "p_value", "decision"]


def machine(seconds: float, channels: int = 2, seed: int = 0) -> np.ndarray:
    """A hum in noise, `[n, channels]`."""
    time = np.arange(int(seconds * RATE))[:, None] / RATE
    hum = 0.1 * np.sin(2 * np.pi * 120 * time)
    return hum + 0.01 * np.random.default_rng(seed).normal(size=(len(time), channels))


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of one machine, of two channels; in the second channel of the second one, a whistle."""
    folder = tmp_path_factory.mktemp("long") / "fan"
    folder.mkdir()
    for seed, name in enumerate(("a", "b")):
        samples = machine(SECONDS, seed=seed)
        if name == "b":
            third = slice(3 * RATE, 5 * RATE)
            samples[third, 1] += 0.1 * np.sin(2 * np.pi * 3000 * np.arange(2 * RATE) / RATE)
        soundfile.write(folder / f"normal_id_00_{name}.flac", samples, RATE, subtype="PCM_16")
    return folder


@pytest.fixture(scope="module")
def pieces(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The cuts and channels of the recordings as files, in the order of their rows."""
    folder = tmp_path_factory.mktemp("pieces") / "fan"
    folder.mkdir()
    paths = []
    for path in sorted(recordings.iterdir()):
        samples, _ = soundfile.read(path, dtype="int16")
        for number, start in enumerate((0.0, 1.0, 2.0, 3.0, 4.0, 5.0, SECONDS - 1)):
            for channel in range(2):
                paths.append(folder / f"{path.stem}_{number}_{channel}.wav")
                first = round(start * RATE)
                soundfile.write(paths[-1], samples[first : first + RATE, channel], RATE)
    return paths


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """Has learnt a recording's cuts, and has thresholds from another's."""
    paths = []
    for seed in (9, 10):
        paths.append(tmp_path_factory.mktemp("healthy") / "normal_id_00_x.wav")
        soundfile.write(paths[-1], machine(24.0, seed=seed), RATE, subtype="PCM_16")
    learnt, other = paths
    return pyasd.fit(learnt, "fast", window=1, hop=0.5, channel="all").calibrate(other, window=1, channel="all")


def test_cuts_score_as_files(detector: Detector, recordings: Path, pieces: list[Path]) -> None:
    table = detector.score(recordings, window=1, channel="all", false_alarms=0.03)
    alone = detector.score([*pieces], false_alarms=0.03, machine_type="")
    assert table[SCORES].equals(alone[SCORES])
    assert table["channel"].tolist() == ["0", "1"] * 14
    assert table["start"].tolist() == [x for x in [0, 1, 2, 3, 4, 5, 5.5] * 2 for _ in range(2)]
    assert set(table["duration"]) == {1.0}
    assert table["clip"].nunique() == 2
    found = pyasd.events(table)
    assert ["1", 3.0, 5.0, 2] in found[["channel", "start", "end", "cuts"]].values.tolist()
    assert found.nlargest(1, "peak")["start"].tolist() == [3.0]


def test_cuts_are_learnt_as_files(recordings: Path, pieces: list[Path]) -> None:
    """Of two models that learnt the same, all tensors are the same but those of names."""
    from_cuts = pyasd.fit(recordings, "fast", window=1, channel="all")
    from_files = pyasd.fit([*pieces], "fast")
    assert from_cuts.score([*pieces])[SCORES[:3]].equals(from_files.score([*pieces])[SCORES[:3]])
    assert set(from_cuts.score(recordings, window=1, channel="all")["note"]) == {"learnt"}


def test_members_that_hear_clips_at_other_speeds_hear_the_cuts(recordings: Path, tmp_path: Path) -> None:
    """Clips are read again for each speed: cuts as sections."""
    again = tmp_path / "normal_id_02_c.flac"
    soundfile.write(again, machine(SECONDS, seed=5), RATE, subtype="PCM_16")
    detector = pyasd.fit(
        [*recordings.iterdir(), again], "report-2", window=2.5, epochs=1, machine_type="fan", ratios=(0.9, 1.1)
    )
    assert detector.machines["fan"].ids == ("00", "02")
    assert detector.score(recordings, window=2.5)["score"].notna().all()


def test_cuts_are_ranked_without_a_model(recordings: Path, pieces: list[Path]) -> None:
    table = pyasd.score(recordings, window=1, channel="all")
    alone = pyasd.score([*pieces], machine_type="fan")
    assert table[SCORES[:3]].equals(alone[SCORES[:3]])
    assert table["start"].tolist() == [x for x in [0, 1, 2, 3, 4, 5, 5.5] * 2 for _ in range(2)]
    odd = table.nlargest(2, "score")
    assert sorted(zip(odd["channel"], odd["start"], strict=True)) == [("1", 3.0), ("1", 4.0)]
    one = pyasd.score(sorted(recordings.iterdir())[1], window=1, channel=1)
    assert sorted(one.nlargest(2, "score")["start"]) == [3.0, 4.0], "one recording is enough"


def test_thresholds_come_from_cuts(detector: Detector, recordings: Path) -> None:
    new = detector.calibrate(sorted(recordings.iterdir())[0], window=0.5, hop=0.1, channel="all")
    assert new.threshold(0.05, "00").clips == 2 * 61


@pytest.mark.parametrize("killed", [1, 8, 14, 15, 27])
def test_a_run_goes_on_in_the_middle_of_a_recording(
    detector: Detector, recordings: Path, tmp_path: Path, killed: int
) -> None:
    whole, path = tmp_path / "whole.csv", tmp_path / "t.csv"
    how: dict[str, Any] = {"window": 1, "channel": "all"}
    detector.score(recordings, out=whole, **how)
    lines = whole.read_bytes().splitlines(keepends=True)

    def stop(stage: str, done: int, total: int, info: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detector.score(recordings, out=path, progress=stop, **how)
    partial = Path(f"{path}.partial")
    partial.write_bytes(b"".join(lines[: 1 + killed]) + b"torn,0")
    detector.score(recordings, out=path, resume=True, **how)
    assert path.read_bytes() == whole.read_bytes()


def test_other_cuts_can_not_be_gone_on_with(detector: Detector, recordings: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"

    def stop(stage: str, done: int, total: int, info: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detector.score(recordings, out=path, progress=stop, window=1)
    with pytest.raises(ValueError, match=r"window=1\.0, and this run has window=2\.0"):
        detector.score(recordings, out=path, resume=True, window=2)


def test_each_channel_confirms_its_own_alarms(detector: Detector, recordings: Path) -> None:
    table = detector.score(recordings, window=1, channel="all", false_alarms=0.03, confirm=(2, 2))
    confirmed = table[table["confirmed"] == "anomaly"]
    assert ("1", 4.0) in set(zip(confirmed["channel"], confirmed["start"], strict=True))
    for _, channel in table.groupby("channel"):
        odd = channel["decision"] == "anomaly"
        assert ((channel["confirmed"] == "anomaly") == (odd & odd.shift(fill_value=False))).all()


def test_progress_counts_recordings(detector: Detector, recordings: Path) -> None:
    heard: list[tuple[int, int]] = []
    detector.score(recordings, window=1, progress=lambda stage, done, total, info: heard.append((done, total)))
    assert heard == [(1, 2), (2, 2)]


def test_memory_does_not_grow_with_a_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder is never far ahead of what takes the log-Mels."""
    from pyasd import audio
    from pyasd.features import log_mels

    decoded = 0.0
    real = audio.sections

    def counting(*args: Any) -> Any:
        nonlocal decoded
        for clip, sound in real(*args):
            decoded = clip.start
            yield clip, sound

    monkeypatch.setattr(audio, "sections", counting)
    monkeypatch.setattr(log_mels, "PART_SECONDS", 2.0)
    path = tmp_path / "long.wav"
    soundfile.write(path, machine(30.0, 1), RATE)
    plan = LogMelPlan()
    for item in extract(find([path]), Extraction(plan, cutting=Cutting(0.5, 0.5)), batch_size=2):
        assert decoded - item.clip.start <= 6.0
    assert item.last
    assert (item.clip.start, item.index) == (29.5, 0)


def test_one_channel_is_explained_at_a_time(detector: Detector, recordings: Path) -> None:
    clip = sorted(recordings.iterdir())[0]
    for explain in (detector.explain, detector.reasons):
        with pytest.raises(ValueError, match="one channel is explained at a time"):
            explain(clip, channel="all")


def test_log_mels_stay_whole(detector: Detector) -> None:
    log_mel = np.full((300, 128), -40, np.float32) + np.random.default_rng(0).normal(size=(300, 128)).astype("f")
    table = detector.score([log_mel], features="log-mel", ids="00", window=1)
    assert table["start"].tolist() == [0.0]
    assert table["score"].notna().all()


def test_a_table_of_an_older_version_is_of_whole_recordings(
    tmp_path: Path, detector: Detector, recordings: Path
) -> None:
    from pyasd.tables import table as results

    path = tmp_path / "t.csv"
    new = detector.score(recordings, out=path)
    pd.read_csv(path, dtype=str).drop(columns="start").to_csv(path, index=False)
    old = results.read(path)
    assert list(old) == list(new)
    assert old["start"].tolist() == [0.0, 0.0]
    assert old["start"].dtype == np.float64


def test_a_table_of_cuts_is_scored_again(detector: Detector, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.csv"
    table = detector.score(recordings, window=1.0, channel="all", out=out)
    again = detector.score(out, false_alarms=None)
    pd.testing.assert_frame_equal(again, table)


def test_sections_of_one_recording_are_resumed_each_by_itself(
    detector: Detector, recordings: Path, tmp_path: Path
) -> None:
    table = detector.score(recordings, window=1.0)
    out = tmp_path / "scores.csv"
    detector.score(table, out=out)
    lines = out.read_bytes().splitlines(keepends=True)
    how: dict[str, Any] = {"out": out, "resume": True}

    def interrupted(stage: str, done: int, total: int, info: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        detector.score(table, out=out, progress=interrupted)
    (tmp_path / "scores.csv.partial").write_bytes(b"".join(lines[:6]))
    detector.score(table, **how)
    assert out.read_bytes() == b"".join(lines)
    with pytest.raises(ValueError, match="can't tell a manifest's sections from cuts"):
        detector.score(table, window=2.0, **how)
