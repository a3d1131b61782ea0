"""Statistics over time against numpy's, and that members share them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import pyasd
from pyasd.models import over_time as module
from pyasd.models.over_time import OverTime, Together, of_each, over_time

ALL: tuple[OverTime, ...] = ("mean", "deviation", "change")
MELS = 7


def log_mels(count: int) -> list[Tensor]:
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.normal(-40, 8, (9 + i % 3, MELS)).astype(np.float32)) for i in range(count)]


def numpys(clip: Tensor) -> np.ndarray:
    x = clip.double().numpy()
    return np.concatenate([x.mean(0), x.std(0), np.diff(x, axis=0).std(0)])


def test_statistics_are_numpys() -> None:
    clip = log_mels(1)[0]
    np.testing.assert_allclose(over_time(clip, ALL), numpys(clip), rtol=1e-12)


@pytest.mark.parametrize("first", [(), ("mean",), ("change",), ("deviation", "mean")])
@pytest.mark.parametrize("wanted", [ALL, ("change", "mean"), ("deviation",)])
def test_what_is_known_stands_in_the_order_that_is_asked_for(
    first: tuple[OverTime, ...], wanted: tuple[OverTime, ...]
) -> None:
    clips = Together(log_mels(4))
    if first:
        of_each(clips, first)
    expected = np.stack([numpys(x).reshape(3, MELS)[[ALL.index(name) for name in wanted]].ravel() for x in clips])
    np.testing.assert_allclose(of_each(clips, wanted), expected, rtol=1e-12)
    assert torch.equal(of_each(clips, wanted), of_each(list(clips), wanted))


def test_members_share_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    clips = log_mels(6)
    detector = pyasd.fit(clips, "fast", features="log-mel", n_mels=MELS)
    computed: list[OverTime] = []

    def spy(log_mel: Tensor, statistics: list[OverTime]) -> Tensor:
        computed.extend(statistics)
        return over_time(log_mel, statistics)

    monkeypatch.setattr(module, "over_time", spy)
    detector.score(clips, features="log-mel")
    assert sorted(computed) == sorted(ALL * len(clips))  # and three members want the mean
