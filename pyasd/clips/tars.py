"""Clips in tar archives, plain or compressed, read without unpacking them: nothing is written, no member is followed.

A plain archive's members are read by their places, by any number of threads. A compressed one has no places: a
`_Reader` decompresses it from its begin to its end for all threads. So clips come in the archive's order.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import tarfile
import threading
import zlib
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from pyasd.clips.names import is_audio, printable
from pyasd.clips.sources import BrokenSource, Source, check_size, inside, register, size_limit
from pyasd.errors import ClipError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tbz2", ".tar.xz", ".txz")
"""The ends of tar archives' names. How one is compressed, its first bytes tell, and not its name."""

HEADER_BYTES = 1 << 20
"""The most bytes of a header of several blocks (long names, attributes of files): what claims more is damaged."""

HELD_BYTES = 128 << 20
"""Clips of a compressed archive that are kept in memory because another one behind them was asked for first."""

_CHUNK, _PACKED_CHUNK = 1 << 14, 1 << 18
"""Bytes that are read at once. Of a plain archive the headers alone are read."""

_BUFFER = 1 << 15
"""Bytes of a clip that are read at once, where decoders ask for fewer."""

_PACKED: dict[bytes, Callable[[BinaryIO], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""What opens an archive, by its first bytes."""

_DAMAGE = (
    tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, LookupError, OverflowError, RecursionError,
    TypeError, AttributeError, OSError, MemoryError,
)  # fmt: skip
"""What tarfile and the decompressors raise on damaged archives."""

_OTHERS = {
    tarfile.SYMTYPE: "a link", tarfile.LNKTYPE: "a link", tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}  # fmt: skip


# -- reading an archive from its begin to its end -----------------------------------------------------------------


class _Stream:
    """What tarfile reads an archive through: forwards only, in the same steps whoever reads, and never much at once.

    Attributes:
        packed: whether the archive is compressed.
        last: the bytes of a header that were read last.
        ended: whether more was asked for than there is.
        cut: whether compressed data ended before their end.
    """

    def __init__(self, path: Path) -> None:
        self.last = b""
        self.ended = self.cut = False
        self._file: BinaryIO = open(path, "rb", buffering=0)  # noqa: SIM115 (close)
        magic = self._file.read(6)
        self._file.seek(0)
        opener = next((opener for begin, opener in _PACKED.items() if magic.startswith(begin)), None)
        self.packed = opener is not None
        self._unpacked: Any = self._file if opener is None else opener(self._file)
        self._chunk = b""
        self._used = 0  # bytes of the chunk
        self._before = 0  # bytes of the archive before the chunk

    def close(self) -> None:
        """Close the file."""
        self._unpacked.close()
        self._file.close()

    def tell(self) -> int:
        """Return the place."""
        return self._before + self._used

    def seek(self, place: int) -> None:
        """Go forwards."""
        if place < self.tell():
            raise tarfile.ReadError("a member lies before its begin")
        while place > self._before + len(self._chunk):
            if not self._fill(place):
                return
        self._used = place - self._before

    def read(self, size: int) -> bytes:
        """Read a part of a header."""
        if not 0 <= size <= HEADER_BYTES:
            raise tarfile.ReadError(f"a header claims {size:,} bytes")
        self.last = self.content(size)
        return self.last

    def content(self, size: int) -> bytes:
        """Read as many bytes, or those that are left."""
        parts = []
        while size:
            part = self._chunk[self._used : self._used + size]
            if not part and not self._fill():
                break
            parts.append(part)
            self._used += len(part)
            size -= len(part)
        return b"".join(parts)

    def is_zero(self) -> bool:
        """Read on to the end, and return whether all that is left is zeros."""
        while not self._chunk[self._used :].strip(b"\0"):
            if not self._fill():
                return True
        return False

    def _fill(self, place: int = 0) -> bool:
        """Read the next chunk; of a plain archive the one at `place`, if it lies behind."""
        self._before += len(self._chunk)
        self._chunk, self._used = b"", 0
        try:
            if self.packed:
                self._chunk = self._unpacked.read1(_PACKED_CHUNK)
            else:
                if place > self._before:
                    self._before = self._file.seek(min(place, self._file.seek(0, os.SEEK_END)))
                self._chunk = self._file.read(_CHUNK)
        except EOFError:
            self.cut = True
        self.ended |= not self._chunk
        return bool(self._chunk)


class _Broken(ValueError):
    """An archive can't be read on.

    Attributes:
        status: of the row: "truncated" or "unreadable".
        member: the one that was read last, if it may lack bytes; else "".
        remedy: what to do.
    """

    def __init__(self, status: str, reason: str, member: str = "", remedy: str = "copy or download it again") -> None:
        super().__init__(reason)
        self.status = status
        self.member = member
        self.remedy = remedy


def _damaged(error: Exception, member: str) -> _Broken:
    return _Broken("unreadable", f"is damaged ({' '.join(str(error).split())})", member)


def _walk(stream: _Stream) -> Iterator[tarfile.TarInfo]:
    """Yield an archive's members. When one is yielded, its content is what the stream gives next.

    Raises:
        _Broken: it can't be read to its end, or goes on behind it.
        ValueError: it is no tar archive.
    """
    try:
        archive = tarfile.TarFile(fileobj=cast(BinaryIO, stream), encoding="utf-8", errors="surrogateescape")
    except _DAMAGE as error:
        raise ValueError(" ".join(str(error).split())) from None
    member = ""
    empty = archive.firstmember is None  # type: ignore[attr-defined]  # of which Python 3.10 can't ask for the next one
    while True:
        try:
            info = None if empty else archive.next()
            if info is not None and info.size < 0:
                raise tarfile.ReadError("a member has less than no bytes")
        except _DAMAGE as error:
            if stream.ended:
                lacks_bytes = stream.tell() < archive.offset
                raise _Broken("truncated", "ends early", member if lacks_bytes else "") from None
            raise _damaged(error, member) from None
        if info is None:
            break
        archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
        member = info.name
        yield info
    end = stream.last
    if end.strip(b"\0"):
        if len(end) < tarfile.BLOCKSIZE:
            raise _Broken("truncated", "ends early")
        raise _Broken("unreadable", "is damaged", member)
    try:
        only_zeros = stream.is_zero()
    except _DAMAGE as error:
        raise _damaged(error, member) from None
    if stream.cut or len(end) < tarfile.BLOCKSIZE:
        raise _Broken("truncated", "ends early")
    if not only_zeros:
        raise _Broken("unreadable", "goes on behind its end", remedy="give archives that were joined one by one")


def _clips(stream: _Stream) -> Iterator[tarfile.TarInfo]:
    """Yield the members that are called as audio is; see `_walk`."""
    return (info for info in _walk(stream) if is_audio(info.name) and not info.isdir())


# -- the list of an archive's clips -------------------------------------------------------------------------------


class _Place(NamedTuple):
    """Where a clip lies in an archive.

    Attributes:
        member: its name.
        offset: where its content begins, in bytes.
        size: of its content, in bytes.
        checksum: of its header.
        obstacle: why it can't be read, in words; "" where it can.
    """

    member: str
    offset: int
    size: int
    checksum: int
    obstacle: str = ""


class _List(NamedTuple):
    """An archive's clips, in its order, whether it is compressed, and why the list may not be whole."""

    places: tuple[_Place, ...]
    packed: bool
    broken: _Broken | None


def _stamp(path: Path) -> tuple[int, int]:
    """Return what tells that a file has changed; inode numbers change by themselves on some network drives."""
    info = path.stat()
    return info.st_mtime_ns, info.st_size


@lru_cache(maxsize=16)
def _list(path: Path, _stamped: tuple[int, int]) -> _List:
    places: list[_Place] = []
    broken = None
    stream = _Stream(path)
    try:
        places.extend(_Place(x.name, x.offset_data, x.size, x.chksum, _obstacle(x)) for x in _clips(stream))
    except _Broken as error:
        if stream.packed and error.status != "truncated":  # bytes may have changed in any of them
            raise
        broken = error
    finally:
        stream.close()
    return _List(tuple(places), stream.packed, broken)


def _obstacle(info: tarfile.TarInfo) -> str:
    """Say why a member is no clip; "" if it may be one."""
    if info.issparse():
        return "is stored with holes (sparse): make the archive without --sparse"
    if info.isreg():
        return ""
    kind = _OTHERS.get(info.type, "of an unknown kind")
    leads = f" to {printable(Path(info.linkname))}" if info.issym() or info.islnk() else ""
    return f"is {kind}{leads}, and no file: make the archive with --dereference and --hard-dereference"


def members(path: Path) -> Iterator[Source]:
    """List an archive's clips in its order. Its headers are read once; a compressed archive is decompressed for that.

    Where it ends early or is damaged, the last source is a `BrokenSource` that says so.

    Raises:
        ValueError: it is no tar archive, or compressed and damaged.
        OSError: it can't be opened.
    """
    archived = printable(path)
    try:
        places, packed, broken = _list(path, _stamp(path))
    except _Broken as error:
        raise ValueError(f"{archived} {error}: copy or download it again") from None
    except ValueError as error:
        raise ValueError(f"{archived} is no tar archive ({error}): copy or download it again") from None
    doubtful = broken is not None and [place.member for place in places[-1:]] == [broken.member]
    whole = places[:-1] if doubtful else places
    for entry, place in enumerate(whole):
        if place.obstacle:
            where = inside(path, place.member)
            yield BrokenSource(where, "unreadable", f"{where} {place.obstacle}", path, place.member)
        elif packed:
            yield PackedSource(path, place.member, entry, place.size)
        else:
            yield TarSource(path, place.member, place.offset, place.size, place.checksum)
    if broken and doubtful:
        where = inside(path, broken.member)
        reason = f"{where} may lack bytes, and clips behind it may be missing: {archived} {broken}; {broken.remedy}"
        yield BrokenSource(where, broken.status, reason, path, broken.member)
    elif broken:
        reason = f"{archived} {broken}, and clips behind {len(places)} others may be missing: {broken.remedy}"
        yield BrokenSource(archived, broken.status, reason, path)


for _suffix in SUFFIXES:
    register(_suffix, members)


# -- reading clips ------------------------------------------------------------------------------------------------


class _File:
    """An open file, closed when nobody uses it any more."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class _Section(io.RawIOBase):
    """A part of an open file, read by its place, whatever other threads read."""

    def __init__(self, file: _File, begin: int, length: int) -> None:
        super().__init__()
        self._file, self._begin, self._length = file, begin, length
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._length}[whence]
        if self._place < 0:
            self._place = 0
            raise OSError(errno.EINVAL, "a place before the begin")
        return self._place

    def readinto(self, buffer: WriteableBuffer) -> int:
        with memoryview(buffer).cast("B") as view:
            wanted, done = max(0, min(len(view), self._length - self._place)), 0
            while done < wanted:
                count = os.preadv(self._file.number, [view[done:wanted]], self._begin + self._place + done)
                if not count:  # the file was cut off meanwhile
                    break
                done += count
        self._place += done
        return done


@lru_cache(maxsize=64)
def _opened(path: Path, _stamped: tuple[int, int]) -> _File:
    return _File(path)


class _Reader:
    """Decompresses an archive from its begin on, and gives its clips to all threads.

    Threads ask in nearly the archive's order: a clip that is passed on the way to another is kept for a while. For one
    that lies further back the archive is read from its begin again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._stream: _Stream | None = None
        self._clips: Iterator[tarfile.TarInfo] = iter(())
        self._next = 0  # the place of the next clip among all
        self._held: OrderedDict[int, bytes] = OrderedDict()
        self._held_bytes = 0

    def __del__(self) -> None:
        self._close()

    def read(self, entry: int, member: str) -> bytes:
        """Read a clip, by its place in the archive's list.

        Raises:
            KeyError: the archive has changed: another clip is there, or none.
            ValueError, OSError: it can't be decompressed to there.
        """
        with self._lock:
            if entry in self._held:
                data = self._held.pop(entry)
                self._held_bytes -= len(data)
                return data
            try:
                return self._decompress(entry, member)
            except BaseException:  # Ctrl-C too: begin again
                self._close()
                raise

    def _decompress(self, entry: int, member: str) -> bytes:
        if self._stream is None or entry < self._next:
            self._close()
            self._stream = _Stream(self._path)
            self._clips, self._next = _clips(self._stream), 0
        for info in self._clips:
            self._next += 1
            if self._next == entry + 1:
                if info.name != member:
                    break
                return self._content(info)
            if info.size <= HELD_BYTES and info.isreg() and not info.issparse():
                self._hold(self._next - 1, self._content(info))
        raise KeyError(f"no item {member!r} in its place")

    def _content(self, info: tarfile.TarInfo) -> bytes:
        assert self._stream is not None
        data = self._stream.content(info.size)
        if len(data) < info.size:
            raise EOFError("it ends early")
        return data

    def _hold(self, entry: int, data: bytes) -> None:
        if entry not in self._held:
            self._held[entry] = data
            self._held_bytes += len(data)
        while self._held_bytes > HELD_BYTES:
            self._held_bytes -= len(self._held.popitem(last=False)[1])

    def _close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


@lru_cache(maxsize=2)
def _reader(path: Path, _stamped: tuple[int, int], _process: int) -> _Reader:
    return _Reader(path)


@dataclass(frozen=True, slots=True)
class _Member(Source):
    """A clip in a tar archive."""

    path: Path
    member: str

    @property
    def where(self) -> str:
        """The path as if the archive were a folder, printable."""
        return inside(self.path, self.member)

    def open(self) -> BinaryIO:
        """Open the clip; see `Source.open`."""
        archived, most = printable(self.path), size_limit()
        check_size(self.where, self.size(), most)
        try:
            return self._open()
        except FileNotFoundError:
            raise ClipError("missing", f"{self.where}: the archive {archived} doesn't exist any more") from None
        except MemoryError:
            raise ClipError("unreadable", f"{self.where} is too long for this machine's memory: cut it") from None
        except _DAMAGE as error:
            reason = " ".join(str(error).split())
            raise ClipError(
                "unreadable",
                f"{self.where} can't be read ({reason}): {archived} has changed since it was listed, or its disk fails",
            ) from None

    @abstractmethod
    def _open(self) -> BinaryIO: ...


@dataclass(frozen=True, slots=True)
class TarSource(_Member):
    """A clip in a plain tar archive.

    Attributes:
        offset: where its content begins, in bytes.
        length: of its content, in bytes.
        checksum: of its header, by which an archive that has changed is known.
    """

    offset: int
    length: int
    checksum: int

    def _open(self) -> BinaryIO:
        stamp = _stamp(self.path)
        file = _opened(self.path, stamp)
        header = os.pread(file.number, tarfile.BLOCKSIZE, self.offset - tarfile.BLOCKSIZE)
        if stamp[1] < self.offset + self.length or int(header[148:156].strip(b" \0") or b"0", 8) != self.checksum:
            raise KeyError(f"no item {self.member!r} in its place")
        return io.BufferedReader(_Section(file, self.offset, self.length), _BUFFER)

    def size(self) -> int:
        """Return the member's bytes."""
        return self.length


@dataclass(frozen=True, slots=True)
class PackedSource(_Member):
    """A clip in a compressed tar archive.

    Attributes:
        entry: its place among the archive's clips.
        length: of its content, in bytes.
    """

    entry: int
    length: int

    def _open(self) -> BinaryIO:
        return io.BytesIO(_reader(self.path, _stamp(self.path), os.getpid()).read(self.entry, self.member))

    def size(self) -> int:
        """Return the member's bytes."""
        return self.length
