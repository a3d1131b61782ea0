"""`reproduce`: from the data set's folder to Table 1."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pyasd.datasets import dcase
from pyasd.datasets.dcase import Entry
from pyasd.factory import miniature
from pyasd.progress import Progress, silent
from pyasd.recipes import Recipe
from pyasd.reproduce import report, systems, table1, workers
from pyasd.reproduce.report import Result
from pyasd.reproduce.systems import REPORT_SYSTEMS
from pyasd.reproduce.units import Hardware, Unit

YEAR = 2020

QUICK = {"epochs": 2}
"""Changes to the recipes with `quick`."""

QUICK_TRAIN, QUICK_TEST = 16, 12
"""Clips of each machine ID that `quick` trains with, and of each label that it tests with, evenly spaced."""

QUICK_NOTICE = (
    f"QUICK: {QUICK['epochs']} epochs, one seed, at most {QUICK_TRAIN} training clips per machine ID and {QUICK_TEST} "
    "test clips per label. This shows that everything runs. Its figures are NO reproduction."
)


@dataclass(frozen=True)
class Settings:
    """The scope of a reproduction.

    Attributes:
        systems: of the report, "1" to "4".
        machines: machine types; `None` for all six.
        seeds: seeds 0, 1, ... to train with; figures are means over these.
        quick: few epochs, few clips and one seed: shows that everything runs, and reproduces nothing.
        labels: the organisers' list of the evaluation set's labels, if it doesn't lie in the data set's folder.
        recipe: settings to take instead of the recipes' own, such as `{"epochs": 50}`.

    Raises:
        ValueError: the report has no such system, or there are no seeds.
    """

    systems: Sequence[str] = REPORT_SYSTEMS
    machines: Sequence[str] | None = None
    seeds: int = 4
    quick: bool = False
    labels: str | os.PathLike[str] | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.systems).difference(REPORT_SYSTEMS))
        if unknown or not self.systems:
            raise ValueError(f"no system {', '.join(unknown) or 'given'}: the report has {', '.join(REPORT_SYSTEMS)}")
        if self.seeds < 1:
            raise ValueError(f"seeds must be at least 1, not {self.seeds}")


def reproduce(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    hardware: Hardware | None = None,
    *,
    jobs: int | None = None,
    progress: Progress = silent,
) -> Result:
    """Train the report's systems on the data set of 2020, score its test clips, and compare with Table 1.

    All machine IDs of a machine type train its classifiers and its Group MADE, those of the additional training set
    included where it is there; the baseline learns the development set alone, as the challenge's does.

    The same call after a kill goes on: a finished machine type and seed is not done again, and training resumes from
    its last checkpoint, to the same bits.

    Args:
        data: the data set's folder, see `datasets.dcase.find`.
        out: folder for models, scores, the challenge's own files and the report; made where it doesn't exist.
        settings: what is reproduced; by default all of it.
        hardware: where it is done; by default wherever is best.
        jobs: units to run at a time; by default as many as there are GPUs, or one for every 8 cores.
        progress: hears of each step.

    Raises:
        FileNotFoundError, ValueError, TypeError: the arguments don't make sense, or a machine type lacks its training
            or its test clips.
        BlockingIOError: another call is at work in `out`.
        OSError: `out` can't be written to.
    """
    settings = settings or Settings()
    if settings.quick:
        settings = replace(settings, seeds=1, recipe=QUICK | dict(settings.recipe))
    recipes, baseline = systems.recipes(settings.systems, settings.recipe)
    entries = dcase.find(data, YEAR, settings.machines, settings.labels)
    machines = _complete(entries, settings.machines)
    notes = _notes_on_data(data, entries, machines, settings.machines)
    trained = {x.clip.machine_type for x in entries if x.part == "additional"}
    entries = [x for x in entries if x.part != "evaluation" or x.clip.machine_type in trained]
    possible = {name: _possible(recipes, name, entries, notes) for name in machines}
    if settings.quick:
        entries = _evenly_spaced(entries)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        work = [
            Unit(
                machine_type, seed, folder / "units" / f"{machine_type}-seed{seed}",
                tuple(x for x in entries if x.clip.machine_type == machine_type and x.clip.split == "train"),
                tuple(x for x in entries if x.clip.machine_type == machine_type and x.clip.split == "test"),
                possible[machine_type], baseline, hardware or Hardware(),
            )
            for seed in range(settings.seeds)
            for machine_type in machines
        ]  # fmt: skip
        outcomes = list(workers.run_all(work, jobs, progress))
        return report.write(folder, outcomes, recipes, notes, QUICK_NOTICE if settings.quick else "")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second call out of the folder; the system lets go of it even after a kill."""
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"{folder} is in use by another run: wait for it, or write to another folder"
            ) from None
        yield


