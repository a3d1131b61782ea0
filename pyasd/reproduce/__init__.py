"""Reproduce the report's Table 1 on the data set of DCASE 2020 Task 2: train, score and evaluate its four systems.

Each ensemble member is trained once for a machine type and a seed; systems are made of the members' scores.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from pyasd import config
from pyasd.datasets import dcase
from pyasd.datasets.dcase import Entry
from pyasd.factory import miniature
from pyasd.progress import Progress
from pyasd.reproduce import table1, units
from pyasd.reproduce.units import BASELINE, Outcome, Unit

YEAR = 2020
SYSTEMS = ("1", "2", "3", "4")

QUICK = {"epochs": 2}
"""Settings of `quick`."""

QUICK_TRAIN, QUICK_TEST = 16, 12
"""Clips of each machine ID that `quick` trains with, and of each label that it tests with, evenly spaced."""

QUICK_NOTICE = (
    f"QUICK: {QUICK['epochs']} epochs, one seed, at most {QUICK_TRAIN} training clips per machine ID and {QUICK_TEST} "
    "test clips per label. This shows that everything runs. Its figures are NO reproduction."
)


class Result(NamedTuple):
    """What `reproduce` found.

    Attributes:
        scores: all units' tables: a row for each seed and test clip.
        tables: `table1.figures` by title, the challenge's own definition first.
        notes: what isn't there or went wrong, a line each.
        failed: units that gave no scores, and clips without one; units of which some clips could not be learnt from.
        report: the Markdown report.
    """

    scores: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    notes: list[str]
    failed: int
    report: Path


def reproduce(
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    systems: Sequence[str] = SYSTEMS,
    machines: Sequence[str] | None = None,
    seeds: int = 4,
    quick: bool = False,
    labels: str | os.PathLike[str] | None = None,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "auto",
    jobs: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Result:
    """Train the report's systems on the data set of 2020, score its test clips, and compare with Table 1.

    All machine IDs of a machine type train its classifiers and its Group MADE, those of the additional training set
    among them where it is there; the baseline learns the development set alone, as the challenge's does.

    The same call after a kill goes on: a finished machine type and seed is not done again, and training resumes from
    its last checkpoint, to the same bits.

    Args:
        data: the data set's folder, see `datasets.dcase.find`.
        out: folder for models, scores, the challenge's own files and the report; made where it doesn't exist.
        systems: of the report, "1" to "4".
        machines: machine types; `None` for all six.
        seeds: seeds 0, 1, ... to train with; figures are means over these.
        quick: few epochs, few clips and one seed: shows that everything runs, and reproduces nothing.
        labels: the organisers' list of the evaluation set's labels, if it doesn't lie in the folder.
        device, backend, precision: see `pyasd.fit`.
        jobs: units to run at a time; by default as many as there are GPUs, or one for every 8 cores.
        progress: told of each step.
        **settings: of the recipes, instead of their own, as `epochs=50`.

    Raises:
        FileNotFoundError, ValueError, TypeError: the arguments don't make sense, or a machine type lacks its training
            or its test clips.
        BlockingIOError: another call is at work in `out`.
        OSError: `out` can't be written to.
    """
    unknown = sorted(set(systems).difference(SYSTEMS))
    if unknown or not systems:
        raise ValueError(f"no system {', '.join(unknown) or 'given'}: the report has {', '.join(SYSTEMS)}")
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, not {seeds}")
    if quick:
        seeds, settings = 1, QUICK | settings
    recipes = _recipes(systems, settings)
    baseline = recipes.pop("autoencoder")
    entries = dcase.find(data, YEAR, machines, labels)
    wanted = _complete(entries, machines)
    notes = _notes(entries, wanted, machines)
    readme = Path(data) / "README.txt"
    if readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith(miniature.NOTICE[:20]):
        notes.insert(0, "these recordings are synthetic, a miniature of the data set: the figures say nothing")
    learnt = {x.clip.machine_type for x in entries if x.part == "additional"}
    entries = [x for x in entries if x.part != "evaluation" or x.clip.machine_type in learnt]
    possible = {name: _possible(recipes, name, entries, notes) for name in wanted}
    if quick:
        entries = _few(entries)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder):
        work = [
            Unit(
                machine_type, seed, folder / "units" / f"{machine_type}-seed{seed}",
                tuple(x for x in entries if x.clip.machine_type == machine_type and x.clip.split == "train"),
                tuple(x for x in entries if x.clip.machine_type == machine_type and x.clip.split == "test"),
                possible[machine_type], baseline, device, backend, precision,
            )
            for seed in range(seeds)
            for machine_type in wanted
        ]  # fmt: skip
        outcomes = list(units.run_all(work, jobs, progress))
        return _finish(folder, outcomes, recipes, notes, quick)


def _recipes(systems: Sequence[str], settings: dict[str, Any]) -> dict[str, config.Recipe]:
    """The systems' recipes and the baseline's, with settings that go to all that have them.

    Raises:
        TypeError: none has such a setting.
    """
    recipes = {name: config.system(name) for name in dict.fromkeys((*systems, "autoencoder"))}
    members = dict.fromkeys(member for recipe in recipes.values() for member in recipe.members)
    config.Recipe(tuple(members)).override(**settings)
    for setting, value in settings.items():
        for name in recipes:
            with contextlib.suppress(TypeError):  # others have it
                recipes[name] = recipes[name].override(**{setting: value})
    return recipes


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Keeps a second call out of the folder; the system lets go of it even after a kill."""
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"{folder} is in use by another run: wait for it, or write to another folder"
            ) from None
        yield


