"""Reading names of files and folders: which files are audio, and each clip's machine, split, domain and label."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

EXTENSIONS = (
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf",
    ".w64", ".rf64",
)  # fmt: skip
"""The files that are taken from folders, archives and globs. A file that is named itself is always taken."""

OTHER_AUDIO = (".m4a", ".aac", ".wma", ".amr", ".webm", ".mp4", ".mka", ".3gp", ".wv", ".ape", ".dsf", ".mov", ".mkv")
"""Audio that libsndfile doesn't read, and that is spoken of where it lies among what is listed."""

# DCASE 2020: normal_id_01_00000012; in the evaluation set id_01_00000012. People rename: "(1)", "_mono", "- Copy".
_NAME_2020 = re.compile(r"(?:(?P<label>normal|anomaly)_)?id_(?P<id>\d+)_.*", re.IGNORECASE)
# From 2021: section_00_source_train_normal_0012, then perhaps attributes; in the evaluation set section_03_test_0012
# or section_03_0012; supplements of 2025 have `machine` before the number.
_NAME_2021 = re.compile(
    r"section_(?P<id>\d+)(?:_(?P<domain>source|target))?(?:_(?P<split>train|test))?(?:_(?P<label>normal|anomaly))?"
    r"(?:_machine)?_\d+(?:_(?P<attributes>.*))?(?:[ -].*)?",
    re.IGNORECASE,
)
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "source_test", "target_test", "test_rename"), "test"),
    "supplemental": "supplemental",
}
"""The names of folders that tell the split, in small letters."""

LABELS = {
    **dict.fromkeys(("normal", "healthy", "good", "ok", "okay", "intact", "nominal"), 0),
    **dict.fromkeys(("abnormal", "anomaly", "anomalies", "anomalous", "bad", "broken", "damaged", "defect"), 1),
    **dict.fromkeys(("defective", "failed", "failure", "fault", "faults", "faulty", "ng", "nok", "unhealthy"), 1),
}
"""The names of folders that tell the label, in small letters: 0 for normal, 1 for anomalous."""

GUARDED = re.compile("'*[=+@\t\r-]")
"""How texts begin that a spreadsheet might take for a formula, or that look as if they had been guarded. In a CSV file
they get an apostrophe in front, and lose it when they are read."""

_DENIALS = ("no", "non", "not", "without")


@dataclass(frozen=True, slots=True)
class Names:
    """The facts about a clip in its path; see `Clip` for the attributes. A fact that is missing is "", or `None`."""

    machine_type: str = ""
    machine_id: str = ""
    split: str = ""
    domain: str = ""
    label: int | None = None
    doubt: str = ""


def parse(path: Path, folders: int = 1) -> Names:
    """Return what a path tells of its clip.

    Known are `<machine>/{train,test}/` with the file names of the DCASE challenges from 2020 on, and MIMII's
    `<machine>/id_XX/{normal,abnormal}/`. Of any other path, the innermost folder of `SPLITS` gives the split and the
    innermost of `LABELS` the label: its machine type and ID stay empty.

    Args:
        path: the clip's.
        folders: how many of the innermost folders may tell split and label: those from the clip up to the place that
            was given, inclusive, but not what that lies in.
    """
    path = Path(printable(path.absolute()))
    above = path.parent.parts[::-1]  # innermost first
    words = [re.sub(r"[\s-]", "_", part.casefold()) for part in above[:folders]]
    split_at = next((i for i, word in enumerate(words) if word in SPLITS), None)
    split = "" if split_at is None else SPLITS[words[split_at]]
    label = next((LABELS[word] for word in words if word in LABELS), None)
    name = _NAME_2020.fullmatch(path.stem) or _NAME_2021.fullmatch(path.stem)
    if name:
        groups = {key: (x or "").casefold() for key, x in name.groupdict().items()}
        said = LABELS.get(groups["label"])
        doubt = "name and folder disagree" if None not in (said, label) and said != label else ""
        return Names(
            machine_type="" if split_at is None else above[split_at + 1],
            machine_id=groups["id"],
            split=groups.get("split") or split,
            domain=groups.get("domain") or "",
            label=label if said is None else max(said, label or 0),
            doubt=doubt,
        )
    rest = [part for i, part in enumerate(above) if i != split_at]
    mimii = re.fullmatch(r"id_(\d+)", rest[1]) if label is not None else None
    doubt = "" if label is not None else _doubt([path.stem, *above[: max(folders - 1, 0)]])
    return Names(rest[2] if mimii else "", mimii[1] if mimii else "", split, "", label, doubt)


def _doubt(parts: Sequence[str]) -> str:
    """The word in names of files and folders by which a clip that tells no label may be anomalous; "" for none."""
    for part in parts:
        words = re.findall(r"[^\W\d_]+", part.casefold())
        for i, word in enumerate(words):
            denied = (i and words[i - 1] in _DENIALS) or words[i + 1 : i + 2] == ["free"]
            if LABELS.get(word) == 1 and not denied:
                return str(word)
    return ""


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


def guarded(text: str) -> str:
    """Return a text as a CSV file has it: see `GUARDED`."""
    return f"'{text}" if GUARDED.match(text) else text


def unguarded(text: str) -> str:
    """Return the text that `guarded` was given."""
    return text[1:] if text.startswith("'") and GUARDED.match(text) else text
