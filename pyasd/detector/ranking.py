"""`score`: with a model as `Detector.score`; without one, clips ranked by how unlike the others they are."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyasd.clips import Channel, Clip, find
from pyasd.compute import Compute, plain_torch
from pyasd.cutting import Cutting
from pyasd.detector.detector import ClipFeatures, Detector
from pyasd.detector.fitting import Fitting, Heard
from pyasd.detector.loading import load
from pyasd.detector.scoring import UnknownIds, row_of, score_modes
from pyasd.progress import Progress, silent
from pyasd.recipes import files
from pyasd.tables import table
from pyasd.tables.table import Row
from pyasd.tables.writer import Resume, Writer

if TYPE_CHECKING:
    from pandas import DataFrame

MIN_CLIPS = 3
"""Clips of a machine type that can be ranked: of two, neither is the odd one."""


def score(  # noqa: PLR0913 (a public door: as `fit` and `Detector.score`)
    clips: Any,
    model: str | os.PathLike[str] | Detector | None = None,
    *,
    ids: Sequence[str] | str | None = None,
    sample_rate: int | None = None,
    features: ClipFeatures = "audio",
    machine_type: str | None = None,
    channel: Channel = 0,
    window: float | None = None,
    hop: float | None = None,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "auto",
    unknown_ids: UnknownIds = "refuse",
    score_mode: str | None = None,
    false_alarms: float | None = None,
    confirm: tuple[int, int] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: Resume = False,
    shard: tuple[int, int] | None = None,
    progress: Progress = silent,
    **settings: Any,
) -> DataFrame:
    """Score clips with a model; or without one, rank them by how unlike the others they are.

    A ranking compares each clip with the nearest ones among the others of its machine ID (of its machine type, where an
    ID has fewer than three), by statistics of each Mel band over time. Nothing is learnt that could explain an odd clip
    away; but more than ten odd clips that sound alike are each other's nearest.

    Args:
        clips: paths, folders, globs, archives or arrays; see `clips.find`.
        model: a detector or its file. `None` ranks the clips, all of them, whatever their names tell.
        ids: see `Detector.score`, as all that follow but for the settings.
        sample_rate: of arrays of samples, in Hz.
        features: what arrays hold, "audio" or "log-mel".
        machine_type: instead of the one that paths tell.
        channel: which channel of a clip, from 0, "mean", or "all" for each by itself.
        window: cut recordings into sections of so many seconds, each with a row of its own; `None` leaves them whole.
        hop: from one section to the next, in seconds; `None` is `window`. See `cutting.Cutting`.
        device: "auto" (a GPU where there is one), "cpu", "cuda", or several GPUs.
        backend: of the operators.
        precision: of the operators; "auto" is float32.
        unknown_ids: with a model alone: "refuse" or "pool".
        score_mode: instead of the members' own.
        false_alarms: with a model alone.
        confirm: with `false_alarms` alone.
        out: a .csv or .parquet file for the table: written as clips are scored, or once they are ranked.
        resume: with a model alone: go on with the rows of an ended run.
        shard: with a model alone.
        progress: told how reading and scoring go.
        **settings: of the recipe "ranking", to override its own: `count=5`, `n_mels=64`, ...

    Returns:
        The table of `Detector.score`. Without a model, scores are standardised by the median and the median absolute
        deviation of all clips' scores.

    Raises:
        TypeError: settings are given with a model, which is fitted already.
        ValueError: without a model, no machine type has the three clips that can be ranked.
        FileNotFoundError, ValueError, OSError: as `Detector.score` and `fit`.
    """
    if model is not None:
        if settings:
            raise TypeError(f"{', '.join(settings)}: settings are for ranking without a model, and one is given")
        detector = model if isinstance(model, Detector) else load(model)
        return detector.score(
            clips, ids=ids, sample_rate=sample_rate, features=features, machine_type=machine_type, channel=channel,
            window=window, hop=hop, device=device, backend=backend, precision=precision, unknown_ids=unknown_ids,
            score_mode=score_mode, false_alarms=false_alarms, confirm=confirm, out=out, resume=resume, shard=shard,
            progress=progress,
        )  # fmt: skip
    if false_alarms is not None or confirm is not None:
        raise TypeError("false_alarms, confirm: decisions need a model, and a ranking without one has only an order")
    if resume or shard is not None:
        raise TypeError("resume, shard: a ranking compares all clips with each other, and can't do with some of them")
    recipe = files.find(files.RANKING).override(**settings)
    compute = Compute.choose(device, backend, precision)
    listed = list(find(clips, ids=ids, sample_rate=sample_rate, features=features, machine_type=machine_type))
    counts = Counter(clip.machine_type for clip in listed)
    fitting = Fitting(recipe, compute, channel, 0, progress, cutting=Cutting.of(window, hop))
    if max(counts.values()) < MIN_CLIPS and fitting.cutting is None and channel != "all":
        raise ValueError(f"{listed[0].name}: {_too_few(max(counts.values()))}")
    with contextlib.nullcontext() if out is None else Writer(out, recipe.names) as writer, plain_torch():
        rows, modes = _rank(fitting, listed, score_mode)
        if writer is not None:
            writer.write(rows)
    scores = table.table(rows, recipe.names)
    scores.attrs |= {"precision": compute.precision, "modes": modes}
    return scores


def _rank(fitting: Fitting, clips: Sequence[Clip], score_mode: str | None) -> tuple[list[Row], dict[str, str]]:
    """Rank clips, machine type by machine type: their rows, in their order, and each member's score mode."""
    ranked: list[tuple[int, Row]] = []
    modes: dict[str, str] = {}
    for machine_type in sorted({clip.machine_type for clip in clips}):
        places = [place for place, clip in enumerate(clips) if clip.machine_type == machine_type]
        heard = fitting.read(machine_type, [clips[place] for place in places])
        items = sorted([*heard.items, *heard.others], key=lambda x: (x.index, x.clip.start, _number(x.clip.channel)))
        of_type = {id(x.clip): row_of(x, x.clip, fitting.channel) for x in items}
        for item in heard.others:
            if item.error is not None:
                row = of_type[id(item.clip)]
                row.status, row.error = item.error.status, str(item.error)
        if len(heard.items) < MIN_CLIPS:
            for row in of_type.values():
                if not row.error:
                    row.status, row.error = "too-few", f"{row.clip}: {_too_few(len(heard.items))}"
        else:
            modes |= _score_each_other(fitting, heard, of_type, score_mode)
        ranked += [(places[x.index], of_type[id(x.clip)]) for x in items]
    return [row for _, row in sorted(ranked, key=lambda x: x[0])], modes


