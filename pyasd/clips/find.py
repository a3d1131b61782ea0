"""Which clips there are: paths, folders, globs, archives and arrays become `Clip` records, in order and lazily.

No clip is opened here; of an archive the list of its files is read.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import heapq
import itertools
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from pyasd.clips import manifests, tars  # noqa: F401 (tars registers itself)
from pyasd.clips.clip import Clip
from pyasd.clips.names import EXTENSIONS, LABELS, OTHER_AUDIO, SPLITS, is_audio, parse, printable
from pyasd.clips.sources import (
    UNREADABLE,
    ArraySource,
    BrokenSource,
    FileSource,
    LogMelSource,
    Source,
    archive_members,
    check_samples,
)


def find(
    clips: Any,
    *,
    ids: Sequence[str] | str | None = None,
    sample_rate: int | None = None,
    features: Literal["audio", "log-mel"] = "audio",
    machine_type: str | None = None,
) -> Iterator[Clip]:
    """Find the clips that `clips` stands for, in order; what is in a folder or glob is sorted by path.

    The arguments are checked at once, each folder and archive up to its first clip; the rest is listed as the iterator
    proceeds.

    Args:
        clips: a file, a folder (searched with its subfolders), an archive, a glob, a manifest, or a list of these or of
            `Clip` records; a pandas table with a column `clip`; or an array of samples `[n]`, a list of such arrays
            (`[n]` or `[channels, n]`) or of `(samples, sample_rate)` pairs; or, with `features="log-mel"`, log-Mel
            arrays `[frames, mels]` in dB. NumPy arrays or torch tensors.
        ids: machine IDs, one per clip, or one for all; they replace those that names tell.
        sample_rate: of arrays of samples, in Hz.
        features: what arrays hold.
        machine_type: replaces the one that paths tell.

    Returns:
        One record per clip. A file of a list that doesn't exist has one too: reading it gives status "missing".

    Raises:
        FileNotFoundError: the only path given doesn't exist, or the only glob matches nothing.
        ValueError: a folder or glob has no audio file; no clips at all; an archive that is damaged, or of a kind that
            can't be read; a manifest's row that is wrong; an array of the wrong shape, or without a sample rate; `ids`
            of the wrong number (where folders, globs, archives or manifests are listed, only when the iterator comes to
            that).
        TypeError: something that is neither a path nor an array.
        OSError: a folder can't be listed.
    """
    if features not in ("audio", "log-mel"):
        raise ValueError(f"features must be 'audio' or 'log-mel', not {features!r}")
    if hasattr(clips, "columns") and hasattr(clips, "to_dict") and manifests.CLIP in clips.columns:
        items = list(manifests.of_table(clips, _in, in_archive))
    else:
        items = _items(clips, features)
    if not items:
        raise ValueError("no clips given: name files, folders, globs or arrays")
    listings: list[list[Clip] | Iterator[Clip]] = []
    root = _common_folder(items)
    places = manifests.Places(Path(), _in, in_archive)
    for index, item in enumerate(items):
        if isinstance(item, Clip):
            listings.append([item])
        elif isinstance(item, (str, os.PathLike)):
            listings.append(_expand(os.fspath(item), root, places))
        else:
            listings.append([_from_array(index, item, sample_rate, features)])
    listed: Iterator[Clip] = itertools.chain.from_iterable(listings)
    if machine_type is not None:
        listed = (replace(clip, machine_type=machine_type) for clip in listed)
    if ids is None:
        return listed
    if isinstance(ids, str):
        return (replace(clip, machine_id=ids) for clip in listed)
    each = [str(x) for x in ids]
    if all(isinstance(clips, list) for clips in listings) and len(each) != len(listings):
        raise _wrong_number(len(each), len(listings))
    return _with_ids(listed, each)


def in_folder(folder: Path, remark: bool = False) -> Iterator[Clip]:
    """List the clips in a folder and its subfolders, sorted by path; hidden files and folders are left out.

    Args:
        folder: the folder.
        remark: warn at the end of archives and of audio of other kinds that lie there and aren't listed.

    Raises:
        OSError: a folder can't be listed.
    """
    # a link's own name, such as "latest", is no machine's
    real = Path(os.path.realpath(folder))
    return (from_file(path, folder, real) for path in _walk(folder, remark))


def from_file(path: Path, root: Path, real: Path) -> Clip:
    """Return the record of a file that was found in `root`, a folder whose own name is `real`."""
    return _record(FileSource(path), real / path.relative_to(root), real)


def in_archive(path: Path) -> Iterator[Clip]:
    """List the clips in an archive. What names tell is as if it were unpacked where it lies; hidden files are left out.

    Raises:
        ValueError: the archive is damaged, or of a kind that can't be read.
        OSError: it can't be opened.
    """
    members = archive_members(path.name)
    if members is None:
        raise ValueError(f"{path} is an archive of a kind that can't be read: unpack it, or make it a zip archive")
    for source in _listed(members(path)):
        if isinstance(source, BrokenSource) and not source.member:
            yield Clip(source.name, source)
            continue
        parts = PurePosixPath(source.member.replace("\\", "/")).parts  # some programs' archives have Windows' paths
        inside = [part for part in parts if part not in ("/", "..")]
        if is_audio(source.member) and not any(part.startswith((".", "__MACOSX")) for part in inside):
            yield _record(source, path.parent.joinpath(*inside), path.parent)


def _items(clips: Any, features: str) -> list[Any]:
    """Return `clips` as a list; what stands for one clip or place alone becomes a list of one."""
    if isinstance(clips, (str, os.PathLike)) or _is_pair(clips) or _is_record(clips):
        return [clips]
    if isinstance(clips, Mapping):
        raise TypeError(f"clips must be paths or arrays, not {type(clips).__name__}: give a list of its values")
    if getattr(getattr(clips, "dtype", None), "kind", "") in tuple("OSTU"):  # a column of a table, an array of text
        return list(clips)
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


def _is_record(item: Any) -> bool:
    """Return whether an item is an audio record of Hugging Face's datasets."""
    return isinstance(item, Mapping) and {"array", "sampling_rate"} <= item.keys()


