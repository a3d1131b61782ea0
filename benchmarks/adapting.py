"""Measure what new normal clips are worth: as calibration, taken into mean and spread, or learnt.

    PYASD_REAL_DATA=folder python -m benchmarks.adapting fast

Of each machine ID's normal test clips, a random half is new; the other half and all faulty clips are scored, with
decisions at a rate of 10 %. Figures are means over seeded halves: the AUC (mean over machine IDs, in per cent), the
mean score of the normal clips, and the share of them that is called anomalous, in per cent.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import roc_auc_score

import pyasd
from benchmarks import real_data, real_sets
from pyasd.tables.markdown import markdown

RATE = 0.1
HALVES = 3

Clips = dict[str, Any]
"""Clips as `pyasd.fit` and `Detector.score` take them: the arguments `clips`, `ids` and `features`."""

WAYS: dict[str, Callable[[pyasd.Detector, Clips, Callable[[], pyasd.Detector]], pyasd.Detector]] = {
    "nothing": lambda fitted, _new, _again: fitted,
    "`calibrate`": lambda fitted, new, _again: fitted.calibrate(**new),
    "`adapt`": lambda fitted, new, _again: fitted.adapt(**new),
    "`adapt --memory 1`": lambda fitted, new, _again: fitted.adapt(memory=1, **new),
    "`fit` again": lambda _fitted, _new, again: again(),
}


class Outcome(NamedTuple):
    """Figures of one way, for one half; see above."""

    auc: float
    mean: float
    false_alarms: float


def judge(detector: pyasd.Detector, clips: Clips, labels: np.ndarray) -> Outcome:
    """Score clips, and compare with their labels."""
    table = detector.score(**clips, false_alarms=RATE)
    scores, ids, normal = table["score"].to_numpy(), table["machine_id"].to_numpy(), labels == 0
    aucs = [roc_auc_score(labels[ids == x], scores[ids == x]) for x in np.unique(ids)]
    decided = normal & (table["decision"] != "").to_numpy()
    alarms = (table["decision"] == "anomaly").to_numpy()
    rate = 100 * float(alarms[decided].mean()) if decided.any() else np.nan
    return Outcome(100 * float(np.mean(aucs)), float(scores[normal].mean()), rate)


def measure(name: str, clips: real_sets.ClipSet, halves: int = HALVES) -> dict[str, Outcome]:
    """Return each way's figures, means over random halves."""
    ids, outcomes = np.array(clips.test_ids), {way: list[Outcome]() for way in WAYS}

    def of_test(places: np.ndarray) -> Clips:
        return {"clips": [clips.test[i] for i in places], "ids": ids[places].tolist(), "features": "log-mel"}

    fitted = pyasd.fit(clips.train, name, ids=clips.train_ids, features="log-mel")
    for seed in range(halves):
        rng = np.random.default_rng(seed)
        normal = [rng.permutation(np.flatnonzero((ids == x) & (clips.labels == 0))) for x in np.unique(ids)]
        taken = np.sort(np.concatenate([own[: len(own) // 2] for own in normal]))
        rest, new = np.setdiff1d(np.arange(len(ids)), taken), of_test(taken)

        def again(new: Clips = new) -> pyasd.Detector:
            both = [*clips.train, *new["clips"]]
            return pyasd.fit(both, name, ids=[*clips.train_ids, *new["ids"]], features="log-mel")

        for way, take in WAYS.items():
            outcomes[way].append(judge(take(fitted, new, again), of_test(rest), clips.labels[rest]))
    return {way: Outcome(*np.mean(each, axis=0).tolist()) for way, each in outcomes.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("system", nargs="?", default="fast", help="a system, or a recipe's .toml file (default: fast)")
    parser.add_argument("--sets", nargs="+", choices=real_sets.SETS, default=real_sets.SETS)
    parser.add_argument("--data", type=Path, help="the folder of real recordings (default: PYASD_REAL_DATA)")
    args = parser.parse_args()
    data, rows = real_data(args.data), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for of_set in args.sets:
            for way, found in measure(args.system, real_sets.load(of_set, data)).items():
                rows.append([of_set, way, f"{found.auc:.1f}", f"{found.mean:.2f}", f"{found.false_alarms:.1f}"])
            print(f"# {of_set}: done", file=sys.stderr, flush=True)
    print(markdown(["set", "new clips", "AUC", "mean score", "false alarms, %"], rows, "llrrr"))


if __name__ == "__main__":
    main()
