"""Tables whose column `clip` names clips: read as they are written by hand, by pandas and by pyasd itself."""

from __future__ import annotations

import csv
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyasd.clips import Clip, find, for_fitting, for_scoring, manifests
from pyasd.errors import ClipError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def write(path: Path, **columns: list[Any]) -> Path:
    """Write a manifest as pandas does."""
    table = pd.DataFrame(columns)
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    return path


def known(clip: Clip) -> tuple[str, str, str, str, int | None]:
    return clip.machine_type, clip.machine_id, clip.split, clip.domain, clip.label


def status(clip: Clip) -> str:
    try:
        clip.source.open().close()
    except ClipError as error:
        return error.status
    return "ok"


BOTH = pytest.mark.parametrize("suffix", [".csv", ".parquet"])


@BOTH
def test_clips_in_their_order_with_what_is_said_of_them(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, "b/1.wav", "a.wav", "fan/test/anomaly_id_04_7.wav")
    path = write(
        tmp_path / f"list{suffix}",
        clip=["b/1.wav", str(tmp_path / "a.wav"), "fan/test/anomaly_id_04_7.wav", "fan/test/anomaly_id_04_7.wav"],
        machine_type=["pump", "", None, "valve"], machine_id=["00", "7", "", "01"], speed=[1, 2, 3, 4],
        split=["train", "Eval", "", "train"], domain=["source", "target", "", ""], label=[0, 1, None, 0],
    )  # fmt: skip
    found = list(find(path))
    assert [clip.name for clip in found] == ["b/1.wav", str(tmp_path / "a.wav"), *["fan/test/anomaly_id_04_7.wav"] * 2]
    assert [known(clip) for clip in found] == [
        ("pump", "00", "train", "source", 0), ("", "7", "test", "target", 1), ("fan", "04", "test", "", 1),
        ("valve", "01", "train", "", 0),
    ]  # fmt: skip
    assert [clip.source.path for clip in found[:2]] == [tmp_path / "b/1.wav", tmp_path / "a.wav"]
    assert [status(clip) for clip in found] == ["ok"] * 4
    assert [clip.name for clip in for_fitting(found)] == ["b/1.wav", "fan/test/anomaly_id_04_7.wav"]
    assert len([*for_scoring(found)]) == 4, "every row is scored"


@BOTH
def test_sections_and_channels(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, "a.wav")
    path = tmp_path / f"list{suffix}"
    channels = ["0", "mean", "all", ""]
    write(path, clip=["a.wav"] * 4, start=[0, 2.5, 3, None], duration=[2.5, 1, None, None], channel=channels)
    sections = [(clip.start, clip.duration, clip.channel) for clip in find(path)]
    assert sections == [(0, 2.5, 0), (2.5, 1, "mean"), (3, None, "all"), (0, None, None)]
    alone: list[dict[str, list[Any]]] = [{"duration": [2.5]}, {"start": [2.5], "end": [3.0]}]
    for columns in alone:
        (clip,) = find(write(path, clip=["a.wav"], **columns))
        assert (clip.start, clip.duration) == (0, None), "one of them alone tells something else"
    for column, value in (("start", "-1"), ("start", "inf"), ("duration", "0"), ("duration", "1 s"), ("channel", "-1")):
        columns = {"start": ["0"], "duration": ["1"], "channel": ["0"]} | {column: [value]}
        with pytest.raises(ValueError, match=f"{column} is '{value}', and can be a number"):
            find(write(path, clip=["a.wav"], **columns))


def test_a_pandas_table_is_a_manifest_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.wav", "b.wav")
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"clip": ["b.wav", "a.wav"], "machine_id": [np.nan, 3], "label": pd.array([1, None], "Int64")})
    found = list(find(table))
    assert [(clip.name, clip.machine_id, clip.label, status(clip)) for clip in found] == [
        ("b.wav", "", 1, "ok"), ("a.wav", "3", None, "ok"),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="the table of clips, row 1: label is '2', and can be 0 or normal"):
        find(table.assign(label=[0, 2]))
    with pytest.raises(ValueError, match="no clips given"):
        find(table[:0])


