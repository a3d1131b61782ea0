"""The data sets of DCASE Task 2 from 2020 to 2026: which clips there are, in which part, and what the organisers tell.

A folder may hold what the challenge's own scripts make of it (`dev_data/raw/<machine type>/{train,test}/`), the same
without `raw`, any other folders of that kind, or the zip archives themselves, which are read without unpacking. The
part that a clip belongs to follows from its machine type and ID: no year has one in two parts.

Years from 2021 on call a machine ID "section", and have two domains: `source`, with many training clips, and `target`,
with few. Sources of what is stated here: the challenge's baselines (github.com/nttcslab/dcase2023_task2_baseline_ae:
datasets/*.yaml, README_legacy.md) and the file lists of github.com/daisukelab/dcase2020_task2_variants.
"""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from pyasd.clips import Clip
from pyasd.clips.find import in_archive, in_folder
from pyasd.tables.labels import Truth, label_key, read_labels

Part = Literal["development", "additional", "evaluation"]
"""Development: clips of all kinds. Additional: the training clips of evaluation, of whose test clips the challenge
gave no labels before it was over."""


FOLDERS: dict[Part, str] = {"development": "dev_data", "additional": "eval_data", "evaluation": "eval_data"}
"""The folder that the challenge has each part in."""


class Entry(NamedTuple):
    """One clip of a data set: its record, with label and domain from the list of labels where its name has none."""

    clip: Clip
    part: Part


class Archive(NamedTuple):
    """One of a data set's zip archives: its name, its Zenodo record, and what is in it."""

    name: str
    record: str
    machine_type: str
    part: Part


@dataclass(frozen=True)
class Year:
    """One year's data set.

    Attributes:
        development, evaluation: machine IDs (sections) of each machine type in that part.
        records: Zenodo records of the parts `development`, `additional` and `evaluation`; "" where none is known.
        names: their archives' names, with the machine type to be put in.
        renamed: archives that replace those of these names.
        channels: of each clip. Where there are two, the first is the microphone near the machine, which the baseline
            hears alone.
    """

    development: Mapping[str, tuple[str, ...]]
    evaluation: Mapping[str, tuple[str, ...]]
    records: tuple[str, str, str]
    names: tuple[str, str, str] = ("dev_{}.zip", "eval_data_{}_train.zip", "eval_data_{}_test.zip")
    renamed: Mapping[str, str] | None = None
    channels: int = 1

    @property
    def machine_types(self) -> tuple[str, ...]:
        """All machine types, those of the development part first."""
        return tuple(dict.fromkeys([*self.development, *self.evaluation]))

    @property
    def archives(self) -> tuple[Archive, ...]:
        """All its zip archives."""
        parts: tuple[tuple[Part, Iterable[str]], ...] = (
            ("development", self.development),
            ("additional", self.evaluation),
            ("evaluation", self.evaluation),
        )
        found = []
        for (part, machine_types), record, pattern in zip(parts, self.records, self.names, strict=True):
            for machine_type in machine_types if record else ():
                name = pattern.format(machine_type)
                found.append(Archive((self.renamed or {}).get(name, name), record, machine_type, part))
        return tuple(found)

    def part(self, clip: Clip) -> Part | None:
        """The part that a clip belongs to; `None` if it is none of this data set's clips to train or to test with."""
        if clip.machine_id in self.development.get(clip.machine_type, ()):
            return "development" if clip.split in ("train", "test") else None
        if clip.machine_id in self.evaluation.get(clip.machine_type, ()):
            return {"train": "additional", "test": "evaluation"}.get(clip.split)  # type: ignore[return-value]
        return None


def _each(ids: str, machine_types: str) -> dict[str, tuple[str, ...]]:
    return {machine_type: tuple(ids.split()) for machine_type in machine_types.split()}


_OLD_NAMES = ("dev_data_{}.zip", "eval_data_{}_train.zip", "eval_data_{}_test.zip")

