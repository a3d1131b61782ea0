"""The data sets of DCASE Task 2: which clips there are, in which part, and what the organisers say about them.

A folder may hold the layout of the challenge's own scripts (`dev_data/raw/<machine type>/{train,test}/`), the same
without `raw`, any other folders of that kind, or the zip archives themselves, which are read without unpacking. A
clip's machine type and ID tell its part: no year has the same ID of a type in two parts.

Years from 2021 on call a machine ID "section", and have two domains: `source`, with many training clips, and `target`,
with few. `layouts` has what differs from year to year.
"""

from __future__ import annotations

import csv
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from pyasd.clips import Clip
from pyasd.clips.find import in_archive, in_folder
from pyasd.datasets import layouts
from pyasd.datasets.layouts import PARTS as PARTS
from pyasd.datasets.layouts import Part, Year
from pyasd.datasets.layouts import data_set as data_set
from pyasd.datasets.layouts import year as year
from pyasd.datasets.layouts import years as years
from pyasd.tables.labels import Truth, label_key, read_labels

UNPACKING = ".unpacking-"
"""`download` leaves a file of this name, and the archive's, in the data set's folder while it unpacks."""

SPLITS: dict[Part, tuple[str, ...]] = {
    "development": ("train", "test"), "additional": ("train",), "evaluation": ("test",),
}  # fmt: skip
"""The splits of each part's clips."""

COPIES = "test_rename"
"""The folder in which the challenge's scripts copy the evaluation part's test clips under names with labels."""


class Entry(NamedTuple):
    """One clip of a data set: its record, with label and domain from the list of labels where its name has none."""

    clip: Clip
    part: Part


