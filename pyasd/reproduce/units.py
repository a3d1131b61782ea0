"""Units of a reproduction: one machine type with one seed, trained and scored. Each is done once, whatever kills it.

A unit's folder has a model file for each ensemble member, and its table of scores. Beside each lies a fingerprint of
what it came of: settings, seed and clips. What has the right one is not done again; what has another is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import queue
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from pyasd import fitting
from pyasd.config import Combine, Recipe
from pyasd.datasets.dcase import Entry
from pyasd.detector import Detector, Machine, load
from pyasd.ensemble import combine
from pyasd.errors import TrainingDiverged
from pyasd.progress import Progress

CORES_PER_UNIT = 8
"""On CPUs, units run side by side where each can have so many cores."""

BASELINE = "baseline"


@dataclass(frozen=True)
class Unit:
    """What one unit needs.

    Attributes:
        machine_type, seed: which one it is.
        folder: its own.
        training, test: its clips.
        systems: recipes by system; where two have a member in common, it has the same settings in both.
        baseline: the recipe of the challenge's autoencoder.
        device, backend, precision: see `pyasd.fit`.
    """

    machine_type: str
    seed: int
    folder: Path
    training: tuple[Entry, ...]
    test: tuple[Entry, ...]
    systems: dict[str, Recipe]
    baseline: Recipe
    device: str
    backend: str
    precision: str

    @property
    def name(self) -> str:
        """As progress and messages call it."""
        return f"{self.machine_type}, seed {self.seed}"


class Outcome(NamedTuple):
    """What became of a unit: its table of scores, or why there is none, and the warnings on the way."""

    unit: Unit
    table: pd.DataFrame | None
    error: str
    warnings: list[str]


class _Fit(NamedTuple):
    """One training: its recipe, of one member; its clips; and the fingerprint of all that it comes of."""

    recipe: Recipe
    clips: Sequence[Entry]
    fingerprint: str


def run(unit: Unit, progress: Progress | None = None) -> Outcome:
    """Do one unit, or take what is there of it.

    Raises:
        OSError: its folder can't be written to.
    """
    told: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fits = _fits(unit)
            unit.folder.mkdir(parents=True, exist_ok=True)
            table, error = _scores(unit, fits, progress), ""
            told = [x for name in fits for x in _notes(unit.folder / f"{name}.safetensors")]
        except (TrainingDiverged, ValueError) as failure:
            table, error = None, str(failure)
    told += _texts(caught)
    return Outcome(unit, table, error, list(dict.fromkeys(told)))


def _texts(caught: Sequence[warnings.WarningMessage]) -> list[str]:
    return [str(x.message) for x in caught if x.category is UserWarning]


def _fits(unit: Unit) -> dict[str, _Fit]:
    """A unit's trainings: one for each member of its systems, and the baseline's."""

    def fit(recipe: Recipe, clips: Sequence[Entry]) -> _Fit:
        return _Fit(recipe, clips, _digest([recipe.to_dict(), unit.seed, unit.precision, _told(clips)]))

    fits = {name: fit(_alone(unit.systems, name), unit.training) for name in _members(unit)}
    # The challenge's baseline learns each part by itself (its modes -d and -e).
    for part, source in (("development", "development"), ("evaluation", "additional")):
        clips = [x for x in unit.training if x.part == source]
        if clips and any(x.part == part for x in unit.test):
            fits[f"{BASELINE}-{part}"] = fit(unit.baseline, clips)
    return fits


def _members(unit: Unit) -> list[str]:
    return list(dict.fromkeys(name for recipe in unit.systems.values() for name in recipe.members))


def _scores(unit: Unit, fits: dict[str, _Fit], progress: Progress | None) -> pd.DataFrame:
    """A unit's table: a row per test clip, with every member's score, the baseline's and each system's."""
    prints = {name: x.fingerprint for name, x in fits.items()}
    mark = _digest([prints, sorted(unit.systems), _told(unit.test), metadata.version("pyasd")])
    path = unit.folder / "scores.parquet"
    if _is(path, mark):
        return pd.read_parquet(path)
    detectors = {name: _fitted(unit, name, x, progress) for name, x in fits.items()}
    table = _score(unit, detectors, progress)
    partial = path.with_name(path.name + ".partial")
    table.to_parquet(partial, index=False)
    os.replace(partial, path)
    _mark(path, mark)
    return table


def _alone(systems: dict[str, Recipe], member: str) -> Recipe:
    """The recipe of one member, which is the same in all systems that have it."""
    alone = []
    for recipe in systems.values():
        if member in recipe.members:
            own: dict[str, Any] = {member.replace("-", "_"): recipe.settings_of(member)}
            alone.append(Recipe((member,), recipe.features, statistics=recipe.statistics, **own))
    if any(recipe != alone[0] for recipe in alone):
        raise ValueError(f"systems {', '.join(systems)} have different settings for {member}, and can't share it")
    return alone[0]


def _fitted(unit: Unit, name: str, fit: _Fit, progress: Progress | None) -> Detector:
    """A detector of one member: loaded where it is there, else learnt, from its checkpoint on where there is one."""
    path = unit.folder / f"{name}.safetensors"
    if not _is(path, fit.fingerprint, begun=True):
        if path.exists():
            warnings.warn(f"{path} came of other clips or settings: it is learnt again", stacklevel=2)
        path.unlink(missing_ok=True)
        _mark(path, fit.fingerprint)
    if path.exists():
        return load(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector = fitting.fit(
            [x.clip for x in fit.clips], fit.recipe, out=path, seed=unit.seed, device=unit.device,
            backend=unit.backend, precision=unit.precision, progress=progress,
        )  # fmt: skip
    path.with_name(path.name + ".notes").write_text(json.dumps(_texts(caught)), encoding="utf-8")
    return detector


def _notes(path: Path) -> list[str]:
    """The warnings in the training of a model, which hold as long as it is used."""
    beside = path.with_name(path.name + ".notes")
    return list(json.loads(beside.read_text(encoding="utf-8"))) if beside.is_file() else []


def _score(unit: Unit, detectors: dict[str, Detector], progress: Progress | None) -> pd.DataFrame:
    """Scores of the test clips: those of all systems' members from one log-Mel of each clip."""
    members = _members(unit)
    parts = {id(x.clip): x.part for x in unit.test}
    clips = [x.clip for x in unit.test]
    how: dict[str, Any] = {
        "device": unit.device, "backend": unit.backend, "precision": unit.precision, "progress": progress,
    }  # fmt: skip
    together = _together(unit, [detectors[name] for name in members])
    table = together.score(clips, **how)
    machine = together.machines[unit.machine_type]
    modes: dict[str, str] = table.attrs["modes"]
    table = table.drop(columns=["score", "score.mean", "score.max"])
    table.insert(0, "part", [parts[id(clip)] for clip in clips])
    table.insert(0, "seed", unit.seed)
    table.attrs = {}
    for part in ("development", "evaluation"):
        name = f"{BASELINE}-{part}"
        own = [clip for clip in clips if parts[id(clip)] == part]
        if name in detectors and own:
            scored = detectors[name].score(own, **how)["score.autoencoder"]
            table.loc[table["part"] == part, BASELINE] = scored.to_numpy()
    standardised = {
        name: [
            machine.statistics[name].standardise(value, machine_id, modes[name])
            for value, machine_id in zip(table[f"score.{name}"], table["machine_id"], strict=True)
        ]
        for name in members
    }
    for system, recipe in unit.systems.items():
        both = [combine(values) for values in zip(*(standardised[name] for name in recipe.members), strict=True)]
        for column, combination in columns(system, recipe):
            table[column] = [x[combination] for x in both]
    return table


