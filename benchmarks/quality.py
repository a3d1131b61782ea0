"""How well systems hear faults of machines that they were not tuned to: AUC and pAUC on real recordings, in per cent.

    PYASD_REAL_DATA=folder python -m benchmarks.quality fast group-made-spectrum --seeds 3
    python -m benchmarks.quality --sets adiload tap

Each set's normal training clips are learnt, its test clips scored, and AUC and pAUC (p = 0.1) averaged over machine
IDs, then over seeds. Baselines stand beside: the Mahalanobis distance (scikit-learn's Ledoit-Wolf covariance, per
machine ID) of each clip's mean log-Mel, and of mean and standard deviation over time; and the local outlier factor of
the latter.
"Regret" is the most that the mean of AUC and pAUC lies below the best baseline's on any one set.

The folder has `toycar_logmel/id_01.npz`, `id_04.npz`, `uav/UAV/{train,test}`, `make_diluted.py` and
`machines/<name>/{train,test}`, with DCASE 2020 names. Nothing is chosen by the figures printed here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import LocalOutlierFactor

import pyasd
from benchmarks import real_data
from pyasd.clips import Clip, find
from pyasd.features.log_mels import Extraction, extract
from pyasd.ops import LogMelPlan
from pyasd.tables.evaluation import P_AUC_MAX_FPR
from pyasd.tables.markdown import markdown

SETS = ("toycar", "uav", "adiload", "tap", "uestcmix", "enginemix")
TOYCAR_TRAIN = {"01": 22, "04": 200}
"""Normal clips of each ToyCar ID to learn from; the data set's own training clips are not part of the folder."""


class ClipSet(NamedTuple):
    """One set: log-Mels `[frames, 128]`, machine IDs, and labels of the test clips (1 is faulty)."""

    train: list[NDArray[np.float32]]
    train_ids: list[str]
    test: list[NDArray[np.float32]]
    test_ids: list[str]
    labels: NDArray[np.int64]


def load(name: str, data: Path) -> ClipSet:
    """Load a set by its name."""
    if name == "toycar":
        return _toycar(data)
    if name != "uav":
        return _folder(data / "machines" / name)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(data / "make_diluted.py"), folder], check=True)
        return _folder(Path(folder) / "UAV")


def _toycar(data: Path) -> ClipSet:
    clips = ClipSet([], [], [], [], np.empty(0, np.int64))
    labels: list[int] = []
    for machine_id, count in TOYCAR_TRAIN.items():
        with np.load(data / "toycar_logmel" / f"id_{machine_id}.npz") as file:
            log_mels, names = file["logmel_q8"].astype(np.float32) / 256, file["names"]
        order = np.argsort(names)
        faulty = np.array([name.startswith("anomaly") for name in names[order]])
        normal = order[~faulty][np.random.default_rng(0).permutation((~faulty).sum())]
        clips.train.extend(log_mels[normal[:count]])
        clips.train_ids.extend([machine_id] * count)
        test = [*normal[count:], *order[faulty]]
        clips.test.extend(log_mels[test])
        clips.test_ids.extend([machine_id] * len(test))
        labels += [0] * (len(normal) - count) + [1] * int(faulty.sum())
    return clips._replace(labels=np.array(labels))


def _folder(folder: Path) -> ClipSet:
    found = list(find(folder))
    train, test = ([x for x in found if x.split == split] for split in ("train", "test"))
    labels = np.array([x.label for x in test], np.int64)
    return ClipSet(
        _log_mels(train), [x.machine_id for x in train], _log_mels(test), [x.machine_id for x in test], labels
    )


def _log_mels(clips: list[Clip]) -> list[NDArray[np.float32]]:
    return [x.log_mel.numpy() for x in extract(clips, Extraction(LogMelPlan())) if x.log_mel is not None]


# -- systems and baselines ---------------------------------------------------------------------------------------


class Scores(NamedTuple):
    """Test clips' scores, seconds to fit, and clips scored a second."""

    scores: NDArray[np.float64]
    fit_seconds: float
    clips_per_second: float


def system(name: str, clips: ClipSet, seed: int) -> Scores:
    """Score by one of pyasd's systems, or by the recipe in a file."""
    start = time.perf_counter()
    detector = pyasd.fit(clips.train, name, ids=clips.train_ids, features="log-mel", seed=seed)
    fitted = time.perf_counter()
    table = detector.score(clips.test, ids=clips.test_ids, features="log-mel")
    end = time.perf_counter()
    return Scores(table["score"].to_numpy(), fitted - start, len(clips.test) / (end - fitted))


