"""How well clips are ranked without a model: AUC on real recordings with some faulty ones among them, in per cent.

    PYASD_REAL_DATA=folder python -m benchmarks.ranking

Of each machine ID of each set, 60 normal clips are drawn, or as many as there are, and 4, 10 or 20 % as many faulty
ones; `pyasd.score` ranks them without a model and without labels. Each figure is the mean over machine IDs and draws.
Baselines stand beside, on mean and standard deviation of each Mel band over time: the mean distance from the ten
nearest neighbours, the local outlier factor, and the Mahalanobis distance of a fit to all of them (scikit-learn's).
`benchmarks.real_sets` says what the folder has in it. docs/results.md says what was tried by these figures.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

import pyasd
from benchmarks import real_data
from benchmarks.baselines import mean_and_deviation
from benchmarks.real_sets import SETS, ClipSet, LogMels, load
from pyasd.tables.markdown import markdown

NORMAL = 60
SHARES = (0.04, 0.1, 0.2)
NEIGHBOURS = 10


Ranking = Callable[[LogMels], NDArray[np.float64]]


def ours(log_mels: LogMels) -> NDArray[np.float64]:
    """Rank clips as `pyasd score` does without a model."""
    scores: NDArray[np.float64] = pyasd.score(log_mels, ids="00", features="log-mel")["score"].to_numpy()
    return scores


def _standardised(log_mels: LogMels) -> NDArray[np.float64]:
    features = mean_and_deviation(log_mels)
    scaled: NDArray[np.float64] = features / features.std(0).clip(0.1)
    return scaled


def _nearest(log_mels: LogMels) -> NDArray[np.float64]:
    features = _standardised(log_mels)
    distances, _ = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(features) - 1)).fit(features).kneighbors()
    means: NDArray[np.float64] = distances.mean(1)
    return means


def _outlier_factor(log_mels: LogMels) -> NDArray[np.float64]:
    features = _standardised(log_mels)
    model = LocalOutlierFactor(min(NEIGHBOURS, len(features) - 1)).fit(features)
    factors: NDArray[np.float64] = model.negative_outlier_factor_
    return -factors


def _mahalanobis(log_mels: LogMels) -> NDArray[np.float64]:
    features = _standardised(log_mels)
    distances: NDArray[np.float64] = LedoitWolf().fit(features).mahalanobis(features)
    return distances


RANKINGS: dict[str, Ranking] = {
    "`pyasd score` without a model": ours,
    "ten nearest neighbours": _nearest,
    "local outlier factor": _outlier_factor,
    "Mahalanobis, fitted on all": _mahalanobis,
}


def measure(clips: ClipSet, share: float, draws: int) -> dict[str, float]:
    """Compute the AUC of each way of ranking, the mean over machine IDs and draws."""
    log_mels = [*clips.train, *clips.test]
    ids = np.array([*clips.train_ids, *clips.test_ids])
    faulty = np.concatenate([np.zeros(len(clips.train), bool), clips.labels.astype(bool)])
    areas: dict[str, list[float]] = {name: [] for name in RANKINGS}
    for draw in range(draws):
        rng = np.random.default_rng([draw, round(100 * share)])
        for machine_id in np.unique(ids):
            healthy = rng.permutation(np.flatnonzero((ids == machine_id) & ~faulty))[:NORMAL]
            odd = rng.permutation(np.flatnonzero((ids == machine_id) & faulty))
            odd = odd[: max(1, round(share * len(healthy)))]
            chosen = [*healthy, *odd]
            labels = np.repeat([0, 1], [len(healthy), len(odd)])
            for name, ranking in RANKINGS.items():
                areas[name].append(100 * roc_auc_score(labels, ranking([log_mels[i] for i in chosen])))
    return {name: float(np.mean(x)) for name, x in areas.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--data", type=Path, help="the folder of real recordings (default: PYASD_REAL_DATA)")
    args = parser.parse_args()
    data = real_data(args.data)
    sets = {name: load(name, data) for name in args.sets}
    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for share in SHARES:
            found = {name: measure(clips, share, args.draws) for name, clips in sets.items()}
            print(f"# {share:.0%} faulty: done", file=sys.stderr, flush=True)
            for ranking in RANKINGS:
                figures = [found[name][ranking] for name in sets]
                cells = [f"{x:.1f}" for x in (*figures, np.mean(figures), min(figures))]
                lines.append([f"{share:.0%}", ranking, *cells])
    print(f"{args.draws} draws\n")
    print(markdown(["faulty", "AUC, %", *sets, "mean", "lowest"], lines))


if __name__ == "__main__":
    main()
