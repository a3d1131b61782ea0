"""Miniatures of the DCASE data sets: each year's folders, names, lists and archives, with a few short synthetic clips.

They try out whatever reads a data set. Nothing in them was recorded, and figures that come of them say nothing.
"""

from __future__ import annotations

import csv
import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pyasd.datasets.dcase import FOLDERS, YEARS, Part
from pyasd.factory import demo, sounds
from pyasd.factory.sounds import MACHINES, RATE
from pyasd.progress import Progress

NOTICE = """\
SYNTHETIC RECORDINGS. Nothing here was recorded: pyasd made these sounds (pyasd/factory/sounds.py) in the folders and
names of DCASE {year} Task 2, to try programs on. They are no part of that data set.
"""

_SPEED = {"source": "21", "target": "25"}
"""The attribute `vel` of each domain's machines."""

FAR = 12.0
"""How many dB less the far microphone of 2026 hears of the machine."""


@dataclass(frozen=True)
class _Clip:
    """One clip to be: its part, machine, place under the machine type's folder, and what it is to sound like.

    `told` is the name that the list of labels gives it; "" where its own tells.
    """

    part: Part
    machine_type: str
    machine_id: str
    path: str
    number: int
    anomalous: bool = False
    domain: str = ""
    told: str = ""


def write(
    folder: str | os.PathLike[str],
    year: int = 2020,
    *,
    seed: int = 0,
    train: int = 6,
    test: int = 3,
    seconds: float = 2.0,
    machines: Sequence[str] | None = None,
    parts: Sequence[Part] = ("development", "additional", "evaluation"),
    raw: bool = False,
    zipped: bool = False,
    labels: bool = True,
    progress: Progress | None = None,
) -> list[Path]:
    """Make a miniature of a year's data set in `folder`, with a README.txt that says that it is synthetic.

    Args:
        folder: made where it doesn't exist; must be empty.
        year: of the challenge.
        seed: of the sounds.
        train: clips of each machine ID (section) to train with; of two domains, one in three is of the target.
        test: normal clips, and as many anomalous ones, of each machine ID (and domain) to test with.
        seconds: of a clip of ten seconds; longer and shorter ones are in proportion.
        machines, parts: which to make; all machine types by default.
        raw: `dev_data/raw/...`, as the challenge's scripts have it, instead of `dev_data/...`.
        zipped: archives as on Zenodo, instead of folders.
        labels: write the list of the evaluation part's labels.
        progress: told of each clip.

    Returns:
        The files made: clips, or archives.

    Raises:
        FileExistsError: the folder isn't empty.
        OSError: the files can't be written.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose an empty folder for a miniature")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.txt").write_text(NOTICE.format(year=year), encoding="utf-8")
    wanted = [
        clip
        for clip in _clips(year, seed, train, test)
        if clip.part in parts and (machines is None or clip.machine_type in machines)
    ]
    if labels and any(clip.told for clip in wanted):
        _write_labels(folder / f"eval_data_list_{year}.csv", wanted)
    archives = {(x.part, x.machine_type): x.name for x in YEARS[year].archives}
    tables = list(_attributes(wanted)) if year >= 2022 else []
    made: dict[Path, None] = {}
    for done, clip in enumerate(wanted):
        data = io.BytesIO()
        soundfile.write(data, samples(clip, year, seed, seconds).T, RATE, "PCM_16", format="WAV")
        made[_put(folder, archives, raw, zipped, clip, clip.path, data.getvalue())] = None
        if progress is not None:
            progress("synthesising", done + 1, len(wanted), clip.machine_type)
    for clip, path, table in tables:
        _put(folder, archives, raw, zipped, clip, path, table.encode())
    return list(made)


def _put(
    folder: Path, archives: dict[tuple[Part, str], str], raw: bool, zipped: bool, clip: _Clip, path: str, data: bytes
) -> Path:
    """Writes one file; gives it or its archive."""
    inner = f"{clip.machine_type}/{path}"
    if zipped:
        archive = folder / archives[clip.part, clip.machine_type]
        with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
            file.writestr(inner, data)
        return archive
    place = folder / FOLDERS[clip.part] / ("raw" if raw else "") / inner
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place


def _clips(year: int, seed: int, train: int, test: int) -> Iterator[_Clip]:
    """All clips of a miniature."""
    told = YEARS[year]
    for part, machine_types in (
        ("development", told.development), ("additional", told.evaluation), ("evaluation", told.evaluation),
    ):  # fmt: skip
        for machine_type, ids in machine_types.items():
            for machine_id in ids:
                if part != "evaluation":
                    yield from _training(year, part, machine_type, machine_id, train)  # type: ignore[arg-type]
                if part == "development":
                    yield from _testing(year, machine_type, machine_id, test)
                if part == "evaluation":
                    yield from _hidden(list(_testing(year, machine_type, machine_id, test)), year, seed)
            if part != "evaluation" and year == 2025:
                for number in range(2):
                    name = f"supplemental/section_00_machine_{number:04d}_.wav"
                    yield _Clip(part, machine_type, "00", name, number)  # type: ignore[arg-type]


def _training(year: int, part: Part, machine_type: str, machine_id: str, count: int) -> Iterator[_Clip]:
    if year == 2020:
        for number in range(count):
            yield _Clip(part, machine_type, machine_id, f"train/normal_id_{machine_id}_{number:08d}.wav", number)
        return
    target = max(1, count // 3)
    for domain, numbers in (("source", range(count - target)), ("target", range(target))):
        for number in numbers:
            name = f"section_{machine_id}_{domain}_train_normal_{number:04d}{_suffix(year, machine_type, domain)}.wav"
            yield _Clip(part, machine_type, machine_id, f"train/{name}", number, domain=domain)


def _testing(year: int, machine_type: str, machine_id: str, count: int) -> Iterator[_Clip]:
    """Clips to test with, with labels in their names."""
    for domain in ("",) if year == 2020 else ("source", "target"):
        for label in ("normal", "anomaly"):
            for number in range(count):
                if year == 2020:
                    path = f"test/{label}_id_{machine_id}_{number:08d}.wav"
                else:
                    place = f"{domain}_test" if year == 2021 else "test"
                    end = _suffix(year, machine_type, domain)
                    path = f"{place}/section_{machine_id}_{domain}_test_{label}_{number:04d}{end}.wav"
                yield _Clip("development", machine_type, machine_id, path, number, label == "anomaly", domain)


def _hidden(clips: list[_Clip], year: int, seed: int) -> Iterator[_Clip]:
    """The same as clips of an evaluation part, in another order, without labels in their names."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{clips[0].machine_type}{clips[0].machine_id}".encode())])
    first = 1 if year >= 2024 else 0
    counts = dict.fromkeys(("", "source", "target"), 0)
    for place, index in enumerate(rng.permutation(len(clips))):
        clip = clips[index]
        machine_id, domain = clip.machine_id, clip.domain
        if year == 2020:
            path = f"test/id_{machine_id}_{place:08d}.wav"
        elif year == 2021:
            path = f"{domain}_test/section_{machine_id}_{domain}_test_{counts[domain]:04d}.wav"
        else:
            path = f"test/section_{machine_id}_{first + place:04d}.wav"
        counts[domain] += 1
        yield replace(clip, part="evaluation", path=path, told=Path(clip.path).name)


