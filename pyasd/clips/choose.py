"""Which of the clips that were found are learnt and scored, and which machines they are of."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pyasd.clips.clip import Clip
from pyasd.clips.sources import BrokenSource
from pyasd.errors import ClipError

Doubtful = Literal["refuse", "learn"]
"""Refuse or learn clips without a label whose names hint at a fault; see `for_fitting`."""

Machines = Literal["auto", "folder", "names", "none"]
"""Take machine types from folders, from names of data sets alone, or not at all; see `name_machines`."""

_SESSIONS = frozenset((
    "batch", "channel", "copy", "data", "day", "days", "disc", "disk", "export", "file", "files", "folder", "hour",
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday", "jan", "feb", "mar",
    "apr", "jun", "jul", "aug", "sep", "oct", "nov", "dec", "mon", "tue", "wed", "thu", "fri", "sat", "sun",
    "month", "morning", "night", "new", "old", "part", "rec", "recording", "recordings", "run", "sample", "samples",
    "session", "set", "shift", "tape", "track", "version", "week", "year",
))  # fmt: skip
"""Words that folders of recordings are called by, and machines aren't."""

_SHOWN = 5
"""Machine types that a message lists."""


@dataclass(frozen=True)
class Group:
    """Clips that are taken for the same.

    Attributes:
        folder: in which they lie.
        machine_type, machine_id, split, label: see `Clip`.
        learnt: whether `fit` learns from them.
        clips: how many there are.
    """

    folder: str
    machine_type: str
    machine_id: str
    split: str
    label: int | None
    learnt: bool
    clips: int


def for_shard(clips: Iterable[Clip], shard: tuple[int, int]) -> Iterator[Clip]:
    """Choose the clips of one share of all, the i-th of n, in their order and as they are found.

    A clip's name alone decides (its BLAKE2b hash, modulo n), so that shares stay the same when clips come and go; those
    of one name are in one share.

    Args:
        clips: all of them.
        shard: `(i, n)` with i from 1 to n.

    Raises:
        ValueError: there is no such share.
    """
    number, count = shard
    if not 1 <= number <= count:
        raise ValueError(f"shard is i of n shares with 1 <= i <= n, such as 3 of 16, not {number} of {count}")
    hashes = ((clip, hashlib.blake2b(clip.name.encode("utf-8", "surrogatepass"), digest_size=8)) for clip in clips)
    return (clip for clip, digest in hashes if int.from_bytes(digest.digest(), "big") % count == number - 1)


def found_and_broken(clips: Iterable[Clip]) -> tuple[list[Clip], list[tuple[str, ClipError]]]:
    """Return the clips, and apart from them the names of places that no clip can be found in, which tell nothing of
    machines, with what is wrong there.
    """
    found: list[Clip] = []
    broken: list[tuple[str, ClipError]] = []
    for clip in clips:
        if isinstance(clip.source, BrokenSource):
            broken.append((clip.name, clip.source.error))
        else:
            found.append(clip)
    return found, broken


def for_fitting(clips: Iterable[Clip], doubtful: Doubtful = "refuse") -> list[Clip]:
    """Return the clips to learn from: those that aren't labelled anomalous; without validation, test and supplemental
    ones, unless there are no others.

    Args:
        clips: all that were found.
        doubtful: "refuse", or "learn": what becomes of clips without a label that may be anomalous; see `Clip.doubt`.

    Raises:
        ValueError: all clips are labelled anomalous, or there are doubtful ones, which the message names.
    """
    clips = list(clips)
    normal = [clip for clip in clips if clip.label != 1]
    if not normal:
        raise ValueError(f"all {len(clips)} clips are labelled anomalous: learning needs clips of healthy machines")
    chosen = [clip for clip in normal if clip.split in ("train", "")] or normal
    if doubts := [clip for clip in chosen if clip.doubt and doubtful == "refuse"]:
        raise ValueError(
            f"{len(doubts)} of {len(chosen)} clips would be learnt as healthy, but may not be: {doubts[0].name} "
            f'({doubts[0].doubt!r}). Leave them out, or give doubtful="learn" if they are healthy'
        )
    if disagreeing := [clip for clip in clips if clip.label == 1 and clip.doubt]:
        warnings.warn(
            f"{len(disagreeing)} clips are taken for anomalous, since name and folder disagree: the first is "
            f"{disagreeing[0].name}",
            stacklevel=4,
        )
    return chosen


def for_scoring(clips: Iterable[Clip]) -> Iterator[Clip]:
    """Choose the clips to score, in their order: all of them; where folders have both training and test clips, without
    training and supplemental ones. Clips that were given by their own paths are all scored.

    They are chosen as they are found: those alone wait of which it isn't known yet (training clips before the first
    test clip), and those behind them.
    """
    waiting: list[Clip] = []
    splits: set[str] = set()
    for clip in clips:
        if not clip.named:
            splits.add(clip.split)
        both = {"train", "test"} <= splits
        if both or waiting or _may_be_left_out(clip):
            waiting.append(clip)
        else:
            yield clip
        if both:
            yield from (x for x in waiting if not _may_be_left_out(x))
            waiting.clear()
    yield from waiting


def _may_be_left_out(clip: Clip) -> bool:
    return not clip.named and clip.split in ("train", "supplemental")


def name_machines(clips: Sequence[Clip], machines: Machines = "auto") -> list[Clip]:
    """Return the clips with machine types from their folders, where their names tell none.

    Args:
        clips: all that were found.
        machines: "folder": the outermost folders that differ, below the place that was given, are machine types.
            "auto": so they are where every clip lies in one, and they aren't called by dates, numbers or such words as
            "day" and "session"; a warning says so. "names": the names of data sets alone tell. "none": all clips are of
            one machine type, whatever names tell.

    Raises:
        ValueError: `machines` is "folder", and the folders don't tell.
    """
    if machines == "none":
        return [replace(clip, machine_type="") for clip in clips]
    if machines == "names" or any(clip.machine_type for clip in clips):
        return list(clips)
    depth = min((len(clip.folders) for clip in clips), default=0)
    level = next((i for i in range(depth) if len({clip.folders[i] for clip in clips}) > 1), None)
    if level is None:
        if machines == "folder":
            raise ValueError("the clips don't lie in several folders, one for each machine: give machine_type=")
        return list(clips)
    names = sorted({clip.folders[level] for clip in clips})
    if machines == "auto":
        if not all(map(_may_be_a_machine, names)):
            return list(clips)
        some = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        warnings.warn(
            f'the folders {some} are taken for machine types, a model each: give machines="none" if the clips are of '
            "one machine",
            stacklevel=3,
        )
    return [replace(clip, machine_type=clip.folders[level]) for clip in clips]


def _may_be_a_machine(folder: str) -> bool:
    words = re.findall(r"[^\W\d_]+", folder.casefold())
    return bool(words) and not _SESSIONS.intersection(words)


def groups(clips: Sequence[Clip], learnt: Iterable[Clip]) -> list[Group]:
    """Group clips by folder and by what they are taken for, in their order.

    Args:
        clips: all that were found, with their machine types.
        learnt: those of them that `fit` learns from.
    """
    chosen = {id(clip) for clip in learnt}
    counts = Counter(
        (clip.name.rpartition("/")[0], clip.machine_type, clip.machine_id, clip.split, clip.label, id(clip) in chosen)
        for clip in clips
    )
    return [Group(*facts, count) for facts, count in counts.items()]