def _common_folder(items: Sequence[Any]) -> Path | None:
    """The folder in which all paths among several items lie; `None` for a single item, or on several drives."""
    if len(items) < 2:
        return None
    folders = {os.path.dirname(os.path.abspath(os.fspath(x))) for x in items if isinstance(x, (str, os.PathLike))}
    with contextlib.suppress(ValueError):
        return Path(os.path.commonpath(folders))
    return None


def _expand(given: str, root: Path | None, places: manifests.Places) -> list[Clip] | Iterator[Clip]:
    """Return the clips of a path, folder, archive or glob: a list for a file, which is one clip, else an iterator.

    Args:
        given: the path.
        root: the folder in which all paths that were given lie; `None` for this one alone.
        places: finds members of archives by their names.
    """
    alone = root is None
    if not given:
        if alone:
            raise ValueError("an empty path was given: name a file, a folder or a glob; the current folder is '.'")
        return [Clip("", BrokenSource("", "missing", "an empty path is no clip: leave it out"))]
    path = Path(given)
    try:
        path.stat()
    except (OSError, ValueError) as error:
        if getattr(error, "errno", errno.ENOENT) in (errno.ENAMETOOLONG, errno.ELOOP) and not alone:
            return [_named(path, root)]  # reading it says what is wrong
    if path.is_dir():
        return _not_empty(given, in_folder(path, remark=True))
    if manifests.is_manifest(path):
        return _not_empty(given, manifests.of_file(path, _in, in_archive), "names no clip: it has a header alone")
    archived = archive_members(given) is not None
    if path.is_file() if archived else given.lower().endswith(UNREADABLE):
        return _members(path, alone)
    if path.exists():
        return [_named(path, root)]
    matches = [Path(match) for match in glob.glob(given, recursive=True)] if glob.has_magic(given) else []
    if matches and archived:
        alone &= len(matches) == 1
        listings = (_members(path, alone) for path in sorted(matches) if path.is_file())
        return _not_empty(given, itertools.chain.from_iterable(listings))
    if matches:
        before = Path(given[: re.search(r"[*?\[]", given).start()] + "x").parent  # type: ignore[union-attr]
        return _not_empty(given, (from_file(path, before, before) for path in _merged(matches)))
    if (member := places.member(given)) is None and alone:
        raise FileNotFoundError(f"{given} doesn't exist: check the spelling and the current folder, {Path.cwd()}")
    return [member or _named(path, root)]


def _members(path: Path, alone: bool) -> list[Clip] | Iterator[Clip]:
    """Return the clips of an archive; the row that says why it can't be read, where it isn't alone."""
    try:
        return _not_empty(str(path), in_archive(path))
    except _Damaged as error:
        if alone:
            raise ValueError(str(error)) from None
        reason = str(error)
    except OSError as error:
        if alone:
            raise
        reason = f"{printable(path)} can't be opened ({error.strerror}): check its rights"
    return [Clip(printable(path), BrokenSource(printable(path), "unreadable", reason))]


def _not_empty(
    place: str, clips: Iterator[Clip], otherwise: str = f"has no audio file: looked for {', '.join(EXTENSIONS)}"
) -> Iterator[Clip]:
    """Return the same clips, once it is sure that there is one.

    Raises:
        ValueError: there is none.
    """
    first = next(clips, None)
    if first is None:
        raise ValueError(f"{place} {otherwise}")
    return itertools.chain([first], clips)


def _merged(matches: Sequence[Path]) -> Iterator[Path]:
    """Return the audio files among a glob's matches and in the folders among them, sorted, each once: `**` matches a
    folder as well as what is in it.
    """
    folders = {path for path in matches if path.is_dir()}
    files = sorted(path for path in matches if path not in folders and is_audio(path.name))
    return (path for path, _ in itertools.groupby(heapq.merge(files, *map(_walk, folders))))


