"""The organisers' lists of labels, for clips whose names tell none."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path
from typing import NamedTuple

from pyasd.clips.names import parse

LIST = "the organisers' eval_data_list_<year>.csv"


class Truth(NamedTuple):
    """A clip's entry in a list of labels: 0 for normal or 1 for anomalous, and its domain ("" in 2020)."""

    label: int
    domain: str


def read_labels(path: str | os.PathLike[str]) -> dict[tuple[str, str], Truth]:
    """Read the organisers' list of the evaluation part's labels, by machine type and `label_key` of the file name.

    A row with one cell names the machine type of those that follow: the clip's name and the name that it would have if
    names told labels; in 2020 also 0 or 1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no such list; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no list of labels {path}")
    truth: dict[tuple[str, str], Truth] = {}
    machine_type = ""
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is no list of labels ({error}): give {LIST}") from None
    for number, row in enumerate(rows, 1):
        if len(row) == 1:
            machine_type = row[0].strip()
        elif row:
            names = parse(Path(row[1]), folders=0)
            if not machine_type or names.label is None or (len(row) > 2 and row[2].strip() != str(names.label)):
                raise ValueError(f"{path}, line {number}: {','.join(row)!r} is no row of a list of labels: give {LIST}")
            truth[machine_type, label_key(row[0])] = Truth(names.label, names.domain)
    if not truth:
        raise ValueError(f"{path} has no rows: give {LIST}")
    return truth


def label_key(name: str) -> str:
    """Return the file name under which a list of labels has a clip: lists have `section_03_0000.wav` where the folders
    of some years have `section_03_test_0000.wav`.
    """
    return re.sub(r"_test(?=_\d+\.\w+$)", "", Path(name).name)
