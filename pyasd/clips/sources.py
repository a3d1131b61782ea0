"""List and open the sources of clips: files, members of archives, and arrays.

A further kind of archive is one entry of `register`: a function that lists an archive's members as sources.
"""

from __future__ import annotations

import bz2
import copy
import io
import lzma
import os
import re
import stat
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pyasd.clips.names import printable
from pyasd.errors import ClipError

LIMIT_VARIABLE = "PYASD_MAX_FILE_SIZE"
"""The environment variable with the most bytes that an encoded or a decoded clip may have, as "500M" or "8G"."""

_LIMIT = 4 << 30
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_NO_CLIPS = (
    ".csv",
    ".tsv",
    ".txt",
    ".json",
    ".jsonl",
    ".parquet",
    ".xlsx",
    ".m3u",
    ".m3u8",
    ".pls",
    ".xml",
    ".yaml",
    ".yml",
)
"""Lists and tables, which somebody may take for what they name."""


def size_limit() -> int:
    """Return the most bytes that a clip may have, encoded or decoded: 4 GiB unless `LIMIT_VARIABLE` says otherwise. A
    few bytes of an archive may stand for any number.

    Raises:
        ValueError: the variable is no size.
    """
    given = os.environ.get(LIMIT_VARIABLE, "")
    match = re.fullmatch(r"(\d+) ?([KMGT]?)(?:i?B)?", given or "0", re.IGNORECASE)
    if match is None:
        raise ValueError(f"{LIMIT_VARIABLE} must be a size such as 500M or 8G, not {given!r}")
    return int(match[1]) * _UNITS[match[2].upper()] or _LIMIT


def check_size(where: str, size: int, most: int, what: str = "bytes") -> None:
    """Check that a clip hasn't more bytes than `most`, a `size_limit`.

    Raises:
        ClipError: "unreadable"; the message says how to raise the limit.
    """
    if size > most:
        raise ClipError(
            "unreadable",
            f"{where} has {size:,} {what}, and the most is {most:,}: cut it into shorter clips, or set "
            f"{LIMIT_VARIABLE} or --max-file-size",
        )


def check_samples(name: str, samples: NDArray[Any]) -> None:
    """Check that an array may be samples.

    Raises:
        ValueError: it has another number of dimensions, or another type; the message begins with the name.
    """
    if samples.ndim not in (1, 2) or not (samples.dtype == np.int16 or samples.dtype.kind == "f"):
        raise ValueError(
            f"{name}: samples must be [n] or [channels, n] in int16 or float (full scale 1), not {samples.dtype} "
            f"{samples.shape}"
        )


class Source(ABC):
    """Open one clip: a file, a member of an archive, or an array. Sources can be pickled: they hold no open file.

    Attributes:
        path: the file, or the archive that the clip is in; `None` for arrays.
        member: the clip's name in that archive; "" for anything else.
    """

    __slots__ = ()
    path: Path | None
    member: str

    @property
    @abstractmethod
    def where(self) -> str:
        """The place as error messages and the table name it."""

    def open(self) -> BinaryIO:
        """Open the encoded clip, at its start and seekable.

        Raises:
            ClipError: "missing" or "unreadable"; the message says what to do.
            ValueError: an array has no encoded form.
        """
        raise ValueError(f"{self.where} is an array and has no file that could be opened")

    def size(self) -> int:
        """Return the bytes that `open` gives; 0 for an array, or where that can't be found out."""
        return 0


@dataclass(frozen=True, slots=True)
class FileSource(Source):
    """A file of its own."""

    path: Path
    member = ""

    @property
    def where(self) -> str:
        """The path, printable."""
        return printable(self.path)

    def open(self) -> BinaryIO:
        """Open the file; see `Source.open`."""
        most = size_limit()
        try:
            info = self.path.stat()
            if not stat.S_ISREG(info.st_mode):  # before it is opened: a pipe would wait for a writer
                raise ClipError("unreadable", f"{self.where} is not a file: give audio files")
            if self.path.suffix.lower() in _NO_CLIPS:
                raise ClipError(
                    "unreadable",
                    f"{self.where} is a list or a table: give the clips that it names, or a .csv or .parquet file that "
                    "names them in a column clip",
                )
            check_size(self.where, info.st_size, most)
            return open(self.path, "rb")
        except (FileNotFoundError, ValueError):  # no file has a name with a zero byte in it
            raise ClipError("missing", f"{self.where} doesn't exist: check the spelling and the folder") from None
        except OSError as error:
            raise ClipError(
                "unreadable", f"{self.where} can't be opened ({error.strerror}): check its rights"
            ) from None

    def size(self) -> int:
        """Return the file's size in bytes; 0 where it can't be looked at."""
        try:
            return self.path.stat().st_size
        except (OSError, ValueError):  # opening it says what is wrong
            return 0