YEARS = {
    2020: Year(
        _each("01 02 03 04", "ToyCar") | _each("01 02 03", "ToyConveyor")
        | _each("00 02 04 06", "fan pump slider valve"),
        _each("05 06 07", "ToyCar") | _each("04 05 06", "ToyConveyor") | _each("01 03 05", "fan pump slider valve"),
        ("3678171", "3727685", "3841772"),
        ("dev_data_{}.zip", "eval_data_train_{}.zip", "eval_data_test_{}.zip"),
    ),
    2021: Year(
        _each("00 01 02", "ToyCar ToyTrain fan gearbox pump slider valve"),
        _each("03 04 05", "ToyCar ToyTrain fan gearbox pump slider valve"),
        ("4562016", "4660992", "4884786"),
        _OLD_NAMES,
    ),
    2022: Year(
        _each("00 01 02", "ToyCar ToyTrain bearing fan gearbox slider valve"),
        _each("03 04 05", "ToyCar ToyTrain bearing fan gearbox slider valve"),
        ("6355122", "6462969", "6586456"),
    ),
    2023: Year(
        _each("00", "ToyCar ToyTrain bearing fan gearbox slider valve"),
        _each("00", "ToyDrone ToyNscale ToyTank Vacuum bandsaw grinder shaker"),
        ("7882613", "7830345", "7860847"),
    ),
    2024: Year(
        _each("00", "ToyCar ToyTrain bearing fan gearbox slider valve"),
        _each("00", "3DPrinter AirCompressor BrushlessMotor HairDryer HoveringDrone RoboticArm Scanner ToothBrush "
                    "ToyCircuit"),
        ("10902294", "11259435", "11363076"),
        renamed={
            "eval_data_3DPrinter_train.zip": "eval_data_3DPrinter_train_r2.zip",
            "eval_data_RoboticArm_train.zip": "eval_data_RoboticArm_train_r2.zip",
        },
    ),
    2025: Year(
        _each("00", "ToyCar ToyTrain bearing fan gearbox slider valve"),
        _each("00", "AutoTrash BandSealer CoffeeGrinder HomeCamera Polisher ScrewFeeder ToyPet ToyRCCar"),
        ("15097779", "15392814", "15519362"),
    ),
    2026: Year(
        _each("00", "ToyCar ToyCarEmu bearingEmu fan gearboxEmu sliderEmu valveEmu"),
        _each("00", "BlowerDustCollector Sander SewingMachine ToothBrush ToyDrone"),
        ("19336329", "20151556", "20437238"),
        renamed={"dev_ToyCar.zip": "dev_ToyCar_r2.zip"},
        channels=2,
    ),
}  # fmt: skip
"""The data sets by year."""

COUNTS_2020 = {
    "ToyCar": {"01": (1000, 350, 264), "02": (1000, 350, 265), "03": (1000, 350, 265), "04": (1000, 350, 265),
               "05": (1000, 250, 265), "06": (1000, 250, 265), "07": (1000, 250, 265)},
    "ToyConveyor": {"01": (1000, 800, 400), "02": (1000, 800, 355), "03": (1000, 799, 355), "04": (1000, 200, 355),
                    "05": (1000, 200, 355), "06": (1000, 200, 355)},
    "fan": {"00": (911, 100, 407), "02": (916, 100, 359), "04": (933, 100, 348), "06": (915, 100, 361),
            "01": (934, 100, 326), "03": (912, 100, 358), "05": (1000, 109, 349)},
    "pump": {"00": (906, 100, 143), "02": (905, 100, 111), "04": (602, 100, 100), "06": (936, 100, 102),
             "01": (903, 100, 116), "03": (606, 100, 113), "05": (908, 100, 248)},
    "slider": {"00": (968, 100, 356), "02": (968, 100, 267), "04": (434, 100, 178), "06": (434, 100, 89),
               "01": (968, 100, 178), "03": (968, 100, 178), "05": (434, 100, 178)},
    "valve": {"00": (891, 100, 119), "02": (608, 100, 120), "04": (900, 100, 120), "06": (892, 100, 120),
              "01": (769, 100, 120), "03": (863, 100, 120), "05": (899, 100, 400)},
}  # fmt: skip
"""Clips of the data set of 2020: to train with, normal ones and anomalous ones to test with, of each machine ID."""

