"""Normal scores of members that learn by epochs: of all training clips, or of those held out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pyasd
from pyasd.training.data import held_out

TINY: dict[str, Any] = {"n_mels": 16, "hidden": (8, 8), "components": 2, "epochs": 2, "batch_size": 64}
BOTH = ("group-made", "autoencoder")


def log_mels(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).normal(-40, 8, (count, 30, 16)).astype(np.float32))


def test_training_statistics_count_all_clips() -> None:
    clips, ids = log_mels(12), ["00", "01"] * 6
    detector = pyasd.fit(clips, ids=ids, features="log-mel", members=BOTH, **TINY)
    table = detector.score(clips, ids=ids, features="log-mel")
    for name in BOTH:
        baseline = detector.machines[""].baselines[name]
        place = baseline.modes.index(table.attrs["modes"][name])
        assert baseline.moments.count.tolist() == [6, 6]
        for row, scores in enumerate((table[f"score.{name}"][::2], table[f"score.{name}"][1::2])):
            assert baseline.moments.mean[row, place] == pytest.approx(scores.mean())
            assert baseline.moments.variance[row, place] == pytest.approx(scores.var(ddof=0))


def test_held_out_statistics_count_the_validation_clips_alone() -> None:
    ids = ["00"] * 20 + ["01"] * 20
    detector = pyasd.fit(log_mels(40), ids=ids, features="log-mel", statistics="held-out", validation=0.2, **TINY)
    assert detector.machines[""].baselines["group-made"].moments.count.tolist() == [4, 4]


def test_few_held_out_clips_lean_on_the_other_ids_variance() -> None:
    """Of 30 and 5 clips, 3 and 1 are held out: that one clip has the others' variance."""
    ids = ["00"] * 30 + ["01"] * 5
    clips = log_mels(35)
    how: dict[str, Any] = {"members": BOTH, "statistics": "held-out", **TINY}
    detector = pyasd.fit(clips, ids=ids, features="log-mel", **how)
    out = np.flatnonzero(held_out(ids, 0.1, 0))
    table = detector.score([clips[i] for i in out], ids=[ids[i] for i in out], features="log-mel")
    for name in BOTH:
        baseline = detector.machines[""].baselines[name]
        scores = table[f"score.{name}"].to_numpy()
        place = baseline.modes.index(table.attrs["modes"][name])
        assert baseline.moments.count.tolist() == [3, 1]
        assert baseline.moments.mean[:, place] == pytest.approx([scores[:3].mean(), scores[3]])
        assert baseline.moments.variance[:, place] == pytest.approx([scores[:3].var()] * 2)


def test_two_held_out_clips_of_one_machine_id_are_enough() -> None:
    """Of 20 and 5 clips, 2 and 1 are held out."""
    ids = ["00"] * 20 + ["01"] * 5
    detector = pyasd.fit(log_mels(25), ids=ids, features="log-mel", statistics="held-out", members=BOTH, **TINY)
    for name in BOTH:
        moments = detector.machines[""].baselines[name].moments
        assert moments.count.tolist() == [2, 1]
        assert (moments.variance[0] > 0).all()
        np.testing.assert_allclose(moments.variance[1], moments.variance[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("ids", "match"),
    [(["00"] * 30 + ["01"], "'01' have none"), (["00", "01"] * 2, "each has one"), (["00"] * 14, "each has one")],
)
def test_held_out_statistics_need_clips(ids: list[str], match: str) -> None:
    with pytest.raises(ValueError, match=f"held-out clip of each machine ID.*{match}.*validation="):
        pyasd.fit(log_mels(len(ids)), ids=ids, features="log-mel", statistics="held-out", **TINY)


def test_progress_of_normal_scores_names_the_machine_type_and_the_member() -> None:
    heard: set[tuple[str, int, str]] = set()
    pyasd.fit(
        log_mels(4), ids="00", machine_type="fan", features="log-mel", members=BOTH,
        progress=lambda stage, done, total, info: heard.add((stage, total, info)), **TINY,
    )  # fmt: skip
    assert ("scoring normal fan clips", 4, "autoencoder") in heard
