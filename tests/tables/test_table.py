"""The table's schema, and that writing it loses nothing."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from pyasd.tables import Combination
from pyasd.tables import table as results
from pyasd.tables.table import Row
from pyasd.tables.writer import Writer

MEMBERS = ("group-made", "autoencoder")
ROWS = [
    Row(
        clip="Halle 3/Pumpe, “links”\n 1.wav", machine_type="pump", machine_id="00", split="test", domain="target",
        channel="0", duration=10.0, score=0.1 + 0.2, combined={"mean": 0.1 + 0.2, "max": 2 / 3},
        members={"group-made": 1 / 3, "autoencoder": -1e-300}, label=1, status="silent", error="",
    ),
    Row("NA", machine_id="007", channel="mean", label=0, score=np.float64(1e300), members={"autoencoder": 2.0}),
    Row("x.wav", score=math.nan, status="missing", error="x.wav doesn't exist"),
]  # fmt: skip
EXTENSIONS = pytest.mark.parametrize("extension", [".csv", ".parquet"])


def write(path: Path, rows: list[Row] = ROWS, times: int = 1) -> None:
    with Writer(path, MEMBERS) as writer:
        for _ in range(times):
            writer.write(rows)


def test_the_table_has_every_column_with_its_type() -> None:
    table = results.table(ROWS, MEMBERS)
    assert list(table) == [
        "clip", "machine_type", "machine_id", "split", "domain", "channel", "start", "duration", "score",
        "score.mean", "score.max", "score.group-made", "score.autoencoder", "label", "status", "note",
        "error",
    ]  # fmt: skip
    assert list(table) == results.columns(MEMBERS)
    assert table["machine_id"].tolist() == ["00", "007", ""]
    assert table["split"].tolist() == ["test", "", ""]
    assert table["domain"].tolist() == ["target", "", ""]
    assert table["channel"].tolist() == ["0", "mean", ""]
    assert table["score.max"].tolist()[0] == 2 / 3
    assert table["score.group-made"].isna().tolist() == [False, True, True]
    assert table["error"].tolist() == ["", "", "x.wav doesn't exist"]
    assert str(table["label"].dtype) == "Int64"
    assert table["label"][0] == 1
    assert table["label"][2] is pd.NA
    assert table["score"].dtype == table["duration"].dtype == np.float64
    assert table["score"].isna().tolist() == [False, False, True]


def test_an_empty_table_has_the_same_columns_and_types() -> None:
    assert results.table([], MEMBERS).dtypes.equals(results.table(ROWS, MEMBERS).dtypes)


@pytest.mark.parametrize("row", [Row("a", members={"resnet": 1.0}), Row("a", combined={"resnet": 1.0})])  # type: ignore[dict-item]
def test_a_score_without_a_column_is_refused(row: Row) -> None:
    with pytest.raises(ValueError, match=r"no column score\.resnet: it has clip, machine_type"):
        results.table([row], MEMBERS)


def test_a_label_other_than_0_and_1_is_refused() -> None:
    with pytest.raises(ValueError, match="column label holds 2"):
        results.table([Row("a", label=2)], MEMBERS)


@EXTENSIONS
def test_every_field_of_a_row_comes_back_from_any_folder(latin1: Path, extension: str) -> None:
    path = latin1 / f"a{extension}"
    write(path)
    found = [as_row(values) for values in results.read(path).to_dict("records")]
    assert found[0] == ROWS[0]
    assert found == [as_row(values) for values in results.table(ROWS, MEMBERS).to_dict("records")]


def as_row(values: dict[str, Any]) -> Row:
    """The row that a table's values by column stand for."""

    def present(value: Any) -> Any:
        return None if value is pd.NA or value != value else value

    def scores(names: tuple[str, ...]) -> dict[str, float]:
        return {name: x for name in names if (x := present(values[f"score.{name}"])) is not None}

    plain = {name: present(value) for name, value in values.items() if not name.startswith("score.")}
    return Row(**plain, combined=scores(get_args(Combination)), members=scores(MEMBERS))  # type: ignore[arg-type]


