"""AUC and pAUC of members and their ensembles on real and synthetic recordings: the report's Systems 2 and 3, and
Group MADE with mean spectra, which is the default of `pyasd fit`.

    python -m benchmarks.ensembles toycar --data FOLDER --out FOLDER [--seeds 0 1 2] [--epochs 20] [--made-epochs 100]
    python -m benchmarks.ensembles uav --members group-made --out FOLDER

- `toycar`: ToyCar IDs 01 and 04 of DCASE 2020 Task 2, as log-Mels. Of ID 04 the first 200 normal clips of
  `numpy.random.default_rng(0).permutation(350)` are learnt from, of ID 01 the first 22 of `.permutation(44)`; the other
  normal clips and all anomalous ones (265 and 37) are tested.
- `uav`: a quadcopter with IDs 00 and 01, each clip hidden 10 dB under another normal clip (`make_diluted.py`): 105
  clips to learn from, 89 normal and 143 anomalous ones to test.
- `factory`: the synthetic factory of `pyasd demo`, seed 0: 24 clips of each of nine machines to learn from, 24 healthy
  and 24 faulty ones to test.

All members are trained once for each seed, and Systems 2 and 3 are made of them; `--members group-made` trains Group
MADE alone. `spectrum` takes no time, and joins in any case. Prints a Markdown table: AUC and pAUC in per cent,
averaged over machine IDs and types as in the challenge, mean and (over the seeds) lowest to highest. Models stay in
`--out`, and those that are there are not trained again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import pyasd
from benchmarks import real_data
from pyasd.clips import Clip, find
from pyasd.detector import Detector, Machine
from pyasd.detector.statistics import Baseline, combine
from pyasd.factory import factory as synthetic
from pyasd.models import NormalScores
from pyasd.models.group_made import GroupMadeConfig
from pyasd.models.trained import VARIANCE_PRIOR_CLIPS
from pyasd.recipes import Recipe, files
from pyasd.training.data import held_out as held_out_clips

SYSTEMS = {
    "System 2": ("mobilenet", "group-made"),
    "System 3": ("mobilenet", "arcface", "group-made"),
    "group-made + spectrum": ("group-made", "spectrum"),
}


class Task:
    """Clips to learn from and to test, as `pyasd.fit` and `Detector.score` take them."""

    def __init__(self, train: Any, test: Any, train_how: dict[str, Any], test_how: dict[str, Any], labels: Any) -> None:
        self.train, self.test = train, test
        self.train_how, self.test_how = train_how, test_how
        self.labels = labels


def toycar(given: Path | None, _: Path) -> Task:
    clips: dict[str, list[np.ndarray]] = defaultdict(list)
    ids: dict[str, list[str]] = defaultdict(list)
    labels: list[int] = []
    for machine_id in ("01", "04"):
        with np.load(real_data(given) / "toycar_logmel" / f"id_{machine_id}.npz") as file:
            log_mels, names = file["logmel_q8"].astype(np.float32) / 256, file["names"]
        order = np.argsort(names)
        anomalous = np.array([name.startswith("anomaly") for name in names[order]])
        normal = order[~anomalous][np.random.default_rng(0).permutation((~anomalous).sum())]
        count = {"01": 22, "04": 200}[machine_id]
        test = np.concatenate([normal[count:], order[anomalous]])
        labels += [0] * (len(normal) - count) + [1] * int(anomalous.sum())
        for split, places in (("train", normal[:count]), ("test", test)):
            clips[split] += list(log_mels[places])
            ids[split] += [machine_id] * len(places)
    how = {"features": "log-mel", "machine_type": "ToyCar"}
    return Task(clips["train"], clips["test"], how | {"ids": ids["train"]}, how | {"ids": ids["test"]}, labels)


def uav(given: Path | None, out: Path) -> Task:
    folder = out / "uav-diluted"
    if not folder.is_dir():
        subprocess.run([sys.executable, str(real_data(given) / "make_diluted.py"), str(folder)], check=True)
    return Task(folder / "UAV" / "train", folder / "UAV" / "test", {}, {}, None)


def factory(_: Path | None, out: Path) -> Task:
    folder = out / "factory"
    if not folder.is_dir():
        synthetic.write(folder, seed=0, train=24, test=24)
    return Task(folder, folder, {}, {}, None)


TASKS = {"toycar": toycar, "uav": uav, "factory": factory}


def recipe_of(args: argparse.Namespace) -> Recipe:
    """System 3's recipe, whose members are System 2's as well, with the members and epochs asked for."""
    recipe = files.find("3").override(members=args.members, epochs=args.epochs)
    made = recipe.override(epochs=args.made_epochs)
    return replace(recipe, members=tuple(made[x.name] if x.kind == "group-made" else x for x in recipe.members))


def fitted(task: Task, recipe: Recipe, seed: int, path: Path) -> Detector:
    if not path.exists():
        start = time.perf_counter()
        detector = pyasd.fit(task.train, recipe, out=path, seed=seed, **task.train_how)
        print(f"# {path.name}: {time.perf_counter() - start:.0f} s", flush=True)
        for machine_type, machine in detector.machines.items():
            for name, history in machine.histories.items():
                summary = f"{len(history.training)} epochs, the weights of epoch {history.kept + 1} kept"
                if history.accuracy:
                    summary += f", ID accuracy on held-out clips {history.accuracy[history.kept]:.1%}"
                print(f"#   {machine_type} {name}: {summary}", flush=True)
    return pyasd.load(path)


def with_spectrum(task: Task, detector: Detector) -> Detector:
    """Return the detector with the member `spectrum` beside its own."""
    other = pyasd.fit(task.train, Recipe.of_kinds("spectrum"), **task.train_how).machines
    machines = {
        kind: Machine(
            x.members | other[kind].members,
            x.baselines | other[kind].baselines,
            x.histories | other[kind].histories,
        )
        for kind, x in detector.machines.items()
    }
    return Detector(
        replace(detector.recipe, members=(*detector.recipe.members, *Recipe.of_kinds("spectrum").members)), machines
    )


def normal_clips(task: Task) -> list[Clip]:
    """Return the clips to learn from."""
    return [clip for clip in find(task.train, **task.train_how) if clip.split != "test"]


def held_out(task: Task, detector: Detector, seed: int, score_mode: str | None = None) -> pd.DataFrame:
    """Score the training clips that validated the training: the same ones for every member."""
    normal, chosen = normal_clips(task), []
    for machine_type in detector.machines:
        of_type = [clip for clip in normal if clip.machine_type == machine_type]
        mask = held_out_clips([clip.machine_id for clip in of_type], GroupMadeConfig.validation, seed)
        chosen += [clip for clip, out in zip(of_type, mask, strict=True) if out]
    how = task.train_how | ({"ids": [clip.machine_id for clip in chosen]} if "ids" in task.train_how else {})
    paths = [clip.log_mel if clip.source.path is None else clip.source.path for clip in chosen]
    return detector.score(paths, score_mode=score_mode, **how)


def standardised(
    table: pd.DataFrame, baselines: dict[str, dict[str, Baseline]], modes: dict[str, str]
) -> dict[str, list[float]]:
    """Standardise each member's scores in `table` by its baseline of the machine type."""
    scores: dict[str, list[float]] = {}
    for name, mode in modes.items():
        cells = zip(table["machine_type"], table["machine_id"], table[f"score.{name}"], strict=True)
        scores[name] = [baselines[kind][name].standardise(x, machine_id, mode) for kind, machine_id, x in cells]
    return scores


