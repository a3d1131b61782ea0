"""Learning detectors from clips: `fit`, and `plan`, which says what would be learnt."""

from __future__ import annotations

import contextlib
import os
import urllib.parse
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pyasd import storage
from pyasd.clips import Channel, Clip, Doubtful, Machines, find, for_fitting, found_and_broken, groups, name_machines
from pyasd.compute import Compute, plain_torch
from pyasd.cutting import Cutting
from pyasd.detector.calibration import Calibration
from pyasd.detector.conditions import Conditions
from pyasd.detector.detector import ClipFeatures, Detector
from pyasd.detector.machine import Machine
from pyasd.detector.scoring import announced, extraction
from pyasd.detector.statistics import Baseline
from pyasd.errors import ClipError
from pyasd.features.log_mels import Features, extract
from pyasd.features.store import LogMels, LogMelStore
from pyasd.models import Member, NormalScores, kinds
from pyasd.progress import Progress, silent
from pyasd.recipes import Recipe, files
from pyasd.training.data import TrainingSet
from pyasd.training.run import Run

if TYPE_CHECKING:
    from pandas import DataFrame


def fit(  # noqa: PLR0913 (a public door: what clips are, how they are heard, and what is wanted)
    clips: Any,
    system: str | os.PathLike[str] | Recipe = files.DEFAULT,
    *,
    out: str | os.PathLike[str] | None = None,
    ids: Sequence[str] | str | None = None,
    sample_rate: int | None = None,
    features: ClipFeatures = "audio",
    machine_type: str | None = None,
    machines: Machines = "auto",
    doubtful: Doubtful = "refuse",
    channel: Channel = 0,
    window: float | None = None,
    hop: float | None = None,
    seed: int = 0,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "auto",
    progress: Progress = silent,
    **settings: Any,
) -> Detector:
    """Learn what machines sound like when they are healthy: one model per machine type, over all its machine IDs.

    Validation, test and supplemental clips (in folders `val`, `test`, ...) are left out, unless there are no others.
    Clips whose name or folder says that they are anomalous are never learnt from. `plan` shows what would be learnt.

    Args:
        clips: paths, folders, globs, archives or arrays; see `clips.find`.
        ids: machine IDs, one per clip or one for all, instead of those that names tell.
        sample_rate: of arrays of samples, in Hz.
        features: what arrays hold, "audio" or "log-mel".
        machine_type: instead of the one that paths tell.
        system: the name of a recipe that comes with pyasd, a recipe, or its TOML file (docs/recipes.md).
        machines: what tells machine types where names of data sets don't: see `clips.name_machines`.
        doubtful: "refuse" clips without a label whose names have a word such as "broken", or "learn" them as healthy.
        out: file to save the detector to. While training, checkpoints lie in a folder beside it, named `out` with
            `.checkpoint` added: the same call after a kill resumes there, and ends with the same detector.
        channel: which channel of a clip, from 0, "mean", or "all" for each by itself.
        window: cut recordings into sections of so many seconds, learnt as clips of their own; `None` leaves them whole.
        hop: from one section to the next, in seconds; `None` is `window`. See `cutting.Cutting`.
        seed: the same seed on the same machine, with as many threads, gives the same detector, bit for bit.
        device: "auto" (a GPU where there is one), "cpu" or "cuda"; of several the first.
        backend: of the operators: "auto", "reference", "cpu", "cuda" or "triton".
        precision: of the operators; "auto" is float32, but members may train in bfloat16 where the device is faster so
            (see `Member.training_compute`).
        progress: told how reading, training and scoring go.
        **settings: of the recipe, to override its own: `epochs=20`, `order="middle"`, `score="conditional"`, ...

    Raises:
        FileNotFoundError, ValueError, TypeError: the arguments don't make sense, or no clip can be learnt from.
        TrainingDiverged: the loss became NaN or infinite.
        OSError: `out` can't be written to; asked before anything else.
    """
    recipe = files.find(system).override(**settings)
    path = None if out is None else storage.check_writable(out)
    found, broken = found_and_broken(
        find(clips, ids=ids, sample_rate=sample_rate, features=features, machine_type=machine_type)
    )
    if not found:
        raise ValueError(f"there is nothing to learn from: {broken[0][1]}")
    normal = for_fitting(name_machines(found, machines), doubtful)
    checkpoints = None if path is None else path.with_name(path.name + ".checkpoint")
    compute, cutting = Compute.choose(device, backend, precision), Cutting.of(window, hop)
    detector = Fitting(recipe, compute, channel, seed, progress, checkpoints, cutting).fit(normal, broken)
    if path is not None and checkpoints is not None:
        detector.save(path)
        for file in checkpoints.glob("*.safetensors"):
            file.unlink()
        with contextlib.suppress(OSError):  # training was over at once, or something of somebody else's lies in it
            checkpoints.rmdir()
    return detector


