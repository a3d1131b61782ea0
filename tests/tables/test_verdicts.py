"""Verdicts: what people write in a spreadsheet."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pyasd.tables.verdicts import read_verdicts


def test_words_as_people_write_them(tmp_path: Path) -> None:
    """With a spreadsheet's byte order mark, other columns, capitals, names in quotes or guarded, empty cells."""
    path = tmp_path / "heard.csv"
    table = pd.DataFrame(
        {
            "who": ["x"] * 9,
            "clip": ["a.wav", "b, c.wav", "d.wav", "e.wav", "f.wav", "'=g.wav", "h.wav", "a.wav", 'i"\n.wav'],
            "verdict": ["False alarm", "ok", " missed  FAULT ", "fault", "", "NORMAL", "broken", "ok", "false alarm"],
        }
    )
    table.to_csv(path, index=False, encoding="utf-8-sig")
    healthy, faulty = ("a.wav", "b, c.wav", "=g.wav", 'i"\n.wav'), ("d.wav", "e.wav", "h.wav")
    assert read_verdicts(path) == dict.fromkeys(healthy, 0) | dict.fromkeys(faulty, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("clip,score\na.wav,1\n", "no columns clip and verdict"),
        ("", "no columns clip and verdict"),
        ("clip,verdict\na.wav,ok\nb.wav,maybe\n", "line 3: 'maybe' is no verdict: write false alarm or ok"),
        ("clip,verdict\na.wav,ok\nb.wav,ok\na.wav,fault\n", "line 4: a.wav has two verdicts"),
        ("clip,verdict\na.wav,\n", "has no verdicts"),
        ("clip,verdict\n\xff\xfe.wav,ok\n", "in UTF-8"),
    ],
)
def test_what_is_no_file_of_verdicts(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "heard.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=said):
        read_verdicts(path)
    with pytest.raises(FileNotFoundError, match="no file of verdicts"):
        read_verdicts(tmp_path / "nowhere.csv")
