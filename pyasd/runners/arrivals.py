"""Files that land in a folder: which of them are there in full, by looking again and again.

Looking works everywhere, on network drives too, where the system's notices of changes don't. A file that needs no more
attention costs its name alone.
"""

from __future__ import annotations

import os
import stat
import time
import warnings
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from pathlib import Path

from pyasd import containers
from pyasd.clips import Clip
from pyasd.clips.find import from_file, walk
from pyasd.clips.names import is_audio, printable
from pyasd.clips.sources import BrokenSource
from pyasd.errors import ClipError

CHANGING_SECONDS = 86_400.0
"""A file that has been changing for so long is waited for no longer."""


@dataclass(frozen=True)
class Patience:
    """How long files are waited for.

    Attributes:
        settle: seconds in which a file's size and time mustn't change before it is read.
        give_up: seconds for which a file is tried again that ends early or can't be read.

    Raises:
        ValueError: a time is negative.
    """

    settle: float = 2.0
    give_up: float = 600.0

    def __post_init__(self) -> None:
        for name, seconds in (("settle", self.settle), ("give_up", self.give_up)):
            if not seconds >= 0:
                raise ValueError(f"{name} must be a number of seconds from 0 on, not {seconds:g}")


@dataclass
class File:
    """A file without a row.

    Attributes:
        path: the file.
        mark: its time and size, which change when the file does.
        first: when it was seen first.
        again: when it is to be looked into.
        failed: when it was first found to be unfit, as it is now; `None` if it wasn't.
    """

    path: Path
    mark: tuple[int, int]
    first: float
    again: float
    failed: float | None = None

    def changes_forever(self, now: float) -> bool:
        """Return whether it has been changing for too long."""
        return self.failed is None and now - self.first >= CHANGING_SECONDS and now < self.again


class Arrivals:
    """Tells which files of a folder, and of its subfolders, have landed.

    Hidden ones are left out, and what isn't audio by its name: partial files, such as `x.wav.part`, until they are
    renamed.

    Args:
        folder: the folder.
        done: names of clips that need no look, now or at any time.
        patience: how long files are waited for.
        clock: gives seconds from any time on.
    """

    def __init__(
        self, folder: Path, done: Container[str], patience: Patience, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._real = Path(os.path.realpath(folder))
        self._done = done
        self._patience = patience
        self._clock = clock
        self._ended: set[str] = set()  # paths, of those that are there
        self._unlisted: set[Path] = set()
        self.waiting: dict[str, File] = {}

    def look(self) -> list[File]:
        """List the folder; return the files that are to be looked into now, in the order of their times.

        Folders that can't be listed are warned of once; their files are new when they can.
        """
        now = self._clock()
        ended: set[str] = set()
        waiting: dict[str, File] = {}
        unlisted: set[Path] = set()

        def left_out(folder: Path, error: OSError) -> None:
            unlisted.add(folder)
            if folder not in self._unlisted:
                warnings.warn(f"{printable(folder)} can't be listed ({error.strerror}): waiting for it", stacklevel=2)

        for entry in walk(self._folder, left_out):
            path = entry.path
            if path in self._ended:
                ended.add(path)
                continue
            if not is_audio(entry.name):
                continue
            file = self.waiting.get(path)
            if file is None and printable(Path(path)) in self._done:
                ended.add(path)
            elif (mark := _mark(path)) is not None:
                if file is None or file.mark != mark:
                    first = now if file is None else file.first
                    file = File(Path(path), mark, first, now + self._patience.settle)
                waiting[path] = file
        self._ended, self._unlisted, self.waiting = ended, unlisted, waiting
        ready = [file for file in waiting.values() if now >= file.again or file.changes_forever(now)]
        return sorted(ready, key=lambda file: (file.mark[0], os.fspath(file.path)))

    def clip(self, file: File, last: bool = False) -> Clip | None:
        """Return the clip in a file that has landed, or is waited for no longer; `None` if it is to be waited for.

        Args:
            file: from `look`.
            last: see `is_unfit`.
        """
        clip = from_file(file.path, self._folder, self._real)
        if file.changes_forever(self._clock()):
            reason = (
                f"{clip.name} has been changing for {CHANGING_SECONDS / 3600:g} hours, and is waited for no longer: "
                "record shorter clips, or give them this name when they are done"
            )
            return replace(clip, source=BrokenSource(clip.name, "unsettled", reason))
        if _mark(os.fspath(file.path)) != file.mark:
            return None  # the next look sees it
        return clip if _is_whole(clip) or self.is_unfit(file, last) else None

    def is_unfit(self, file: File, last: bool = False) -> bool:
        """Note that a file ends early or can't be read; return whether it is taken as it is now. If not, it is looked
        into again later, the later the longer it has been so.

        Args:
            file: from `look`.
            last: nobody looks again: the file's own time tells how long it has been as it is.
        """
        now = self._clock()
        file.failed = now if file.failed is None else file.failed
        unfit = time.time() - file.mark[0] / 1e9 if last else now - file.failed
        left = self._patience.give_up - unfit
        file.again = now + max(self._patience.settle, min(unfit, left))
        return left <= 0 or unfit < 0  # a file's time may be one to come

    def end(self, file: File) -> None:
        """Look into a file no more."""
        path = os.fspath(file.path)
        self.waiting.pop(path, None)
        self._ended.add(path)


def _mark(path: str) -> tuple[int, int] | None:
    """A file's time and size (not its number, which some network drives make up again and again); `None` where it has
    gone, or is no file.
    """
    try:
        info = os.stat(path)  # not the entry's, which on Windows may be an old one
    except OSError:
        return None
    return (info.st_mtime_ns, info.st_size) if stat.S_ISREG(info.st_mode) else None


def _is_whole(clip: Clip) -> bool:
    """Whether a file is as long as its header says."""
    try:
        with clip.source.open() as stream:
            return not containers.inspect(stream).unfinished
    except (ClipError, containers.Damaged, OSError):
        return False