@EXTENSIONS
def test_what_is_written_is_read_back_to_the_bit(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"scores von heute{extension}"
    write(path)
    pd.testing.assert_frame_equal(results.read(path), results.table(ROWS, MEMBERS), check_exact=True)
    assert os.listdir(tmp_path) == [path.name]


@EXTENSIONS
def test_a_table_without_rows(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"scores{extension}"
    write(path, [])
    pd.testing.assert_frame_equal(results.read(path), results.table([], MEMBERS))


def test_csv_and_pandas_write_the_same(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    results.table(ROWS, MEMBERS).to_csv(tmp_path / "b.csv", index=False)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_table_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.csv doesn't exist: write it with `pyasd score"):
        results.read(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b""),
        ("a.csv", b"a,b\n1,2\n1,2,3\n"),
        ("a.csv", b"\xff\xfe\x00a"),
        ("a.parquet", b""),
        ("a.parquet", b"PAR1 no"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"is not a table of scores .*write it again"):
        results.read(tmp_path / name)


def test_a_table_with_wrong_columns_or_values_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("clip,score\na,1\n")
    missing = "machine_type, machine_id, channel, duration, label, status, error"
    with pytest.raises(ValueError, match=f"no column {missing}: give"):
        results.read(path)
    write(path)
    path.write_text(path.read_text().replace("1e+300", "high"))
    with pytest.raises(ValueError, match=r"a\.csv: column score holds 'high', which is no number"):
        results.read(path)


def test_columns_of_others_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "a.csv")
    table = results.read(tmp_path / "a.csv").assign(remark="check it")
    table.to_csv(tmp_path / "b.csv", index=False)
    assert results.read(tmp_path / "b.csv")["remark"].tolist() == ["check it"] * 3


OLD = """\
clip,machine_type,machine_id,channel,duration,score,score.mean,score.max,score.group-made,label,status,error
fan/test/section_00_target_test_anomaly_0001.wav,fan,00,0,10.0,1.5,1.5,1.5,0.25,1,ok,
fan/train/normal_id_02_00000001.wav,fan,02,mean,10.0,-0.5,-0.5,-0.5,0.125,0,ok,
clip 3,,,,,,,,,,missing,gone
"""
"""As pyasd 0.1 wrote tables, before they had the columns split and domain."""


@EXTENSIONS
def test_a_table_of_an_older_version_gets_split_and_domain_from_names(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"old{extension}"
    if extension == ".csv":
        path.write_text(OLD)
    else:
        text = dict.fromkeys(["clip", "machine_type", "machine_id", "channel", "status", "error"], str)
        frame = pd.read_csv(io.StringIO(OLD), dtype=text, keep_default_na=False, na_values={"score": "", "label": ""})
        frame.to_parquet(path, index=False)
    table = results.read(path)
    assert list(table) == results.columns(["group-made"])
    assert table["split"].tolist()[:2] == ["test", "train"]
    assert table["domain"].tolist() == ["target", "", ""]
    assert table["channel"].tolist() == ["0", "mean", ""]
    assert table.dtypes.equals(results.table(ROWS[:0], ["group-made"]).dtypes)


def test_what_a_table_says_of_split_and_domain_is_not_parsed_again(tmp_path: Path) -> None:
    row = Row("fan/test/section_00_target_test_anomaly_0001.wav", domain="source", split="")
    with Writer(tmp_path / "a.csv", []) as writer:
        writer.write([row])
    table = results.read(tmp_path / "a.csv")
    assert table.loc[0, ["split", "domain"]].tolist() == ["", "source"]
    assert results.with_names(table) is table
    old = results.with_names(table.drop(columns="note"))
    pd.testing.assert_frame_equal(old, table)
    half = results.with_names(table.drop(columns="split"))
    assert list(half) == list(table)
    assert half.loc[0, ["split", "domain"]].tolist() == ["test", "source"]


@EXTENSIONS
def test_a_table_read_in_parts_is_the_table(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"t{extension}"
    write(path, times=5)
    parts = list(results.read_in_parts(path, 4))
    assert [len(part) for part in parts] == [4, 4, 4, 3]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), results.read(path))
    write(path, [])
    assert [len(part) for part in results.read_in_parts(path, 4)] == [0]
