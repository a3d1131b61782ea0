"""A fitted system: models, the statistics that standardise their scores, and the recipe of both.

`fit` makes a `Detector`, `load` reads one from its file, and `score` applies one to clips, or, without one, ranks
clips by how unlike the rest they are.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyasd import models, storage
from pyasd.audio import Channel
from pyasd.clips import Clip, find, for_scoring
from pyasd.config import Recipe
from pyasd.ensemble import Statistics, combine
from pyasd.errors import ClipError, DeviceLost, ModelFileError
from pyasd.features.log_mels import Features
from pyasd.features.transfer import Fetched, MemoryLimit, is_lost, too_large
from pyasd.pipeline import Pipeline
from pyasd.progress import Progress
from pyasd.tables import table as results
from pyasd.training import History

if TYPE_CHECKING:
    from pandas import DataFrame

FORMAT = 1
"""The number of the model files' format: raised whenever older versions can't read newer files."""

BATCH_CLIPS = 64
"""Clips whose scores are computed together, and then written."""

BATCH_FRAMES = 1 << 15
"""Frames in a batch after which no clip is added (17 min of sound, 16 MiB): hour-long clips are scored one by one."""

GPU_BATCHES = 4
"""How many times as much a GPU gets at once."""

ClipFeatures = Literal["audio", "log-mel"]
UnknownIds = Literal["refuse", "pool"]


def table_writer(
    out: str | os.PathLike[str] | None, recipe: Recipe
) -> contextlib.AbstractContextManager[results.Writer | None]:
    """The writer of the table that a recipe's scores make, or nothing where no table is wanted."""
    return contextlib.nullcontext() if out is None else results.Writer(out, recipe.members)


class Explanation(NamedTuple):
    """What a clip sounds like and where its score comes from, both `[frames, mels]` float32.

    `log_mel` is in dB. `score_map` is each frame's and band's mean negative log-likelihood in nats (Group MADE; with
    the mode "bands" in standard deviations above the band's mean) or squared error in dB squared (autoencoder), or its
    share of the score of `spectrum` (summed over bands and averaged over frames, they are the score) or, to first
    order, of a classifier's; NaN for frames that the score mode doesn't count.
    """

    log_mel: np.ndarray[Any, np.dtype[np.float32]]
    score_map: np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Machine:
    """What was learnt of one machine type: its members, their statistics and how their training went, by name."""

    members: dict[str, models.Member]
    statistics: dict[str, Statistics]
    histories: dict[str, History]

    @property
    def ids(self) -> tuple[str, ...]:
        """The machine IDs it knows, sorted."""
        return next(iter(self.statistics.values())).ids


