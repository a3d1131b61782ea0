"""The streaming engine: clips in, rows of the table out, in their order, with no more in memory than a few batches."""

from __future__ import annotations

import contextlib
import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from pyasd.clips import Channel, Clip
from pyasd.clips.sources import size_limit
from pyasd.compute import CPU, Compute, in_plain_torch
from pyasd.cutting import Cutting
from pyasd.detector.decisions import DecisionRule, Decisions
from pyasd.detector.machine import Fitted
from pyasd.errors import ClipError, DeviceLost
from pyasd.features.conditions import of_log_mels
from pyasd.features.log_mels import Extraction, Features, extract
from pyasd.features.transfer import Fetched, MemoryLimit, is_lost, too_large
from pyasd.models import Scorer
from pyasd.models.over_time import Together
from pyasd.progress import Progress, silent
from pyasd.recipes import Recipe
from pyasd.settings import one_of
from pyasd.tables.table import Row

BATCH_CLIPS = 64
"""Clips whose scores are computed together."""

BATCH_FRAMES = 1 << 15
"""Frames in a batch after which no clip is added (17 min of sound, 16 MiB): hour-long clips are scored one by one."""

GPU_BATCHES = 4
"""How many times as much a GPU gets at once."""

HEARD = "/"
"""What facts about recordings are called among the members' scores; no member can be called so."""

UnknownIds = Literal["refuse", "pool"]


def score_modes(detector: Fitted, score_mode: str | None) -> dict[str, str]:
    """Choose each member's score mode: the one asked for where the member has it, else its own default.

    Members that were left out of every machine type have none.

    Raises:
        ValueError: no member has that mode; the message lists those there are.
    """
    fitted = {name: member for machine in detector.machines.values() for name, member in machine.members.items()}
    members = {name: fitted[name] for name in detector.recipe.names if name in fitted}
    known = sorted({mode for member in members.values() for mode in member.mode_names})
    if score_mode is not None and score_mode not in known:
        raise ValueError(f"no score mode {score_mode!r}; this detector has {', '.join(known)}")
    return {
        name: score_mode if score_mode is not None and score_mode in member.mode_names else member.default_mode
        for name, member in members.items()
    }


def extraction(recipe: Recipe, channel: Channel, ratio: float = 1.0, cutting: Cutting | None = None) -> Extraction:
    """Return what is to be extracted of clips for a recipe's members."""
    return Extraction(recipe.features, channel, recipe.min_frames, ratio, cutting)


def announced(items: Iterable[Features], progress: Progress, stage: str, total: int) -> Iterator[Features]:
    """Yield the items; `progress` hears of each clip when it has been dealt with."""
    for item in items:
        yield item
        if item.last:
            progress(stage, item.index + 1, total, item.clip.name)


def recognise(detector: Fitted, clip: Clip) -> Clip:
    """Return the clip with the machine type that its folders tell: where its name tells none, the innermost folder that
    is called as one that was learnt.
    """
    if clip.machine_type or "" in detector.machines:
        return clip
    known = (part for part in reversed(Path(clip.name).parts[:-1]) if part in detector.machines)
    return replace(clip, machine_type=next(known, ""))


def known_type(detector: Fitted, machine_type: str) -> str:
    """Return a machine type; or the only one that was learnt, where nothing contradicts that it is this one."""
    only = next(iter(detector.machines)) if len(detector.machines) == 1 else None
    return machine_type if only is None or (machine_type and only) else only


def locate(detector: Fitted, clip: Clip, unknown_ids: UnknownIds) -> tuple[str, str | None]:
    """Return the machine type and machine ID whose baseline standardises a clip; `None` stands for all IDs.

    Raises:
        ClipError: "unknown-id": the detector never learnt the clip's machine type, or its ID, and unknown ones are
            refused.
    """
    machines, machine_type = detector.machines, known_type(detector, clip.machine_type)
    if machine_type not in machines:
        raise ClipError(
            "unknown-id",
            f"{clip.name}: machine type {machine_type!r} is not among those learnt, {', '.join(machines)}: "
            "give machine_type=, or fit a detector with clips of it",
        )
    if clip.machine_id in machines[machine_type].ids:
        return machine_type, clip.machine_id
    if unknown_ids == "pool":
        return machine_type, None
    raise ClipError(
        "unknown-id",
        f"{clip.name}: machine ID {clip.machine_id!r} is not among those learnt, "
        f"{', '.join(map(repr, machines[machine_type].ids))}: give ids=, fit a detector with clips of it, or "
        'score against all IDs with unknown_ids="pool"',
    )


