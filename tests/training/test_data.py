"""The clips that a member learns from: which are held out, and their windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pyasd.features.store import LogMels, LogMelStore
from pyasd.models import kinds
from pyasd.training.data import TrainingSet, WindowSet, band_statistics, held_out
from pyasd.training.run import Run

CPU = torch.device("cpu")


def test_held_out_takes_its_share_of_each_machine_id() -> None:
    ids = ["00"] * 40 + ["01"] * 15 + ["02"] * 2 + ["03"]
    mask = held_out(ids, 0.1, seed=0)
    counts = {x: sum(m for m, own in zip(mask, ids, strict=True) if own == x) for x in set(ids)}
    assert counts == {"00": 4, "01": 2, "02": 1, "03": 0}
    assert np.array_equal(mask, held_out(ids, 0.1, seed=0))
    assert not np.array_equal(mask, held_out(ids, 0.1, seed=1))
    assert not held_out(ids, 0.0, seed=0).any()


def test_windows_stay_within_clips_and_splits() -> None:
    lengths = [5, 12, 4, 7]  # the third is too short for a window
    log_mels = [torch.full((n, 2), float(i)) for i, n in enumerate(lengths)]
    windows = WindowSet(log_mels, 5, np.array([False, True, False, False]), CPU)
    assert windows.gather(windows.training)[:, 0].tolist() == [0, 3, 3, 3]
    assert windows.gather(windows.validation)[:, 0].tolist() == [1] * 8
    every = torch.cat([windows.gather(windows.training), windows.gather(windows.validation)])
    assert (every == every[:, :1]).all()  # none reaches into another clip


def test_gathered_windows_are_five_frames_in_time_order() -> None:
    log_mel = torch.arange(24.0).view(8, 3)
    windows = WindowSet([log_mel], 5, np.array([False]), CPU)
    np.testing.assert_array_equal(windows.gather(torch.tensor([2])), np.arange(6.0, 21.0)[None])


def test_too_few_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        WindowSet([torch.zeros(5, 2), torch.zeros(3, 2)], 5, np.array([False, False]), CPU)
    assert len(WindowSet([torch.zeros(6, 2), torch.zeros(3, 2)], 5, np.array([False, False]), CPU).training) == 2


def test_bands_have_the_mean_and_the_deviation_of_all_frames() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal([-40, 10, 5], [3, 8, 0], (n, 3)).astype(np.float32) for n in (5, 30, 11)]
    mean, deviation = band_statistics([torch.from_numpy(x) for x in parts])
    frames = np.concatenate(parts).astype(np.float64)
    np.testing.assert_allclose(mean, frames.mean(0), rtol=1e-12)
    np.testing.assert_allclose(deviation, [*frames.std(0)[:2], 0.1], rtol=1e-12)


def test_images_are_drawn_from_within_clips() -> None:
    """Windows with a hop: by index, none across clips, and the clip that each is of."""
    log_mels = [torch.full((n, 2), float(i)) for i, n in enumerate((40, 31, 32, 57))]
    held = np.array([False, False, True, False])
    windows = WindowSet(log_mels, 32, held, CPU, hop=8)
    assert windows.training.tolist() == [0, 8, 103, 111, 119, 127]
    assert windows.validation.tolist() == [71]
    assert windows.clips(windows.training).tolist() == [0, 0, 3, 3, 3, 3]
    assert windows.clips(windows.validation).tolist() == [2]
    for start, clip in zip(windows.training, windows.clips(windows.training), strict=True):
        assert (windows.gather(start[None]) == clip).all()


# -- log-Mels are held once --------------------------------------------------------------------------------------


def clips(count: int = 6, frames: int = 40, mels: int = 32) -> list[torch.Tensor]:
    x = np.random.default_rng(0).normal(-40, 8, (count, frames, mels)).astype(np.float32)
    return list(torch.from_numpy(x))


def in_file(log_mels: list[torch.Tensor]) -> LogMels:
    store = LogMelStore(memory_bytes=0)
    for log_mel in log_mels:
        store.append(log_mel)
    return store.pack()


def test_windows_on_the_cpu_are_views_of_the_training_sets_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Members are shown the same frames, too: nothing packs them anew."""
    seen: list[int] = []
    real = WindowSet.__init__

    def spy(self: WindowSet, log_mels: LogMels, *how: Any) -> None:
        real(self, log_mels, *how)
        seen.append(self._frames.data_ptr())

    monkeypatch.setattr(WindowSet, "__init__", spy)
    for packed in (LogMels.pack(clips()), in_file(clips())):
        data = TrainingSet(packed, ["00", "01"] * 3)
        assert data.log_mels is packed
        assert len(data) == 6
        seen.clear()
        for kind, settings in SMALL.items():
            kinds()[kind](kind, kinds()[kind].Config(**settings), 32).fit(data, Run())
        assert seen == [packed.frames.data_ptr()] * len(SMALL)