UNPACKING = ".unpacking-"
"""`download` leaves a file of this name, and the archive's, in the data set's folder while it unpacks."""


def data_set(name: str) -> int:
    """The year of a data set's name, such as "dcase2020".

    Raises:
        ValueError: there is no such data set; the message lists those there are.
    """
    match = re.fullmatch(r"dcase(\d{4})(?:t2)?", name.lower())
    if match is None or int(match[1]) not in YEARS:
        raise ValueError(f"no data set {name!r}; there are {', '.join(f'dcase{year}' for year in YEARS)}")
    return int(match[1])


def find(
    folder: str | os.PathLike[str],
    year: int = 2020,
    machines: Sequence[str] | None = None,
    labels: str | os.PathLike[str] | None = None,
) -> list[Entry]:
    """A data set's clips, sorted by part, machine type and file name, each once.

    Where a machine type lies there unpacked and as an archive, what is unpacked is taken. Supplementary clips (2025),
    which are of machines or noise alone, are left out.

    Args:
        folder: where the data set lies, however deep; of several years' data sets in folders of their own
            (`dcase2020t2`, ...), the one of this year.
        year: of the challenge.
        machines: machine types wanted; `None` for all that are there.
        labels: the organisers' list of the evaluation part's labels; `None` for a file `eval_data_list_<year>.csv` in
            the folder, if there is one.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: nothing of that data set is in it, an archive is damaged, an unpacking was left unfinished, the list
            of labels is none, or there is no such machine type.
    """
    told = YEARS[year]
    unknown = sorted(set(machines or ()).difference(told.machine_types))
    if unknown:
        raise ValueError(
            f"DCASE {year} has no machine type {', '.join(unknown)}: it has {', '.join(told.machine_types)}"
        )
    wanted = set(machines or told.machine_types)
    root = _root(Path(folder), year)
    found = [_entry(clip, told) for clip in in_folder(root)]
    entries = [entry for entry in found if entry is not None and entry.clip.machine_type in wanted]
    there = {(entry.clip.machine_type, entry.part) for entry in entries}
    for archive in told.archives:
        if archive.machine_type in wanted and (archive.machine_type, archive.part) not in there:
            for path in sorted(root.rglob(archive.name))[:1]:
                found = [_entry(clip, told) for clip in in_archive(path)]
                entries += [x for x in found if x is not None and x.clip.machine_type == archive.machine_type]
    if not entries:
        raise ValueError(
            f"{folder} has no clips of DCASE {year} ({', '.join(sorted(wanted))}): looked for folders such as "
            f"dev_data/{sorted(wanted)[0]}/train and for archives such as {told.archives[0].name}; "
            f"`pyasd download dcase{year} --to {folder}` gets them"
        )
    lists = [Path(labels)] if labels is not None else sorted(root.rglob(f"eval_data_list_{year}.csv"))
    truth = read_labels(lists[0]) if lists else {}
    return sorted(_labelled(_once(entries, bool(truth)), truth), key=_place)