def row_of(item: Features, clip: Clip, channel: Channel) -> Row:
    """Return the row of a clip, without its scores."""
    return Row(
        clip=clip.name,
        machine_type=clip.machine_type,
        machine_id=clip.machine_id,
        split=clip.split,
        domain=clip.domain,
        channel="" if clip.log_mel is not None else str(channel if clip.channel is None else clip.channel),
        start=clip.start,
        duration=item.duration,
        label=clip.label,
        status="silent" if item.silent else "unfinished" if item.unfinished else "ok",
    )


class Scoring:
    """Scores clips with a fitted system.

    Args:
        detector: the system.
        compute: devices, among which batches take turns, backend and precision. A GPU whose memory ends gets smaller
            batches.
        channel: which channel of a clip, from 0, "mean", or "all" for each by itself.
        cutting: where recordings are cut; `None` scores them whole.
        unknown_ids: clips of a machine ID that was never learnt are refused (they get a row with the reason), or scored
            against all IDs' normal clips ("pool", and status "pooled").
        score_mode: instead of the members' own.
        rule: when a clip is an anomaly; `None` for scores without decisions.
        progress: told of each clip.

    Attributes:
        modes: each member's score mode.
        wanted: what is extracted of clips.
        decision_columns: the columns of the table that the rule fills.

    Raises:
        ValueError: no member has that mode, `unknown_ids` or `channel` can't be one, or there is a rule, but the
            detector has no calibration.
    """

    def __init__(
        self,
        detector: Fitted,
        compute: Compute | None = None,
        *,
        channel: Channel = 0,
        cutting: Cutting | None = None,
        unknown_ids: UnknownIds = "refuse",
        score_mode: str | None = None,
        rule: DecisionRule | None = None,
        progress: Progress = silent,
    ) -> None:
        one_of("unknown_ids", unknown_ids, ("refuse", "pool"))
        self.modes = score_modes(detector, score_mode)
        self.compute = compute or Compute()
        self._detector = detector
        self.wanted = extraction(detector.recipe, channel, cutting=cutting)
        self._unknown_ids: UnknownIds = unknown_ids
        self._progress = progress
        self._score_mode = score_mode
        self._rule = rule
        self._decisions = None if rule is None else Decisions(detector, self.modes, rule)
        self.decision_columns = () if rule is None else rule.columns

    def rows(self, clips: Iterable[Clip]) -> Iterator[Row]:
        """Score clips: one row each, or one for each cut and channel, in their order; what is wrong stands in the row.

        Rows come batch by batch. Memory holds a few batches, however many clips there are.

        Raises:
            DeviceLost: a GPU failed; the rows so far have been given.
        """
        return in_plain_torch(self._rows(clips))

    def made_by(self) -> dict[str, Any]:
        """Return the settings that rows are made by, by name: another run with the same goes on with them."""
        cutting = self.wanted.cutting
        return {
            "channel": self.wanted.channel,
            "window": None if cutting is None else cutting.window,
            "hop": None if cutting is None else cutting.hop,
            "device": self.compute.device.type,
            "backend": self.compute.backend,
            "precision": self.compute.precision,
            "max_file_size": size_limit(),
            "unknown_ids": self._unknown_ids,
            "score_mode": self._score_mode,
            "false_alarms": None if self._rule is None else self._rule.false_alarms,
            "confirm": None if self._rule is None else self._rule.confirm,
        }

    def recall(self, decided: Iterable[Sequence[str]]) -> None:
        """Let clips that an earlier run decided count among the last ones that `confirm` looks back at.

        Args:
            decided: the machine type, machine ID, channel and decision of each one's row, in the rows' order.
        """
        for machine_type, machine_id, channel, decision in decided:
            if self._decisions is not None and decision:
                known = known_type(self._detector, machine_type)
                self._decisions.recall(known, machine_id, channel, cast(Any, decision))

    def _rows(self, clips: Iterable[Clip]) -> Generator[Row, None, None]:
        total = len(clips) if isinstance(clips, Sequence) else 0
        lanes = {device: self._lane(device) for device in self.compute.devices}
        ahead = 0 if self.compute.devices == (CPU,) else 2 * len(lanes)  # batches on their way from a GPU
        begun: deque[_Begun] = deque()
        done = 0
        try:
            with contextlib.closing(extract(clips, self.wanted, self.compute)) as items:
                heard = announced(items, self._progress, "scoring", total)
                for batch in itertools.chain(_batches(heard), itertools.repeat(None, ahead)):
                    if batch is not None:
                        begun.append(self._begin(batch, lanes))
                    if begun and (batch is None or len(begun) > ahead):
                        rows = self._end(begun.popleft())
                        done += len(rows)
                        yield from rows
        except RuntimeError as error:
            if not is_lost(error):
                raise
            raise DeviceLost(
                f"a GPU failed when {done} of {total or 'the'} clips had their rows. Score the others on another "
                f"device, or with device='cpu'. The GPU's error: {str(error).splitlines()[0]}"
            ) from error

    def _lane(self, device: torch.device) -> _Lane:
        compute = self.compute.on([device])
        scorers = {
            (machine_type, name): member.scorer(compute, [self.modes[name]])
            for machine_type, machine in self._detector.machines.items()
            for name, member in machine.members.items()
        }
        return _Lane(scorers, MemoryLimit(device))

    def _begin(self, batch: Sequence[Features], lanes: dict[torch.device, _Lane]) -> _Begun:
        """Some clips' rows, in their order, and their scores on the way from the device; those of one machine type are
        scored together.
        """
        rows = []
        by_type: dict[str, list[_Located]] = {}
        for item in batch:
            clip = recognise(self._detector, item.clip)
            row = row_of(item, clip, self.wanted.channel)
            rows.append(row)
            try:
                if item.error is not None:
                    raise item.error
                assert item.log_mel is not None
                machine_type, machine_id = locate(self._detector, clip, self._unknown_ids)
            except ClipError as error:
                row.status, row.error = error.status, str(error)
                continue
            by_type.setdefault(machine_type, []).append(_Located(row, item.log_mel, machine_id, item))
            if not item.silent:
                if machine_id is None:
                    row.status = "pooled"
                elif len(item.log_mel) < self._detector.recipe.repeats_below:
                    row.status = "repeated"
        parts = []
        for machine_type, located in by_type.items():
            lane = lanes[located[0].log_mel.device]
            scorers = {name: lane.scorers[machine_type, name] for name in self._detector.machines[machine_type].members}
            waiting = iter(located)
            for count, scores in lane.limit.run(partial(_fetch, scorers=scorers), located):
                parts.append(_Part(machine_type, list(itertools.islice(waiting, count)), scores, lane.limit.device))
        return _Begun(rows, parts)

    def _end(self, begun: _Begun) -> list[Row]:
        """The rows, with the scores that have arrived."""
        for part in begun.parts:
            if part.scores is None:
                for clip in part.clips:
                    clip.row.status, clip.row.error = "out-of-memory", too_large(clip.row.clip, part.device)
                continue
            columns = {name: scores.numpy().tolist() for name, scores in part.scores.items()}
            facts = columns.pop(HEARD)
            for clip, heard, *values in zip(part.clips, facts, *columns.values(), strict=True):
                self._fill(clip, heard, dict(zip(columns, values, strict=True)), part.machine_type)
        return begun.rows

    def _fill(self, clip: _Located, heard: list[float], scores: dict[str, float], machine_type: str) -> None:
        """Put a clip's scores, by member, into its row, standardised and combined; note what it is like; decide it."""
        machine = self._detector.machines[machine_type]
        if machine.conditions is not None and not clip.item.silent:
            clip.row.note = machine.conditions.notes(heard, clip.item, clip.machine_id)
        machine.fill(clip.row, scores, clip.machine_id, self.modes, self._detector.recipe)
        if self._decisions is not None:
            self._decisions.decide(clip.row, machine_type, clip.machine_id)