def walk(folder: str | os.PathLike[str], unlisted: Callable[[Path, OSError], None]) -> Iterator[os.DirEntry[str]]:
    """Yield the files of a folder and its subfolders, sorted by path; hidden ones are left out, links are followed,
    unless they lead to what the walk comes to anyway. A folder is listed when the walk comes to it.

    Args:
        folder: the folder.
        unlisted: told of each folder that can't be listed; it is left out, unless this raises the error.
    """
    seen: set[str] = set()
    inside = os.path.join(os.path.realpath(folder), "")

    def files(here: Path) -> Iterator[os.DirEntry[str]]:
        real = os.path.realpath(here)
        if real in seen:  # a link, back up or to a neighbour
            return
        seen.add(real)
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)  # the order of paths, part by part
        except OSError as error:
            unlisted(here, error)
            return
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                if not entry.is_symlink() or not os.path.realpath(entry.path).startswith(inside):
                    yield from files(Path(entry.path))
            else:
                yield entry

    return files(Path(folder))


def _walk(folder: Path, remark: bool = False) -> Iterator[Path]:
    """Yield the audio files of a folder and its subfolders, see `walk`; `remark` as in `in_folder`."""
    left_out: dict[str, list[Path]] = {}

    def unlisted(here: Path, error: OSError) -> None:
        if here == folder:
            raise error
        warnings.warn(f"{printable(here)} can't be listed ({error.strerror}): it is left out", stacklevel=2)

    for entry in walk(folder, unlisted):
        if is_audio(entry.name):
            yield Path(entry.path)
        elif remark and (why := _why_left_out(entry.name)):
            left_out.setdefault(why, []).append(Path(entry.path))
    for why, paths in left_out.items():
        warnings.warn(f"{printable(folder)}: {len(paths):,} {why}; the first is {printable(paths[0])}", stacklevel=2)


def _why_left_out(name: str) -> str:
    """Say of a file in a folder why it isn't listed, where somebody may miss it."""
    if name.lower().endswith(OTHER_AUDIO):
        return "files of audio that can't be read are left out: convert them to WAV or FLAC"
    if archive_members(name) is not None or name.lower().endswith(UNREADABLE):
        return "archives in the folder are left out: give them by name"
    return ""


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


class _Damaged(ValueError):
    """An archive's members can't be listed."""


def _listed(members: Iterable[Source]) -> Iterator[Source]:
    """Yield the members; raise `_Damaged` where the archive is."""
    try:
        yield from members
    except ValueError as error:
        raise _Damaged(str(error)) from None


def _named(path: Path, root: Path | None) -> Clip:
    """Return the record of a file that was given by its own path, among others in `root`."""
    return replace(_record(FileSource(path), path.absolute(), root or path.absolute().parent), named=True)


def _in(path: Path, root: Path) -> Clip:
    """Return the record of a file that a manifest names."""
    return _record(FileSource(path), Path(os.path.normpath(path)), root)


def _record(source: Source, path: Path, root: Path) -> Clip:
    """Return the record of a source, with what `path` tells. Folders tell split and label from `root` on."""
    below = path.parent.parts[len(root.parts) :]
    names = parse(path, len(below) + 1)
    return Clip(
        name=source.where,
        source=source,
        machine_type=names.machine_type,
        machine_id=names.machine_id,
        split=names.split,
        domain=names.domain,
        label=names.label,
        doubt=names.doubt,
        folders=tuple(x for x in below if x.casefold() not in SPLITS and x.casefold() not in LABELS),
    )


def _from_array(index: int, item: Any, sample_rate: int | None, features: str) -> Clip:
    """Return the record of an array, checked."""
    name = f"clip {index}"
    if _is_pair(item):
        item, sample_rate = item
    elif _is_record(item):
        item, sample_rate = item["array"], item["sampling_rate"]
    if not hasattr(item, "ndim"):
        raise TypeError(f"{name} must be a path or an array, not {type(item).__name__}")
    array = np.asarray(item)
    if features == "log-mel":
        if array.ndim != 2 or array.dtype.kind != "f":
            raise ValueError(f"{name}: a log-Mel must be [frames, mels] in float, not {array.dtype} {array.shape}")
        return Clip(name, LogMelSource(name, array.astype(np.float32, copy=False)))
    check_samples(name, array)
    if array.ndim == 2 and array.shape[0] > array.shape[1] > 0:
        raise ValueError(f"{name}: {array.shape} looks like [n, channels]: give [channels, n], as samples.T")
    if sample_rate is None or sample_rate < 1:
        raise ValueError(f"{name}: samples need their rate: give sample_rate=, or (samples, sample_rate) pairs")
    return Clip(name, ArraySource(name, array, int(sample_rate)))


def _with_ids(clips: Iterator[Clip], ids: Sequence[str]) -> Iterator[Clip]:
    """Yield the clips with their machine IDs.

    Raises:
        ValueError: there are more clips than IDs, or fewer; at the first clip without an ID, or at the end.
    """
    count = 0
    for clip in clips:
        if count == len(ids):
            raise _wrong_number(len(ids), count + 1 + sum(1 for _ in clips))
        yield replace(clip, machine_id=ids[count])
        count += 1
    if count != len(ids):
        raise _wrong_number(len(ids), count)


def _wrong_number(ids: int, clips: int) -> ValueError:
    return ValueError(f"{ids} ids for {clips} clips: give one per clip, or a single string for all")