def test_relative_paths_are_relative_to_the_manifest_or_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "here/a.wav", "lists/b.wav", "here/b.wav")
    monkeypatch.chdir(tmp_path / "here")

    def paths(*clips: str) -> list[str]:
        path = write(tmp_path / "lists" / "list.csv", clip=list(clips))
        return [str(Path(os.path.normpath(x.source.path or "")).relative_to(tmp_path)) for x in find(path)]

    assert paths("b.wav", "a.wav") == ["lists/b.wav", "lists/a.wav"], "the first that is there decides"
    assert paths("a.wav", "b.wav") == ["here/a.wav", "here/b.wav"]
    assert paths("x.wav", "a.wav", "b.wav") == ["lists/x.wav", "here/a.wav", "here/b.wav"]
    assert paths("../here/a.wav", "x.wav") == ["here/a.wav", "lists/x.wav"]


def test_folders_tell_from_the_manifest_s_on(tmp_path: Path) -> None:
    folder = tmp_path / "test" / "faulty" / "today"
    touch(folder, "pump/normal/1.wav", "pump/2.wav", "fan/ng/3.wav")
    path = write(
        folder / "list.csv", clip=["pump/normal/1.wav", "pump/2.wav", "fan/ng/3.wav", str(folder / "pump/2.wav")]
    )
    found = list(find(path))
    assert [(clip.label, clip.split, clip.folders) for clip in found] == [
        (0, "", ("pump",)), (None, "", ("pump",)), (1, "", ("fan",)), (None, "", ("pump",)),
    ]  # fmt: skip


def test_members_of_archives_by_the_names_that_tables_of_scores_have(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, content in (("x/1.wav", b"1"), ("x/2.wav", b"2"), ("X/1.wav", b"3"), ("/y.wav", b"4")):
            archive.writestr(name, content)
    path = tmp_path / "a.zip"
    path.write_bytes(path.read_bytes().replace(b"X/1.wav", b"x/1.wav"))
    with tarfile.open(tmp_path / "b.tar", "w") as file:
        for name in ("./fan/test/normal_id_02_1.wav", "2.wav"):
            info = tarfile.TarInfo(name)
            info.size = 1
            file.addfile(info, io.BytesIO(b"5"))
    (tmp_path / "c.tar").write_bytes(b"no archive")
    names = ["a.zip/x/1.wav", "a.zip/x/1.wav", "b.tar/fan/test/normal_id_02_1.wav", "a.zip/x/2.wav", "a.zip//y.wav"]
    names += ["a.zip/x/4.wav", "c.tar/1.wav", "d.tar/1.wav", "b.tar"]
    found = list(find(write(tmp_path / "list.csv", clip=names)))
    assert [clip.name for clip in found] == names
    assert [clip.source.open().read() for clip in found[:5]] == [b"1", b"3", b"5", b"2", b"4"]
    assert known(found[2])[:3] == ("fan", "02", "test")
    assert [status(clip) for clip in found[5:]] == ["missing", "unreadable", "missing", "missing"]
    with pytest.raises(ClipError, match=r"b\.tar is an archive, and a row names one clip: give it by itself"):
        found[8].source.open()


def test_folders_that_are_called_as_archives(tmp_path: Path) -> None:
    touch(tmp_path, "normal/a.zip/x.wav")
    with tarfile.open(tmp_path / "b.tar", "w") as file:
        file.add(tmp_path / "normal")
        file.add(tmp_path / "normal", "normal")
    names = ["normal/a.zip/x.wav", "b.tar/normal/a.zip/x.wav"]
    found = list(find(write(tmp_path / "list.csv", clip=names)))
    assert [(clip.label, clip.source.open().read()) for clip in found] == [(0, b"normal/a.zip/x.wav")] * 2


def test_names_that_look_like_formulas_are_as_pyasd_writes_them(tmp_path: Path) -> None:
    touch(tmp_path, "=a.wav", "'=b.wav", "a, b.wav", 'a "b".wav', "a\nb.wav", " c.wav")
    names = ["'=a.wav", "''=b.wav", "a, b.wav", 'a "b".wav', "a\nb.wav", " c.wav"]
    found = list(find(write(tmp_path / "list.csv", clip=names)))
    assert [clip.name for clip in found] == ["=a.wav", "'=b.wav", *names[2:]]
    assert [status(clip) for clip in found] == ["ok"] * 6


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("clip,label\na.wav,0\nb.wav,2\n", r"list\.csv, line 3: label is '2', and can be 0 or normal, 1 or"),
        ("clip,split\n\na.wav,tset\n", r"list\.csv, line 3: split is 'tset', and can be train, "),
        ("clip,domain\na.wav,both\n", r"line 2: domain is 'both', and can be source, target"),
        ('clip,label\n"a\nb.wav",0\n,0\n', r"line 4: it names no clip"),
        ("clip,label\na.wav\n", r"line 2: there are 1 cells, and 2 columns"),
        ("clip,label\na,b.wav,0\n", r"line 2: there are 3 cells, and 2 columns \(a name with a comma needs quotes"),
        ("clip,clip\na.wav,b.wav\n", r"list\.csv has two columns clip: leave one out"),
        ('clip\na.wav\n"b.wav\n', r"line 3: unexpected end of data"),
        ("clip\na.wav\n\xe9.wav\n", r"isn't UTF-8, behind line .: save it so"),
        ("clip\n", r"list\.csv names no clip: it has a header alone"),
    ],
)  # fmt: skip
def test_rows_that_are_wrong_are_told_with_their_line(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=told):
        list(find(path))


