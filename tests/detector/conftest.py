"""A factory of two machine types, as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of two machine types in DCASE 2020's layout: hums, and hums with a whistle for anomalies."""
    root = tmp_path_factory.mktemp("a factory, Süd")
    rng = np.random.default_rng(0)
    time = np.arange(16000) / 16000
    for machine, pitch in (("fan", 100), ("pump", 230)):
        for split, label, count in (("train", "normal", 6), ("test", "normal", 3), ("test", "anomaly", 3)):
            (root / machine / split).mkdir(parents=True, exist_ok=True)
            for machine_id in ("00", "02"):
                for number in range(count):
                    x = 0.1 * np.sin(2 * np.pi * pitch * time) + 0.01 * rng.normal(size=16000)
                    x += 0.1 * np.sin(2 * np.pi * 3000 * time) if label == "anomaly" else 0
                    name = f"{label}_id_{machine_id}_{number:08}.wav"
                    soundfile.write(root / machine / split / name, x, 16000, subtype="PCM_16")
    return root