def inside(archive: Path, member: str) -> str:
    """Return the path of an archive's member as if the archive were a folder, printable."""
    return f"{printable(archive)}/{printable(Path(member)) if member else ''}"


_UNPACKING = (
    KeyError, ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error,
)  # fmt: skip
"""What zipfile and its decompressors raise on damaged archives (bz2 raises OSError and ValueError)."""


_BLOCK = 1 << 20


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Unpack a member: no more than it claims to have, for a few bytes may stand for gigabytes.

    Raises:
        zipfile.BadZipFile, and the other errors of `_UNPACKING`: it is damaged, or has more bytes.
    """
    if entry.compress_type not in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with archive.open(entry) as stream:
            return b"".join(iter(lambda: stream.read(_BLOCK), b""))
    packed = copy.copy(entry)  # zipfile would unpack these two to their end: it gives what is packed, as if it were all
    packed.compress_type, packed.file_size = zipfile.ZIP_STORED, entry.compress_size
    del packed.CRC
    with archive.open(packed) as stream:
        data = stream.read()
    unpacker: bz2.BZ2Decompressor | lzma.LZMADecompressor = bz2.BZ2Decompressor()
    if entry.compress_type == zipfile.ZIP_LZMA:  # a version, the length of the settings, and the settings, as in .lzma
        if data[2:4] != b"\5\0":
            raise zipfile.BadZipFile("Bad settings of LZMA")
        unpacker = lzma.LZMADecompressor(lzma.FORMAT_ALONE)
        data = data[4:9] + b"\xff" * 8 + data[9:]  # where a .lzma file may say that it doesn't tell its size
    content = unpacker.decompress(data, entry.file_size)
    if zlib.crc32(content) != entry.CRC:
        raise zipfile.BadZipFile("Bad CRC-32")
    return content


@dataclass(frozen=True, slots=True)
class ZipSource(Source):
    """A member of a zip archive.

    Attributes:
        entry: its place in the archive's list, for an archive can have several members of one name.
    """

    path: Path
    member: str
    entry: int

    @property
    def where(self) -> str:
        """The path as if the archive were a folder, printable."""
        return inside(self.path, self.member)

    def _entry(self, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
        """The entry in its open archive, which must still be this member's.

        Raises:
            KeyError: the archive has changed.
        """
        entries = archive.infolist()
        if self.entry >= len(entries) or entries[self.entry].filename != self.member:
            raise KeyError(f"no item {self.member!r} in its place")
        return entries[self.entry]

    def open(self) -> BinaryIO:
        """Unpack the member into memory, checked against the archive's checksum; see `Source.open`."""
        most, archived = size_limit(), printable(self.path)
        try:
            archive = open_zip(self.path)
            entry = self._entry(archive)
            if entry.flag_bits & 1:
                raise ClipError("unreadable", f"{self.where} is encrypted: unpack {archived} with its password")
            check_size(self.where, entry.file_size, most)
            return io.BytesIO(_unpack(archive, entry))
        except FileNotFoundError:
            raise ClipError("missing", f"{self.where}: the archive {archived} doesn't exist any more") from None
        except NotImplementedError as error:
            raise ClipError(
                "unreadable", f"{self.where} can't be unpacked here ({error}): unpack {archived} with another program"
            ) from None
        except MemoryError:
            raise ClipError("unreadable", f"{self.where} is too long for this machine's memory: cut it") from None
        except _UNPACKING as error:
            reason = " ".join(str(error).split())
            raise ClipError(
                "unreadable", f"{self.where} can't be unpacked ({reason}): copy or download {archived} again"
            ) from None

    def size(self) -> int:
        """Return the member's unpacked size in bytes, as the archive claims it; 0 where it can't be looked at."""
        try:
            return self._entry(open_zip(self.path)).file_size
        except (OSError, ValueError, KeyError):  # opening it says what is wrong
            return 0


