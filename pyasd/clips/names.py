"""Reading names of files and folders: which files are audio, and each clip's machine, split, domain and label."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

EXTENSIONS = (
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf",
    ".w64", ".rf64",
)  # fmt: skip
"""The files that are taken from folders, archives and globs. A file that is named itself is always taken."""

# DCASE 2020: normal_id_01_00000012; in the evaluation set id_01_00000012.
_NAME_2020 = re.compile(r"(?:(?P<label>normal|anomaly)_)?id_(?P<id>\d+)_\d+")
# From 2021: section_00_source_train_normal_0012, then perhaps attributes; in the evaluation set section_03_test_0012
# or section_03_0012; supplements of 2025 have `machine` before the number.
_NAME_2021 = re.compile(
    r"section_(?P<id>\d+)(?:_(?P<domain>source|target))?(?:_(?P<split>train|test))?(?:_(?P<label>normal|anomaly))?"
    r"(?:_machine)?_\d+(?:_(?P<attributes>.*))?"
)
_SPLITS = {
    **dict.fromkeys(("test", "source_test", "target_test", "test_rename"), "test"),
    "train": "train",
    "supplemental": "supplemental",
}
_LABELS = {"normal": 0, "abnormal": 1, "anomaly": 1}


@dataclass(frozen=True, slots=True)
class Names:
    """The facts about a clip in its path; see `Clip` for the attributes. A fact that is missing is "", or `None`."""

    machine_type: str = ""
    machine_id: str = ""
    split: str = ""
    domain: str = ""
    label: int | None = None


def parse(path: Path) -> Names:
    """Return what a path tells of its clip.

    Known are `<machine>/{train,test}/` with the file names of the DCASE challenges from 2020 on, and MIMII's
    `<machine>/id_XX/{normal,abnormal}/`. Of any other path, a folder called `train` or `test` gives the split and
    one called `normal`, `abnormal` or `anomaly` the label: its machine type and ID stay empty, so that the clips
    of such folders are all of one machine.
    """
    path = Path(printable(path.absolute()))
    folders = path.parent.parts[::-1]  # innermost first
    parent, above, top = (*folders, "", "", "")[:3]
    split = _SPLITS.get(parent, "")
    name = _NAME_2020.fullmatch(path.stem) or _NAME_2021.fullmatch(path.stem)
    if name:
        groups = name.groupdict()
        return Names(
            machine_type=above if split else "",
            machine_id=groups["id"],
            split=groups.get("split") or split,
            domain=groups.get("domain") or "",
            label=_LABELS.get(groups["label"] or ""),
        )
    label = _LABELS.get(parent)
    mimii = re.fullmatch(r"id_(\d+)", above) if label is not None else None
    return Names(top if mimii else "", mimii[1] if mimii else "", split, "", label)


def attributes(name: str) -> str:
    """Return what a file name of the challenges from 2021 on says of how the clip was recorded, as it is spelt there,
    such as "vel_21_loc_A"; "" where it says nothing.
    """
    match = _NAME_2021.fullmatch(PurePosixPath(name).stem)
    return (match["attributes"] or "").strip("_") if match else ""


def is_audio(name: str) -> bool:
    """Return whether a file's extension is one of `EXTENSIONS`."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def printable(path: Path) -> str:
    """Return the path as text that can be written anywhere: bytes that aren't UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
