"""How a training is run, and how it went."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pyasd.compute import Compute
from pyasd.progress import Progress, silent

StatisticsPolicy = Literal["training", "held-out", "robust"]
"""The normal clips whose scores standardise others': all training clips (the report), those held out alone, or all of
them by median and median absolute deviation, for recordings that may have anomalies among them."""


@dataclass(frozen=True)
class Run:
    """How to train, as opposed to what.

    Attributes:
        seed: the same seed on the same machine, with as many threads, gives the same model, bit for bit.
        compute: where to train (the first device), with which backend and precision.
        statistics: the normal clips whose scores standardise others'.
        checkpoint: file from which to resume where it exists, and to write to; `None` for neither.
        progress: told of each batch.
        stage: what `progress` hears as the stage.
    """

    seed: int = 0
    compute: Compute = field(default_factory=Compute)
    statistics: StatisticsPolicy = "training"
    checkpoint: Path | None = None
    progress: Progress = silent
    stage: str = "training"


@dataclass
class History:
    """The losses of a training.

    Attributes:
        training: mean loss of each epoch over the training windows, as they were met.
        validation: the same over the held-out windows, after the epoch. Where machine IDs are balanced, it is the mean
            over the IDs' own means.
        kept: the epoch, from 0, whose weights the model has.
        accuracy: share of the held-out windows whose class a classifier found; empty for other models.
    """

    training: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    kept: int = -1
    accuracy: list[float] = field(default_factory=list)
