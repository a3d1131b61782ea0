"""The clips that a member learns from: which are held out, and their windows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyasd.training.data import WindowSet, held_out

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
