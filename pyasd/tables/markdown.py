"""Tables in Markdown. pandas' `to_markdown` would add a dependency, and would format the numbers again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_RULES = {"l": "---", "r": "---:", "c": ":---:"}


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]], align: str | None = None) -> str:
    """Return a table as Markdown, without a line break at its end.

    Args:
        header: the columns' names.
        rows: a cell per column; what isn't a string goes through `str`.
        align: a letter per column: "l", "r" or "c"; `None` puts the first to the left and the others to the right.

    Raises:
        ValueError: a row, or `align`, has not as many entries as the header.
    """
    align = "l" + "r" * (len(header) - 1) if align is None else align
    if len(align) != len(header):
        raise ValueError(f"align {align!r} has {len(align)} letters for {len(header)} columns")
    lines = [_line(header), "|" + "".join(f"{_RULES[letter]}|" for letter in align)]
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row has {len(row)} cells for {len(header)} columns: {row}")
        lines.append(_line(row))
    return "\n".join(lines)


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"
