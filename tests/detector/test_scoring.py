"""The streaming engine: bounded memory, batches, several devices, devices whose memory ends or that fail (fakes)."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from pyasd.clips import Clip, find
from pyasd.clips.sources import LogMelSource
from pyasd.detector import Detector, fit, scoring
from pyasd.detector.scoring import Scoring, locate, score_modes
from pyasd.errors import ClipError, DeviceLost
from pyasd.features import log_mels as features
from pyasd.features.transfer import Fetched
from pyasd.models.autoencoder import AutoencoderScorer
from pyasd.models.group_made import GroupMadeScorer
from pyasd.tables import table
from pyasd.tables.table import Row

TINY: dict[str, Any] = {"n_mels": 16, "hidden": (8, 8), "components": 2, "epochs": 2, "batch_size": 64}
COUNT = 30
WORDS = ["clip", "duration", "status", "error"]


def log_mels(count: int = COUNT) -> list[np.ndarray]:
    """Return log-Mels of unequal lengths."""
    rng = np.random.default_rng(0)
    return [rng.normal(-40, 8, (20 + i % 7, 16)).astype(np.float32) for i in range(count)]


@pytest.fixture(scope="module")
def detector() -> Detector:
    return fit(log_mels(12), features="log-mel", members=("group-made", "autoencoder"), **TINY)


@pytest.fixture(scope="module")
def expected(detector: Detector) -> pd.DataFrame:
    return detector.score(log_mels(), features="log-mel", device="cpu")


def no_memory() -> torch.cuda.OutOfMemoryError:
    return torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def before_scoring(monkeypatch: pytest.MonkeyPatch, spy: Callable[[Sequence[Tensor]], None]) -> None:
    """Show `spy` the clips of each batch before each member scores them."""
    for scorer in (GroupMadeScorer, AutoencoderScorer):
        real = scorer.score_many

        def score_many(self: Any, log_mels: Sequence[Tensor], ids: Sequence[str | None], real: Any = real) -> Any:
            spy(log_mels)
            return real(self, log_mels, ids)

        monkeypatch.setattr(scorer, "score_many", score_many)


# -- rows as they come -------------------------------------------------------------------------------------------


def test_rows_are_the_tables_and_come_in_order(detector: Detector, expected: pd.DataFrame) -> None:
    rows = list(Scoring(detector).rows(find(log_mels(), features="log-mel")))
    assert all(isinstance(row, Row) for row in rows)
    pd.testing.assert_frame_equal(table.table(rows, detector.recipe.names), expected, check_like=False)


def test_memory_does_not_grow_with_the_number_of_clips(detector: Detector) -> None:
    """Of 2,000 clips that a generator makes, fewer than 200 log-Mels and rows are there at any time."""
    log_mel_count, made, most_log_mels, most_rows = 0, 0, 0, 0

    def gone() -> None:
        nonlocal log_mel_count
        log_mel_count -= 1

    def clips() -> Iterator[Clip]:
        nonlocal log_mel_count, made, most_log_mels
        rng = np.random.default_rng(0)
        for number in range(2000):
            log_mel = rng.normal(-40, 8, (5, 16)).astype(np.float32)
            weakref.finalize(log_mel, gone)
            log_mel_count += 1
            made += 1
            most_log_mels = max(most_log_mels, log_mel_count)
            yield Clip(f"clip {number}", LogMelSource(f"clip {number}", log_mel))

    before_the_end = done = 0
    for row in Scoring(detector).rows(clips()):
        assert row.clip == f"clip {done}"
        assert row.status == "ok"
        done += 1
        before_the_end += made < 2000
        if done % 100 == 0:
            most_rows = max(most_rows, sum(type(x) is Row for x in gc.get_objects()))
    assert (done, made) == (2000, 2000)
    assert before_the_end > 1800, "rows come before all clips are found"
    assert most_log_mels < 200
    assert 0 < most_rows < 200


def test_progress_hears_of_each_clip_and_the_total_where_it_is_known(detector: Detector) -> None:
    heard: list[tuple[str, int, int, str]] = []
    engine = Scoring(detector, progress=lambda *step: heard.append(step))
    clips = list(find(log_mels(), features="log-mel"))
    assert len(list(engine.rows(clips))) == COUNT
    assert heard == [("scoring", i + 1, COUNT, f"clip {i}") for i in range(COUNT)]
    heard.clear()
    assert len(list(engine.rows(iter(clips)))) == COUNT
    assert [(done, total) for _, done, total, _ in heard] == [(i + 1, 0) for i in range(COUNT)]


def test_a_clips_split_domain_and_label_stand_in_its_row(detector: Detector) -> None:
    log_mel = log_mels(1)[0]
    clip = Clip("x", LogMelSource("x", log_mel), split="test", domain="target", label=1)
    (row,) = Scoring(detector).rows([clip])
    assert (row.split, row.domain, row.label, row.status) == ("test", "target", 1, "ok")
    (bad,) = Scoring(detector).rows([Clip("y", LogMelSource("y", log_mel[:2]), split="test", domain="source", label=0)])
    assert (bad.split, bad.domain, bad.label, bad.status, bad.score) == ("test", "source", 0, "too-short", None)


def test_rows_that_are_abandoned_leave_no_thread(detector: Detector) -> None:
    rows = Scoring(detector).rows(find(log_mels(), features="log-mel"))
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert not [x for x in threading.enumerate() if x.name.startswith("pyasd-decode")]


# -- which machine, which mode -----------------------------------------------------------------------------------


def test_clips_are_located_by_type_and_id(detector: Detector) -> None:
    clip = next(find(log_mels(1), features="log-mel", ids="", machine_type="pump"))
    assert locate(detector, clip, "refuse") == ("", "")
    unknown = next(find(log_mels(1), features="log-mel", ids="07"))
    assert locate(detector, unknown, "pool") == ("", None)
    with pytest.raises(ClipError, match="machine ID '07' is not among those learnt") as caught:
        locate(detector, unknown, "refuse")
    assert caught.value.status == "unknown-id"


def test_modes_are_those_asked_for_where_members_have_them(detector: Detector) -> None:
    assert score_modes(detector, None) == {"group-made": "bands", "autoencoder": "mse"}
    assert score_modes(detector, "joint") == {"group-made": "joint", "autoencoder": "mse"}
    with pytest.raises(ValueError, match="no score mode 'best'; this detector has bands, conditional, joint"):
        Scoring(detector, score_mode="best")


# -- batches -----------------------------------------------------------------------------------------------------


def test_clips_are_scored_in_batches_and_keep_their_order(
    factory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machine types take turns, with a bad file between them: as if each clip were scored alone."""
    (tmp_path / "text.wav").write_text("this is no sound")
    clips = sorted((factory / "fan" / "test").iterdir()) + sorted((factory / "pump" / "test").iterdir())
    clips = [x for pair in zip(clips[:12], clips[12:], strict=True) for x in pair]
    clips.insert(5, tmp_path / "text.wav")
    fitted = fit(factory, **TINY)
    together = fitted.score(clips)
    assert together["clip"].tolist() == list(map(str, clips))
    assert together["status"].tolist() == ["ok"] * 5 + ["unreadable"] + ["ok"] * 19
    sizes: list[int] = []
    real = Scoring._begin

    def spy(self: Scoring, batch: Any, *how: Any) -> Any:
        sizes.append(len(batch))
        return real(self, batch, *how)

    monkeypatch.setattr(Scoring, "_begin", spy)
    monkeypatch.setattr(scoring, "BATCH_CLIPS", 4)
    pd.testing.assert_frame_equal(fitted.score(clips), together)
    assert sizes == [4] * 6 + [1]
    sizes.clear()
    monkeypatch.setattr(scoring, "BATCH_FRAMES", 60)  # each has 32
    pd.testing.assert_frame_equal(fitted.score(clips), together)
    assert sizes[:4] == [2, 2, 3, 2]