def _suffix(year: int, machine_type: str, domain: str) -> str:
    """The attributes in a clip's name: some machine types hide them from 2024 on."""
    if year == 2021:
        return "_strength_1_ambient"
    if year >= 2024 and zlib.crc32(machine_type.encode()) % 2:
        return "_noAttribute" if year < 2026 else "_"
    return f"_vel_{_SPEED[domain]}"


def _attributes(clips: Sequence[_Clip]) -> Iterator[tuple[_Clip, str, str]]:
    """The tables of attributes: a clip of each archive and section, the table's path and its text."""
    groups: dict[tuple[Part, str, str], list[_Clip]] = {}
    for clip in clips:
        if clip.part != "evaluation" and not clip.path.startswith("supplemental"):
            groups.setdefault((clip.part, clip.machine_type, clip.machine_id), []).append(clip)
    for own in groups.values():
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["file_name", "d1p", "d1v"])
        for clip in own:
            told = ["vel", _SPEED[clip.domain]] if "_vel_" in clip.path else ["noAttribute", ""]
            rows.writerow([f"{clip.machine_type}/{clip.path}", *told])
        yield own[0], f"attributes_{own[0].machine_id}.csv", text.getvalue()


def _write_labels(path: Path, clips: Sequence[_Clip]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        machine_type = ""
        for clip in clips:
            if clip.told:
                if clip.machine_type != machine_type:
                    machine_type = clip.machine_type
                    rows.writerow([machine_type])
                label = [int(clip.anomalous)] if not clip.domain else []
                rows.writerow([Path(clip.path).name, clip.told, *label])


def samples(clip: _Clip, year: int, seed: int, seconds: float) -> NDArray[np.int16]:
    """What a clip sounds like, `[channels, n]` at 16 kHz. It depends on the seed, year and name alone."""
    kind, machine = _machine(clip.machine_type, clip.machine_id, clip.domain == "target")
    rng = np.random.default_rng([seed, zlib.crc32(f"{year} {clip.part} {clip.machine_type}/{clip.path}".encode())])
    wrong = machine.faults[clip.number % len(machine.faults)] if clip.anomalous else None
    length = 1.1 if clip.machine_type == "ToyCar" else 0.6 if clip.machine_type.startswith("valve") else 1.0
    distances = (0.0, FAR)[: YEARS[year].channels]
    return demo.record(machine, kind, rng, round(length * seconds * RATE), wrong, seed, distances)


def _machine(machine_type: str, machine_id: str, target: bool) -> tuple[str, sounds.Machine]:
    """A machine of the synthetic factory for each machine ID: those of its kind at other speeds."""
    kinds = list(MACHINES)
    kind = machine_type if machine_type in MACHINES else kinds[zlib.crc32(machine_type.encode()) % len(kinds)]
    units = list(MACHINES[kind].values())
    unit, round_ = units[int(machine_id) % len(units)], int(machine_id) // len(units)
    factor = (1 + 0.13 * round_) * (1.12 if target else 1)
    if isinstance(unit, sounds.Pump):
        return kind, replace(unit, strokes=unit.strokes * factor)
    return kind, replace(unit, speed=unit.speed * factor)
