"""One unit of a reproduction: one machine type with one seed, trained and scored, once, even when it is killed.

A unit's folder has a model file for each ensemble member, and its table of scores. Beside each lies a fingerprint of
what it was made from: settings, seed and clips. A file with the right fingerprint is not made again.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pyasd import storage
from pyasd.datasets.dcase import Entry
from pyasd.detector import Detector, Machine, fit, load
from pyasd.detector.statistics import combine
from pyasd.errors import TrainingDiverged
from pyasd.progress import Progress, silent
from pyasd.recipes import Recipe
from pyasd.reproduce import systems
from pyasd.reproduce.systems import BASELINE


@dataclass(frozen=True)
class Hardware:
    """Where units are trained and scored, and in which arithmetic: arguments of `pyasd.fit` and `Detector.score`."""

    device: str = "auto"
    backend: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True)
class Unit:
    """One unit: its clips, recipes and place.

    Attributes:
        machine_type, seed: which one it is.
        folder: where its files are kept; no other unit writes there.
        training, test: its clips.
        systems: recipes by system; where two have a member in common, it has the same settings in both.
        baseline: the recipe of the challenge's autoencoder.
        hardware: where it runs.
    """

    machine_type: str
    seed: int
    folder: Path
    training: tuple[Entry, ...]
    test: tuple[Entry, ...]
    systems: dict[str, Recipe]
    baseline: Recipe
    hardware: Hardware

    @property
    def name(self) -> str:
        """The unit's name in progress and messages."""
        return f"{self.machine_type}, seed {self.seed}"

    @property
    def members(self) -> list[str]:
        """The names of its systems' members, each once."""
        return systems.member_names(self.systems.values())


class Outcome(NamedTuple):
    """The outcome of a unit.

    Attributes:
        unit: the unit.
        table: its table of scores, or `None`.
        error: why there is no table; "" where there is one.
        warnings: those of its trainings and of its scoring, each once.
        skipped: training clips that could not be learnt from, over all its trainings.
    """

    unit: Unit
    table: pd.DataFrame | None
    error: str
    warnings: list[str]
    skipped: int = 0


class _Training(NamedTuple):
    """One training: its recipe, of one member; its clips; and the fingerprint of all that goes into it."""

    recipe: Recipe
    clips: Sequence[Entry]
    fingerprint: str


class _Notes(NamedTuple):
    """Notes kept beside a model: the warnings of its training, and how many clips could not be learnt from."""

    warnings: list[str]
    skipped: int


def run(unit: Unit, progress: Progress = silent) -> Outcome:
    """Do one unit, or take what is there of it.

    Raises:
        OSError: its folder can't be written to.
    """
    notes: list[_Notes] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trainings = _trainings(unit)
            unit.folder.mkdir(parents=True, exist_ok=True)
            table, error = _scores(unit, trainings, progress), ""
            notes = [_read_notes(_model_path(unit, name)) for name in trainings]
        except (TrainingDiverged, ValueError) as failure:
            table, error = None, str(failure)
    texts = [text for x in notes for text in x.warnings] + _texts(caught)
    return Outcome(unit, table, error, list(dict.fromkeys(texts)), sum(x.skipped for x in notes))


def _trainings(unit: Unit) -> dict[str, _Training]:
    """Return a unit's trainings by name: one for each member of its systems, and the baseline's."""

    def training(recipe: Recipe, clips: Sequence[Entry]) -> _Training:
        ingredients = [recipe.to_dict(), unit.seed, unit.hardware.precision, _identity(clips)]
        return _Training(recipe, clips, _fingerprint(ingredients))

    trainings = {name: training(systems.alone(unit.systems, name), unit.training) for name in unit.members}
    # The challenge's baseline learns each part by itself (its modes -d and -e).
    for part, source in (("development", "development"), ("evaluation", "additional")):
        clips = [x for x in unit.training if x.part == source]
        if clips and any(x.part == part for x in unit.test):
            trainings[f"{BASELINE}-{part}"] = training(unit.baseline, clips)
    return trainings


def _scores(unit: Unit, trainings: dict[str, _Training], progress: Progress) -> pd.DataFrame:
    """Return a unit's table: a row per test clip, with every member's score, the baseline's and each system's."""
    fingerprints = {name: x.fingerprint for name, x in trainings.items()}
    fingerprint = _fingerprint([fingerprints, sorted(unit.systems), _identity(unit.test), metadata.version("pyasd")])
    path = unit.folder / "scores.parquet"
    if path.is_file() and _has_fingerprint(path, fingerprint):
        return pd.read_parquet(path)
    detectors = {name: _fitted(unit, name, x, progress) for name, x in trainings.items()}
    table = _score(unit, detectors, progress)
    with storage.atomic(path) as partial:
        table.to_parquet(partial, index=False)
    _write_fingerprint(path, fingerprint)
    return table


