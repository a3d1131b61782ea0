"""The table of detection quality, on clips whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import baselines, quality, real_sets


def clips(shift: float, seed: int = 0) -> real_sets.ClipSet:
    rng = np.random.default_rng(seed)

    def some(count: int, by: float = 0.0) -> list[np.ndarray]:
        level = rng.normal(-40 + by, 1, (count, 1, 128))
        return list((level + rng.normal(0, 3, (count, 20, 128))).astype(np.float32))

    test = some(20) + some(20, shift)
    return real_sets.ClipSet(some(40), ["00", "01"] * 20, test, ["00", "01"] * 20, np.repeat([0, 1], 20))


@pytest.mark.parametrize("name", [*baselines.BASELINES, "fast"])
def test_plain_faults_are_found_and_none_at_chance(name: str) -> None:
    for shift, low, high in ((10.0, 99.9, 100.0), (0.0, 20.0, 80.0)):
        line = quality.measure(name, {"made": clips(shift)}, 1)
        assert line.figures.shape == (1, 2)
        assert low <= line.figures[0, 0] <= high


def test_regret_and_means() -> None:
    line = quality.Line("x", np.array([[90.0, 80.0], [70.0, 60.0]]), 0.5, 1.25, 99.6)
    row = list(quality.cells(line, np.array([80.0, 75.0])))
    assert row == ["x", "90.0 / 80.0", "70.0 / 60.0", "**80.0 / 70.0**", "70.0", "10.0", "0.5", "1.2", "100"]


def test_real_sets_are_whole(real_data: Path) -> None:
    loaded = real_sets.load("adiload", real_data)
    assert (len(loaded.train), len(loaded.test), int(loaded.labels.sum())) == (105, 195, 90)
    assert len(real_sets.load("toycar", real_data).train) == 222


def test_mean_spectra_are_whole(real_data: Path) -> None:
    loaded = real_sets.load("fan_m6", real_data)
    assert sorted(set(loaded.train_ids)) == ["00", "02", "04", "06"]
    assert {x.shape for x in loaded.test} == {(real_sets.FRAMES, 128)}
    assert 0 < loaded.labels.sum() < len(loaded.labels)


def test_figures_are_kept_and_read_again(tmp_path: Path) -> None:
    """A file that is there is believed: the second run has its figures, and another seed has its own."""
    kept = quality.Kept(tmp_path)
    figures = kept.get("made", "fast", clips(10.0), 0)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text().replace(str(figures.auc), "12.5"))
    assert kept.get("made", "fast", clips(10.0), 0).auc == 12.5
    assert kept.get("made", "fast", clips(10.0), 1).auc == figures.auc


def test_the_left_out_set_has_no_part_in_the_choice() -> None:
    """`a` is better on the first set alone: it is chosen for the second one, and `b` for the first."""
    a, b = (quality.Line(x, np.array([[y, y], [z, z]]), 0, 0, 0) for x, y, z in (("a", 90, 60), ("b", 80, 70)))
    line = quality.left_out([a, b])
    assert line.figures.tolist() == [[80, 80], [60, 60]]
    assert line.name == "best on the other sets (b, a)"


def test_faulty_clips_are_moved_to_the_training_ones() -> None:
    before = clips(10.0)
    after = quality.contaminated(before, 0.1)
    assert len(after.train) == 44
    assert after.train_ids.count("00") == after.train_ids.count("01") == 22
    assert (len(after.test), int(after.labels.sum())) == (36, 16)
    assert all(x.mean() > -36 for x in after.train[40:])