def rows(task: Task, detector: Detector, seed: int) -> Iterator[tuple[str, float, float]]:
    """Return every row of the table for one seed: what it is, AUC and pAUC."""
    members = detector.recipe.names
    test, held = detector.score(task.test, **task.test_how), held_out(task, detector, seed)
    if task.labels is not None:
        test["label"] = task.labels
    for made in ("joint", "conditional", "bands"):
        modes = test.attrs["modes"] | {"group-made": made}
        if made != "joint":
            alone = only(detector, "group-made")
            test["score.group-made"] = alone.score(task.test, score_mode=made, **task.test_how)["score.group-made"]
            held["score.group-made"] = held_out(task, alone, seed, made)["score.group-made"]
        for name in members if made == "joint" else ("group-made",):
            yield f"{name}, {modes[name]}", *figures(test, test[f"score.{name}"])
        learnt = {kind: machine.baselines for kind, machine in detector.machines.items()}
        scarce = {
            kind: learnt[kind]  # spectrum's baseline is of held-out scores in any case
            | {
                name: Baseline.of(
                    NormalScores(
                        own[f"score.{name}"].to_numpy()[:, None], own["machine_id"].tolist(), VARIANCE_PRIOR_CLIPS
                    ),
                    [mode],
                )
                for name, mode in modes.items()
                if name != "spectrum"
            }
            for kind, own in held.groupby("machine_type")
        }
        for basis, baselines in {"training": learnt, "held-out": scarce}.items():
            columns = standardised(test, baselines, modes)
            for system, names in SYSTEMS.items():
                if not {*names} <= {*members}:
                    continue
                both = [combine(x) for x in zip(*(columns[name] for name in names), strict=True)]
                for how in ("mean", "max"):
                    yield f"{system}, {how}, {made}, {basis} statistics", *figures(test, [x[how] for x in both])


def only(detector: Detector, name: str) -> Detector:
    """A detector of one of the members."""
    machines = {
        kind: Machine({name: x.members[name]}, {name: x.baselines[name]}, {name: x.histories[name]})
        for kind, x in detector.machines.items()
    }
    return Detector(replace(detector.recipe, members=(detector.recipe[name],)), machines)


def figures(table: pd.DataFrame, scores: Sequence[float] | pd.Series) -> tuple[float, float]:
    """Return the challenge's average AUC and pAUC, in per cent."""
    evaluated = pyasd.evaluate(table.assign(score=scores))
    last = evaluated.iloc[-1]
    return 100 * last["auc"], 100 * last["pauc"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, help="folder (PYASD_REAL_DATA) with toycar_logmel and uav")
    parser.add_argument("--out", type=Path, required=True, help="folder for models and recordings")
    parser.add_argument("--members", nargs="+", default=["mobilenet", "arcface", "group-made"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20, help="of the classifiers")
    parser.add_argument("--made-epochs", type=int, default=100, help="of Group MADE")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    task = TASKS[args.task](args.data, args.out)
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for seed in args.seeds:
        members = "" if len(args.members) > 1 else f"-{args.members[0]}"
        path = args.out / f"{args.task}{members}-{args.epochs}-{args.made_epochs}-{seed}.safetensors"
        detector = with_spectrum(task, fitted(task, recipe_of(args), seed, path))
        for what, auc, pauc in rows(task, detector, seed):
            found[what].append((auc, pauc))
            print(f"# seed {seed}: {what}: AUC {auc:.2f}, pAUC {pauc:.2f}", flush=True)
    print("\n| score | AUC | pAUC |\n|---|---|---|")
    for what, results in found.items():
        cells = [f"{x.mean():.2f} ({x.min():.2f} to {x.max():.2f})" for x in np.array(results).T]
        print(f"| {what} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
