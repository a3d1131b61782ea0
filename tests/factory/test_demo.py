"""The demo's choice of clips for its picture; tests/cli runs the whole of it."""

from __future__ import annotations

import pandas as pd

from pyasd.factory import demo


def test_the_picture_shows_the_median_normal_clip_and_the_worst_faulty_one() -> None:
    names = [f"{label}_id_00_0000000{i}.wav" for label in ("normal", "anomaly") for i in range(3)]
    scores = pd.DataFrame(
        {
            "clip": [f"/data/pump/test/{name}" for name in names] + ["/data/pump/test/anomaly_id_02_00000000.wav"],
            "machine_type": "pump",
            "machine_id": ["00"] * 6 + ["02"],
            "label": [0, 0, 0, 1, 1, 1, 1],
            "score": [-0.04, 3.0, -5.0, 7.0, 1.0, 2.0, 99.0],
        }
    )
    assert demo._examples(scores) == {
        "pump 00, healthy (synthetic): score 0.0": "/data/pump/test/normal_id_00_00000000.wav",
        "pump 00, leak (synthetic): score 7.0": "/data/pump/test/anomaly_id_00_00000000.wav",
    }