def _mean(log_mels: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    return np.stack([x.mean(0, dtype=np.float64) for x in log_mels])


def _mean_and_deviation(log_mels: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    return np.concatenate([_mean(log_mels), np.stack([x.std(0, dtype=np.float64) for x in log_mels])], 1)


def _mahalanobis(train: NDArray[np.float64], test: NDArray[np.float64]) -> NDArray[np.float64]:
    scale = train.std(0).clip(0.1)
    distances: NDArray[np.float64] = LedoitWolf().fit(train / scale).mahalanobis(test / scale)
    return distances


def _outlier_factor(train: NDArray[np.float64], test: NDArray[np.float64]) -> NDArray[np.float64]:
    scale = train.std(0).clip(0.1)
    factor = LocalOutlierFactor(min(5, len(train) - 1), novelty=True).fit(train / scale)
    scores: NDArray[np.float64] = -factor.score_samples(test / scale)
    return scores


Features = Callable[[list[NDArray[np.float32]]], NDArray[np.float64]]
Distance = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
BASELINES: dict[str, tuple[Features, Distance]] = {
    "Mahalanobis, mean": (_mean, _mahalanobis),
    "Mahalanobis, mean and deviation": (_mean_and_deviation, _mahalanobis),
    "local outlier factor": (_mean_and_deviation, _outlier_factor),
}


def baseline(name: str, clips: ClipSet) -> Scores:
    """Score by one of `BASELINES`, machine ID by machine ID."""
    features, distance = BASELINES[name]
    start = time.perf_counter()
    train, test = features(clips.train), features(clips.test)
    train_ids, test_ids = np.array(clips.train_ids), np.array(clips.test_ids)
    scores = np.empty(len(test))
    for machine_id in np.unique(test_ids):
        scores[test_ids == machine_id] = distance(train[train_ids == machine_id], test[test_ids == machine_id])
    seconds = time.perf_counter() - start
    return Scores(scores, seconds, len(test) / seconds)


def areas(clips: ClipSet, scores: NDArray[np.float64]) -> tuple[float, float]:
    """Compute AUC and pAUC in per cent, means over machine IDs."""
    ids = np.array(clips.test_ids)
    each = [
        [100 * roc_auc_score(clips.labels[ids == x], scores[ids == x], max_fpr=p) for p in (None, P_AUC_MAX_FPR)]
        for x in np.unique(ids)
    ]
    auc, p_auc = np.mean(each, 0)
    return float(auc), float(p_auc)


# -- the table ---------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A system's or baseline's figures: AUC and pAUC by set, `[sets, 2]`, means over seeds; and times."""

    name: str
    figures: NDArray[np.float64]
    deviation: float
    fit_seconds: float
    clips_per_second: float


def measure(name: str, sets: dict[str, ClipSet], seeds: int) -> Line:
    """Measure a system, or a baseline, on all sets."""
    runs = []
    times = []
    for clips in sets.values():
        done = [baseline(name, clips)] if name in BASELINES else [system(name, clips, seed) for seed in range(seeds)]
        runs.append([areas(clips, x.scores) for x in done])
        times += [(x.fit_seconds, x.clips_per_second) for x in done]
    figures = np.array([np.mean(run, 0) for run in runs])
    deviation = max(float(np.std([auc for auc, _ in run])) for run in runs)
    seconds, rate = np.mean(times, 0)
    return Line(name, figures, deviation, float(seconds), float(rate))


def cells(line: Line, best: NDArray[np.float64]) -> Iterator[str]:
    """Yield a line of the table; `best` is the best baseline's mean of AUC and pAUC on each set."""
    yield line.name
    yield from (f"{auc:.1f} / {p_auc:.1f}" for auc, p_auc in line.figures)
    auc, p_auc = line.figures.mean(0)
    yield f"**{auc:.1f} / {p_auc:.1f}**"
    yield f"{line.figures[:, 0].min():.1f}"
    yield f"{max(0.0, float((best - line.figures.mean(1)).max())):.1f}"
    yield "" if line.name in BASELINES else f"{line.deviation:.1f}"
    yield "" if line.name in BASELINES else f"{line.fit_seconds:.1f}"
    yield "" if line.name in BASELINES else f"{line.clips_per_second:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", default=["fast"], help="systems, or recipes' .toml files (default: fast)")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data", type=Path, help="the folder of real recordings (default: PYASD_REAL_DATA)")
    args = parser.parse_args()
    data = real_data(args.data)
    sets = {name: load(name, data) for name in args.sets}
    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in (*BASELINES, *args.systems):
            lines.append(measure(name, sets, args.seeds))
            print(f"# {name}: done", file=sys.stderr, flush=True)
    best = np.max([x.figures.mean(1) for x in lines if x.name in BASELINES], 0)
    header = ["AUC / pAUC, %", *sets, "mean", "lowest AUC", "regret", "deviation", "fit, s", "clips/s"]
    print(f"{torch.get_num_threads()} thread(s), {args.seeds} seed(s)\n")
    print(markdown(header, (list(cells(line, best)) for line in lines)))


if __name__ == "__main__":
    main()