@dataclass(frozen=True)
class _Lane:
    """The scorers on one device, of one mode each, by machine type and member; and how many clips they take at once."""

    scorers: dict[tuple[str, str], Scorer]
    limit: MemoryLimit


class _Located(NamedTuple):
    """A clip to be scored: its row, its log-Mel, the machine ID whose baseline counts, what else was found of it."""

    row: Row
    log_mel: Tensor
    machine_id: str | None
    item: Features


class _Part(NamedTuple):
    """Clips of one machine type that were scored together: scores by member, `None` where memory ended."""

    machine_type: str
    clips: list[_Located]
    scores: dict[str, Fetched] | None
    device: torch.device


class _Begun(NamedTuple):
    """A batch whose scores are on their way."""

    rows: list[Row]
    parts: list[_Part]


def _fetch(some: Sequence[_Located], scorers: dict[str, Scorer]) -> dict[str, Fetched]:
    """Clips' scores by member, and facts about their recordings (`HEARD`), on their way from the device."""
    log_mels, ids = Together(x.log_mel for x in some), [x.machine_id for x in some]
    scores = {name: scorer.score_many(log_mels, ids) for name, scorer in scorers.items()}
    return {name: Fetched(x[:, 0]) for name, x in scores.items()} | {HEARD: Fetched(of_log_mels(log_mels))}


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
