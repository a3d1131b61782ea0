"""Where in time and frequency a clip's log-Mel differs from what is usual in a machine's normal clips, and how.

Blocks of all lengths and widths slide over the clip. The block whose mean level is the most standard deviations off is
cut to where the difference is half as large, named by its form, and taken out; then the next one.

Levels are relative to the clip's own, which is told by itself where it is unusual.

A block's standard deviation has two parts. From clip to clip neighbouring bands move together: that part stays, however
large the block. Within a clip, levels vary from frame to frame as a first-order autoregressive process, whose variance
and correlation are those of the normal clips; bands vary by themselves. Where the clip's own blocks of that size vary
more than this (strokes of a pump, heard in all bands), they say what is usual.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyasd.models.moments import robust_variance
from pyasd.models.over_time import Usual
from pyasd.ops import LogMelPlan
from pyasd.training.data import BAND_SCALE_FLOOR

Kind = Literal["tone", "band", "burst", "level", "drop-out", "quieter", "spread", "clipping"]
"""What a region is called:

- tone: above the usual, long, and no wider than a tone looks (`TONE_BANDS`, `TONE_BINS`)
- band: above the usual, long, and wider
- burst: above the usual, and short (`LONG`)
- level: nearly all bands, nearly all the time, by the same number of dB
- drop-out: below the usual by `DROP_OUT` or more, in nearly all bands, for a part of the clip
- quieter: below the usual otherwise
- spread: the level is as usual, and varies over time more or less than it does
- clipping: samples at the limits
"""

LEAST_DEVIATIONS = 5.0
"""Standard deviations from which on a block is told of: thousands of them are looked at in a clip."""

LEAST_DIP_DEVIATIONS = 8.0
"""The same of short blocks (`LONG`) below the usual: the level of noise in dB falls further than it rises."""

LEVEL_DEVIATIONS = 3.0
"""The same of the level of the whole clip, which is but one number."""

LONG = 0.5
"""Seconds from which on a region is long."""

TONE_BANDS, TONE_BINS = 3, 5
"""A tone is no wider than so many Mel bands, or FFT bins: a Hann window spreads it over four."""

DROP_OUT = 10.0
"""How many dB below the usual a drop-out is."""

NEARLY_ALL = 0.7
"""The share of the bands, or of the frames, that are nearly all."""

SHORTEST = 2
"""Frames of the shortest block: neighbouring frames share half of their samples."""

CORRELATED_BANDS = 2.0
"""Neighbouring Mel bands that vary together: their triangles overlap."""

GREATEST_CORRELATION = 0.98
"""Largest correlation of neighbouring frames that is believed."""

OUTLIER = 4.0
"""Standard deviations from the median beyond which a frame doesn't count in the clip's level."""

BLOCKS_TO_JUDGE = 4
"""How many blocks a clip must have room for, one after the other, for them to say what is usual in it."""

TAIL = 0.1
"""The share of a region's difference down to which its surroundings are taken out with it."""

SEARCHED = 8
"""Regions that are looked for. What is short and narrow may be surer than what has raised the score."""

MOST_REGIONS = 5
"""Regions that are told of, those with the most weight in the clip."""

MARGIN = 2
"""Bands or frames beside a region that it may have changed, too."""

Range = tuple[int, int]
"""The first, and the one after the last."""


class Region(NamedTuple):
    """A part of a clip that differs from the usual.

    Attributes:
        kind: its form.
        frames, bands: where it is.
        level: the mean difference in dB, relative to the clip's level; with "spread", how many times the usual the
            standard deviation over time is.
        deviations: the same in standard deviations of blocks of that length and width in normal clips.
    """

    kind: Kind
    frames: Range
    bands: Range
    level: float
    deviations: float


def find(log_mel: NDArray[np.float64], usual: Usual, plan: LogMelPlan) -> list[Region]:
    """Find where a clip differs from the usual: the regions with the most weight in it, then bands whose spread is all
    that differs. A weight is the area times the mean difference squared, in standard deviations of single frames, as
    the members that take a clip as a whole weigh it.

    Args:
        log_mel: `[frames, mels]`, in dB.
        usual: of its machine ID.
        plan: of the log-Mel.
    """
    field = _Field(log_mel, usual, plan)
    found = []
    if (level := field.told_level()) is not None:
        found.append(level)
    while len(found) < SEARCHED and (strongest := field.take_strongest()) is not None:
        found.append(strongest)
    heaviest = [x.region for x in sorted(found, key=lambda x: -x.weight)]
    spreads = _spreads(log_mel, usual, [x.taken for x in found])
    return [*heaviest, *spreads][:MOST_REGIONS]


class _Found(NamedTuple):
    """A region, its weight in the clip, and the bands that were taken out with it."""

    region: Region
    weight: float
    taken: Range


