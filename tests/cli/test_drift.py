"""`pyasd drift`: tables of scores against a calibrated model."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from .conftest import Command, normal_fans, usage_error


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of the factory that nobody has learnt."""
    return normal_fans(tmp_path_factory.mktemp("watched"), 12, 9)


def test_tables_in_the_order_of_time(pyasd: Command, model: Path, watched: Path, tmp_path: Path) -> None:
    calibrated, first, second, out = (tmp_path / x for x in ("m.safetensors", "1.csv", "2.parquet", "drift.csv"))
    assert pyasd("calibrate", model, watched, "-o", calibrated).code == 0
    for table in (first, second):
        assert pyasd("score", watched, "-m", calibrated, "-o", table).code == 0
    outcome = pyasd("drift", calibrated, first, second, "-o", out)
    assert outcome.code == 0
    assert not outcome.err
    head, _, *rows = [line for line in outcome.out.splitlines() if line.strip()]
    assert head.split() == ["machine", "ID", "clips", "p", "shift", "since", "noticed"]
    assert [row.split()[:3] for row in rows] == [["fan", x, "24"] for x in ("00", "02", "04")]
    assert not pd.read_csv(out)["drifted"].any()  # the calibration clips themselves
    assert pd.read_csv(out)["calibration_clips"].eq(12).all()


def test_what_cannot_be_tested(pyasd: Command, model: Path, watched: Path, tmp_path: Path) -> None:
    table = tmp_path / "1.csv"
    assert pyasd("score", watched, "-m", model, "-o", table).code == 0
    pd.read_csv(table, dtype={"machine_id": str}).assign(score=float("nan")).to_csv(table, index=False)
    usage_error(pyasd("drift", model, table), "none of the 36 rows can be tested for drift")
    usage_error(pyasd("drift", model, table, "--false-alarms", "2"), "--false-alarms is a share of clips")
    usage_error(pyasd("drift", model, table, "-o", tmp_path / "x.txt"), "x.txt", "must end in .csv or .parquet")
    usage_error(pyasd("drift", model, tmp_path / "none.csv"), "none.csv")
