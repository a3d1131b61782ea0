"""Miniatures of the DCASE data sets: each year's folders, names, lists and archives, with a few short synthetic clips.

They are for trying programs that read a data set. Nothing in them was recorded; figures from them mean nothing.
"""

from __future__ import annotations

import csv
import io
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from pyasd import settings
from pyasd.datasets import layouts
from pyasd.datasets.layouts import PARTS, Naming, Part, Year
from pyasd.factory import factory, sounds
from pyasd.factory.sounds import MACHINES, RATE
from pyasd.progress import Progress, silent

NOTICE = """\
SYNTHETIC RECORDINGS. Nothing here was recorded: pyasd made these sounds (pyasd/factory/sounds.py) in the folders and
names of DCASE {year} Task 2, to try programs on. They are no part of that data set.
"""

SPEEDS = {"source": "21", "target": "25"}
"""The attribute `{speed}` of each domain's machines."""

FAR = 12.0
"""How many dB less the far microphone of two hears of the machine."""

SUPPLEMENTS = 2
"""Supplemental clips of each machine type and part, where a year has any."""


@dataclass(frozen=True)
class Miniature:
    """The size of a miniature.

    Attributes:
        seed: seed of the sounds.
        train: training clips of each machine ID (section); of two domains, one in three is of the target.
        test: normal test clips, and as many anomalous ones, of each machine ID (and domain).
        seconds: length of a clip that has ten seconds in the data set; longer and shorter ones are in proportion.
        machines: machine types; `None` for all.
        parts: of "development", "additional" and "evaluation".
        raw: `dev_data/raw/...`, as the challenge's scripts have it, instead of `dev_data/...`.
        zipped: archives as on Zenodo, instead of folders.
        labels: whether there is a list of the evaluation part's labels.
    """

    seed: int = 0
    train: int = 6
    test: int = 3
    seconds: float = 2.0
    machines: tuple[str, ...] | None = None
    parts: tuple[Part, ...] = PARTS
    raw: bool = False
    zipped: bool = False
    labels: bool = True

    def __post_init__(self) -> None:
        settings.check_types(self)

    def has(self, clip: SyntheticClip) -> bool:
        """Return whether a clip's part and machine type are among those wanted."""
        return clip.part in self.parts and (self.machines is None or clip.machine_type in self.machines)


@dataclass(frozen=True)
class SyntheticClip:
    """One clip of a miniature.

    Attributes:
        part, machine_type, machine_id, domain: what it belongs to.
        path: its place below the machine type's folder.
        number: counts the clips of its kind; faults take turns by it.
        attributes: what the end of its name says about the recording, such as "_vel_21".
        anomalous: whether its machine has a fault.
        labelled_name: its name in the list of labels; "" where its own name tells the label.
    """

    part: Part
    machine_type: str
    machine_id: str
    domain: str
    path: str
    number: int
    attributes: str = ""
    anomalous: bool = False
    labelled_name: str = ""


def write(
    folder: str | os.PathLike[str], year: int = 2020, *, progress: Progress = silent, **options: Any
) -> list[Path]:
    """Make a miniature of a year's data set in `folder`, with a README.txt that says that it is synthetic.

    Args:
        folder: made where it doesn't exist; must be empty.
        year: the challenge's year.
        progress: hears of each clip.
        **options: fields of `Miniature`, such as `train=3, machines=["fan"], zipped=True`.

    Returns:
        The files made: clips, or archives.

    Raises:
        FileExistsError: the folder isn't empty.
        OSError: the files can't be written.
        TypeError, ValueError: there is no such option or year.
    """
    mini, layout = Miniature(**options), layouts.year(year)
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose an empty folder for a miniature")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.txt").write_text(NOTICE.format(year=year), encoding="utf-8")
    wanted = [clip for clip in _clips(layout, mini) if mini.has(clip)]
    if mini.labels and any(clip.labelled_name for clip in wanted):
        _write_labels(folder / layout.label_list, wanted)
    store = _Archives(folder, layout) if mini.zipped else _Folders(folder, layout, mini.raw)
    made: dict[Path, None] = {}
    for done, clip in enumerate(wanted):
        data = io.BytesIO()
        soundfile.write(data, samples(clip, layout, mini.seed, mini.seconds).T, RATE, "PCM_16", format="WAV")
        made[store.put(clip, clip.path, data.getvalue())] = None
        progress("synthesising", done + 1, len(wanted), clip.machine_type)
    if layout.naming.attribute_tables:
        for clip, path, table in _attribute_tables(wanted):
            store.put(clip, path, table.encode())
    return list(made)