def plan(
    clips: Any,
    *,
    ids: Sequence[str] | str | None = None,
    machine_type: str | None = None,
    machines: Machines = "auto",
) -> DataFrame:
    """List what `fit` takes clips for, without reading one.

    Args:
        clips: paths, folders, globs or archives.
        ids: see `fit`, as all that follow.
        machine_type: instead of the one that paths tell.
        machines: what tells machine types.

    Returns:
        A row for each group of clips that are taken for the same: `folder`, `machine_type`, `machine_id`, `split`,
        `label` ("normal", "anomalous" or ""), `clips`, how many there are, and `learnt`: whether `fit` learns them.

    Raises:
        FileNotFoundError, ValueError, TypeError: the arguments don't make sense, or no clip can be learnt from.
    """
    import pandas as pd

    found = name_machines(found_and_broken(find(clips, ids=ids, machine_type=machine_type))[0], machines)
    rows = groups(found, for_fitting(found, "learn"))
    words = {None: "", 0: "normal", 1: "anomalous"}
    columns = ("folder", "machine_type", "machine_id", "split", "label", "clips", "learnt")
    return pd.DataFrame([asdict(x) | {"label": words[x.label]} for x in rows], columns=list(columns))


class Heard(NamedTuple):
    """One machine type's clips, as they were read.

    Attributes:
        data: the clips that can be learnt from.
        items: what was found of each of them, without its log-Mel.
        others: the clips that can't be: silent ones, and those with an error.
    """

    data: TrainingSet
    items: list[Features]
    others: list[Features]