def find(
    folder: str | os.PathLike[str],
    year: int = 2020,
    machines: Sequence[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
) -> list[Entry]:
    """Find a data set's clips, sorted by part, machine type and file name, each once.

    Where a machine type lies there unpacked and as an archive, what is unpacked is taken. Supplementary clips (2025),
    of clean machines or of noise alone, are left out.

    Args:
        folder: where the data set lies, however deep; if it has folders for several years (`dcase2020t2`, ...), the
            one for this year is read.
        year: the challenge's year.
        machines: machine types wanted; `None` for all that are there.
        labels: the organisers' list of the evaluation part's labels; `None` for a file `eval_data_list_<year>.csv` in
            the folder, if there is one.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: nothing of that data set is in it, an archive is damaged, an unpacking was left unfinished, the list
            of labels is none, or there is no such machine type or year.
    """
    layout = layouts.year(year)
    layout.check(machines or ())
    wanted = set(machines or layout.machine_types)
    root = _root(Path(folder), year)
    entries = [x for x in _entries(in_folder(root), layout) if x.clip.machine_type in wanted]
    unpacked = {(entry.clip.machine_type, entry.part) for entry in entries}
    for archive in layout.archives:
        if archive.machine_type in wanted and (archive.machine_type, archive.part) not in unpacked:
            for path in sorted(root.rglob(archive.name))[:1]:
                packed = _entries(in_archive(path), layout)
                entries += [x for x in packed if x.clip.machine_type == archive.machine_type]
    if not entries:
        first = min(wanted)
        raise ValueError(
            f"{folder} has no clips of DCASE {year} ({', '.join(sorted(wanted))}): looked for folders such as "
            f"{layout.folders['development']}/{first}/train and for archives such as {layout.archives[0].name}; "
            f"`pyasd download dcase{year} --to {folder}` gets them"
        )
    lists = [Path(labels)] if labels is not None else sorted(root.rglob(layout.label_list))
    truth = read_labels(lists[0]) if lists else {}
    return sorted(_with_labels(_without_copies(entries, bool(truth)), truth), key=_sort_key)


def _root(folder: Path, year: int) -> Path:
    """Return the folder of this year's data set: `folder`, or one in it that is named for the year."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: give the one that the data set lies in")
    named = [x for x in sorted(folder.iterdir()) if x.is_dir() and x.name.lower().startswith(f"dcase{year}")]
    root = named[0] if named else folder
    for marker in sorted(root.glob(f"{UNPACKING}*")):
        raise ValueError(
            f"{marker.name.removeprefix(UNPACKING)} was being unpacked into {root}, and was not finished: go on with "
            f"`pyasd download dcase{year} --to {root}`, or unpack it by hand and remove {marker}"
        )
    return root


def _entries(records: Iterable[Clip], layout: Year) -> Iterator[Entry]:
    """Yield the records that are clips of the year's data set, with their parts."""
    for clip in records:
        part = layout.part(clip)
        if part is not None and _file_name(clip).startswith("section_") == layout.naming.sections:
            yield Entry(clip, part)


def _without_copies(entries: list[Entry], has_list: bool) -> list[Entry]:
    """Return each clip once.

    The challenge's scripts copy clips of `source_test` and `target_test` to `test` (2021), and those of the evaluation
    part, under names with labels, to `test_rename`: these are taken if there is no list of labels.
    """
    test_clips = [entry for entry in entries if entry.part == "evaluation"]
    copied = {entry.clip.machine_type for entry in test_clips if _is_copy(entry)}
    plain = {entry.clip.machine_type for entry in test_clips if not _is_copy(entry)}
    once: dict[tuple[str, str, str], Entry] = {}
    for entry in entries:
        if entry.part == "evaluation" and entry.clip.machine_type in copied & plain and _is_copy(entry) == has_list:
            continue
        once.setdefault((entry.clip.machine_type, entry.clip.split, _file_name(entry.clip)), entry)
    return list(once.values())


def _is_copy(entry: Entry) -> bool:
    return PurePosixPath(entry.clip.name).parent.name == COPIES


def _sort_key(entry: Entry) -> tuple[str, ...]:
    return entry.part, entry.clip.machine_type, entry.clip.split, _file_name(entry.clip)


def _file_name(clip: Clip) -> str:
    return PurePosixPath(clip.name).name


# -- what the organisers tell ------------------------------------------------------------------------------------


def _with_labels(entries: list[Entry], truth: Mapping[tuple[str, str], Truth]) -> list[Entry]:
    """Return the entries with labels and domains from the list of labels, where names tell no label."""
    return [_with_label(entry, truth) if entry.clip.label is None else entry for entry in entries]


def _with_label(entry: Entry, truth: Mapping[tuple[str, str], Truth]) -> Entry:
    known = truth.get((entry.clip.machine_type, label_key(entry.clip.name)))
    if known is None:
        return entry
    return Entry(replace(entry.clip, label=known.label, domain=entry.clip.domain or known.domain), entry.part)


def read_attributes(path: str | os.PathLike[str]) -> dict[str, dict[str, str]]:
    """Read a file `attributes_<section>.csv` (from 2022 on): for each clip's file name its attributes, such as
    `{"vel": "21"}`; none where the organisers hid them.

    Raises:
        ValueError: the file is no such table.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or "file_name" not in rows[0]:
        raise ValueError(f"{path} is no table of attributes: its first line must have a column file_name")
    attributes = {}
    for row in rows:
        pairs = [(row.get(f"d{n}p"), row.get(f"d{n}v")) for n in range(1, len(row))]
        known = {key: value for key, value in pairs if key and value and key != "noAttribute"}
        attributes[PurePosixPath(row["file_name"].replace("\\", "/")).name] = known
    return attributes


def shortfalls(entries: Sequence[Entry], year: int, machines: Sequence[str] | None = None) -> list[str]:
    """List what is missing from a data set, a line for each folder and machine ID; with numbers of clips where the
    year's file has them.
    """
    layout = layouts.year(year)
    present = Counter((x.part, x.clip.machine_type, x.clip.split, x.clip.machine_id) for x in entries)
    lines = []
    for part, splits in SPLITS.items():
        for machine_type, split in itertools.product(layout.machines(part), splits):
            if machines is not None and machine_type not in machines:
                continue
            there = f"there in {split}/ of the {part} part"
            counts = {x: present[part, machine_type, split, x] for x in layout.machines(part)[machine_type]}
            if not any(counts.values()):
                lines.append(f"{machine_type}: no clips are {there}")
                continue
            for machine_id, count in counts.items():
                full = layout.count(machine_type, machine_id, split) or max(count, 1)
                if count != full:
                    lines.append(f"{machine_type} {machine_id}: {count} of {full} clips are {there}")
    return lines