# -- which clips -------------------------------------------------------------------------------------------------


def _clips(layout: Year, mini: Miniature) -> Iterator[SyntheticClip]:
    """Yield all clips of a year's miniature."""
    for part in PARTS:
        for machine_type, ids in layout.machines(part).items():
            for machine_id in ids:
                machine = SyntheticClip(part, machine_type, machine_id, "", "", 0)
                if part != "evaluation":
                    yield from _training(layout.naming, machine, mini.train)
                if part == "development":
                    yield from _testing(layout.naming, machine, mini.test)
                if part == "evaluation":
                    yield from _unlabelled(layout.naming, list(_testing(layout.naming, machine, mini.test)), mini.seed)
            if part != "evaluation" and layout.naming.supplemental:
                for number in range(SUPPLEMENTS):
                    path = layout.naming.supplemental.format(id=ids[0], number=number)
                    yield SyntheticClip(part, machine_type, ids[0], "", path, number)


def _training(naming: Naming, machine: SyntheticClip, count: int) -> Iterator[SyntheticClip]:
    """Yield a machine's training clips; of two domains, one in three clips is of the second."""
    counts = {"": count}
    if naming.domains:
        source, target = naming.domains
        counts = {source: count - max(1, count // 3), target: max(1, count // 3)}
    for domain, numbers in counts.items():
        for number in range(numbers):
            yield _named(naming.train, naming, replace(machine, domain=domain, number=number))


def _testing(naming: Naming, machine: SyntheticClip, count: int) -> Iterator[SyntheticClip]:
    """Yield a machine's test clips, with labels in their names."""
    for domain in naming.domains or ("",):
        for anomalous in (False, True):
            for number in range(count):
                clip = replace(machine, domain=domain, number=number, anomalous=anomalous)
                yield _named(naming.test, naming, clip)


def _unlabelled(naming: Naming, clips: list[SyntheticClip], seed: int) -> Iterator[SyntheticClip]:
    """Yield the same clips in another order, without labels in their names."""
    first = clips[0]
    rng = np.random.default_rng([seed, zlib.crc32(f"{first.machine_type}{first.machine_id}".encode())])
    numbers: Counter[str] = Counter()
    for index in rng.permutation(len(clips)):
        clip = clips[index]
        name = {"id": clip.machine_id, "domain": clip.domain}
        kind = naming.unlabelled.format(number=0, **name)
        path = naming.unlabelled.format(number=naming.first_unlabelled + numbers[kind], **name)
        numbers[kind] += 1
        yield replace(clip, path=path, labelled_name=PurePosixPath(clip.path).name)


def _named(pattern: str, naming: Naming, clip: SyntheticClip) -> SyntheticClip:
    """Return a clip with its attributes and its path, by one of the year's patterns."""
    hidden = naming.hidden_attributes is not None and zlib.crc32(clip.machine_type.encode()) % 2
    attributes = str(naming.hidden_attributes if hidden else naming.attributes)
    attributes = attributes.format(speed=SPEEDS.get(clip.domain, ""))
    label = "anomaly" if clip.anomalous else "normal"
    path = pattern.format(
        id=clip.machine_id, domain=clip.domain, label=label, number=clip.number, attributes=attributes
    )
    return replace(clip, path=path, attributes=attributes)


# -- what they sound like ----------------------------------------------------------------------------------------


def samples(clip: SyntheticClip, layout: Year, seed: int, seconds: float) -> NDArray[np.int16]:
    """Synthesise a clip: `[channels, n]` int16 at 16 kHz. It depends on the seed, the year and its name alone."""
    kind, machine = _machine(clip.machine_type, clip.machine_id, clip.domain == "target")
    name = f"{layout.number} {clip.part} {clip.machine_type}/{clip.path}"
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    wrong = machine.faults[clip.number % len(machine.faults)] if clip.anomalous else None
    length = 1.1 if clip.machine_type == "ToyCar" else 0.6 if clip.machine_type.startswith("valve") else 1.0
    distances = (0.0, FAR)[: layout.channels]
    return factory.record(machine, kind, rng, round(length * seconds * RATE), wrong, seed, distances)


def _machine(machine_type: str, machine_id: str, target: bool) -> tuple[str, sounds.Machine]:
    """Return the synthetic factory's machine for a machine ID, and its type: one of its machines at another speed."""
    kinds = list(MACHINES)
    kind = machine_type if machine_type in MACHINES else kinds[zlib.crc32(machine_type.encode()) % len(kinds)]
    units = list(MACHINES[kind].values())
    unit, turn = units[int(machine_id) % len(units)], int(machine_id) // len(units)
    factor = (1 + 0.13 * turn) * (1.12 if target else 1)
    if isinstance(unit, sounds.Pump):
        return kind, replace(unit, strokes=unit.strokes * factor)
    return kind, replace(unit, speed=unit.speed * factor)


# -- files -------------------------------------------------------------------------------------------------------


class _Folders:
    """Writes files into folders: `dev_data/fan/train/...`, with `raw` below `dev_data` if wanted."""

    def __init__(self, folder: Path, layout: Year, raw: bool) -> None:
        self.folder, self.layout, self.raw = folder, layout, raw

    def put(self, clip: SyntheticClip, path: str, data: bytes) -> Path:
        """Write a file of a clip's machine type and part, and return it."""
        part = self.layout.folders[clip.part]
        place = self.folder / part / ("raw" if self.raw else "") / clip.machine_type / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        return place


class _Archives:
    """Writes files into zip archives, named as on Zenodo."""

    def __init__(self, folder: Path, layout: Year) -> None:
        self.paths = {(x.part, x.machine_type): folder / x.name for x in layout.archives}

    def put(self, clip: SyntheticClip, path: str, data: bytes) -> Path:
        """Add a file to the archive of a clip's machine type and part, and return the archive."""
        archive = self.paths[clip.part, clip.machine_type]
        with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
            file.writestr(f"{clip.machine_type}/{path}", data)
        return archive


def _attribute_tables(clips: Sequence[SyntheticClip]) -> Iterator[tuple[SyntheticClip, str, str]]:
    """Yield the tables of attributes: a clip of the machine ID, the table's path and its text."""
    groups: dict[tuple[Part, str, str], list[SyntheticClip]] = {}
    for clip in clips:
        if clip.attributes and not clip.labelled_name:
            groups.setdefault((clip.part, clip.machine_type, clip.machine_id), []).append(clip)
    for group in groups.values():
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["file_name", "d1p", "d1v"])
        for clip in group:
            key, _, value = clip.attributes.strip("_").partition("_")
            rows.writerow([f"{clip.machine_type}/{clip.path}", key or "noAttribute", value])
        yield group[0], f"attributes_{group[0].machine_id}.csv", text.getvalue()


def _write_labels(path: Path, clips: Sequence[SyntheticClip]) -> None:
    """Write the organisers' list of labels; only names without domains (2020) have a column for the label."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        machine_type = ""
        for clip in clips:
            if clip.labelled_name:
                if clip.machine_type != machine_type:
                    machine_type = clip.machine_type
                    rows.writerow([machine_type])
                label = [] if clip.domain else [int(clip.anomalous)]
                rows.writerow([PurePosixPath(clip.path).name, clip.labelled_name, *label])
