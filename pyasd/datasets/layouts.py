"""A year of DCASE Task 2 as its file `years/<year>.toml` describes it: layout, names, archives and scoring rule.

Files are read when they are first asked for. To add a year, add its file. What the years' files say comes from the
challenge's baselines (github.com/nttcslab/dcase2023_task2_baseline_ae: datasets/*.yaml, README_legacy.md).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, get_args

from pyasd import settings
from pyasd.clips import Clip

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Part = Literal["development", "additional", "evaluation"]
"""Development: clips of all kinds. Additional: training clips of evaluation's machines. Evaluation: their test clips,
whose labels the challenge gave out when it was over."""

PARTS: tuple[Part, ...] = get_args(Part)

YEARS = Path(__file__).with_name("years")
"""The folder of the years' files."""


class Archive(NamedTuple):
    """One of a data set's zip archives: its name, its Zenodo record ("" if none is known), and what is in it."""

    name: str
    record: str
    machine_type: str
    part: Part


@dataclass(frozen=True)
class Naming:
    """How a year names its clips: patterns of paths below a machine type's folder.

    Patterns may use `{id}`, `{domain}`, `{label}` ("normal" or "anomaly"), `{number:04d}` and `{attributes}`.

    Attributes:
        train: training clips.
        test: test clips whose names tell their labels.
        unlabelled: test clips of the evaluation part; clips whose names differ in nothing else are numbered on.
        supplemental: clips of clean machines or of noise alone, beside the training clips; "" where there are none.
        domains: of each machine ID; none in 2020.
        first_unlabelled: the number of the first unlabelled clip.
        attributes: what names say about the recording; `{speed}` differs between domains.
        hidden_attributes: stands in place of attributes for machine types that hide theirs; absent where none does.
        attribute_tables: whether there are files `attributes_<section>.csv`.
    """

    train: str
    test: str
    unlabelled: str
    supplemental: str = ""
    domains: tuple[str, ...] = ()
    first_unlabelled: int = 0
    attributes: str = ""
    hidden_attributes: str | None = None
    attribute_tables: bool = False

    def __post_init__(self) -> None:
        settings.check_types(self)
        for name in ("train", "test", "unlabelled", "supplemental"):
            pattern = getattr(self, name)
            try:
                pattern.format(id="00", domain="source", label="normal", number=0, attributes="")
            except (KeyError, IndexError, ValueError, AttributeError) as error:
                raise ValueError(
                    f"{name} is no pattern of paths ({type(error).__name__}: {error}): {pattern}"
                ) from None

    @property
    def sections(self) -> bool:
        """Whether names begin with `section_`, as they do from 2021 on."""
        return PurePosixPath(self.train).name.startswith("section_")


