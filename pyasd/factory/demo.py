"""The run of `pyasd demo`: make a synthetic factory, learn its machines, score and evaluate its test clips."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pyasd.detector import fit
from pyasd.factory import factory
from pyasd.progress import Progress, silent
from pyasd.report import picture
from pyasd.tables.evaluation import evaluate
from pyasd.tables.table import SCORE_PREFIX

if TYPE_CHECKING:
    from pandas import DataFrame

    from pyasd.detector import Detector

SYSTEM = "default"
BASELINE, BASELINE_EPOCHS = "autoencoder", 24
"""The system that `run` learns, and the baseline beside it, with its passes over the clips: by then its loss has all
but levelled off."""


class Result(NamedTuple):
    """The result of `run`.

    Attributes:
        detector: the fitted system.
        scores: the table of `pyasd.score` for the test clips.
        evaluations: the table of `pyasd.evaluate` for each member, for "both" (the system's score), and for the
            baseline.
        files: what was written besides the recordings: what it is, and where.
    """

    detector: Detector
    scores: DataFrame
    evaluations: dict[str, DataFrame]
    files: dict[str, Path]


def run(
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    clips: int = 24,
    epochs: int | None = None,
    seconds: float = factory.SECONDS,
    progress: Progress = silent,
) -> Result:
    """Make a factory in `folder/recordings`, learn its machines, score and evaluate its test clips.

    Args:
        folder: for the recordings, the model, the scores and a picture of one normal and one faulty clip.
        seed: of the factory and the training.
        clips: training clips per machine; as many healthy and as many faulty ones are for testing.
        epochs: passes over the clips in training, of the system and of the baseline beside it; `None` for each one's
            own number.
        seconds: length of each clip.
        progress: hears how it goes.

    Raises:
        FileExistsError: something else is in `folder/recordings`.
        OSError: the files can't be written.
    """
    folder = Path(folder)
    recordings = folder / "recordings"
    files = {"recordings": recordings, "model": folder / "model.safetensors", "scores": folder / "scores.csv"}
    factory.write(recordings, seed=seed, train=clips, test=clips, seconds=seconds, progress=progress)
    detector = fit(recordings, SYSTEM, epochs=epochs, out=files["model"], seed=seed, progress=progress)
    scores = detector.score(recordings, out=files["scores"], progress=progress)
    columns = {name: SCORE_PREFIX + name for name in detector.recipe.names if SCORE_PREFIX + name in scores}
    columns = {name: column for name, column in columns.items() if scores[column].notna().any()} | {"both": "score"}
    evaluations = {name: evaluate(scores, score=column) for name, column in columns.items()}
    baseline = fit(recordings, BASELINE, epochs=epochs or BASELINE_EPOCHS, seed=seed, progress=progress)
    evaluations[BASELINE] = evaluate(baseline.score(recordings, progress=progress))
    try:
        files["picture"] = picture.draw(detector, _examples(scores), folder / "picture.png")
    except ImportError as error:
        warnings.warn(str(error), stacklevel=2)
    return Result(detector, scores, evaluations, files)


def _examples(scores: DataFrame) -> dict[str, str]:
    """Return the picture's clips by title: of one machine, the median normal clip and the highest-ranked faulty one."""
    ranked = scores[(scores["machine_type"] == "pump") & (scores["machine_id"] == "00")].sort_values("score")
    normal, faulty = (ranked[ranked["label"] == label] for label in (0, 1))
    healthy, worst = normal.iloc[len(normal) // 2], faulty.iloc[-1]
    rows = {"healthy": healthy, factory.fault("/".join(Path(worst["clip"]).parts[-3:])): worst}
    # Adding 0.0 makes 0.0 of -0.0.
    return {f"pump 00, {k} (synthetic): score {round(x['score'], 1) + 0.0:.1f}": x["clip"] for k, x in rows.items()}
