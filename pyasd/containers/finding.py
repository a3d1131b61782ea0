"""What is found in a container: that it is whole, or how else it is to be decoded, or why it can't be."""

from __future__ import annotations

from dataclasses import dataclass

FEW_BYTES = 16
"""So many bytes may be missing at the end: some programs count their header wrong. They are 0.5 ms at 16 kHz."""


@dataclass(frozen=True)
class Finding:
    """What to decode.

    Attributes:
        parts: encoded files that stand for the clip, one after the other; none where it can be decoded as it is.
        unfinished: its header and its length disagree, as after a recorder's crash, and all that is there is heard.
    """

    parts: tuple[bytes, ...] = ()
    unfinished: bool = False


class Damaged(Exception):
    """An encoded clip can't be heard right.

    Attributes:
        status: its row's: "empty", "truncated" or "unreadable".
        reason: what is wrong and what to do, as it goes on from the clip's name.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


def cut_off(size: int, claimed: int) -> Damaged:
    """Return the error for a file of `size` bytes whose header claims more."""
    return Damaged(
        "truncated",
        f"is cut off: it has {size:,} of {claimed:,} bytes; copy it again from its source, or leave it out",
    )