class _Field:
    """What is left to explain of a clip.

    Attributes:
        difference: `[frames, mels]`, in dB above the usual, relative to the clip's level; 0 where it is explained.
        level: of the clip, in dB above the usual.
    """

    def __init__(self, log_mel: NDArray[np.float64], usual: Usual, plan: LogMelPlan) -> None:
        self.plan = plan
        self.difference = log_mel - usual.mean["mean"]
        quick = usual.mean["deviation"] if "deviation" in usual.mean else _robust(log_mel)
        change = usual.mean["change"] if "change" in usual.mean else _robust(np.diff(log_mel, axis=0))
        quick = np.maximum(quick, BAND_SCALE_FLOOR)
        slow = np.maximum(usual.scale.get("mean", np.zeros_like(quick)), BAND_SCALE_FLOOR)
        self._correlation = np.clip(1 - np.square(change / quick) / 2, 0, GREATEST_CORRELATION)
        self._scale = np.hypot(slow, quick)
        self._slow, self._quick = np.square(slow / self._scale), np.square(quick / self._scale)
        frames, mels = log_mel.shape
        self._level_scale = max(usual.level_scale, BAND_SCALE_FLOOR)
        self.level = _level(self.difference)
        self.difference = self.difference - self.level
        sums = _sums(self.difference / self._scale)
        sizes = [(k, m) for k in _doubling(SHORTEST, frames) for m in _doubling(1, mels)]
        self._block_scale = {(k, m): self._scale_of(k, m, sums) for k, m in sizes}

    def told_level(self) -> _Found | None:
        """Return the level, if it is unusual, and nearly all bands have it nearly all the time."""
        frames, mels = self.difference.shape
        off = self.difference.mean(1), np.median(self.difference, axis=0)
        same = min(np.mean(np.abs(x) <= abs(self.level) / 2) for x in off)
        deviations = self.level / self._level_scale
        if same < NEARLY_ALL or abs(deviations) < LEVEL_DEVIATIONS:
            return None
        weight = frames * float(np.square(self.level / self._scale).sum())
        return _Found(Region("level", (0, frames), (0, mels), self.level, deviations), weight, (0, 0))

    def take_strongest(self) -> _Found | None:
        """Take out the region that is the most standard deviations off, if it is enough of them."""
        sums = _sums(self.difference / self._scale)
        best, strongest, deviations = None, 0.0, 0.0
        for (k, m), scale in self._block_scale.items():
            blocks = _of_sums(sums, k, m) / scale
            strength = np.abs(blocks)
            if self._is_short(k):
                strength = np.where(blocks < 0, strength * (LEAST_DEVIATIONS / LEAST_DIP_DEVIATIONS), strength)
            frame, band = np.unravel_index(strength.argmax(), blocks.shape)
            if strength[frame, band] > strongest:
                strongest, deviations = float(strength[frame, band]), float(blocks[frame, band])
                best = (int(frame), int(frame) + k), (int(band), int(band) + m)
        if best is None or strongest < LEAST_DEVIATIONS:
            return None
        sign = np.sign(deviations)
        frames, bands = self._cut(*best, sign, 0.5)
        level = float(self.difference[slice(*frames), slice(*bands)].mean())
        region = Region(self._name(frames, bands, level), frames, bands, level, deviations)
        tail = self._cut(frames, bands, sign, TAIL)
        frames, bands = (_within(x, around) for x, around in zip(tail, (frames, bands), strict=True))
        found = self._weighed(region, bands)
        self.difference[slice(*frames), slice(*bands)] = 0
        self.difference[slice(*best[0]), slice(*best[1])] = 0  # so that it ends
        return found

    def _weighed(self, region: Region, taken: Range) -> _Found:
        standardised = (self.difference / self._scale)[slice(*region.frames), slice(*region.bands)]
        return _Found(region, float(standardised.size * standardised.mean() ** 2), taken)

    def _mean_variance(self, k: int) -> NDArray[np.float64]:
        """The variance of a mean over `k` frames, without that from clip to clip, `[mels]`."""
        r = self._correlation
        inflation = (1 + r) / (1 - r) - 2 * r * (1 - r**k) / (k * np.square(1 - r))
        variance: NDArray[np.float64] = self._quick / k * inflation
        return variance

    def _scale_of(self, k: int, m: int, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """The standard deviation of standardised blocks, by their first band."""
        within = _means(self._mean_variance(k), m) * min(1.0, CORRELATED_BANDS / m)
        usual = np.sqrt(_means(self._slow, m) + within)
        enough = len(self.difference) >= BLOCKS_TO_JUDGE * k
        return np.maximum(usual, _robust(_of_sums(sums, k, m))) if enough else usual

    def _cut(self, frames: Range, bands: Range, sign: float, share: float) -> tuple[Range, Range]:
        """A block, shrunk or grown to where the difference is that share of its largest."""
        x = sign * self.difference
        for _ in range(2):
            bands = _extent(x[slice(*frames)].mean(0), bands, share)
            frames = _extent(x[:, slice(*bands)].mean(1), frames, share)
        return frames, bands

    def _is_short(self, frames: int) -> bool:
        return frames * self.plan.hop_length < LONG * self.plan.sample_rate

    def _name(self, frames: Range, bands: Range, level: float) -> Kind:
        count, mels = self.difference.shape
        wide = bands[1] - bands[0] >= NEARLY_ALL * mels
        if level < 0:
            out = wide and level <= -DROP_OUT and frames[1] - frames[0] < NEARLY_ALL * count
            return "drop-out" if out else "quieter"
        if self._is_short(frames[1] - frames[0]):
            return "burst"
        limits = self.plan.band_limits
        hertz = limits[bands[1]] - limits[bands[0]]
        bins = hertz / self.plan.sample_rate * self.plan.n_fft
        return "tone" if bands[1] - bands[0] <= TONE_BANDS or bins <= TONE_BINS else "band"


def _spreads(log_mel: NDArray[np.float64], usual: Usual, explained: list[Range]) -> Iterator[Region]:
    """Yield bands, other than those explained already, whose level varies over time more or less than is usual."""
    if "deviation" not in usual.scale:
        return
    spread = log_mel.std(0)
    usually = np.maximum(usual.mean["deviation"], BAND_SCALE_FLOOR)
    z = (spread - usually) / np.maximum(usual.scale["deviation"], BAND_SCALE_FLOOR)
    for first, last in explained:
        z[max(first - MARGIN, 0) : last + MARGIN] = 0
    for _ in range(MOST_REGIONS):
        peak = int(np.abs(z).argmax())
        if abs(z[peak]) < LEAST_DEVIATIONS:
            return
        first, last = _extent(np.sign(z[peak]) * z, (peak, peak + 1), 0.5)
        ratio = float(spread[first:last].mean() / usually[first:last].mean())
        yield Region("spread", (0, len(log_mel)), (first, last), ratio, float(z[first:last].mean()))
        z[first:last] = 0


def _level(difference: NDArray[np.float64]) -> float:
    """The level of a clip above the usual, in dB: the median over bands of means over the frames but for outliers, such
    as those of a drop-out.
    """
    frames = difference.mean(1)
    off = np.abs(frames - np.median(frames))
    usual = off <= OUTLIER * max(float(_robust(frames[:, None])[0]), BAND_SCALE_FLOOR)
    return float(np.median(difference[usual].mean(0)))


def _within(wide: Range, around: Range) -> Range:
    """A range, cut to half a length of another on both sides of that: what is beyond is something else."""
    margin = max(MARGIN, (around[1] - around[0]) // 2)
    return max(wide[0], around[0] - margin), min(wide[1], around[1] + margin)


def _doubling(first: int, last: int) -> list[int]:
    """`first`, twice that, and so on up to `last`, and `last` itself."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 2
    return [*sizes, last]


def _robust(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The standard deviations of columns, by their median absolute deviations; 0 of none."""
    if not len(x):
        return np.zeros(x.shape[1:])
    deviations: NDArray[np.float64] = np.sqrt(robust_variance(x))
    return deviations


def _means(x: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Means of so many neighbours, along the first axis, `[n - width + 1, ...]`."""
    sums = np.concatenate([np.zeros_like(x[:1]), np.cumsum(x, axis=0)])
    means: NDArray[np.float64] = (sums[width:] - sums[:-width]) / width
    return means


def _sums(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums from the start to each frame and band, `[frames + 1, bands + 1]`."""
    return np.pad(x.cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def _of_sums(sums: NDArray[np.float64], frames: int, bands: int) -> NDArray[np.float64]:
    """Means of all blocks of that size, by their first frame and band."""
    in_time = sums[frames:] - sums[:-frames]
    means: NDArray[np.float64] = (in_time[:, bands:] - in_time[:, :-bands]) / (frames * bands)
    return means


def _extent(profile: NDArray[np.float64], around: Range, share: float) -> Range:
    """Where a profile is at least that share of its largest value in a range, without a gap. It is smoothed over a
    quarter of the range, which leaves the middles of steps where they are.
    """
    width = max(1, (around[1] - around[0]) // 4) | 1  # odd: smoothing must not shift it
    padded = np.pad(profile, width // 2, mode="edge")
    smooth = _means(padded, width)
    peak = around[0] + int(smooth[slice(*around)].argmax())
    (below,) = np.nonzero(smooth < share * smooth[peak])
    place = int(np.searchsorted(below, peak))
    first = int(below[place - 1]) + 1 if place else 0
    last = int(below[place]) if place < len(below) else len(profile)
    return first, max(last, first + 1)
