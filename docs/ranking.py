"""Draw docs/ranking.png: the ranking that `pyasd score` prints, and what the detector hears in the clip on top.

After `pyasd demo`: `python docs/ranking.py pyasd-demo docs/ranking.png`.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

import pyasd

MACHINE = "pump"
ROWS = 10
HERTZ = (250, 500, 1000, 2000, 4000)


def mel_band(hertz: float, detector: pyasd.Detector) -> float:
    """Return where a frequency lies on the axis of Mel bands (Slaney's scale, which is linear below 1 kHz)."""

    def mel(hz: float) -> float:
        return hz / 200 * 3 if hz < 1000 else 15 + 27 * float(np.log(hz / 1000) / np.log(6.4))

    features = detector.recipe.features
    return mel(hertz) / mel(features.sample_rate / 2) * (features.n_mels + 1) - 1


def main(demo: Path, picture: Path) -> None:
    """Rank the demo's pumps, explain the first, and draw both side by side."""
    detector = pyasd.load(demo / "model.safetensors")
    recordings = demo / "recordings" / MACHINE / "test"
    table = detector.score(recordings)
    top = table.nlargest(ROWS, "score")
    explanation = detector.explain(top["clip"].iloc[0])
    names = [str(Path(clip).relative_to(recordings)) for clip in top["clip"]]

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.0, 1.5))
    ranking = figure.add_subplot(grid[:, 0])
    ranking.axis("off")
    ranking.set_title(f"{len(table)} {MACHINE} clips, the {len(top)} highest scores", fontsize="medium")
    cells = [[f"{score:.2f}", name] for score, name in zip(top["score"], names, strict=True)]
    drawn = ranking.table(cells, colLabels=["score", "clip"], colWidths=[0.2, 0.8], loc="center", cellLoc="left")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(10)
    drawn.scale(1, 1.75)
    for (row, column), cell in drawn.get_celld().items():
        cell.set_edgecolor("0.85")
        if row == 0:
            cell.set_text_props(weight="bold")
        if column == 0:
            cell.get_text().set_horizontalalignment("right")
        if row == 1:
            cell.set_facecolor("#fde7a9")

    features = detector.recipe.features
    seconds = len(explanation.log_mel) * features.hop_length / features.sample_rate
    maps = (("log_mel", "log-Mel, dB", "magma"), ("score_map", "NLL, std. deviations", "viridis"))
    for row, (field, label, colours) in enumerate(maps):
        values = getattr(explanation, field)
        low, high = np.percentile(np.ma.compressed(values), (1, 99))
        axes = figure.add_subplot(grid[row, 1])
        image = axes.imshow(
            values.T, origin="lower", aspect="auto", interpolation="nearest", cmap=colours, vmin=low, vmax=high,
            extent=(0, seconds, -0.5, features.n_mels - 0.5),
        )  # fmt: skip
        axes.set_yticks([mel_band(hz, detector) for hz in HERTZ], [f"{hz} Hz" for hz in HERTZ])
        figure.colorbar(image, ax=axes, label=label)
        if row == 0:
            axes.set_title(f"the first: {names[0]} (synthetic)", fontsize="medium", parse_math=False)
            axes.set_xticks([])
    axes.set_xlabel("time, s")
    file = io.BytesIO()
    figure.savefig(file, dpi=80)
    Image.open(file).convert("RGB").quantize(256).save(picture, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