@dataclass(frozen=True, slots=True)
class BrokenSource(Source):
    """A place that no clip can be found in, among several or in an archive: it has a row that says why.

    Attributes:
        name: the place as it was given.
        status: the row's.
        reason: what is wrong, and the remedy.
        path: the archive that it is in, if it is in one.
        member: its name there; "" for all that may lie behind the others.
    """

    name: str
    status: str
    reason: str
    path: Path | None = None
    member: str = ""

    @property
    def where(self) -> str:
        """The name."""
        return self.name

    def open(self) -> BinaryIO:
        """Raise `error`."""
        raise self.error

    @property
    def error(self) -> ClipError:
        """Return what is wrong, as the error that `open` raises."""
        return ClipError(self.status, self.reason)


@dataclass(frozen=True, eq=False, slots=True)
class _InMemory(Source):
    """An array in memory, by the name that it has among those given."""

    name: str
    path = None
    member = ""

    @property
    def where(self) -> str:
        """The name."""
        return self.name


@dataclass(frozen=True, eq=False, slots=True)
class ArraySource(_InMemory):
    """Samples in memory.

    Attributes:
        samples: `[n]` or `[channels, n]`, int16 or float with full scale 1.
        sample_rate: in Hz.
    """

    samples: NDArray[Any]
    sample_rate: int


@dataclass(frozen=True, eq=False, slots=True)
class LogMelSource(_InMemory):
    """A log-Mel in memory.

    Attributes:
        log_mel: `[frames, mels]` float32, in dB.
    """

    log_mel: NDArray[np.float32]


# -- archives ----------------------------------------------------------------------------------------------------

Members = Callable[[Path], Iterable[Source]]
"""Lists an archive's members, audio or not, in the order in which clips are to come. Each source has `path` and
`member`. Raises ValueError where the archive is damaged, OSError where it can't be opened."""

UNREADABLE = (".7z", ".rar", ".tar.zst", ".tar.lz4", ".tar.lzma")
"""Archives that are known as such, and refused unless their suffix is registered."""

_archives: dict[str, Members] = {}


def register(suffix: str, members: Members) -> None:
    """Read archives whose names end in `suffix` (lower case, with its dot) through `members`."""
    _archives[suffix] = members


def archive_members(name: str) -> Members | None:
    """Return what lists an archive of this name: that of the longest suffix that fits, or `None`."""
    fitting = [suffix for suffix in _archives if name.lower().endswith(suffix)]
    return _archives[max(fitting, key=len)] if fitting else None


@lru_cache(maxsize=64)
def _open_zip(path: Path, _stamp: tuple[int, int, int]) -> zipfile.ZipFile:
    file = zipfile.ZipFile(path)
    claimed = _claimed_members(path)
    if claimed is not None and claimed != len(file.infolist()) & 0xFFFF:
        file.close()
        raise zipfile.BadZipFile(f"its list has {len(file.infolist())} members, and should have {claimed}")
    cut = next((x.filename for x in file.infolist() if "\0" in x.orig_filename), None)
    if cut is not None:  # zipfile takes what is before the zero
        file.close()
        raise zipfile.BadZipFile(f"there is a zero byte in the name of its member {cut!r}")
    return file


def _claimed_members(path: Path) -> int | None:
    """How many members an archive's end says that it has, in 16 bits; `None` where it can't say so many."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 22 - 0xFFFF))  # the end record has 22 bytes, and a comment behind it
        end = file.read()
    place = end.rfind(b"PK\5\6")
    if place < 0 or len(end) < place + 12:
        return None
    count = int(struct.unpack_from("<H", end, place + 10)[0])
    return None if count == 0xFFFF else count


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip archive, once for all threads that read from it: again after it has changed, and in a forked process,
    which would share the file's position with its parent.

    Raises:
        ValueError: it is damaged, or no zip archive.
        OSError: it can't be opened.
    """
    info = path.stat()
    try:
        return _open_zip(path, (info.st_mtime_ns, info.st_size, os.getpid()))
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ValueError(f"{printable(path)} is no whole zip archive ({error}): copy or download it again") from None


def _zip_members(path: Path) -> Iterator[Source]:
    names = open_zip(path).namelist()
    for entry in sorted(range(len(names)), key=names.__getitem__):
        yield ZipSource(path, names[entry], entry)


register(".zip", _zip_members)
