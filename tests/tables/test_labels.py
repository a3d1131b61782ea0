"""The organisers' lists of labels."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyasd.tables.labels import label_key, read_labels


def test_a_list_of_labels_of_2020(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(
        b"fan\r\nid_01_00000000.wav,normal_id_01_00000098.wav,0\r\nid_01_00000001.wav,anomaly_id_01_00000064.wav,1\r\n"
        b"pump\r\nid_01_00000000.wav,anomaly_id_01_00000001.wav,1\r\n"
    )
    assert read_labels(path) == {
        ("fan", "id_01_00000000.wav"): (0, ""),
        ("fan", "id_01_00000001.wav"): (1, ""),
        ("pump", "id_01_00000000.wav"): (1, ""),
    }


def test_names_with_and_without_test_match(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        "bearing\nsection_03_0001.wav,section_03_target_test_anomaly_0001_vel_25.wav\n"
        "section_03_source_test_0000.wav,section_03_source_test_normal_0000.wav\n"
    )
    truth = read_labels(path)
    for name in ("section_03_0001.wav", "a/section_03_test_0001.wav"):
        assert truth["bearing", label_key(name)] == (1, "target")
    assert truth["bearing", label_key("section_03_source_test_0000.wav")] == (0, "source")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id_01_00000000.wav,normal_id_01_00000098.wav,0\n", "line 1"),
        ("fan\nid_01_00000000.wav,id_01_00000098.wav,0\n", "line 2"),
        ("fan\nid_01_00000000.wav,normal_id_01_00000098.wav,1\n", "line 2"),
        ("", "has no rows"),
        ("\0\xff", "no list of labels|line 1|has no rows"),
    ],
)
def test_what_is_no_list_of_labels(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message) as caught:
        read_labels(path)
    assert str(path) in str(caught.value)