def _complete(entries: Sequence[Entry], machines: Sequence[str] | None) -> list[str]:
    """Return the machine types to do, in Table 1's order: `machines`, or all whose development set is there.

    Raises:
        ValueError: one of them lacks its training or its test clips.
    """
    present = {(x.clip.machine_type, x.clip.split) for x in entries if x.part == "development"}
    lacking = {
        name: [f"{split}/" for split in ("train", "test") if (name, split) not in present]
        for name in sorted(set(machines or ()) | {name for name, _ in present})
    }
    for name, splits in lacking.items():
        if splits:
            raise ValueError(
                f"{name} has no clips in {' and '.join(splits)} of the development set: unpack dev_data_{name}.zip "
                "again, or name the other machine types with machines="
            )
    if not lacking:
        raise ValueError(
            "there are clips of the evaluation set alone, and Table 1 is of the development set: "
            "dev_data_<machine type>.zip"
        )
    return [name for name in table1.MACHINES if name in lacking]


def _notes_on_data(
    data: str | os.PathLike[str], entries: Sequence[Entry], machines: Sequence[str], asked_for: Sequence[str] | None
) -> list[str]:
    """Return what a reader of the figures must know about the data, a line each."""
    notes = []
    readme = Path(data) / "README.txt"
    if readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith(miniature.NOTICE[:20]):
        notes.append("these recordings are synthetic, a miniature of the data set: the figures say nothing")
    absent = [name for name in table1.MACHINES if name not in machines]
    if absent and asked_for is None:
        notes.append(f"not there: {', '.join(absent)}")
    for name in machines:
        of_type = [x for x in entries if x.clip.machine_type == name]
        ids = {x.clip.machine_id for x in of_type if x.clip.split == "train"}
        if not any(x.part == "additional" for x in of_type):
            notes.append(f"{name}: no additional training set: the systems learn {len(ids)} machine IDs")
            if any(x.part == "evaluation" for x in of_type):
                notes.append(f"{name}: the evaluation set is left out, as nothing is learnt of its machine IDs")
        elif any(x.part == "evaluation" and x.clip.label is None for x in of_type):
            notes.append(f"{name}: the evaluation set has no labels: it is scored, but not evaluated (see labels=)")
    short = [x for x in dcase.shortfalls(entries, YEAR, machines) if "no clips" not in x]
    if short:
        notes.append(
            f"not the whole data set: {len(short)} of its folders are not as they should be; the first: {short[0]}"
        )
    return notes


def _possible(
    recipes: dict[str, Recipe], machine_type: str, entries: Sequence[Entry], notes: list[str]
) -> dict[str, Recipe]:
    """Return the systems that can learn from a machine type's clips; the others are noted.

    Raises:
        ValueError: none can.
    """
    ids = [x.clip.machine_id for x in entries if x.clip.machine_type == machine_type and x.clip.split == "train"]
    possible = {system: recipe for system, recipe in recipes.items() if systems.can_learn(recipe, ids)}
    if not possible:
        raise ValueError(f"{machine_type} has one machine ID, {min(ids)}: only system 4 can be made of it")
    impossible = sorted(recipes.keys() - possible.keys())
    if impossible:
        none = " and ".join(f"no system {system}" for system in impossible)
        notes.append(f"{machine_type} has one machine ID, {min(ids)}, and classifiers tell IDs apart: {none}")
    return possible


def _evenly_spaced(entries: Sequence[Entry]) -> list[Entry]:
    """Return at most `QUICK_TRAIN` or `QUICK_TEST` clips of each part, machine ID, split and label."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for x in entries:
        clip = x.clip
        groups.setdefault((x.part, clip.machine_type, clip.machine_id, clip.split, clip.label), []).append(x)
    chosen = []
    for key, group in groups.items():
        count = QUICK_TRAIN if key[3] == "train" else QUICK_TEST
        chosen += [group[i] for i in np.unique(np.linspace(0, len(group) - 1, count).round().astype(int))]
    return chosen