# -- devices -----------------------------------------------------------------------------------------------------


def test_several_devices_take_turns_and_rows_keep_their_order(
    detector: Detector, expected: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[int] = []
    made: list[Any] = []
    finisher = features._Finisher
    init, finish = finisher.__init__, finisher.finish

    def note(self: Any, *how: Any) -> None:
        init(self, *how)
        made.append(self)

    def noted(self: Any, batch: Any) -> Any:
        turns.append(made.index(self))
        return finish(self, batch)

    monkeypatch.setattr(finisher, "__init__", note)
    monkeypatch.setattr(finisher, "finish", noted)
    monkeypatch.setitem(features.BATCH_CLIPS, "cpu", 4)
    monkeypatch.setattr(scoring, "BATCH_CLIPS", 4)
    table = detector.score(log_mels(), features="log-mel", device="cpu,cpu,cpu")
    pd.testing.assert_frame_equal(table, expected)
    assert turns == [0, 1, 2, 0, 1, 2, 0, 1]


def test_results_are_fetched_later_than_the_next_batch_begins(
    detector: Detector, expected: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a device that isn't the CPU the host runs ahead of it: two batches are on their way when one is fetched."""
    events: list[str] = []
    real = Fetched.numpy
    before_scoring(monkeypatch, lambda log_mels: events.append("begin"))

    def fetch(self: Fetched) -> Any:
        events.append("fetch")
        return real(self)

    monkeypatch.setattr(Fetched, "numpy", fetch)
    monkeypatch.setattr(scoring, "BATCH_CLIPS", 10)
    for device, first in (("cpu", ["begin", "begin", "fetch"]), ("cpu,cpu", ["begin"] * 6 + ["fetch"])):
        events.clear()
        pd.testing.assert_frame_equal(detector.score(log_mels(), features="log-mel", device=device), expected)
        assert events[: len(first)] == first, "two members and the conditions: two begin and three fetch a batch"
        assert (events.count("begin"), events.count("fetch")) == (6, 9)


def test_scoring_goes_on_with_smaller_batches(
    detector: Detector, expected: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def spy(log_mels: Sequence[Tensor]) -> None:
        if len(log_mels) > 4:
            raise no_memory()
        sizes.append(len(log_mels))

    before_scoring(monkeypatch, spy)
    with pytest.warns(UserWarning, match="cpu is short of memory: 4 clips at once fit"):
        table = detector.score(log_mels(), features="log-mel")
    pd.testing.assert_frame_equal(table, expected)
    assert sum(sizes) == 2 * COUNT, "each clip once by each member"


def test_a_clip_that_is_too_large_has_its_reason(
    detector: Detector, expected: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = log_mels()
    clips[11] = np.concatenate([clips[11]] * 5)

    def spy(log_mels: Sequence[Tensor]) -> None:
        if any(len(x) > 50 for x in log_mels):
            raise no_memory()

    before_scoring(monkeypatch, spy)
    with pytest.warns(UserWarning, match="short of memory"):
        table = detector.score(clips, features="log-mel")
    assert table["status"].tolist() == ["ok"] * 11 + ["out-of-memory"] + ["ok"] * 18
    assert table["error"][11].endswith("cpu has too little memory for this clip: cut it into shorter ones")
    assert np.isnan(table["score"][11])
    rest = [i for i in range(COUNT) if i != 11]
    assert table["score"][rest].tolist() == expected["score"][rest].tolist()


@pytest.mark.parametrize("extension", ["csv", "parquet"])
def test_the_rows_before_a_device_was_lost_are_safe(
    detector: Detector, expected: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, extension: str
) -> None:
    calls = 0

    def spy(log_mels: Sequence[Tensor]) -> None:
        nonlocal calls
        calls += 1
        if calls > 8:  # two members: in the fifth batch
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with ...")

    before_scoring(monkeypatch, spy)
    monkeypatch.setattr(scoring, "BATCH_CLIPS", 4)
    out = tmp_path / f"scores.{extension}"
    with pytest.raises(DeviceLost, match=r"when 16 of 30 clips had their rows\..*illegal memory") as lost:
        detector.score(log_mels(), features="log-mel", out=out)
    assert lost.value.kept == f"those are in {out}.partial"
    kept = table.read(f"{out}.partial")
    assert len(kept) == 16
    np.testing.assert_allclose(kept["score"], expected["score"][:16])
    calls = 0
    with pytest.raises(DeviceLost, match=r"had their rows\. Score the others on another device") as lost:
        detector.score(log_mels(), features="log-mel")
    assert lost.value.kept == ""


def test_devices_that_do_not_go_together(detector: Detector) -> None:
    with pytest.raises(ValueError, match="'cpu,nonsense' here"):
        detector.score(log_mels(), features="log-mel", device="cpu,nonsense")
    with pytest.raises(ValueError, match="of one type"):
        detector.score(log_mels(), features="log-mel", device="cpu,meta")


# -- with a GPU --------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")
def test_a_gpu_gives_the_cpus_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips of unequal length and a bad one, in several batches, on every GPU that is there."""
    rng = np.random.default_rng(0)
    sounds = [(3000 * rng.standard_normal(16_000 + 700 * (i % 5))).astype(np.int16) for i in range(40)]
    sounds[7] = sounds[7][:100]
    fitted = fit(sounds[:6], sample_rate=16000, hidden=(32, 16), components=3, epochs=1, device="cpu")
    expected = fitted.score(sounds, sample_rate=16000, device="cpu")
    monkeypatch.setitem(features.BATCH_CLIPS, "cuda", 8)
    devices = ",".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
    for device in ("cuda", devices):
        table = fitted.score(sounds, sample_rate=16000, device=device)
        pd.testing.assert_frame_equal(table[WORDS], expected[WORDS])
        np.testing.assert_allclose(table["score.group-made"], expected["score.group-made"], rtol=1e-5)