class Detector:
    """A fitted system.

    Attributes:
        recipe: what it is made of.
        machines: what was learnt, by machine type.
        skipped: the clips that could not be learnt from: `{"clip", "status", "error"}` each (not saved).
        versions: of pyasd and torch that fitted it.
    """

    def __init__(
        self,
        recipe: Recipe,
        machines: dict[str, Machine],
        skipped: Sequence[dict[str, str]] = (),
        versions: dict[str, str] | None = None,
    ) -> None:
        self.recipe = recipe
        self.machines = machines
        self.skipped = list(skipped)
        self.versions = versions or {"pyasd": metadata.version("pyasd"), "torch": str(torch.__version__)}

    def __repr__(self) -> str:
        known = "; ".join(f"{name or 'machine'}: {', '.join(x.ids)}" for name, x in self.machines.items())
        return f"<Detector {' + '.join(self.recipe.members)} ({known})>"

    def score(
        self,
        clips: Any,
        *,
        ids: Sequence[str] | str | None = None,
        sample_rate: int | None = None,
        features: ClipFeatures = "audio",
        machine_type: str | None = None,
        channel: Channel = 0,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "auto",
        unknown_ids: UnknownIds = "refuse",
        score_mode: str | None = None,
        out: str | os.PathLike[str] | None = None,
        progress: Progress | None = None,
    ) -> DataFrame:
        """Score clips. Where both training and test clips are given (a data set's folder), training clips are left out.

        Args:
            clips, ids, sample_rate, features, machine_type: see `clips.find`.
            channel: which channel of a clip, from 0, or "mean".
            device: "auto" (a GPU where there is one), "cpu" or "cuda"; or several GPUs, "cuda:0,cuda:1", among which
                batches take turns. A GPU whose memory ends gets smaller batches.
            backend, precision: of the operators, see `ops`; "auto" precision is float32.
            unknown_ids: clips of a machine ID that the detector never learnt are refused (they get a row with the
                reason), or scored against the statistics of all IDs ("pool", and status "pooled").
            score_mode: instead of the members' own: "joint", "middle", "conditional", "bands", "mse",
                "log-probability", "probability" or "mahalanobis".
            out: a .csv or .parquet file for the table, written as clips are scored.
            progress: told of each clip.

        Returns:
            One row per clip, in order: see `results.Row`. `score` is in standard deviations above the mean of
            the machine ID's normal clips, combined over the members as the recipe says, `score.mean` and `score.max`
            are both ways of that; `score.<member>` is what the member itself measures, in nats, dB squared or, of
            "bands", standard deviations. Higher is more anomalous. The table's `attrs` say in which `precision` it was
            computed, and each member's score mode (`modes`).

        Raises:
            FileNotFoundError, ValueError, TypeError: the arguments don't make sense; what is wrong with a clip
                stands in its row.
            DeviceLost: a GPU failed; the rows so far are in `<out>.partial`.
        """
        found = for_scoring(find(clips, ids=ids, sample_rate=sample_rate, features=features, machine_type=machine_type))
        pipeline = Pipeline.of(channel, device, backend, precision, progress)
        with table_writer(out, self.recipe) as writer:
            return self.score_found(found, pipeline, unknown_ids, score_mode, writer)

    def score_found(
        self,
        clips: Sequence[Clip],
        pipeline: Pipeline,
        unknown_ids: UnknownIds,
        score_mode: str | None,
        writer: results.Writer | None,
    ) -> DataFrame:
        """`score` of clips that are found already, with the table's writer."""
        if unknown_ids not in ("refuse", "pool"):
            raise ValueError(f"unknown_ids must be 'refuse' or 'pool', not {unknown_ids!r}")
        modes = self.score_modes(score_mode)
        lanes = {device: self._lane(device, pipeline, modes) for device in pipeline.devices}
        ahead = 0 if pipeline.devices == (torch.device("cpu"),) else 2 * len(pipeline.devices)
        rows: list[results.Row] = []
        begun: deque[_Begun] = deque()
        try:
            with contextlib.closing(pipeline.extract(clips, self.recipe, "scoring", everywhere=True)) as items:
                for batch in itertools.chain(_batches(items), itertools.repeat(None, ahead)):
                    if batch is not None:
                        begun.append(self._begin(batch, lanes, unknown_ids, pipeline.channel))
                    if begun and (batch is None or len(begun) > ahead):
                        ended = self._end(begun.popleft(), modes)
                        rows += ended
                        if writer is not None:
                            writer.write(ended)
        except RuntimeError as error:
            if not is_lost(error):
                raise
            kept = "" if writer is None else f"; those are in {writer.partial}"
            raise DeviceLost(
                f"a GPU failed when {len(rows)} of {len(clips)} clips had their rows{kept}. Score the others on "
                f"another device, or with device='cpu'. The GPU's error: {str(error).splitlines()[0]}"
            ) from error
        table = results.table(rows, self.recipe.members)
        table.attrs |= {"precision": pipeline.precision, "modes": modes}
        return table

    def explain(
        self,
        clip: Any,
        *,
        ids: Sequence[str] | str | None = None,
        sample_rate: int | None = None,
        features: ClipFeatures = "audio",
        machine_type: str | None = None,
        channel: Channel = 0,
        device: str = "auto",
        backend: str = "auto",
        score_mode: str | None = None,
        member: str | None = None,
    ) -> Explanation:
        """Where in time and frequency a clip's score comes from. The arguments are those of `score`; `member` is
        the ensemble member to ask, by default the first.

        Raises:
            ClipError: the clip can't be read, or is of a machine type that the detector never learnt.
            ValueError: not exactly one clip, or no such member or score mode.
        """
        found = list(find(clip, ids=ids, sample_rate=sample_rate, features=features, machine_type=machine_type))
        if len(found) != 1:
            raise ValueError(f"explain takes one clip, not {len(found)}")
        modes = self.score_modes(score_mode)
        member = member or next(iter(modes))
        if member not in modes:
            raise ValueError(f"no member {member!r}; this detector has {', '.join(modes)}")
        pipeline = Pipeline.of(channel, device, backend, "float32", None)
        (item,) = pipeline.extract(found, self.recipe, "explaining")
        if item.error is not None:
            raise item.error
        assert item.log_mel is not None
        machine_type, machine_id = self._locate(item.clip, "pool")
        members = self.machines[machine_type].members
        if member not in members:
            raise ValueError(f"{machine_type} has no member {member!r}: its clips or machine IDs were too few")
        scorer = members[member].scorer(pipeline.device, backend)
        score_map = scorer.explain(item.log_mel, modes[member], machine_id)
        return Explanation(item.log_mel.cpu().numpy(), score_map.cpu().numpy())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the detector to one safetensors file, atomically.

        Raises:
            OSError: the file can't be written.
        """
        tensors: dict[str, Tensor] = {}
        machines = []
        for number, (machine_type, machine) in enumerate(self.machines.items()):
            members = {}
            for name, member in machine.members.items():
                prefix = f"{number}/{name}"
                statistics = machine.statistics[name]
                tensors |= {f"{prefix}/{key}": x for key, x in member.state().items()}
                tensors |= {f"{prefix}/statistics.{k}": torch.from_numpy(getattr(statistics, k)) for k in _STATISTICS}
                history = asdict(machine.histories[name])
                members[name] = {"ids": statistics.ids, "modes": statistics.modes, "history": history}
            machines.append({"machine_type": machine_type, "members": members})
        header = {"format": FORMAT, "versions": self.versions, "recipe": self.recipe.to_dict(), "machines": machines}
        storage.write(path, tensors, header)

    def score_modes(self, score_mode: str | None) -> dict[str, str]:
        """Each member's score mode: the one asked for where the member has it, else its own. Members that were left
        out of every machine type have none.
        """
        fitted = {name: member for machine in self.machines.values() for name, member in machine.members.items()}
        members = {name: fitted[name] for name in self.recipe.members if name in fitted}
        known = sorted({mode for member in members.values() for mode in member.modes})
        if score_mode is not None and score_mode not in known:
            raise ValueError(f"no score mode {score_mode!r}; this detector has {', '.join(known)}")
        return {
            name: score_mode if score_mode is not None and score_mode in member.modes else member.default_mode
            for name, member in members.items()
        }

    def _locate(self, clip: Clip, unknown_ids: UnknownIds) -> tuple[str, str | None]:
        """The machine type and the machine ID whose statistics standardise a clip; `None` stands for all IDs."""
        machine_type = clip.machine_type
        only = next(iter(self.machines)) if len(self.machines) == 1 else None
        if only is not None and not (machine_type and only):
            machine_type = only  # nothing contradicts that it is this machine
        if machine_type not in self.machines:
            raise ClipError(
                "unknown-id",
                f"{clip.name}: machine type {machine_type!r} is not among those learnt, {', '.join(self.machines)}: "
                "give machine_type=, or fit a detector with clips of it",
            )
        if clip.machine_id in self.machines[machine_type].ids:
            return machine_type, clip.machine_id
        if unknown_ids == "pool":
            return machine_type, None
        raise ClipError(
            "unknown-id",
            f"{clip.name}: machine ID {clip.machine_id!r} is not among those learnt, "
            f"{', '.join(map(repr, self.machines[machine_type].ids))}: give ids=, fit a detector with clips of it, or "
            'score against all IDs with unknown_ids="pool"',
        )

    def _lane(self, device: torch.device, pipeline: Pipeline, modes: dict[str, str]) -> _Lane:
        scorers = {
            (machine_type, name): member.scorer(device, pipeline.backend, pipeline.precision, [modes[name]])
            for machine_type, machine in self.machines.items()
            for name, member in machine.members.items()
        }
        return _Lane(scorers, MemoryLimit(device))

    def _begin(
        self,
        batch: Sequence[Features],
        lanes: dict[torch.device, _Lane],
        unknown_ids: UnknownIds,
        channel: Channel,
    ) -> _Begun:
        """Some clips' rows of the table, in their order, and their scores on the way from the device; those of one
        machine type are scored together.
        """
        rows = []
        located: dict[str, list[tuple[dict[str, Any], Tensor, str | None]]] = {}
        for item in batch:
            clip = item.clip
            row: dict[str, Any] = {
                "clip": clip.name,
                "machine_type": clip.machine_type,
                "machine_id": clip.machine_id,
                "split": clip.split,
                "domain": clip.domain,
                "channel": str(channel) if clip.log_mel is None else "",
                "duration": item.duration,
                "label": clip.label,
                "status": "silent" if item.silent else "ok",
            }
            rows.append(row)
            try:
                if item.error is not None:
                    raise item.error
                assert item.log_mel is not None
                machine_type, machine_id = self._locate(clip, unknown_ids)
                located.setdefault(machine_type, []).append((row, item.log_mel, machine_id))
                if machine_id is None and not item.silent:
                    row["status"] = "pooled"
                elif len(item.log_mel) < self.recipe.image_frames and not item.silent:
                    row["status"] = "repeated"
            except ClipError as error:
                row |= {"status": error.status, "error": str(error)}
        parts = []
        for machine_type, group in located.items():
            lane = lanes[group[0][1].device]
            scorers = {name: lane.scorers[machine_type, name] for name in self.machines[machine_type].members}
            left = iter(group)
            for count, scores in lane.limit.run(partial(_fetch, scorers=scorers), group):
                own = [(row, machine_id) for row, _, machine_id in itertools.islice(left, count)]
                parts.append((machine_type, own, scores, lane.limit.device))
        return _Begun(rows, parts)

    def _end(self, begun: _Begun, modes: dict[str, str]) -> list[results.Row]:
        """The rows, with the scores that have arrived."""
        for machine_type, group, fetched, device in begun.parts:
            statistics = self.machines[machine_type].statistics
            if fetched is None:
                for row, _ in group:
                    row |= {"status": "out-of-memory", "error": too_large(row["clip"], device)}
                continue
            columns = {name: scores.numpy().tolist() for name, scores in fetched.items()}
            for (row, machine_id), *values in zip(group, *columns.values(), strict=True):
                scores = dict(zip(columns, values, strict=True))
                row |= self._combined(row["clip"], scores, statistics, machine_id, modes)
        return [results.Row(**row) for row in begun.rows]

    def _combined(
        self,
        clip: str,
        scores: dict[str, float],
        statistics: dict[str, Statistics],
        machine_id: str | None,
        modes: dict[str, str],
    ) -> dict[str, Any]:
        """The table's columns that a clip's scores, by member, make."""
        for name, value in scores.items():
            if not math.isfinite(value):
                error = f"{clip}: the {name} score is {value}: check the recording"
                return {"status": "not-finite", "error": error}
        both = combine([statistics[name].standardise(x, machine_id, modes[name]) for name, x in scores.items()])
        return {"score": both[self.recipe.combine], "combined": both, "members": scores}


@dataclass(frozen=True)
class _Lane:
    """What scores on a device: scorers, of one mode each, by machine type and member, and how many clips they take at
    once.
    """

    scorers: dict[tuple[str, str], models.Scorer]
    limit: MemoryLimit


def _fetch(
    some: Sequence[tuple[dict[str, Any], Tensor, str | None]], scorers: dict[str, models.Scorer]
) -> dict[str, Fetched]:
    """Clips' scores by member, on their way from the device."""
    _, log_mels, machine_ids = zip(*some, strict=True)
    scores = {name: models.score_many(scorer, log_mels, machine_ids) for name, scorer in scorers.items()}
    return {name: Fetched(x[:, 0]) for name, x in scores.items()}


