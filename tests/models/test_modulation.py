"""The member `modulation`: its spectrum against scipy's, and what it hears that statistics over time don't."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import periodogram
from scipy.signal.windows import hann
from sklearn.metrics import roc_auc_score
from torch import Tensor

from pyasd.models.modulation import FASTEST, FLOOR, SLOWEST, Modulation, ModulationConfig, modulation
from pyasd.models.spectrum import Spectrum, SpectrumConfig
from pyasd.training.data import TrainingSet
from pyasd.training.run import Run

MELS = 12


def beating(count: int, rate: float, seed: int = 0, frames: int = 150, depth: float = 4.0) -> list[Tensor]:
    """Clips whose every band beats at a rate, in cycles per frame, in noise."""
    rng = np.random.default_rng(seed)
    beat = np.sin(2 * np.pi * (rate * np.arange(frames) + rng.random((count, 1))))
    clips = -40 + depth * beat[:, :, None] + rng.normal(0, 2, (count, frames, MELS))
    return list(torch.from_numpy(clips).float())


def fitted(clips: list[Tensor], ids: list[str] | None = None) -> Modulation:
    member = Modulation("modulation", ModulationConfig(bands=4, rates=8), MELS)
    member.fit(TrainingSet(clips, ids or ["00"] * len(clips)), Run())
    return member


@pytest.mark.parametrize(("frames", "size"), [(9, 512), (313, 512), (600, 1024)])
@pytest.mark.parametrize("bands", [4, 5])
def test_the_spectrum_is_scipys(frames: int, size: int, bands: int) -> None:
    clip = torch.from_numpy(np.random.default_rng(0).normal(-40, 8, (frames, MELS))).float()
    level = np.stack([x.mean(1) for x in np.array_split(clip.double().numpy(), bands, 1)], 1)
    frequencies, power = periodogram(level, window=hann(frames + 2)[1:-1], nfft=size, axis=0)
    power[1:-1] /= 2  # scipy adds the negative frequencies, of which the last one has none
    centres = np.geomspace(SLOWEST, FASTEST, 8)
    ratio = centres[1] / centres[0]
    corners = np.log([centres[0] / ratio, *centres, centres[-1] * ratio])
    hats = np.stack([np.interp(np.log(frequencies[1:]), corners, row) for row in np.eye(10)[1:-1]])
    expected = 10 * np.log10((hats / hats.sum(1, keepdims=True)) @ power[1:] + FLOOR)
    np.testing.assert_allclose(modulation(clip, bands, 8).view(bands, 8), expected.T, atol=1e-4)


@pytest.mark.parametrize("place", [1, 5, 10])
def test_a_beat_stands_at_its_rate(place: int) -> None:
    (clip,) = beating(1, np.geomspace(SLOWEST, FASTEST, 12)[place], frames=400)
    assert modulation(clip, 3, 12).view(3, 12).argmax(1).tolist() == [place] * 3


def test_noise_has_the_same_in_clips_of_any_length() -> None:
    short, long = (torch.stack([modulation(x, 4, 8) for x in beating(300, 0, frames=n, depth=0)]) for n in (40, 400))
    np.testing.assert_allclose(short.mean(0), long.mean(0), atol=0.2)


def test_another_rhythm_of_the_same_mean_and_spread_is_heard() -> None:
    normal, faulty = beating(40, 0.10, 1), beating(40, 0.14, 2)
    labels = [0] * 40 + [1] * 40
    others = Spectrum("spread", SpectrumConfig(over_time=("mean", "deviation"), covariance="held-out"), MELS)
    others.fit(TrainingSet(beating(40, 0.10), ["00"] * 40), Run())
    areas = []
    for member in (fitted(beating(40, 0.10)), others):
        scores = member.scorer().score_many(normal + faulty, ["00"] * 80)[:, 0].numpy()
        areas.append(roc_auc_score(labels, scores))
    assert areas[0] == 1
    assert areas[1] < 0.7


def test_held_out_scores_are_of_the_size_of_new_clips() -> None:
    member, clips = fitted(beating(60, 0.1)), beating(60, 0.1)
    held_out = member.normal_scores(TrainingSet(clips, ["00"] * 60), Run()).scores[:, 0]
    new = member.scorer().score_many(beating(60, 0.1, 5), ["00"] * 60)[:, 0].numpy()
    assert np.mean(new) == pytest.approx(np.mean(held_out), rel=0.1)


def test_the_map_tells_how_the_score_would_change() -> None:
    """Summed over bands and averaged over frames: the slope as swings about the mean grow."""
    member = fitted(beating(30, 0.1))
    scorer, (clip,) = member.scorer(), beating(1, 0.2, 3)
    mean = clip.mean(0)
    more, less = (scorer.score(mean + (clip - mean) * (1 + x), "00").item() for x in (1e-2, -1e-2))
    shown = scorer.explain(clip, "rhythm", "00")
    assert shown.sum(1).mean().item() == pytest.approx((more - less) / 2e-2, rel=1e-2)


@pytest.mark.parametrize("frames", [1, 2, 5, 31])
def test_short_and_steady_clips_have_a_score(frames: int) -> None:
    clips = [x[:frames] for x in beating(9, 0.1)]
    scores = fitted(clips).scorer().score_many([*clips, torch.full((frames, MELS), -40.0)], ["00"] * 10)
    assert scores.isfinite().all()


def test_few_mel_bands_are_bands_of_their_own() -> None:
    member = Modulation("modulation", ModulationConfig(), MELS)
    assert (member.bands, member.dims) == (MELS, MELS * 16)
    assert member.usual("00") is None


@pytest.mark.parametrize("settings", [{"bands": 0}, {"rates": 1}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need bands from 1 and rates from 2"):
        ModulationConfig(**settings)
