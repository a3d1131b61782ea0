"""Which clips there are: paths, folders, globs and arrays become `Clip` records, in order.

A record says where the clip is and what its name tells: machine type, machine ID, split, domain and label. No clip is
opened here; of a zip archive the list of its files is read.
"""

from __future__ import annotations

import glob
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

EXTENSIONS = (
    ".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf",
    ".w64", ".rf64",
)  # fmt: skip
"""The files that are taken from folders and globs. A file that is named itself is always taken."""

ZIP = ".zip"
ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z")
"""Archives whose clips can't be read one by one."""


@dataclass(frozen=True, eq=False)
class Clip:
    """One clip: where it is, and what its name tells. It has a `path`, `samples` or a `log_mel`.

    Attributes:
        name: the table's `clip` column: the path as found, or "clip 3" for the fourth array.
        path: its file, or the zip archive that it is in.
        member: its name in that archive; "" for a file.
        samples: `[n]` or `[channels, n]`, int16 or float with full scale 1.
        sample_rate: of `samples`, in Hz.
        log_mel: `[frames, mels]` float32, in dB.
        machine_type: "" when the path doesn't tell.
        machine_id: as the name spells it, such as "00"; "" when unknown.
        split: "train", "test", "supplemental" (2025: clips of clean machines, or of noise alone) or "".
        label: 0 for normal, 1 for anomalous, `None` when unknown.
        domain: "source" or "target" where a name of the challenges from 2021 on tells.
    """

    name: str
    path: Path | None = None
    member: str = ""
    samples: NDArray[Any] | None = None
    sample_rate: int | None = None
    log_mel: NDArray[np.float32] | None = None
    machine_type: str = ""
    machine_id: str = ""
    split: str = ""
    label: int | None = None
    domain: str = ""


def find(
    clips: Any,
    *,
    ids: Sequence[str] | str | None = None,
    sample_rate: int | None = None,
    features: Literal["audio", "log-mel"] = "audio",
    machine_type: str | None = None,
) -> list[Clip]:
    """The clips that `clips` stands for, in order; what is in a folder or glob is sorted by path.

    Args:
        clips: a file, a folder (searched with its subfolders), a zip archive, a glob, or a list of these or of `Clip`
            records; or an array of samples `[n]`, a list of such arrays (`[n]` or `[channels, n]`) or of
            `(samples, sample_rate)` pairs; or, with `features="log-mel"`, log-Mel arrays `[frames, mels]` in dB. NumPy
            arrays or torch tensors.
        ids: machine IDs, one per clip, or one for all; they replace those that names tell.
        sample_rate: of arrays of samples, in Hz.
        features: what arrays hold.
        machine_type: replaces the one that paths tell.

    Returns:
        One record per clip. A file of a list that doesn't exist has one too: reading it gives status "missing".

    Raises:
        FileNotFoundError: the only path given doesn't exist, or the only glob matches nothing.
        ValueError: a folder or glob has no audio file; no clips at all; an archive that is damaged, or no zip; `ids` of
            the wrong number; an array of the wrong shape, or without a sample rate.
        TypeError: something that is neither a path nor an array.
    """
    if features not in ("audio", "log-mel"):
        raise ValueError(f"features must be 'audio' or 'log-mel', not {features!r}")
    items = _items(clips, features)
    if not items:
        raise ValueError("no clips given: name files, folders, globs or arrays")
    found: list[Clip] = []
    for index, item in enumerate(items):
        if isinstance(item, Clip):
            found.append(item)
        elif isinstance(item, (str, os.PathLike)):
            found += _expand(os.fspath(item), alone=len(items) == 1)
        else:
            found.append(_from_array(index, item, sample_rate, features))
    if machine_type is not None:
        found = [replace(clip, machine_type=machine_type) for clip in found]
    if ids is not None:
        each = [ids] * len(found) if isinstance(ids, str) else [str(x) for x in ids]
        if len(each) != len(found):
            raise ValueError(f"{len(each)} ids for {len(found)} clips: give one per clip, or a single string for all")
        found = [replace(clip, machine_id=x) for clip, x in zip(found, each, strict=True)]
    return found


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


def parse(path: Path) -> dict[str, Any]:
    """What a path tells: `machine_type`, `machine_id`, `split`, `label` and `domain` of its clip.

    Known are `<machine>/{train,test}/` with the file names of the DCASE challenges from 2020 on, and MIMII's
    `<machine>/id_XX/{normal,abnormal}/`. Of any other path, a folder called `train` or `test` gives the split and
    one called `normal`, `abnormal` or `anomaly` the label: its machine type and ID stay empty, so that the clips
    of such folders are all of one machine.
    """
    path = Path(_printable(path.absolute()))
    folders = path.parent.parts[::-1]  # innermost first
    parent, above, top = (*folders, "", "", "")[:3]
    split = _SPLITS.get(parent, "")
    name = _NAME_2020.fullmatch(path.stem) or _NAME_2021.fullmatch(path.stem)
    if name:
        told = name.groupdict()
        return {
            "machine_type": above if split else "",
            "machine_id": told["id"],
            "split": told.get("split") or split,
            "label": _LABELS.get(told["label"] or ""),
            "domain": told.get("domain") or "",
        }
    label = _LABELS.get(parent)
    mimii = re.fullmatch(r"id_(\d+)", above) if label is not None else None
    return {
        "machine_type": top if mimii else "",
        "machine_id": mimii[1] if mimii else "",
        "split": split,
        "label": label,
        "domain": "",
    }


