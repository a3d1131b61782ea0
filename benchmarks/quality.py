"""How well systems hear faults of machines that they were not tuned to: AUC and pAUC on real recordings, in per cent.

    PYASD_REAL_DATA=folder python -m benchmarks.quality default fast --seeds 3 --out results
    python -m benchmarks.quality fast --quick                      # one seed, no slow baseline
    python -m benchmarks.quality default fast report-4 --leave-set-out
    python -m benchmarks.quality --mean-spectra                    # MIMII's fans and sliders
    python -m benchmarks.quality fast --anomalies 0.05 --statistics robust

Each set's normal training clips are learnt, its test clips scored, and AUC and pAUC (p = 0.1) averaged over machine
IDs, then over seeds. scikit-learn's baselines stand beside (`benchmarks.baselines`), one model for each machine ID.
"Regret" is the most that the mean of AUC and pAUC lies below the best baseline's on any one set. With --leave-set-out,
a further line has on each set what the system gets there that is best on the others.

With --anomalies, so many faulty test clips, as a share of each machine ID's training clips, are learnt as normal ones,
and not tested.

With --out, each figure is kept in a file of that folder, and read from it the next time: an interrupted run goes on.
`benchmarks.real_sets` says what the folder of recordings has in it, docs/results.md what was chosen by these figures.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

import pyasd
from benchmarks import baselines, real_data
from benchmarks.baselines import BASELINES
from benchmarks.real_sets import MEAN_SPECTRA, SETS, ClipSet, load
from pyasd.recipes import Recipe, files
from pyasd.tables.evaluation import P_AUC_MAX_FPR
from pyasd.tables.markdown import markdown

SLOW = ("16 Gaussians on frames", "isolation forest")
"""Baselines that --quick leaves out."""

OF_MEANS = ("Mahalanobis, mean", "nearest neighbour", "local outlier factor")
"""Baselines that make sense where there are mean spectra alone."""


class Figures(NamedTuple):
    """AUC and pAUC in per cent, seconds to fit, and clips scored a second."""

    auc: float
    p_auc: float
    fit_seconds: float
    clips_per_second: float


def run(name: str, clips: ClipSet, seed: int, recipe: Recipe | None = None) -> Figures:
    """Fit and score once: a baseline, one of pyasd's systems, or a recipe's file; or `recipe`, whatever its name."""
    start = fitted = time.perf_counter()
    if name in BASELINES:
        scores = baselines.score(name, clips)
    else:
        detector = pyasd.fit(clips.train, recipe or name, ids=clips.train_ids, features="log-mel", seed=seed)
        fitted = time.perf_counter()
        scores = detector.score(clips.test, ids=clips.test_ids, features="log-mel")["score"].to_numpy()
    end = time.perf_counter()
    return Figures(*areas(clips, scores), fitted - start, len(clips.test) / (end - fitted))


def areas(clips: ClipSet, scores: NDArray[np.float64]) -> tuple[float, float]:
    """Compute AUC and pAUC in per cent, means over machine IDs."""
    ids = np.array(clips.test_ids)
    each = [
        [100 * roc_auc_score(clips.labels[ids == x], scores[ids == x], max_fpr=p) for p in (None, P_AUC_MAX_FPR)]
        for x in np.unique(ids)
    ]
    auc, p_auc = np.mean(each, 0)
    return float(auc), float(p_auc)


@dataclass(frozen=True)
class Kept:
    """Figures in files of a folder, one for each set, system and seed; `None` for nowhere."""

    folder: Path | None

    def get(self, of_set: str, name: str, clips: ClipSet, seed: int, recipe: Recipe | None = None) -> Figures:
        """Return the figures of a run: those of the file, or else of a run now."""
        if self.folder is None:
            return run(name, clips, seed, recipe)
        settings = "" if name in BASELINES else json.dumps((recipe or files.find(name)).to_dict())
        key = hashlib.sha256(f"{settings} {pyasd.__version__}".encode()).hexdigest()[:8]
        path = self.folder / f"{of_set}.{Path(name).stem.replace(' ', '-')}.{key}.{seed}.json"
        if path.exists():
            return Figures(**json.loads(path.read_text()))
        figures = run(name, clips, seed, recipe)
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(figures._asdict()))
        partial.replace(path)
        return figures


def contaminated(clips: ClipSet, share: float) -> ClipSet:
    """Move faulty test clips to the training clips: of each machine ID, as many as `share` of its training clips."""
    ids, moved = np.array(clips.test_ids), np.zeros(len(clips.test), bool)
    rng = np.random.default_rng(0)
    for machine_id in np.unique(ids):
        faulty = rng.permutation(np.flatnonzero((ids == machine_id) & (clips.labels == 1)))
        moved[faulty[: round(share * clips.train_ids.count(machine_id))]] = True
    places, rest = np.flatnonzero(moved), np.flatnonzero(~moved)
    return ClipSet(
        [*clips.train, *(clips.test[i] for i in places)],
        [*clips.train_ids, *ids[places].tolist()],
        [clips.test[i] for i in rest],
        ids[rest].tolist(),
        clips.labels[rest],
    )


# -- the table ---------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """A system's or baseline's figures: AUC and pAUC by set, `[sets, 2]`, means over seeds; and times."""

    name: str
    figures: NDArray[np.float64]
    deviation: float
    fit_seconds: float
    clips_per_second: float


def measure(
    name: str, sets: dict[str, ClipSet], seeds: int, kept: Kept = Kept(None), recipe: Recipe | None = None
) -> Line:
    """Measure a system, or a baseline, on all sets."""
    chosen = range(1 if name in BASELINES else seeds)
    runs = [[kept.get(of_set, name, clips, seed, recipe) for seed in chosen] for of_set, clips in sets.items()]
    figures = np.array([np.mean([x[:2] for x in of_set], 0) for of_set in runs])
    deviation = max(float(np.std([x.auc for x in of_set])) for of_set in runs)
    seconds, rate = np.mean([x[2:] for of_set in runs for x in of_set], 0)
    return Line(name, figures, deviation, float(seconds), float(rate))


def left_out(lines: Sequence[Line]) -> Line:
    """On each set, take the figures of the line that is best on the others, by the mean of AUC and pAUC."""
    each = np.stack([x.figures for x in lines])  # [lines, sets, 2]
    means = each.mean(2)
    others = (means.sum(1, keepdims=True) - means) / max(means.shape[1] - 1, 1)
    best = others.argmax(0)
    names = ", ".join(dict.fromkeys(lines[i].name for i in best))
    figures = each[best, np.arange(each.shape[1])]
    return Line(f"best on the other sets ({names})", figures, *(float("nan"),) * 3)


def cells(line: Line, best: NDArray[np.float64]) -> Iterator[str]:
    """Yield a line of the table; `best` is the best baseline's mean of AUC and pAUC on each set."""
    yield line.name
    yield from (f"{auc:.1f} / {p_auc:.1f}" for auc, p_auc in line.figures)
    auc, p_auc = line.figures.mean(0)
    yield f"**{auc:.1f} / {p_auc:.1f}**"
    yield f"{line.figures[:, 0].min():.1f}"
    yield f"{max(0.0, float((best - line.figures.mean(1)).max())):.1f}"
    plain = line.name in BASELINES or line.deviation != line.deviation
    yield "" if plain else f"{line.deviation:.1f}"
    yield "" if plain else f"{line.fit_seconds:.1f}"
    yield "" if plain else f"{line.clips_per_second:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="*", default=["fast"], help="systems, or recipes' .toml files (default: fast)")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--mean-spectra", action="store_true", help="judge what hears mean spectra, on MIMII")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="one seed, and no slow baseline")
    parser.add_argument("--anomalies", type=float, default=0.0, help="share of anomalies among the training clips")
    parser.add_argument("--statistics", help="instead of the systems' own, such as robust")
    parser.add_argument("--leave-set-out", action="store_true")
    parser.add_argument("--out", type=Path, help="folder that keeps the figures")
    parser.add_argument("--data", type=Path, help="the folder of real recordings (default: PYASD_REAL_DATA)")
    args = parser.parse_args()
    data, seeds = real_data(args.data), 1 if args.quick else args.seeds
    sets = {name: load(name, data) for name in (MEAN_SPECTRA if args.mean_spectra else args.sets)}
    if args.anomalies:
        sets = {f"{name}+{args.anomalies:g}": contaminated(clips, args.anomalies) for name, clips in sets.items()}
    recipes = {name: files.find(name).override(statistics=args.statistics) for name in args.systems}
    if args.mean_spectra:
        of_means = files.find("fast").override(members=("spectrum", "neighbours"), over_time=("mean",))
        recipes = {"spectrum and neighbours": of_means}
    wanted = [x for x in BASELINES if x in (OF_MEANS if args.mean_spectra else BASELINES)]
    lines = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in [x for x in wanted if not (args.quick and x in SLOW)] + list(recipes):
            lines.append(measure(name, sets, seeds, Kept(args.out), recipes.get(name)))
            print(f"# {name}: done", file=sys.stderr, flush=True)
    best = np.max([x.figures.mean(1) for x in lines if x.name in BASELINES], 0)
    if args.leave_set_out:
        lines.append(left_out([x for x in lines if x.name not in BASELINES]))
    header = ["AUC / pAUC, %", *sets, "mean", "lowest AUC", "regret", "deviation", "fit, s", "clips/s"]
    print(f"{torch.get_num_threads()} thread(s), {seeds} seed(s)\n")
    print(markdown(header, (list(cells(line, best)) for line in lines)))


if __name__ == "__main__":
    main()
