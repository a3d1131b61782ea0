"""Events: neighbouring cuts joined, against a loop over seconds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import pyasd
from pyasd.tables import table as results
from pyasd.tables.table import Row

COLUMNS = ["clip", "channel", "machine_type", "machine_id", "start", "end", "peak", "peak_start", "cuts"]


def scored(scores: list[float | None], clip: str = "a.wav", channel: str = "0", hop: float = 10.0) -> list[Row]:
    """Cuts of ten seconds, those over 3 decided to be anomalies."""
    return [
        Row(
            clip, channel=channel, start=i * hop, duration=10.0, score=x, machine_id="00",
            decision="" if x is None else "anomaly" if x > 3 else "normal", error="" if x is not None else "NaN",
        )
        for i, x in enumerate(scores)
    ]  # fmt: skip


def events(rows: list[Row], threshold: float | None = None) -> pd.DataFrame:
    return pyasd.events(results.table(rows, [], ("p_value", "decision")), threshold)


def test_neighbours_are_one_event() -> None:
    found = events(scored([1, 4, 6, 5, 1, 1, 9]))
    assert list(found) == COLUMNS
    assert found[["start", "end", "peak", "peak_start", "cuts"]].values.tolist() == [
        [10, 40, 6, 20, 3],
        [60, 70, 9, 60, 1],
    ]


def test_a_cut_without_a_score_parts_events() -> None:
    assert events(scored([4, None, 5]))[["start", "end"]].values.tolist() == [[0, 10], [20, 30]]


def test_channels_and_recordings_have_events_of_their_own() -> None:
    rows = [
        *(x for pair in zip(scored([1, 4, 4]), scored([1, 5, 1], channel="1"), strict=True) for x in pair),
        *scored([4, 1, 1], "b.wav"),
    ]
    found = events(rows)
    assert found[["clip", "channel", "start", "end"]].values.tolist() == [
        ["a.wav", "0", 10, 30],
        ["a.wav", "1", 10, 20],
        ["b.wav", "0", 0, 10],
    ]


def test_a_threshold_instead_of_decisions() -> None:
    rows = scored([1, 4, 6])
    assert events(rows, 5.0)["start"].tolist() == [20]
    assert events(rows, 99.0).empty
    assert list(events(rows, 99.0)) == COLUMNS
    with pytest.raises(ValueError, match="no decisions: score with false_alarms="):
        pyasd.events(results.table(rows, []))


@pytest.mark.parametrize("hop", [2.5, 10.0, 15.0])
def test_every_second_of_an_anomaly_lies_in_one_event(hop: float) -> None:
    rng = np.random.default_rng(3)
    rows = scored([float(x) for x in rng.normal(2, 1.5, 200)], hop=hop)
    found = events(rows)
    grid = np.arange(0, 200 * hop + 10, 0.5)
    odd = np.zeros(len(grid), bool)
    for row in rows:
        if row.decision == "anomaly":
            assert row.start is not None
            odd |= (grid >= row.start) & (grid < row.start + 10)
    inside = sum(((grid >= x.start) & (grid < x.end)).astype(int) for x in found.itertuples())
    assert np.array_equal(inside, odd.astype(int))
    assert found["cuts"].sum() == sum(row.decision == "anomaly" for row in rows)
    if hop < 10:
        assert (found["start"].to_numpy()[1:] > found["end"].to_numpy()[:-1]).all()