def attributes(name: str) -> str:
    """What a file name of the challenges from 2021 on says of how the clip was recorded, as it is spelt there, such as
    "vel_21_loc_A"; "" where it says nothing.
    """
    found = _NAME_2021.fullmatch(PurePosixPath(name).stem)
    return (found["attributes"] or "").strip("_") if found else ""


@lru_cache(maxsize=64)
def _open_zip(path: Path, stamp: tuple[int, int]) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip archive, opened once for all threads that read from it.

    Raises:
        ValueError: it is damaged, or no zip archive.
        OSError: it can't be opened.
    """
    info = path.stat()
    try:
        return _open_zip(path, (info.st_mtime_ns, info.st_size))
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path} is no whole zip archive ({error}): copy or download it again") from None


def file_bytes(clip: Clip) -> int:
    """Bytes of the file that a clip is decoded from; 0 where there is none, or it can't be looked at."""
    try:
        if clip.path is None:
            return 0
        return open_zip(clip.path).getinfo(clip.member).file_size if clip.member else clip.path.stat().st_size
    except (OSError, ValueError, KeyError):  # reading it says what is wrong
        return 0


def _items(clips: Any, features: str) -> list[Any]:
    """`clips` as a list, whatever stands for one clip alone wrapped."""
    if isinstance(clips, (str, os.PathLike)) or _is_pair(clips):
        return [clips]
    dimensions = getattr(clips, "ndim", None)
    if dimensions is not None:
        single = 2 if features == "log-mel" else 1
        if features == "audio" and dimensions == 2:
            raise ValueError("one array of two dimensions could be channels or clips: give [array] or list(array)")
        return [clips] if dimensions == single else list(clips)
    try:
        return list(clips)
    except TypeError:
        raise TypeError(f"clips must be paths or arrays, not {type(clips).__name__}") from None


def _is_pair(item: Any) -> bool:
    return isinstance(item, tuple) and len(item) == 2 and hasattr(item[0], "ndim") and np.ndim(item[1]) == 0


def _printable(path: Path) -> str:
    """The path as text that can be written anywhere: bytes that aren't UTF-8 are escaped."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _expand(given: str, alone: bool) -> list[Clip]:
    """The clips that a path, folder, archive or glob stands for."""
    path = Path(given)
    if path.is_dir():
        return in_folder(path) or _none_in(given)
    if given.lower().endswith(ARCHIVES):
        raise ValueError(f"{given} is an archive of a kind that can't be read: unpack it, or make it a zip archive")
    if path.suffix.lower() == ZIP and path.is_file():
        return in_zip(path) or _none_in(given)
    if path.exists():
        return _records([path])
    matches = [Path(match) for match in glob.glob(given, recursive=True)] if glob.has_magic(given) else []
    if matches:  # folders too: `**` matches a folder as well as what is in it
        files = {file for match in matches for file in (_walk(match) if match.is_dir() else [match])}
        return _records(sorted(file for file in files if _is_audio(file.name))) or _none_in(given)
    if alone:
        raise FileNotFoundError(f"{given} doesn't exist: check the spelling and the current folder, {Path.cwd()}")
    return _records([path])


def _records(paths: Sequence[Path]) -> list[Clip]:
    return [Clip(_printable(path), path, **parse(path)) for path in paths]


def in_folder(folder: Path) -> list[Clip]:
    """The clips in a folder and its subfolders, sorted by path; hidden ones are left out."""
    return _records(_walk(folder))


def in_zip(path: Path) -> list[Clip]:
    """The clips in a zip archive, sorted by name. What names tell is as if it were unpacked where it lies.

    Raises:
        ValueError: the archive is damaged, or no zip archive.
        OSError: it can't be opened.
    """
    found = []
    for name in sorted(open_zip(path).namelist()):
        parts = PurePosixPath(name).parts
        if _is_audio(name) and not any(part.startswith((".", "__MACOSX")) for part in parts):
            found.append(Clip(_printable(path / name), path, name, **parse(path.parent / name)))
    return found


def _walk(folder: Path) -> list[Path]:
    """The audio files of a folder and its subfolders, sorted; hidden ones are left out, links are followed."""
    seen: set[str] = set()

    def files(here: Path) -> Iterator[Path]:
        real = os.path.realpath(here)
        if real in seen:  # a link, back up or to a neighbour
            return
        seen.add(real)
        for entry in sorted(os.scandir(here), key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from files(here / entry.name)
            elif _is_audio(entry.name):
                yield here / entry.name

    return sorted(files(folder))


def _is_audio(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def _none_in(place: str) -> list[Clip]:
    raise ValueError(f"{place} has no audio file: looked for {', '.join(EXTENSIONS)}")


def _from_array(index: int, item: Any, sample_rate: int | None, features: str) -> Clip:
    name = f"clip {index}"
    if _is_pair(item):
        item, sample_rate = item
    if not hasattr(item, "ndim"):
        raise TypeError(f"{name} must be a path or an array, not {type(item).__name__}")
    array = np.asarray(item)
    if features == "log-mel":
        if array.ndim != 2 or array.dtype.kind != "f":
            raise ValueError(f"{name}: a log-Mel must be [frames, mels] in float, not {array.dtype} {array.shape}")
        return Clip(name, log_mel=array.astype(np.float32, copy=False))
    if array.ndim not in (1, 2) or not (array.dtype == np.int16 or array.dtype.kind == "f"):
        raise ValueError(
            f"{name}: samples must be [n] or [channels, n] in int16 or float (full scale 1), not {array.dtype} "
            f"{array.shape}"
        )
    if sample_rate is None or sample_rate < 1:
        raise ValueError(f"{name}: samples need their rate: give sample_rate=, or (samples, sample_rate) pairs")
    return Clip(name, samples=array, sample_rate=int(sample_rate))
