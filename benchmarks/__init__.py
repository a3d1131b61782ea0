"""Benchmarks: `python -m benchmarks` prints the report; `pytest benchmarks --benchmark-only` runs the same cases."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def real_data(given: Path | None) -> Path:
    """Return the folder of real recordings: `given`, or the one that PYASD_REAL_DATA names; exit where neither is."""
    folder = given or os.environ.get("PYASD_REAL_DATA")
    if not folder:
        sys.exit("needs real recordings: give --data, or set PYASD_REAL_DATA")
    return Path(folder)