@dataclass(frozen=True)
class Fitting:
    """How detectors are fitted.

    Attributes:
        recipe, compute, channel, seed, progress: see `fit`.
        checkpoints: the folder of the checkpoints; `None` for none.
        cutting: where recordings are cut; `None` learns them whole.
    """

    recipe: Recipe
    compute: Compute
    channel: Channel
    seed: int
    progress: Progress
    checkpoints: Path | None = None
    cutting: Cutting | None = None

    def fit(self, clips: Sequence[Clip], broken: Sequence[tuple[str, ClipError]] = ()) -> Detector:
        """Learn from all of `clips`, machine type by machine type; `broken` places are skipped."""
        skipped = [_skipped(name, error) for name, error in broken]
        machines = {}
        with plain_torch():
            for machine_type in sorted({clip.machine_type for clip in clips}):
                heard = self.read(machine_type, [x for x in clips if x.machine_type == machine_type])
                skipped += [_skipped(item.clip.name, item.error or _silent(item)) for item in heard.others]
                if not heard.items:
                    first = "; ".join(row["error"] for row in skipped[-len(heard.others) :][:3])
                    what = heard.data.clips_name
                    raise ValueError(f"none of the {len(heard.others)} {what} can be learnt from: {first}")
                machine, _ = self.machine(heard.data)
                conditions = Conditions.of(heard.data.log_mels, heard.items, heard.data.ids)
                machines[machine_type] = replace(machine, conditions=conditions)
        if skipped:
            warnings.warn(
                f"{len(skipped)} of {len(clips) + len(broken)} clips were not learnt from; the first: "
                f"{skipped[0]['error']} (Detector.skipped lists them all)",
                stacklevel=3,
            )
        return Detector(self.recipe, machines, skipped)

    def read(self, machine_type: str, clips: Sequence[Clip]) -> Heard:
        """Read one machine type's clips, once for each speed that a member needs."""
        usable = clips
        items: list[Features] = []
        others: list[Features] = []
        versions: dict[float, LogMels] = {}
        compute = self.compute.on([self.compute.device])
        for ratio in (1.0, *self.recipe.speeds):
            stage = f"reading {machine_type}".strip() + ("" if ratio == 1 else f" at ratio {ratio:g}")
            store, places = LogMelStore(), []
            heard = []
            found = extract(usable, extraction(self.recipe, self.channel, ratio, self.cutting), compute)
            for item in announced(found, self.progress, stage, len(usable)):
                if item.log_mel is not None and not item.silent:
                    places.append(item.index)
                    store.append(item.log_mel)
                    heard.append(replace(item, log_mel=None))
                else:
                    others.append(item)
            usable = [item.clip for item in heard]
            items = [items[i] for i in places] if items else heard
            versions = {other: x.select(places) for other, x in versions.items()} | {ratio: store.pack()}
        ids = [clip.machine_id for clip in usable]
        log_mels = versions.pop(1.0)
        return Heard(TrainingSet(log_mels, ids, self.seed, machine_type, versions), items, others)

    def machine(self, data: TrainingSet) -> tuple[Machine, dict[str, NormalScores]]:
        """Fit a machine type's members to its clips; the clips' own scores come with it, by member."""
        recipe = self.recipe
        alone = sorted(machine_id for machine_id, count in Counter(data.ids).items() if count == 1)
        if alone and len(data) > 1 and recipe.statistics == "training":
            warnings.warn(
                f"machine ID {', '.join(map(repr, alone))} has a single {data.machine_type} clip".replace("  ", " ")
                + ", and its scores are standardised by the other IDs' spread: give more clips of it",
                stacklevel=2,
            )
        machine = Machine()
        scores: dict[str, NormalScores] = {}
        for member in self._members(data):
            run = self._run(member, data.machine_type)
            machine.histories[member.name] = member.fit(data, run)
            machine.members[member.name] = member
            # Normal clips are scored as any others will be, whatever the member trained in.
            normal = member.normal_scores(data, replace(run, compute=self.compute))
            robust = recipe.statistics == "robust"
            machine.baselines[member.name] = Baseline.of(normal, member.mode_names, robust)
            scores[member.name] = normal
            _warn(member.remarks(), data)
        known = {name: x.unlearnt for name, x in scores.items() if x.unlearnt is not None}
        if len(known) == len(scores):
            machine = replace(machine, calibration=Calibration.of(data.ids, known, training=True))
        return machine, scores

    def _run(self, member: Member, machine_type: str) -> Run:
        """How a member is trained on a machine type's clips."""
        file = f"{urllib.parse.quote(machine_type, safe='') or 'machine'}.{member.name}.safetensors"
        return Run(
            self.seed,
            member.training_compute(self.compute),
            self.recipe.statistics,
            None if self.checkpoints is None else self.checkpoints / file,
            self.progress,
            f"training {member.name} {machine_type}".strip(),
        )

    def _members(self, data: TrainingSet) -> list[Member]:
        """The members that can learn from the clips, not fitted yet; warns of those that can't.

        Raises:
            ValueError: none can.
        """
        mels = self.recipe.features.n_mels
        members = [kinds()[x.kind](x.name, x.config, mels, self.seed) for x in self.recipe.members]
        obstacles = {member.name: member.obstacle(data.ids) for member in members}
        possible = [member for member in members if obstacles[member.name] is None]
        reasons = list(dict.fromkeys(why for why in obstacles.values() if why is not None))
        if not possible:
            raise ValueError(f"{_prefix(data)}{'; '.join(reasons)}; or fit group-made")
        if reasons:
            left_out = [name for name, why in obstacles.items() if why is not None]
            learnt = " and ".join(member.name for member in possible)
            _warn([f"{'; '.join(reasons)}. {', '.join(left_out)} left out, {learnt} learnt"], data)
        return possible


def _silent(item: Features) -> ClipError:
    return ClipError("silent", f"{item.clip.name}: digital silence teaches nothing")


def _skipped(name: str, error: ClipError) -> dict[str, str]:
    return {"clip": name, "status": error.status, "error": str(error)}


def _warn(remarks: Sequence[str], data: TrainingSet) -> None:
    for remark in remarks:
        warnings.warn(f"{_prefix(data)}{remark}", stacklevel=2)


def _prefix(data: TrainingSet) -> str:
    return f"{data.machine_type}: " if data.machine_type else ""
