"""Scoring sound as it comes: chunks of samples in, rows of cuts out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyasd.clips import Channel, Clip
from pyasd.clips.sources import ArraySource, check_samples
from pyasd.compute import Compute
from pyasd.cutting import Cutter, Cutting
from pyasd.detector import Detector
from pyasd.detector.decisions import DecisionRule
from pyasd.detector.scoring import Scoring, UnknownIds
from pyasd.tables.table import Row


class Stream:
    """Score the sound of one machine while it comes: `for row in stream.feed(samples): ...`, and `end()` at its end.

    Rows are those of `Detector.score` with the same `window` and `hop`, of a file that holds all the samples: the same
    bits, whatever the sizes of the chunks. A cut's row comes with the chunk that ends it. Memory holds a cut or two.

    Args:
        detector: what was fitted, on cuts of this length.
        sample_rate: in Hz.
        window: length of a cut, in seconds.
        hop: from one cut to the next, in seconds; `None` is `window`.
        machine_id: of the machine that is heard.
        machine_type: of it; not needed where one alone was learnt.
        name: what the rows' column `clip` says.
        channel: which channel of the chunks, from 0, "mean", or "all" for each by itself.
        device: "auto", "cpu", "cuda", or several GPUs.
        backend: of the operators.
        precision: of the operators.
        unknown_ids: "refuse" or "pool".
        score_mode: instead of the members' own.
        false_alarms: decide cuts with this rate of false alarms among normal ones.
        confirm: `(3, 5)` confirms an alarm by 3 anomalies among a channel's last 5 cuts.

    Raises:
        ValueError: the arguments don't make sense.
    """

    def __init__(  # noqa: PLR0913 (a public door: as `Detector.score`)
        self,
        detector: Detector,
        sample_rate: int,
        window: float,
        hop: float | None = None,
        *,
        machine_id: str = "",
        machine_type: str = "",
        name: str = "stream",
        channel: Channel = 0,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "auto",
        unknown_ids: UnknownIds = "refuse",
        score_mode: str | None = None,
        false_alarms: float | None = None,
        confirm: tuple[int, int] | None = None,
    ) -> None:
        if sample_rate < 1:
            raise ValueError(f"sample_rate must be a number of Hz above 0, not {sample_rate!r}")
        self._scoring = Scoring(
            detector,
            Compute.choose(device, backend, precision),
            channel=channel,
            unknown_ids=unknown_ids,
            score_mode=score_mode,
            rule=DecisionRule.of(false_alarms, confirm),
        )
        self._rate = int(sample_rate)
        self._cutter = Cutter(Cutting(float(window), float(window if hop is None else hop)), self._rate)
        self._machine = machine_type, machine_id
        self._name = name
        self._kind: tuple[int, np.dtype[Any]] | None = None
        self._ended = False

    @property
    def seconds(self) -> float:
        """How much sound was fed."""
        return self._cutter.fed / self._rate

    def feed(self, samples: NDArray[Any]) -> list[Row]:
        """Take the next samples; return the rows of the cuts that they end.

        Args:
            samples: `[n]` or `[channels, n]`, int16 or float with full scale 1, with any n; those of all chunks have
                one type and number of channels.

        Raises:
            ValueError: they haven't, or the stream has ended.
            DeviceLost: a GPU failed.
        """
        array = np.asarray(samples)
        if self._ended:
            raise ValueError(f"{self._name} has ended: begin another stream")
        check_samples(self._name, array)
        block = np.atleast_2d(array).T
        kind = block.shape[1], array.dtype
        self._kind = self._kind or kind
        if kind != self._kind:
            raise ValueError(
                f"{self._name} has {self._kind[0]} channels of {self._kind[1]}, and this chunk has {kind[0]} of "
                f"{kind[1]}: begin another stream"
            )
        return self._rows(self._cutter.feed(block.copy()))  # the caller may write into its array again

    def end(self) -> list[Row]:
        """End the stream: return the row of the last cut, moved back to end here, if anything is behind the others."""
        self._ended = True
        return self._rows(self._cutter.end())

    def _rows(self, cuts: Iterator[tuple[int, NDArray[Any]]]) -> list[Row]:
        """Score cuts together."""
        found = list(cuts)
        clips = [
            Clip(self._name, ArraySource(self._name, samples.T, self._rate), *self._machine) for _, samples in found
        ]
        rows = list(self._scoring.rows(clips)) if clips else []
        each = len(rows) // max(len(found), 1)  # channels
        for place, row in enumerate(rows):
            row.start = found[place // each][0] / self._rate
        return rows
