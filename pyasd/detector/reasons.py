"""Why a clip scored as it did, in words: what of it differs from normal clips, and which members say so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pyasd.clips import Clip
from pyasd.detector import regions
from pyasd.detector.machine import Fitted, Machine
from pyasd.detector.regions import Kind
from pyasd.detector.scoring import Scoring, locate, recognise
from pyasd.features.log_mels import Extraction, Features, extract
from pyasd.ops import LogMelPlan
from pyasd.tables.table import Row


@dataclass(frozen=True)
class Reason:
    """A part of a clip that differs from what is usual in its machine ID's normal clips. Its `str` says it in words.

    Attributes:
        kind: its form, see `regions.Kind`.
        start, end: in seconds.
        low, high: the edges of its Mel bands, in Hz.
        level: dB above the usual, negative below it; relative to the clip's own level, unless the kind is "level". With
            "spread", how many times the usual the level's standard deviation over time is; with "clipping", the share
            of the samples that is at the limits.
        deviations: the same in standard deviations of normal clips; NaN with "clipping".
    """

    kind: Kind
    start: float
    end: float
    low: float
    high: float
    level: float
    deviations: float

    def __str__(self) -> str:
        """Return one line."""
        where = hertz(self.low, self.high)
        if self.kind == "clipping":
            return f"{100 * self.level:.2g} % of the samples are at the limits: overdriven (clipping)"
        by = f"{abs(self.deviations):.1f} standard deviations"
        if self.kind == "spread":
            return f"its spread over time in {where} is {self.level:.2g} times the usual, {by} off"
        side = "above" if self.level > 0 else "below"
        return (
            f"{self.start:.1f} to {self.end:.1f} s, {where}: {abs(self.level):.0f} dB {side} what this machine does, "
            f"{by} ({self.kind})"
        )


@dataclass(frozen=True)
class Reasons:
    """Why a clip scored as it did.

    Attributes:
        clip, machine_type, machine_id, score, status, note, error: as in its row of the table.
        members: each member's standardised score: standard deviations above the mean of the ID's normal clips.
        reasons: what differs from the usual, what has the most weight in the clip first; none where nothing stands out.
    """

    clip: str
    machine_type: str
    machine_id: str
    score: float | None
    status: str
    note: str
    error: str
    members: dict[str, float] = field(default_factory=dict)
    reasons: tuple[Reason, ...] = ()

    @property
    def raised_by(self) -> str:
        """The member with the highest standardised score; "" where none is above the mean of normal clips."""
        highest = max(self.members, key=lambda name: self.members[name], default="")
        return highest if self.members.get(highest, 0.0) > 0 else ""


def hertz(low: float, high: float) -> str:
    """Return a range of frequencies in words, such as "2.1 to 2.6 kHz"."""
    if low < 1000:
        return f"{low:.0f} to {high:.0f} Hz"
    digits = 1 if high - low >= 300 else 2
    return f"{low / 1000:.{digits}f} to {high / 1000:.{digits}f} kHz"


def of_clips(detector: Fitted, scoring: Scoring, wanted: Extraction, clips: list[Clip]) -> Iterator[Reasons]:
    """Yield clips' reasons, in their order; what is wrong with a clip stands in its own. Each is read twice: to be
    scored among others, and to be looked at.

    Raises:
        ValueError: no member of the detector knows what is usual.
    """
    kept = {name: _keeper(name, machine) for name, machine in detector.machines.items()}
    usual: dict[tuple[str, str | None], Any] = {}
    items: Iterable[Features] = extract(clips, wanted, scoring.compute.on([scoring.compute.device]))
    for row, item in zip(scoring.rows(clips), items, strict=True):
        if row.score is None or item.log_mel is None:
            yield _of_row(row)
            continue
        machine_type, machine_id = locate(detector, recognise(detector, item.clip), "pool")
        machine = detector.machines[machine_type]
        standardised = machine.standardise(row.members, machine_id, scoring.modes)
        place = machine_type, machine_id
        if place not in usual:
            usual[place] = machine.members[kept[machine_type]].usual(machine_id)
        found = [] if item.silent else regions.find(item.log_mel.cpu().double().numpy(), usual[place], wanted.plan)
        seconds = len(item.log_mel) * wanted.plan.hop_length / wanted.plan.sample_rate
        reasons = [_in_words(x, wanted.plan, row.duration or seconds) for x in found]
        if "clipped" in row.note.split(", "):
            highest = float(wanted.plan.band_limits[-1])
            share = item.clipped or 0.0
            reasons.insert(0, Reason("clipping", 0.0, row.duration or seconds, 0.0, highest, share, math.nan))
        yield _of_row(row, dict(zip(row.members, standardised, strict=True)), tuple(reasons))


def _keeper(machine_type: str, machine: Machine) -> str:
    """The member that knows the most of what is usual; of equals the last, since a spectrum's standard deviations are
    shrunk, and those of neighbours are not.

    Raises:
        ValueError: none knows anything.
    """
    usual = {name: member.usual(machine.ids[0]) for name, member in machine.members.items()}
    known = {name: len(x.scale) for name, x in usual.items() if x is not None and "mean" in x.mean}
    if not known:
        raise ValueError(
            f"{machine_type or 'the machine'}: {', '.join(usual)} keep nothing of what is usual in normal clips: fit "
            'system="fast" too, which does, and ask that model'
        )
    return max(reversed(known), key=lambda x: known[x])


def _of_row(row: Row, members: dict[str, float] | None = None, reasons: tuple[Reason, ...] = ()) -> Reasons:
    return Reasons(
        row.clip, row.machine_type, row.machine_id, row.score, row.status, row.note, row.error, members or {}, reasons
    )


def _in_words(region: regions.Region, plan: LogMelPlan, duration: float) -> Reason:
    """The same in seconds and Hz."""
    start, end = (min(x * plan.hop_length / plan.sample_rate, duration) for x in region.frames)
    low, high = plan.band_limits[list(region.bands)].tolist()
    return Reason(region.kind, start, end, low, high, region.level, region.deviations)
