"""All errors that pyasd raises by a name of its own, in one family: `except PyasdError` catches them.

Wrong arguments raise Python's own ValueError, TypeError and OSError; what derives from one of these here can be caught
as either.
"""

from __future__ import annotations

from typing import ClassVar

FAILED, USAGE, SIGNALLED, INTERRUPTED = 1, 2, 128, 130
"""Exit codes of the command line: work failed; it was asked for wrongly; a signal, whose number is added; Ctrl-C."""


class PyasdError(Exception):
    """The base of pyasd's errors.

    Attributes:
        exit_code: what a command ends with when it meets the error.
        status: the word in the table's column `status`, where the error costs one clip its score; else "".
        kept: where the work so far is safe, in words; "" where nothing was kept.
    """

    exit_code: ClassVar[int] = FAILED
    status: str = ""
    kept: str = ""


class ClipError(PyasdError):
    """A clip that can't be read or scored. The message names the clip and what to do about it.

    Attributes:
        status: "missing", "empty", "unreadable", "truncated", "not-finite", "too-short", "no-channel", "unknown-id",
            "silent", "unsettled" or "out-of-memory".
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type[ClipError], tuple[str, str]]:
        return type(self), (self.status, str(self))


class ModelFileError(PyasdError, ValueError):
    """A file is not a model that this version can read; the message names the file and the remedy."""

    exit_code = USAGE


class BackendUnavailable(PyasdError, RuntimeError):
    """A backend was asked for by name and can't run here; the message says why."""

    exit_code = USAGE


class TrainingDiverged(PyasdError, RuntimeError):
    """The loss became NaN or infinite; the message names the epoch and the batch."""


class DeviceLost(PyasdError, RuntimeError):
    """A GPU failed in mid-run; `kept` says which rows are safe."""

    def __init__(self, message: str, kept: str = "") -> None:
        super().__init__(message)
        self.kept = kept


class DownloadError(PyasdError):
    """A file could not be downloaded or verified; the message says what to do, and which files to put where by hand."""