def _number(channel: Channel | None) -> int:
    """A channel's place among others."""
    return channel if isinstance(channel, int) else 0


def _score_each_other(fitting: Fitting, heard: Heard, rows: dict[int, Row], score_mode: str | None) -> dict[str, str]:
    """Score one machine type's clips by each other, and silent ones by all others, into their rows."""
    machine, normal = fitting.machine(heard.data)
    detector = Detector(fitting.recipe, {heard.data.machine_type: machine})
    modes = score_modes(detector, score_mode)
    columns = {name: machine.members[name].mode_names.index(mode) for name, mode in modes.items()}
    for i, item in enumerate(heard.items):
        scores = {name: float(normal[name].scores[i, column]) for name, column in columns.items()}
        machine.fill(rows[id(item.clip)], scores, item.clip.machine_id, modes, fitting.recipe)
    scorers = {name: machine.members[name].scorer(fitting.compute, [mode]) for name, mode in modes.items()}
    for item in heard.others:
        if item.log_mel is not None:
            machine_id = item.clip.machine_id if item.clip.machine_id in machine.ids else None
            scores = {name: float(x.score(item.log_mel, machine_id)) for name, x in scorers.items()}
            machine.fill(rows[id(item.clip)], scores, machine_id, modes, fitting.recipe)
    return modes


def _too_few(count: int) -> str:
    """What is wrong where fewer clips of a machine type than `MIN_CLIPS` are to be ranked."""
    clips = f"{count} clip" + "s" * (count != 1)
    return (
        f"a ranking compares clips of a machine type with each other, and of {clips} none can be called the odd one: "
        "give three or more, or a model that knows the machine (model=; `pyasd fit` makes one)"
    )