@dataclass(frozen=True)
class Year:
    """One year's data set, as its TOML file describes it.

    Attributes:
        number: the year.
        rule: how the challenge counts: a rule of `tables.evaluation.evaluate`.
        naming: how clips are named.
        development, evaluation: machine IDs (sections) of each machine type in that part; the additional part has the
            machine IDs of the evaluation part.
        records: Zenodo records of the parts; a part without one can't be downloaded.
        archive_names: names of the parts' archives, with `{}` for the machine type.
        renamed: archives that replace those of these names.
        folders: the folder that the challenge has each part in.
        md5: MD5s of record of the archives; empty where no source of them was found.
        labels_url, labels_sha256: the organisers' list of the evaluation part's labels; "" while it isn't out.
        channels: of each clip.
        counts: for each machine type and ID: training clips, normal and anomalous test clips; empty where unknown.
    """

    number: int
    rule: str
    naming: Naming
    development: Mapping[str, tuple[str, ...]]
    evaluation: Mapping[str, tuple[str, ...]]
    archive_names: Mapping[Part, str]
    folders: Mapping[Part, str]
    records: Mapping[Part, str] = field(default_factory=dict)
    renamed: Mapping[str, str] = field(default_factory=dict)
    md5: Mapping[str, str] = field(default_factory=dict)
    labels_url: str = ""
    labels_sha256: str = ""
    channels: int = 1
    counts: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings.check_types(self)
        for name in ("archive_names", "folders"):
            if missing := [part for part in PARTS if part not in getattr(self, name)]:
                raise ValueError(f"{name} lacks {', '.join(missing)}")
        if self.channels < 1:
            raise ValueError(f"channels must be at least 1, not {self.channels}")

    @property
    def machine_types(self) -> tuple[str, ...]:
        """All machine types, those of the development part first."""
        return tuple(dict.fromkeys([*self.development, *self.evaluation]))

    @property
    def archives(self) -> tuple[Archive, ...]:
        """All its zip archives."""
        archives = []
        for part in PARTS:
            for machine_type in self.machines(part):
                name = self.archive_names[part].format(machine_type)
                name = self.renamed.get(name, name)
                archives.append(Archive(name, self.records.get(part, ""), machine_type, part))
        return tuple(archives)

    @property
    def label_list(self) -> str:
        """The file name of the organisers' list of labels."""
        return f"eval_data_list_{self.number}.csv"

    def machines(self, part: Part) -> Mapping[str, tuple[str, ...]]:
        """Return the machine IDs of each machine type in a part."""
        return self.development if part == "development" else self.evaluation

    def check(self, machines: Iterable[str] = (), parts: Iterable[str] = ()) -> None:
        """Raise ValueError if the year has no such machine type or part; the message lists those it has."""
        for what, given, known in (("machine type", machines, self.machine_types), ("part", parts, PARTS)):
            if unknown := sorted(set(given).difference(known)):
                raise ValueError(f"DCASE {self.number} has no {what} {', '.join(unknown)}: it has {', '.join(known)}")

    def part(self, clip: Clip) -> Part | None:
        """Return the part that a clip belongs to; `None` if it isn't a training or test clip of this data set."""
        if clip.machine_id in self.development.get(clip.machine_type, ()):
            return "development" if clip.split in ("train", "test") else None
        if clip.machine_id in self.evaluation.get(clip.machine_type, ()):
            return _EVALUATION_PARTS.get(clip.split)
        return None

    def count(self, machine_type: str, machine_id: str, split: str) -> int:
        """Return how many clips a machine ID has to train or to test with; 0 where the file doesn't say."""
        train, *test = self.counts.get(machine_type, {}).get(machine_id, (0,))
        return train if split == "train" else sum(test)


_EVALUATION_PARTS: dict[str, Part] = {"train": "additional", "test": "evaluation"}


def years() -> tuple[int, ...]:
    """Return the years that there are data sets of, in order."""
    return tuple(sorted(int(path.stem) for path in YEARS.glob("[0-9][0-9][0-9][0-9].toml")))


def year(number: int) -> Year:
    """Return a year's data set.

    Raises:
        ValueError: there is none; the message lists those there are. Or its file has a fault, which the message names.
    """
    path = YEARS / f"{number}.toml"
    if not path.is_file():
        raise ValueError(_no_data_set(f"dcase{number}"))
    return _read(path)


@lru_cache
def _read(path: Path) -> Year:
    """Read a year's file, once."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        naming = settings.new(Naming, "naming", values.get("naming", {}))
        return settings.new(Year, path.stem, values | {"number": int(path.stem), "naming": naming})
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def data_set(name: str) -> int:
    """Return the year of a data set's name, such as "dcase2020".

    Raises:
        ValueError: there is no such data set; the message lists those there are.
    """
    match = re.fullmatch(r"dcase(\d{4})(?:t2)?", name.lower())
    if match is None or int(match[1]) not in years():
        raise ValueError(_no_data_set(name))
    return int(match[1])


def _no_data_set(name: str) -> str:
    return f"no data set {name!r}; there are {', '.join(f'dcase{number}' for number in years())}"
