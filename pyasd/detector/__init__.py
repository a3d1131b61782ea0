"""Detectors: what was learnt of each machine, fitting, scoring, and where a score comes from."""

from __future__ import annotations

from pyasd.detector.detector import Detector
from pyasd.detector.explanation import Explanation
from pyasd.detector.fitting import fit, plan
from pyasd.detector.loading import load
from pyasd.detector.machine import Machine
from pyasd.detector.ranking import score
from pyasd.detector.reasons import Reason, Reasons

__all__ = ["Detector", "Explanation", "Machine", "Reason", "Reasons", "fit", "load", "plan", "score"]
