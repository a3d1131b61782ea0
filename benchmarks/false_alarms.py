"""Measure whether false alarms come as often as asked for, on real normal clips that no model or threshold has seen.

    PYASD_REAL_DATA=folder python -m benchmarks.false_alarms fast group-made-spectrum
    python -m benchmarks.false_alarms --sets adiload tap

Each set's normal training clips are learnt, and its normal test clips decided at rates of 1, 5 and 10 %:

- "as fitted": by the scores of training clips that the models have not learnt. Test clips come from other recordings
  where the set allows it: this is what a user meets who doesn't calibrate.
- "earlier half": calibrated by the first half of each machine ID's test clips, in the order of their names.
- "random halves": calibrated by one half, 200 seeded times over: what theory promises. "inside" is the share of these
  whose number of alarms lies in the interval that holds 95 % of such numbers (beta-binomial) for each machine ID.

A cell has the alarms among clips that have a threshold, in per cent; then the rate promised: the one asked for, rounded
down to a whole number of calibration clips. "-": no machine ID has clips enough.

The last column says whether the same test clips have drifted away from the calibration clips, as `pyasd.drift` finds at
a rate of 1 %: how many machine IDs have, and after how many clips that was noticed.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

import pyasd
from benchmarks import real_data, real_sets
from pyasd.detector.decisions import normal_scores, threshold
from pyasd.detector.drift import log_capital, noticed
from pyasd.tables.markdown import markdown

RATES = (0.01, 0.05, 0.1)
SPLITS = 200
DRIFT_RATE = 0.01


class Count(NamedTuple):
    """Alarms among normal clips that have a threshold, how many are promised on average, and the share of samples that
    are inside the interval promised.
    """

    alarms: int
    clips: int
    promised: float
    inside: float | None = None

    def cell(self) -> str:
        """Return the rate in per cent, the one promised, and how many samples are inside."""
        if not self.clips:
            return "-"
        inside = "" if self.inside is None else f", {100 * self.inside:.0f} % inside"
        return f"{100 * self.alarms / self.clips:.1f} ({100 * self.promised / self.clips:.1f}{inside})"


def by_halves(scores: NDArray[np.float64], ids: NDArray[np.str_], rate: float) -> Count:
    """Calibrate by the first half of each machine ID's clips, and count the alarms of the second."""
    return total(halved(scores[ids == machine_id], rate) for machine_id in np.unique(ids))


def by_random_halves(scores: NDArray[np.float64], ids: NDArray[np.str_], rate: float, splits: int = SPLITS) -> Count:
    """Calibrate by a random half of each machine ID's clips, and count the alarms of the other; many times over."""
    shuffles = [np.random.default_rng(seed) for seed in range(splits)]
    each = [halved(rng.permutation(scores[ids == x]), rate) for rng in shuffles for x in np.unique(ids)]
    inside = [x.inside for x in each if x.inside is not None]
    return total(each)._replace(inside=float(np.mean(inside)) if inside else None)


def halved(scores: NDArray[np.float64], rate: float) -> Count:
    """Calibrate by the first half, and count the alarms of the second."""
    known, new = np.sort(scores[: len(scores) // 2]), scores[len(scores) // 2 :]
    chosen = threshold(known, rate)
    if chosen.score == np.inf:
        return Count(0, 0, 0.0)
    alarms, above = int((new > chosen.score).sum()), round(chosen.rate * (len(known) + 1))
    low, high = stats.betabinom(len(new), above, len(known) + 1 - above).interval(0.95)
    return Count(alarms, len(new), chosen.rate * len(new), float(low <= alarms <= high))


def as_fitted(detector: pyasd.Detector, clips: list[NDArray[np.float32]], ids: list[str], rate: float) -> Count:
    """Count the alarms by the calibration that `fit` made."""
    table = detector.score(clips, ids=ids, features="log-mel", false_alarms=rate)
    return total(
        Count(int((own["decision"] == "anomaly").sum()), len(own), detector.threshold(rate, machine_id).rate * len(own))
        for machine_id, own in table[table["decision"] != ""].groupby("machine_id")
    )


def drifted(known: NDArray[np.float64], new: NDArray[np.float64]) -> int | None:
    """Return after how many of the new clips drift was noticed; `None` where it never was, or nothing was known."""
    if not len(known):
        return None
    place = noticed(log_capital(np.sort(known), new), DRIFT_RATE)
    return None if place is None else place + 1


def drift_cell(found: list[int | None]) -> str:
    """Say how many machine IDs have drifted, and how soon that was noticed."""
    after = ", ".join(str(x) for x in found if x is not None)
    return f"{sum(x is not None for x in found)} of {len(found)}" + (f", after {after}" if after else "")


def total(counts: Iterable[Count]) -> Count:
    """Add counts up."""
    each = [Count(0, 0, 0.0), *counts]
    return Count(sum(x.alarms for x in each), sum(x.clips for x in each), sum(x.promised for x in each))


class Outcome(NamedTuple):
    """Keep what one way of calibrating leads to.

    Attributes:
        counts: the alarms, at each of `RATES`.
        drift: for each machine ID, after how many clips drift was noticed; `None` where it wasn't.
    """

    counts: list[Count]
    drift: list[int | None]


def measure(name: str, clips: real_sets.ClipSet) -> Iterator[tuple[str, Outcome]]:
    """Yield each way of calibrating, and what it leads to."""
    normal = np.flatnonzero(clips.labels == 0)
    test, ids = [clips.test[i] for i in normal], [clips.test_ids[i] for i in normal]
    detector = pyasd.fit(clips.train, name, ids=clips.train_ids, features="log-mel")
    scores = detector.score(test, ids=ids, features="log-mel")["score"].to_numpy()
    (machine,), modes, names = detector.machines.values(), detector.score_modes(), np.array(ids)
    own = {x: scores[names == x] for x in np.unique(names)}
    drift = [drifted(normal_scores(machine, x, modes, detector.recipe), new) for x, new in own.items()]
    yield "as fitted", Outcome([as_fitted(detector, test, ids, rate) for rate in RATES], drift)
    drift = [drifted(*np.split(x, [len(x) // 2])) for x in own.values()]
    yield "earlier half", Outcome([by_halves(scores, names, rate) for rate in RATES], drift)
    rng = np.random.default_rng(0)
    drift = [drifted(*np.split(rng.permutation(x), [len(x) // 2])) for x in own.values()]
    yield "random halves", Outcome([by_random_halves(scores, names, rate) for rate in RATES], drift)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", default=["fast"], help="systems, or recipes' .toml files (default: fast)")
    parser.add_argument("--sets", nargs="+", choices=real_sets.SETS, default=real_sets.SETS)
    parser.add_argument("--data", type=Path, help="the folder of real recordings (default: PYASD_REAL_DATA)")
    args = parser.parse_args()
    data = real_data(args.data)
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for of_set in args.sets:
            clips = real_sets.load(of_set, data)
            for name in args.systems:
                for way, (counts, drift) in measure(name, clips):
                    rows.append([of_set, f"`{name}`", way, *(x.cell() for x in counts), drift_cell(drift)])
                print(f"# {of_set}, {name}: done", file=sys.stderr, flush=True)
    print(markdown(["set", "system", "calibrated", *(f"{100 * rate:g} %" for rate in RATES), "drift"], rows))


if __name__ == "__main__":
    main()
