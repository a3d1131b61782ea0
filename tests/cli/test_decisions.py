"""From scores to decisions on the command line: `score --false-alarms`, `--confirm`."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pyasd.tables import table as results

from .conftest import Command, usage_error


def test_clips_are_decided(pyasd: Command, factory: Path, model: Path, tmp_path: Path) -> None:
    """One clip of each ID was held out: half of all normal clips score higher than that."""
    tables = []
    for share, name in (("50%", "a.csv"), ("0.5", "b.parquet")):
        out = tmp_path / name
        outcome = pyasd(
            "score", factory / "fan/test", "-m", model, "-o", out, "--false-alarms", share, "--confirm", "1/2"
        )
        assert outcome.code == 0
        warned, said = outcome.err.splitlines()
        assert warned.startswith("pyasd: warning: fan: thresholds come from training clips")
        assert said == f"pyasd: 12 rows are in {out}"
        head, _, first, *_ = [line for line in outcome.out.splitlines() if line.strip()]
        assert head.split() == ["score", "p", "decision", "confirmed", "status", "clip"]
        tables.append(results.read(out))
        best = tables[-1].nlargest(1, "score").iloc[0]
        assert first.split() == [
            f"{best['score']:.2f}", f"{best['p_value']:.4f}", best["decision"], best["confirmed"], "ok", best["clip"],
        ]  # fmt: skip
    pd.testing.assert_frame_equal(*tables)
    assert set(tables[0]["decision"]) == {"normal", "anomaly"}
    assert set(tables[0]["p_value"]) == {0.5, 1.0}
    evaluated = pyasd("evaluate", tmp_path / "b.parquet")
    assert (evaluated.code, evaluated.err) == (0, "")
    lines = [line.split() for line in evaluated.out.splitlines()]
    for column in ("decision", "confirmed"):
        place = next(i for i, x in enumerate(lines) if x[:1] == [column])
        for (machine_id, own), line in zip(tables[1].groupby("machine_id"), lines[place + 2 :], strict=False):
            alarms = (own[column] == "anomaly")[own["label"] == 0].mean()
            assert line[:5] == ["fan", machine_id, "2", "2", f"{100 * alarms:.1f}"]


def test_too_few_clips_are_told(pyasd: Command, factory: Path, model: Path) -> None:
    outcome = pyasd("score", factory / "fan/test", "-m", model, "--false-alarms", "1%")
    assert outcome.code == 0
    assert outcome.err.startswith("pyasd: warning: fan: a false-alarm rate of 1 % needs 99 calibration clips")
    assert outcome.err.count("\n") == 1
    assert " anomaly " not in outcome.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--false-alarms", "1"], "like 1% or 0.01"),
        (["--false-alarms", "100%"], "below 100%"),
        (["--false-alarms", "few"], "not 'few'"),
        (["--false-alarms", "nan"], "not 'nan'"),
        (["--false-alarms", "1%", "--confirm", "3 of 5"], "like 3/5"),
        (["--false-alarms", "1%", "--confirm", "6/5"], "not '6/5'"),
        (["--confirm", "3/5"], "give --false-alarms"),
    ],
)
def test_wrong_rates(pyasd: Command, factory: Path, model: Path, arguments: list[str], said: str) -> None:
    usage_error(pyasd("score", factory / "fan/test", "-m", model, *arguments), said)


def test_decisions_need_a_model(pyasd: Command, factory: Path) -> None:
    usage_error(pyasd("score", factory / "fan/test", "--false-alarms", "1%"), "give --model")
