"""pyasd: anomalous-sound detection. It learns what machines sound like when they are healthy, and scores recordings.

    detector = pyasd.fit("recordings/train", out="model.safetensors")
    table = detector.score("recordings/test")        # a pandas.DataFrame; higher is more anomalous
    pyasd.evaluate(table)                            # AUC and pAUC, where names carry labels

The names below are loaded when they are first used: `import pyasd` itself is light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyasd.detector import Detector, fit, load, plan, score
    from pyasd.detector.drift import drift
    from pyasd.runners.stream import Stream
    from pyasd.runners.watch import watch
    from pyasd.tables.evaluation import evaluate
    from pyasd.tables.events import events

_HOMES = {
    "Detector": "pyasd.detector",
    "Stream": "pyasd.runners.stream",
    "drift": "pyasd.detector.drift",
    "evaluate": "pyasd.tables.evaluation",
    "events": "pyasd.tables.events",
    "fit": "pyasd.detector",
    "load": "pyasd.detector",
    "plan": "pyasd.detector",
    "score": "pyasd.detector",
    "watch": "pyasd.runners.watch",
}

__all__ = ["Detector", "Stream", "drift", "evaluate", "events", "fit", "load", "plan", "score", "watch"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("pyasd")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'pyasd' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__, "__version__"]
