"""The record of one clip: where it is, and what is known of it before it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pyasd.clips.sources import LogMelSource, Source

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


Channel = int | Literal["mean", "all"]
"""A channel of a recording from 0, the mean of all of them, or each by itself."""


@dataclass(frozen=True, eq=False, slots=True)
class Clip:
    """One clip: a recording, or a section of one. What is known here travels to the clip's row of the table: nothing
    parses the name again.

    Attributes:
        name: the table's `clip` column: the path as given, or "clip 3" for the fourth array.
        source: where its bytes, samples or log-Mel are.
        machine_type: "" when the path doesn't tell.
        machine_id: as the name spells it, such as "00"; "" when unknown.
        split: "train", "validation", "test", "supplemental" (2025: clips of clean machines, or of noise alone) or "".
        domain: "source" or "target" where a name of the challenges from 2021 on tells, else "".
        label: 0 for normal, 1 for anomalous, `None` when unknown.
        doubt: why it may be anomalous although its label doesn't say so: a word in its path, such as "broken"; or "".
        folders: the folders that it lies in, from below the place that was given, outermost first.
        named: whether it was given by its own path, and not found in a folder, glob or archive.
        start: of a section, in seconds from the recording's beginning.
        duration: of a section, in seconds; `None` for a whole recording.
        channel: the one that is meant; `None` where each command's own counts.
    """

    name: str
    source: Source
    machine_type: str = ""
    machine_id: str = ""
    split: str = ""
    domain: str = ""
    label: int | None = None
    doubt: str = ""
    folders: tuple[str, ...] = ()
    named: bool = False
    start: float = 0.0
    duration: float | None = None
    channel: Channel | None = None

    @property
    def log_mel(self) -> NDArray[np.floating[Any]] | None:
        """The log-Mel `[frames, mels]` in dB of a clip that was given as one, else `None`."""
        return self.source.log_mel if isinstance(self.source, LogMelSource) else None
