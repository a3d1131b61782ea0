"""Pictures of what a detector hears: a clip's log-Mel, and below it where in time and frequency its score comes from.

Needs matplotlib, which is an extra: `pip install 'pyasd[pictures]'`. It is imported when a picture is drawn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyasd.detector import Detector, Explanation, Reason
from pyasd.ops import LogMelPlan

TICKS = (250, 500, 1000, 2000, 4000, 8000, 16000)
"""Frequencies that the axes name, in Hz."""


def draw(
    detector: Detector,
    clips: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    member: str | None = None,
    reasons: Mapping[str, Sequence[Reason]] | None = None,
    **how: Any,
) -> Path:
    """Draw clips side by side, with one colour scale for all of them, so that a faulty one stands out.

    Args:
        detector: one that has learnt the clips' machine type.
        clips: by title; each as `Detector.explain` takes it.
        path: the picture's file, .png, .svg or .pdf.
        member: the ensemble member whose score is explained, by default the first.
        reasons: of `Detector.reasons`, by title: their places are outlined.
        **how: further arguments of `Detector.explain`.

    Raises:
        ImportError: matplotlib is not installed.
        ClipError: a clip can't be read.
        ValueError: no clips; or the extension is one that matplotlib can't write.
        OSError: the file can't be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"pictures need matplotlib ({error}): pip install 'pyasd[pictures]'") from error
    if not clips:
        raise ValueError("no clips to draw")
    modes = detector.score_modes(how.get("score_mode"))
    member = member or next(iter(modes))
    explained = {title: detector.explain(clip, member=member, **how) for title, clip in clips.items()}
    features, unit = detector.recipe.features, detector.mode(member, modes[member]).unit
    figure = Figure(figsize=(4.5 * len(clips) + 1, 5), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, and leaves matplotlib's own state alone
    axes = figure.subplots(2, len(clips), sharex="col", sharey=True, squeeze=False)
    rows = (("log_mel", "log-Mel, dB", "magma"), ("score_map", f"{member}: {unit}", "viridis"))
    for row, (field, label, colours) in zip(axes, rows, strict=True):
        low, high = _limits(explained, field)
        for place, explanation in zip(row, explained.values(), strict=True):
            values: NDArray[np.floating[Any]] = getattr(explanation, field)
            seconds = len(values) * features.hop_length / features.sample_rate
            image = place.imshow(
                values.T,
                origin="lower",
                aspect="auto",
                interpolation="nearest",
                extent=(0, seconds, -0.5, features.n_mels - 0.5),
                vmin=low,
                vmax=high,
                cmap=colours,
            )
        figure.colorbar(image, ax=list(row), label=label)
    bands, hertz = _ticks(features)
    axes[0, 0].set_yticks(bands, hertz)
    for title, top, bottom in zip(explained, axes[0], axes[1], strict=True):
        for reason in (reasons or {}).get(title, ()):
            for place in (top, bottom):
                place.add_patch(_outline(reason, features))
        top.set_title(title, fontsize="medium", parse_math=False)  # a title is often a file's name
        bottom.set_xlabel("time, s")
    for left in axes[:, 0]:
        left.set_ylabel("frequency, Hz")
    path = Path(path)
    figure.savefig(path, dpi=80)
    return path


def _outline(reason: Reason, features: LogMelPlan) -> Any:
    """Return a rectangle around the place of a reason."""
    from matplotlib.patches import Rectangle

    low, high = np.interp((reason.low, reason.high), features.band_limits, np.arange(features.n_mels + 1) - 0.5)
    size = reason.end - reason.start, high - low
    return Rectangle((reason.start, low), *size, fill=False, edgecolor="white", linewidth=1.5)


def _limits(explained: Mapping[str, Explanation], field: str) -> tuple[float, float]:
    """Return the range of the colours: without the outermost hundredths, which would leave all the rest one colour."""
    values = np.concatenate([np.ma.compressed(getattr(x, field)) for x in explained.values()])
    low, high = np.percentile(values, (1, 99))
    return float(low), float(high)


def _ticks(features: LogMelPlan) -> tuple[list[float], list[str]]:
    """Return where on the axis of bands some round frequencies lie, and their names."""
    weights = features.dense_weights()
    bands = np.flatnonzero(weights.any(axis=1))
    hertz = np.arange(weights.shape[1]) * features.sample_rate / features.n_fft
    centres = weights[bands] @ hertz / weights[bands].sum(axis=1)
    inside = [hz for hz in TICKS if centres[0] <= hz <= centres[-1]]
    return np.interp(inside, centres, bands).tolist(), [f"{hz:g}" for hz in inside]
