"""False alarms and faults found, of a table with decisions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from pyasd.tables.evaluation import count_decisions
from pyasd.tables.table import Row, table


def rows(machine_id: str, label: int | None, decisions: str) -> list[Row]:
    words = {"a": "anomaly", "n": "normal", "-": ""}
    return [
        Row(f"{machine_id}-{label}-{i}.wav", "fan", machine_id, score=1.0, label=label, decision=words[x])
        for i, x in enumerate(decisions)
    ]


def made(*some: list[Row]) -> pd.DataFrame:
    return table([row for part in some for row in part], [], ("p_value", "decision"))


@pytest.mark.filterwarnings("error")
def test_by_hand() -> None:
    """00: 2 of 8 normal clips alarm, 3 of 4 faults are found. 02 has no faults, 04 nothing else. What is undecided
    doesn't count.
    """
    some = rows("00", 0, "annnannn--"), rows("00", 1, "aana-"), rows("02", 0, "nnna"), rows("00", None, "aaa")
    counted = count_decisions(made(*some, rows("04", 1, "an"))).set_index("machine_id")
    assert counted[["normal", "anomalous"]].to_numpy().tolist() == [[8, 4], [4, 0], [0, 2]]
    assert np.isnan(counted.loc["04", "false_alarm_rate"])
    assert counted.loc["04", "recall"] == 0.5
    assert counted.loc["00", "false_alarm_rate"] == 0.25
    assert counted.loc["00", ["precision", "recall", "f1"]].tolist() == pytest.approx([3 / 5, 3 / 4, 2 / 3])
    assert counted.loc["02", "false_alarm_rate"] == 0.25
    assert np.isnan(counted.loc["02", "recall"])


def test_files_and_what_is_missing() -> None:
    scores = made(rows("00", 0, "an"), rows("00", 1, "aa"))
    with pytest.raises(ValueError, match=r"false_alarms=0\.01"):
        count_decisions(scores.drop(columns="decision"))
    with pytest.raises(ValueError, match="no clip has a label"):
        count_decisions(made(rows("00", None, "an")))
