"""People's verdicts on clips: a CSV file with the columns `clip` and `verdict`."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from pyasd.clips.names import LABELS, unguarded

WORDS = {"false alarm": 0, "missed fault": 1, **LABELS}
"""What verdicts may be, in small letters: 0 for a healthy machine, 1 for a faulty one. Besides, the words that folders'
names may be."""


def read_verdicts(path: str | os.PathLike[str]) -> dict[str, int]:
    """Read verdicts: by the clips' names, as tables of scores have them, 0 for healthy or 1 for faulty. Clips without a
    verdict are left out, and columns of others passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it isn't such a file, or has a verdict that is none, or two for one clip; the message names the
            line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of verdicts {path}")
    verdicts: dict[str, int] = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not {"clip", "verdict"} <= set(reader.fieldnames or ()):
                raise ValueError(f"{path} has no columns clip and verdict: give a CSV file with both")
            for row in reader:
                said, name = " ".join((row["verdict"] or "").casefold().split()), unguarded(row["clip"] or "")
                if not said:
                    continue
                if said not in WORDS:
                    raise ValueError(
                        f"{path}, line {reader.line_num}: {row['verdict']!r} is no verdict: write false alarm or ok, "
                        "missed fault or fault"
                    )
                if verdicts.setdefault(name, WORDS[said]) != WORDS[said]:
                    raise ValueError(f"{path}, line {reader.line_num}: {name} has two verdicts: leave one out")
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no file of verdicts ({error}): give a CSV file in UTF-8") from None
    if not verdicts:
        raise ValueError(f"{path} has no verdicts")
    return verdicts
