"""What is printed of a table doesn't depend on the parts in which it comes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyasd.cli.summary import Summary
from pyasd.tables import table as results
from pyasd.tables.table import Row


def scores(count: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        failed = rng.random() < 0.1
        value = None if failed else round(float(rng.normal(1, 2)), 1)
        rows.append(
            Row(
                f"{i // 20}.wav", channel=str(i % 2), start=10.0 * (i % 20 // 2), duration=10.0, score=value,
                decision="" if value is None else "anomaly" if value > 2 else "normal",
                status="truncated" if failed else "ok", error=f"{i} is cut off" if failed else "",
                note=str(rng.choice(["", "", "level", "learnt", "level, bandwidth"])),
            )
        )  # fmt: skip
    return results.table(rows, [], ("p_value", "decision"))


@pytest.mark.parametrize("size", [1, 7, 100])
def test_parts_print_what_the_whole_does(size: int, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    whole = scores(300)
    printed = []
    for step in (len(whole), size):
        summary = Summary(5, events=True)
        for place in range(0, len(whole), step):
            summary.add(whole[place : place + step])
        summary.print_top()
        summary.print_events(tmp_path / "events.csv")
        summary.tell_notes()
        assert summary.report_failures() is False
        assert summary.rows == 300
        printed.append((capsys.readouterr(), (tmp_path / "events.csv").read_text()))
    assert printed[0] == printed[1]
    (out, err), events = printed[0]
    best = whole.nlargest(5, "score", keep="first")
    assert [float(line.split()[0]) for line in out.splitlines()[3:8]] == best["score"].round(2).tolist()
    assert f"{(whole['error'] != '').sum()} of 300 clips have no score" in err
    assert len(events.splitlines()) > 20


def test_nothing_is_printed_of_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    summary = Summary(5, events=True)
    summary.add(scores(3)[:0])
    summary.print_top()
    summary.tell_notes()
    assert summary.report_failures()
    assert capsys.readouterr() == ("", "")
    summary.print_events(tmp_path / "e.csv")
    assert len((tmp_path / "e.csv").read_text().splitlines()) == 1
