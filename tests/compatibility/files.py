"""Model files, a recipe and scores of version 0.1.0 at commit ed1d253, before members became objects.

`python tests/compatibility/files.py` wrote them, with that version installed. Files of later formats get names of their
own beside these: these stay as they are.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pyasd

FOLDER = Path(__file__).parent
SCORES = FOLDER / "scores.csv"
RECIPE = FOLDER / "recipe.toml"
IDS = ("00", "01")

TINY: dict[str, Any] = {"n_mels": 16, "epochs": 2, "batch_size": 64}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "group-made-spectrum": ("group-made-spectrum", TINY | {"hidden": (4, 4), "components": 2}),
    "system-4": (
        "4",
        TINY
        | {"hidden": (6, 4), "components": 1, "order": "middle", "pooling": "quantile"}
        | {"statistics": "held-out", "validation": 0.4},
    ),
    "autoencoder": ("autoencoder", TINY | {"hidden": (8, 4, 8), "statistics": "robust", "pooling": "rank"}),
    "classifier-spectrum": ("recipe", {}),
}
"""Name of the file, and the system and settings that it was fitted with. The smallest ResNet-50 would take 90 MB."""

MODES: dict[str, tuple[str | None, ...]] = {
    "group-made-spectrum": (None, "joint", "middle", "conditional", "bands"),
    "system-4": (None, "middle", "conditional", "bands"),
    "autoencoder": (None,),
    "classifier-spectrum": (None, "probability"),
}
"""Score modes that each is asked for; `None` stands for its own."""


def log_mels(count: int, seed: int, frames: int = 40) -> list[NDArray[np.float32]]:
    """Return made-up log-Mels in dB, `[frames, 16]` each: sloping spectra whose level wanders, and noise."""
    rng = np.random.default_rng(seed)
    spectrum = np.linspace(-30, -60, 16)
    return [
        (spectrum + np.cumsum(rng.normal(0, 0.5, (frames, 1)), 0) + rng.normal(0, 4, (frames, 16))).astype(np.float32)
        for _ in range(count)
    ]


def scores(detector: pyasd.Detector, name: str, backend: str = "auto") -> Iterator[dict[str, Any]]:
    """Yield a dictionary for each score of a model: its name, score mode, clip, machine ID, column and value."""
    clips, ids = log_mels(4, seed=1), ["00", "01", "00", "09"]
    for mode in MODES[name]:
        how: dict[str, Any] = {"ids": ids, "features": "log-mel", "unknown_ids": "pool", "backend": backend}
        table = detector.score(clips, score_mode=mode, device="cpu", **how)
        for column in [x for x in table if x.startswith("score")]:
            for clip, machine_id, value in zip(table["clip"], table["machine_id"], table[column], strict=True):
                yield {
                    "model": name, "mode": mode or "", "clip": clip, "machine_id": machine_id, "column": column,
                    "value": float(value),
                }  # fmt: skip


def write() -> None:
    """Write the files, with whatever version is installed."""
    clips, ids = log_mels(12, seed=0), [*IDS] * 6
    rows: list[dict[str, Any]] = []
    for name, (system, settings) in MODELS.items():
        path = FOLDER / f"{name}.safetensors"
        pyasd.fit(
            clips, RECIPE if system == "recipe" else system, out=path, ids=ids, features="log-mel",
            machine_type="fan", device="cpu", **settings,
        )  # fmt: skip
        rows += scores(pyasd.load(path), name)
    with open(SCORES, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    write()