def _root(folder: Path, year: int) -> Path:
    """The folder of the data set of this year."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}: give the one that the data set lies in")
    own = [x for x in sorted(folder.iterdir()) if x.is_dir() and x.name.lower().startswith(f"dcase{year}")]
    root = own[0] if own else folder
    for marker in sorted(root.glob(f"{UNPACKING}*")):
        raise ValueError(
            f"{marker.name.removeprefix(UNPACKING)} was being unpacked into {root}, and was not finished: go on with "
            f"`pyasd download dcase{year} --to {root}`, or unpack it by hand and remove {marker}"
        )
    return root


def _entry(clip: Clip, year: Year) -> Entry | None:
    part = year.part(clip)
    sections = year is not YEARS[2020]
    if part is None or PurePosixPath(clip.name).name.startswith("section_") != sections:
        return None
    return Entry(clip, part)


def _once(entries: list[Entry], listed: bool) -> list[Entry]:
    """Each clip once: the challenge's scripts copy those of `source_test` and `target_test` to `test` (2021), and those
    of the evaluation part, by their labelled names, to `test_rename`: of use where there is no list of labels.
    """
    folder = {id(entry): Path(entry.clip.name).parent.name for entry in entries}
    renamed = {entry.clip.machine_type for entry in entries if folder[id(entry)] == "test_rename"}
    plain = {x.clip.machine_type for x in entries if x.part == "evaluation" and folder[id(x)] != "test_rename"}
    once: dict[tuple[str, str, str], Entry] = {}
    for entry in entries:
        copied = folder[id(entry)] == "test_rename"
        if entry.part == "evaluation" and entry.clip.machine_type in renamed & plain and copied == listed:
            continue
        key = (entry.clip.machine_type, entry.clip.split, Path(entry.clip.name).name)
        once.setdefault(key, entry)
    return list(once.values())


def _place(entry: Entry) -> tuple[str, ...]:
    clip = entry.clip
    return entry.part, clip.machine_type, clip.split, Path(clip.name).name


# -- what the organisers tell ------------------------------------------------------------------------------------


def _labelled(entries: list[Entry], truth: Mapping[tuple[str, str], Truth]) -> list[Entry]:
    """Entries with the labels and domains of the list, where names tell none."""
    out = []
    for entry in entries:
        told = truth.get((entry.clip.machine_type, label_key(entry.clip.name))) if entry.clip.label is None else None
        if told is not None:
            clip = replace(entry.clip, label=told.label, domain=entry.clip.domain or told.domain)
            entry = Entry(clip, entry.part)
        out.append(entry)
    return out


def read_attributes(path: str | os.PathLike[str]) -> dict[str, dict[str, str]]:
    """A file `attributes_<section>.csv` (from 2022 on): by clip's file name, its attributes, such as `{"vel": "21"}`;
    none where the organisers hid them.

    Raises:
        ValueError: the file is no such table.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or "file_name" not in rows[0]:
        raise ValueError(f"{path} is no table of attributes: its first line must have a column file_name")
    found = {}
    for row in rows:
        pairs = [(row.get(f"d{n}p"), row.get(f"d{n}v")) for n in range(1, len(row))]
        known = {key: value for key, value in pairs if key and value and key != "noAttribute"}
        found[PurePosixPath(row["file_name"].replace("\\", "/")).name] = known
    return found


def shortfalls(entries: Sequence[Entry], year: int, machines: Sequence[str] | None = None) -> list[str]:
    """What of a data set is not there, a line for each folder and machine ID; with the numbers of clips in 2020."""
    told = YEARS[year]
    have = Counter((str(x.part), x.clip.machine_type, x.clip.split, x.clip.machine_id) for x in entries)
    lines = []
    for part, units, splits in (
        ("development", told.development, ("train", "test")),
        ("additional", told.evaluation, ("train",)),
        ("evaluation", told.evaluation, ("test",)),
    ):
        for machine_type, split in itertools.product(units, splits):
            if machines is not None and machine_type not in machines:
                continue
            there = f"there in {split}/ of the {part} part"
            counts = {x: have[part, machine_type, split, x] for x in units[machine_type]}
            if not any(counts.values()):
                lines.append(f"{machine_type}: no clips are {there}")
                continue
            for machine_id, count in counts.items():
                full = max(count, 1)
                if year == 2020:
                    train, *test = COUNTS_2020[machine_type][machine_id]
                    full = train if split == "train" else sum(test)
                if count != full:
                    lines.append(f"{machine_type} {machine_id}: {count} of {full} clips are {there}")
    return lines