@pytest.mark.parametrize("text", ["", "a.wav\nb.wav\n", "path,label\na.wav,0\n", "clip;label\na.wav;0\n", "\xff\xfe"])
def test_a_table_without_the_column_is_no_manifest(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode("latin-1"))
    (clip,) = find(path)
    with pytest.raises(ClipError, match=r"is a list or a table: .* names them in a column clip"):
        clip.source.open()


def test_what_excel_saves(tmp_path: Path) -> None:
    touch(tmp_path, "ü.wav")
    (tmp_path / "list.CSV").write_bytes("\ufeffclip, label\r\nü.wav,1\r\n\r\n".encode())
    (clip,) = find(tmp_path / "list.CSV")
    assert (clip.name, clip.label, status(clip)) == ("ü.wav", 1, "ok")


def test_a_parquet_file_that_is_damaged_or_of_other_types(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    columns = {
        "clip": pa.array(["a.wav", "b.wav"]).dictionary_encode(),
        "label": [True, None],
        "machine_id": [1.0, None],
    }
    pq.write_table(pa.table(columns), path)
    assert [(x.name, x.label, x.machine_id) for x in find(path)] == [("a.wav", 1, "1"), ("b.wav", None, "")]
    path.write_bytes(path.read_bytes()[:-20])
    (clip,) = find(path)
    assert status(clip) == "unreadable"


def test_a_long_one_is_read_as_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("clip\n" + "a.wav\n" * 50_000 + "x,y\n")
    found = find(tmp_path / "list.csv")
    assert next(found).name == "a.wav"
    with pytest.raises(ValueError, match="line 50002"):
        list(found)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
"""Names that files can have, and Python 3.10 can write into a CSV file."""


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(names=st.lists(TEXTS.filter(lambda x: x.strip() not in ("", "nan", "<NA>", "NaT")), min_size=1, max_size=5))
def test_any_name_comes_back(tmp_path: Path, names: list[str]) -> None:
    from pyasd.clips.names import guarded

    with open(tmp_path / "list.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\r\n").writerows([["clip"], *([guarded(name)] for name in names)])
    assert [clip.name for clip in find(tmp_path / "list.csv")] == names
    pq.write_table(pa.table({"clip": names}), tmp_path / "list.parquet")
    found = list(find(tmp_path / "list.parquet"))
    assert [clip.name for clip in found] == names
    assert {status(clip) for clip in found} <= {"missing", "unreadable"}


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    data=st.binary(max_size=200) | st.builds(lambda x: b"clip,label\n" + x, st.binary(max_size=60))
    | st.builds(lambda x: b"clip,start,duration,channel\n" + x.encode(), st.text('a,"\n.-1e\0 ', max_size=60))
    | st.builds(lambda x: b"label,clip,split\n" + x.encode(), st.text('a,"\n\r\0;\'0', max_size=60))
)  # fmt: skip
def test_whatever_is_in_it_no_other_error_comes_up(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(data)
    try:
        found = list(find(path))
    except ValueError as error:
        told = str(error)
    else:
        told = str(path)
        assert {status(clip) for clip in found} <= {"missing", "unreadable"}
    assert str(path) in told


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(place=st.integers(0, 2000), new=st.binary(min_size=1, max_size=8))
def test_a_damaged_parquet_file(tmp_path: Path, place: int, new: bytes) -> None:
    path = tmp_path / "list.parquet"
    write(path, clip=["a.wav", "b.wav"], label=[0, 1])
    data = bytearray(path.read_bytes())
    place %= len(data)
    data[place : place + len(new)] = new
    path.write_bytes(data)
    try:
        found = list(find(path))
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    assert {status(clip) for clip in found} <= {"missing", "unreadable"}


def test_columns_are_fields_of_clips() -> None:
    assert set(manifests.COLUMNS) - {"clip"} <= set(Clip.__dataclass_fields__)