def columns(system: str, recipe: Recipe) -> list[tuple[str, Combine]]:
    """A system's columns in the table, and how each combines its members: one alone has nothing to combine."""
    if len(recipe.members) == 1:
        return [(f"system {system}", "mean")]
    return [(f"system {system}, mean", "mean"), (f"system {system}, max", "max")]


def _together(unit: Unit, detectors: Sequence[Detector]) -> Detector:
    """One detector of the members of several."""
    machine = Machine({}, {}, {})
    for detector in detectors:
        own = detector.machines[unit.machine_type]
        machine.members.update(own.members)
        machine.statistics.update(own.statistics)
        machine.histories.update(own.histories)
    recipe = detectors[0].recipe
    settings = {x.recipe.members[0].replace("-", "_"): x.recipe.settings_of(x.recipe.members[0]) for x in detectors}
    changed: dict[str, Any] = {"members": tuple(machine.members), **settings}
    return Detector(replace(recipe, **changed), {unit.machine_type: machine})


# -- fingerprints ------------------------------------------------------------------------------------------------


def _told(clips: Sequence[Entry]) -> list[list[Any]]:
    """What tells clips from others, wherever the data set lies."""
    return [
        [x.part, x.clip.machine_type, x.clip.split, Path(x.clip.name).name, x.clip.label, x.clip.source.size()]
        for x in clips
    ]


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _is(path: Path, fingerprint: str, begun: bool = False) -> bool:
    """Whether `path` is there, or only `begun`, and came of what the fingerprint says."""
    beside = path.with_name(path.name + ".from")
    return beside.is_file() and beside.read_text() == fingerprint and (begun or path.is_file())