def _fitted(unit: Unit, name: str, training: _Training, progress: Progress) -> Detector:
    """Return a detector of one member: loaded where it is there, else trained, from its checkpoint on if it has one."""
    path = _model_path(unit, name)
    if not _has_fingerprint(path, training.fingerprint):
        if path.exists():
            warnings.warn(f"{path} came of other clips or settings: it is learnt again", stacklevel=2)
        path.unlink(missing_ok=True)
        _write_fingerprint(path, training.fingerprint)
    if path.exists():
        return load(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        detector = fit(
            [x.clip for x in training.clips], training.recipe, out=path, seed=unit.seed, progress=progress,
            **asdict(unit.hardware),
        )  # fmt: skip
    _write_notes(path, _Notes(_texts(caught), len(detector.skipped)))
    return detector


def _score(unit: Unit, detectors: dict[str, Detector], progress: Progress) -> pd.DataFrame:
    """Score the test clips: all members of the systems from one log-Mel of each clip, then the baseline."""
    parts = {id(x.clip): x.part for x in unit.test}
    clips = [x.clip for x in unit.test]
    how: dict[str, Any] = {"progress": progress, **asdict(unit.hardware)}
    ensemble = systems.together([detectors[name] for name in unit.members], unit.machine_type)
    table = ensemble.score(clips, **how)
    modes: dict[str, str] = table.attrs["modes"]
    table = table.drop(columns=["score", "score.mean", "score.max"])
    table.insert(0, "part", [parts[id(clip)] for clip in clips])
    table.insert(0, "seed", unit.seed)
    table.attrs = {}
    for part in ("development", "evaluation"):
        name = f"{BASELINE}-{part}"
        of_part = [clip for clip in clips if parts[id(clip)] == part]
        if name in detectors and of_part:
            scores = detectors[name].score(of_part, **how)["score.autoencoder"]
            table.loc[table["part"] == part, BASELINE] = scores.to_numpy()
    _add_systems(table, unit.systems, ensemble.machines[unit.machine_type], modes)
    return table


def _add_systems(table: pd.DataFrame, recipes: dict[str, Recipe], machine: Machine, modes: dict[str, str]) -> None:
    """Add a column for each system and combination, from its members' standardised scores."""
    standardised = {
        name: [
            machine.baselines[name].standardise(value, machine_id, mode)
            for value, machine_id in zip(table[f"score.{name}"], table["machine_id"], strict=True)
        ]
        for name, mode in modes.items()
    }
    for system, recipe in recipes.items():
        members = systems.member_names([recipe])
        combined = [combine(values) for values in zip(*(standardised[name] for name in members), strict=True)]
        for column, combination in systems.columns(system, recipe):
            table[column] = [x[combination] for x in combined]


# -- files beside models and tables ------------------------------------------------------------------------------


def _model_path(unit: Unit, name: str) -> Path:
    return unit.folder / f"{name}.safetensors"


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _write_text(path: Path, text: str) -> None:
    with storage.atomic(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _texts(caught: Iterable[warnings.WarningMessage]) -> list[str]:
    return [str(x.message) for x in caught if x.category is UserWarning]


def _write_notes(model: Path, notes: _Notes) -> None:
    _write_text(_beside(model, ".notes"), json.dumps(notes._asdict()))


def _read_notes(model: Path) -> _Notes:
    """Read a training's notes, which hold as long as the model is used."""
    path = _beside(model, ".notes")
    if not path.is_file():
        return _Notes([], 0)
    notes = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(notes, list):  # version 0.1.0 kept the warnings alone
        return _Notes(notes, int(any("were not learnt from" in text for text in notes)))
    return _Notes(**notes)


def _identity(clips: Iterable[Entry]) -> list[list[Any]]:
    """Return what distinguishes clips from others, wherever the data set lies."""
    return [
        [x.part, x.clip.machine_type, x.clip.split, Path(x.clip.name).name, x.clip.label, x.clip.source.size()]
        for x in clips
    ]


def _fingerprint(ingredients: Any) -> str:
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def _has_fingerprint(path: Path, fingerprint: str) -> bool:
    """Return whether `path`, finished or not, is made from what the fingerprint says."""
    beside = _beside(path, ".from")
    return beside.is_file() and beside.read_text(encoding="utf-8") == fingerprint


def _write_fingerprint(path: Path, fingerprint: str) -> None:
    _write_text(_beside(path, ".from"), fingerprint)
