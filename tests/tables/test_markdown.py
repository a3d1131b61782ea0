"""Tables in Markdown."""

from __future__ import annotations

import pytest

from pyasd.tables.markdown import markdown


def test_a_table() -> None:
    text = markdown(["machine", "AUC", "note"], [["fan", 91.5, "a|b"], ["pump", None, ""]], "lrc")
    assert text == (
        "| machine | AUC | note |\n"
        "|---|---:|:---:|\n"
        "| fan | 91.5 | a\\|b |\n"
        "| pump | None |  |"
    )  # fmt: skip


def test_the_first_column_is_text_and_the_others_are_numbers() -> None:
    assert markdown(["a", "b", "c"], []) == "| a | b | c |\n|---|---:|---:|"


def test_rows_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="a row has 1 cells for 2 columns"):
        markdown(["a", "b"], [["x"]])
    with pytest.raises(ValueError, match="align 'lrr' has 3 letters for 2 columns"):
        markdown(["a", "b"], [], "lrr")
