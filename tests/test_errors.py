"""One family of errors: each knows its exit code, its word in a table, and what was kept."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys

import pytest

from pyasd import errors
from pyasd.errors import (
    FAILED,
    INTERRUPTED,
    USAGE,
    BackendUnavailable,
    ClipError,
    DeviceLost,
    DownloadError,
    ModelFileError,
    PyasdError,
    TrainingDiverged,
)

FAMILY = [x for _, x in inspect.getmembers(errors, inspect.isclass) if x.__module__ == errors.__name__]


def test_all_are_of_one_family() -> None:
    assert set(FAMILY) == {
        PyasdError, ClipError, ModelFileError, BackendUnavailable, TrainingDiverged, DeviceLost, DownloadError,
    }  # fmt: skip
    assert all(issubclass(x, PyasdError) for x in FAMILY)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PyasdError("x"), FAILED),
        (ClipError("missing", "x"), FAILED),
        (ModelFileError("x"), USAGE),
        (BackendUnavailable("x"), USAGE),
        (TrainingDiverged("x"), FAILED),
        (DeviceLost("x"), FAILED),
        (DownloadError("x"), FAILED),
    ],
)
def test_exit_codes_and_messages(error: PyasdError, code: int) -> None:
    assert error.exit_code == code
    assert str(error) == "x"
    assert error.kept == ""
    assert error.status == ("missing" if isinstance(error, ClipError) else "")


def test_they_are_caught_as_pythons_own_too() -> None:
    assert issubclass(ModelFileError, ValueError)
    assert all(issubclass(x, RuntimeError) for x in (BackendUnavailable, TrainingDiverged, DeviceLost))
    assert (FAILED, USAGE, INTERRUPTED) == (1, 2, 130)


def test_what_was_kept_belongs_to_one_error() -> None:
    assert DeviceLost("x", kept="those are in scores.csv.partial").kept == "those are in scores.csv.partial"
    assert DeviceLost("y").kept == ""


@pytest.mark.parametrize("error", [ClipError("missing", "x is missing"), DeviceLost("x", "y"), ModelFileError("z")])
def test_they_cross_processes(error: PyasdError) -> None:
    """Workers of other processes hand their errors back pickled."""
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), again.status, again.kept) == (str(error), error.status, error.kept)


def test_they_load_nothing() -> None:
    code = "import sys, pyasd.errors; print([x for x in ('torch', 'numpy', 'pandas') if x in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