def _mark(path: Path, fingerprint: str) -> None:
    partial = path.with_name(path.name + ".from.partial")
    partial.write_text(fingerprint)
    os.replace(partial, path.with_name(path.name + ".from"))


# -- many units --------------------------------------------------------------------------------------------------


def run_all(units: Sequence[Unit], jobs: int | None = None, progress: Progress | None = None) -> Iterator[Outcome]:
    """Do all units, as many at a time as there are GPUs, or as the processor has cores for; outcomes as they come.

    Args:
        units: what to do; "auto" and "cuda" devices are shared out among them.
        jobs: how many at a time instead.
        progress: told of each step where one runs at a time, else of each unit.
    """
    device = units[0].device if units else "cpu"
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(jobs or gpus or max(1, cores // CORES_PER_UNIT), max(1, len(units)))
    if jobs == 1:
        for number, unit in enumerate(units):
            yield run(unit, _within(progress, f"{number + 1}/{len(units)} {unit.name}"))
        return
    context = multiprocessing.get_context("spawn")
    places = context.Queue()
    for worker in range(jobs):
        places.put(f"cuda:{worker % gpus}" if gpus else device)
    pool = ProcessPoolExecutor(jobs, context, _start, (places, max(1, cores // jobs), os.getpid()))
    try:
        waiting = [pool.submit(_run_here, unit) for unit in units]
        for done, future in enumerate(as_completed(waiting)):
            outcome = future.result()
            if progress is not None:
                progress("units", done + 1, len(units), outcome.unit.name)
            yield outcome
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _within(progress: Progress | None, place: str) -> Progress | None:
    """The same, telling the place of what is told in the whole."""
    if progress is None:
        return None

    def tell(stage: str, done: int, total: int, info: str) -> None:
        progress(f"{place}: {stage}", done, total, info)

    return tell


_device = ""


def _start(places: Any, threads: int, parent: int) -> None:
    """In a worker: takes its device, and its share of the cores; ends with its parent, even if that is killed."""
    global _device
    with contextlib.suppress(queue.Empty):
        _device = places.get(timeout=10)
    torch.set_num_threads(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_here(unit: Unit) -> Outcome:
    return run(replace(unit, device=_device or unit.device))
