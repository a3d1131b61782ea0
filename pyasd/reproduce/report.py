"""The files of a reproduction: figures, all scores, the challenge's own files, and a page that says how they came."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from pyasd import storage
from pyasd.recipes import Recipe
from pyasd.reproduce import systems, table1
from pyasd.reproduce.systems import BASELINE
from pyasd.reproduce.units import Outcome

_PARTS = {"development": "Development set", "evaluation": "Evaluation set"}
_RULES = {
    "2020": "per machine ID and averaged (the challenge's definition)",
    "pooled": "machine IDs pooled (not the challenge's)",
}
COMPARED = f"{_PARTS['development']}, {_RULES['2020']}"
"""The title of the table whose clips and definition are those of the published figures."""


class Result(NamedTuple):
    """The result of `reproduce`.

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


def write(
    folder: Path, outcomes: Sequence[Outcome], recipes: dict[str, Recipe], notes: Sequence[str], notice: str
) -> Result:
    """Write the results of all units to `folder`: scores.parquet, challenge/ and report.md.

    Args:
        folder: is there.
        outcomes: of all units, in any order.
        recipes: by system.
        notes: on the data; notes on the units are added.
        notice: printed at the head of the report; "" for none.

    Raises:
        ValueError: no unit gave scores.
        OSError: a file can't be written.
    """
    notes = list(notes)
    for outcome in outcomes:
        notes += [f"{outcome.unit.name}: {x}" for x in outcome.warnings]
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
    rows += [column for system, recipe in recipes.items() for column, _ in systems.columns(system, recipe)]
    tables = _tables(scores, rows)
    with storage.atomic(folder / "scores.parquet") as partial:
        scores.to_parquet(partial, index=False)
    for (part, seed), table in scores.groupby(["part", "seed"]):
        for row in rows:
            place = folder / "challenge" / str(part) / row.replace(", ", "-").replace(" ", "-") / f"seed{seed}"
            table1.challenge_files(place, table, row)
    path = folder / "report.md"
    with storage.atomic(path) as partial:
        partial.write_text(_markdown(tables, notes, recipes, outcomes, notice), encoding="utf-8")
    failed = len(outcomes) - len(done) + len(unscored) + sum(x.skipped > 0 for x in outcomes)
    return Result(scores, tables, notes, failed, path)


def _tables(scores: pd.DataFrame, rows: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return figures by title, for each part and rule that there are any for."""
    tables = {
        f"{part_title}, {rule_title}": table1.figures(scores[scores["part"] == part], rows, rule)
        for part, part_title in _PARTS.items()
        for rule, rule_title in _RULES.items()
    }
    return {title: figures for title, figures in tables.items() if len(figures)}


def _markdown(
    tables: dict[str, pd.DataFrame],
    notes: Sequence[str],
    recipes: dict[str, Recipe],
    outcomes: Sequence[Outcome],
    notice: str,
) -> str:
    seeds = sorted({x.unit.seed for x in outcomes})
    on_gpu = torch.cuda.is_available() and outcomes[0].unit.hardware.device != "cpu"
    device = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    lines = [
        "# Table 1 of Giri et al. (2020), reproduced with pyasd",
        "",
        *([f"**{notice}**", ""] if notice else []),
        f"pyasd {metadata.version('pyasd')}, torch {torch.__version__}, {device}; seeds {', '.join(map(str, seeds))}.",
        "",
        *(f"- system {name}: {' + '.join(systems.member_names([recipe]))}" for name, recipe in recipes.items()),
        f"- {BASELINE}: the challenge's autoencoder, on the development set alone",
    ]
    for title, figures in tables.items():
        lines += ["", f"## {title}", "", table1.markdown(figures, title == COMPARED)]
    lines += ["", "## To be known", ""]
    lines += [f"- {x}" for x in notes] or ["- nothing is missing, and nothing went wrong"]
    return "\n".join(lines) + "\n"