SMALL: dict[str, dict[str, Any]] = {
    "autoencoder": {"hidden": (8, 2, 8), "epochs": 2, "batch_size": 32},
    "group-made": {"hidden": (8, 8), "components": 2, "epochs": 2, "batch_size": 32},
    "mobilenet": {"width": 0.1, "image_frames": 32, "epochs": 2, "batch_size": 16, "warps": 1, "mix": "log"},
}


@pytest.mark.parametrize("kind", SMALL)
def test_a_training_from_a_file_has_the_same_bits(kind: str) -> None:
    results = []
    for log_mels in (clips(), in_file(clips())):
        member = kinds()[kind](kind, kinds()[kind].Config(**SMALL[kind]), 32)
        data = TrainingSet(log_mels, ["00", "01"] * 3)
        history = member.fit(data, Run())
        results.append((history, member.state(), member.normal_scores(data, Run()).scores))
    (history, state, scores), (other_history, other_state, other_scores) = results
    assert other_history == history
    assert state.keys() == other_state.keys()
    assert all(torch.equal(x, other_state[name]) for name, x in state.items())
    assert np.array_equal(scores, other_scores)


def test_a_checkpoint_knows_the_clips_wherever_they_lie() -> None:
    held = np.array([True] + [False] * 5)
    windows = [WindowSet(x, 5, held, CPU).digest() for x in (clips(), in_file(clips()))]
    assert windows[0] == windows[1]
    other = [x + 1 for x in clips()]
    assert WindowSet(other, 5, held, CPU).digest() != windows[0]
    assert WindowSet(clips(), 5, np.roll(held, 1), CPU).digest() != windows[0]


# -- the training set --------------------------------------------------------------------------------------------


def test_members_that_hold_out_the_same_share_hold_out_the_same_clips() -> None:
    data = TrainingSet(clips(30), ["00"] * 20 + ["01"] * 10, seed=3)
    assert data.held_out(0.2) is data.held_out(0.2)
    assert np.array_equal(data.held_out(0.2), held_out(data.ids, 0.2, 3))
    assert data.held_out(0.2).sum() == 6
    assert not data.held_out(0.0).any()


def test_clips_at_another_speed_are_those_that_were_given() -> None:
    faster = [x[:20] for x in clips()]
    data = TrainingSet(clips(), ["00"] * 6, at_speed={1.25: faster})
    assert all(torch.equal(a, b) for a, b in zip(data.at_speed(1.25), faster, strict=True))
    with pytest.raises(ValueError, match=r"no clips were resampled by 0\.9: there are \[1\.25\]"):
        data.at_speed(0.9)


def test_what_messages_call_the_clips() -> None:
    assert TrainingSet(clips(), ["00"] * 6, machine_type="fan").clips_name == "fan clips"
    assert TrainingSet(clips(), ["00"] * 6).clips_name == "clips"