def _complete(entries: Sequence[Entry], machines: Sequence[str] | None) -> list[str]:
    """The machine types to do, in Table 1's order: those wanted, or all whose development set is there.

    Raises:
        ValueError: one that is wanted lacks its training or its test clips.
    """
    have = {(x.clip.machine_type, x.clip.split) for x in entries if x.part == "development"}
    lacking = {
        name: [f"{split}/" for split in ("train", "test") if (name, split) not in have]
        for name in sorted(set(machines or ()) | {name for name, _ in have})
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


def _notes(entries: Sequence[Entry], wanted: Sequence[str], machines: Sequence[str] | None) -> list[str]:
    """What a reader of the figures must know of the data."""
    notes = []
    absent = [name for name in table1.MACHINES if name not in wanted]
    if absent and machines is None:
        notes.append(f"not there: {', '.join(absent)}")
    for name in wanted:
        own = [x for x in entries if x.clip.machine_type == name]
        ids = {x.clip.machine_id for x in own if x.clip.split == "train"}
        if not any(x.part == "additional" for x in own):
            notes.append(f"{name}: no additional training set: the systems learn {len(ids)} machine IDs")
            if any(x.part == "evaluation" for x in own):
                notes.append(f"{name}: the evaluation set is left out, as nothing is learnt of its machine IDs")
        elif any(x.part == "evaluation" and x.clip.label is None for x in own):
            notes.append(f"{name}: the evaluation set has no labels: it is scored, but not evaluated (see labels=)")
    short = [x for x in dcase.shortfalls(entries, YEAR, wanted) if "no clips" not in x]
    if short:
        notes.append(
            f"not the whole data set: {len(short)} of its folders are not as they should be; the first: {short[0]}"
        )
    return notes


def _possible(
    recipes: dict[str, config.Recipe], name: str, entries: Sequence[Entry], notes: list[str]
) -> dict[str, config.Recipe]:
    """The systems whose classifiers have something to tell apart: machine IDs, or an ID's own warps."""
    ids = {x.clip.machine_id for x in entries if x.clip.machine_type == name and x.clip.split == "train"}

    def able(recipe: config.Recipe) -> bool:
        members = [recipe.settings_of(member) for member in recipe.members]
        return all(x.variants > 1 for x in members if isinstance(x, config.ClassifierConfig))

    if len(ids) > 1:
        return recipes
    possible = {system: recipe for system, recipe in recipes.items() if able(recipe)}
    if not possible:
        raise ValueError(f"{name} has one machine ID, {min(ids)}: only system 4 can be made of it")
    impossible = sorted(recipes.keys() - possible.keys())
    if impossible:
        none = " and ".join(f"no system {system}" for system in impossible)
        notes.append(f"{name} has one machine ID, {min(ids)}, and classifiers tell IDs apart: {none}")
    return possible


def _few(entries: Sequence[Entry]) -> list[Entry]:
    """A few of each kind of clips, evenly spaced."""
    groups: dict[tuple[Any, ...], list[Entry]] = {}
    for x in entries:
        clip = x.clip
        groups.setdefault((x.part, clip.machine_type, clip.machine_id, clip.split, clip.label), []).append(x)
    few = []
    for key, own in groups.items():
        count = QUICK_TRAIN if key[3] == "train" else QUICK_TEST
        few += [own[i] for i in np.unique(np.linspace(0, len(own) - 1, count).round().astype(int))]
    return few


# -- results -----------------------------------------------------------------------------------------------------


def _finish(
    folder: Path, outcomes: Sequence[Outcome], recipes: dict[str, config.Recipe], notes: list[str], quick: bool
) -> Result:
    """Tables of all units, written."""
    spoilt = 0
    for outcome in outcomes:
        notes += [f"{outcome.unit.name}: {x}" for x in outcome.warnings]
        spoilt += any("were not learnt from" in x for x in outcome.warnings)
        if outcome.table is None:
            notes.append(f"{outcome.unit.name} gave no scores: {outcome.error}")
    done = [x for x in outcomes if x.table is not None]
    if not done:
        raise ValueError("no unit gave scores; the first: " + outcomes[0].error)
    done.sort(key=lambda x: (x.unit.seed, table1.MACHINES.index(x.unit.machine_type)))
    scores = pd.concat([x.table for x in done], ignore_index=True)
    unscored = scores[scores["error"] != ""]
    if len(unscored):
        notes.append(f"{len(unscored)} clips have no score and don't count; the first: {unscored['error'].iloc[0]}")
    rows = [BASELINE] if BASELINE in scores else []
    rows += [column for system, recipe in recipes.items() for column, _ in units.columns(system, recipe)]
    titles = {
        ("development", "2020"): "Development set, per machine ID and averaged (the challenge's definition)",
        ("development", "pooled"): "Development set, machine IDs pooled (not the challenge's)",
        ("evaluation", "2020"): "Evaluation set, per machine ID and averaged (the challenge's definition)",
        ("evaluation", "pooled"): "Evaluation set, machine IDs pooled (not the challenge's)",
    }
    tables = {}
    for (part, rule), title in titles.items():
        found = table1.figures(scores[scores["part"] == part], rows, rule)
        if len(found):
            tables[title] = found
    _write_parquet(folder / "scores.parquet", scores)
    for (part, seed), own in scores.groupby(["part", "seed"]):
        for row in rows:
            place = folder / "challenge" / str(part) / row.replace(", ", "-").replace(" ", "-") / f"seed{seed}"
            table1.challenge_files(place, own, row)
    report = folder / "report.md"
    report.write_text(_report(tables, notes, recipes, outcomes, quick), encoding="utf-8")
    return Result(scores, tables, notes, len(outcomes) - len(done) + len(unscored) + spoilt, report)


def _write_parquet(path: Path, table: pd.DataFrame) -> None:
    partial = path.with_name(path.name + ".partial")
    table.to_parquet(partial, index=False)
    os.replace(partial, path)


def compared(title: str) -> bool:
    """Whether the published figures are of that table's clips and definition."""
    return title.startswith("Development set, per machine ID")


def _report(
    tables: dict[str, pd.DataFrame],
    notes: Sequence[str],
    recipes: dict[str, config.Recipe],
    outcomes: Sequence[Outcome],
    quick: bool,
) -> str:
    seeds = sorted({x.unit.seed for x in outcomes})
    on_gpu = torch.cuda.is_available() and outcomes[0].unit.device != "cpu"
    device = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    lines = [
        "# Table 1 of Giri et al. (2020), reproduced with pyasd",
        "",
        *([f"**{QUICK_NOTICE}**", ""] if quick else []),
        f"pyasd {metadata.version('pyasd')}, torch {torch.__version__}, {device}; seeds {', '.join(map(str, seeds))}.",
        "",
        *(f"- system {name}: {' + '.join(recipe.members)}" for name, recipe in recipes.items()),
        f"- {BASELINE}: the challenge's autoencoder, on the development set alone",
    ]
    for title, found in tables.items():
        lines += ["", f"## {title}", "", table1.markdown(found, compared(title))]
    lines += ["", "## To be known", ""]
    lines += [f"- {x}" for x in notes] or ["- nothing is missing, and nothing went wrong"]
    return "\n".join(lines) + "\n"