class _Begun(NamedTuple):
    """A batch whose scores are on their way: its rows and, for each part of it that was scored together, the machine
    type, rows and machine IDs, scores by member (`None` where memory ended) and the device.
    """

    rows: list[dict[str, Any]]
    parts: list[tuple[str, list[tuple[dict[str, Any], str | None]], dict[str, Fetched] | None, torch.device]]


def _batches(items: Iterable[Features]) -> Iterator[list[Features]]:
    """Clips that are scored together: of one device, `BATCH_CLIPS` at most (`GPU_BATCHES` times as many on a GPU),
    fewer of long ones, at least one.
    """
    batch: list[Features] = []
    frames = 0
    device: torch.device | None = None
    for item in items:
        if item.log_mel is not None:
            if device is not None and item.log_mel.device != device:
                yield batch
                batch, frames = [], 0
            device = item.log_mel.device
            frames += len(item.log_mel)
        batch.append(item)
        times = GPU_BATCHES if device is not None and device.type == "cuda" else 1
        if len(batch) == times * BATCH_CLIPS or frames >= times * BATCH_FRAMES:
            yield batch
            batch, frames, device = [], 0, None
    if batch:
        yield batch


_STATISTICS = ("count", "mean", "variance", "sample")


def load(path: str | os.PathLike[str]) -> Detector:
    """The detector that `Detector.save` or `fit(out=...)` wrote to `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ModelFileError: the file is truncated, of a newer format, or not a detector at all.
    """
    tensors, header = storage.read(path)
    if header.get("format", 0) > FORMAT:
        raise ModelFileError(
            f"{path} has format {header['format']}, written by pyasd {header.get('versions', {}).get('pyasd')}; this "
            f"is pyasd {metadata.version('pyasd')}, which reads formats up to {FORMAT}: upgrade it"
        )
    try:
        recipe = Recipe.from_dict(header["recipe"])
        machines = {}
        for number, entry in enumerate(header["machines"]):
            machine = Machine({}, {}, {})
            for name, told in entry["members"].items():
                prefix = f"{number}/{name}/"
                own = {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}
                numbers = {key: own.pop(f"statistics.{key}").numpy() for key in _STATISTICS}
                machine.statistics[name] = Statistics(tuple(told["ids"]), tuple(told["modes"]), **numbers)
                machine.histories[name] = History(**told["history"])
                machine.members[name] = models.build(name, recipe)
                machine.members[name].load_state(own)
            machines[entry["machine_type"]] = machine
        return Detector(recipe, machines, versions=header["versions"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path} is not a whole detector ({error}): give one that `pyasd fit -o` or Detector.save wrote"
        ) from error
