"""Taking further normal clips into what is usual: mean and spread, by which scores are standardised, and thresholds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from pyasd.detector.calibration import Calibration, evenly
from pyasd.detector.machine import Machine

FAR = 2.0
"""New clips that score higher by so many standard deviations, on average, are unlike what a member has learnt."""


def adapted(machine: Machine, new: Calibration, modes: Mapping[str, str], memory: int | None, robust: bool) -> Machine:
    """Return a machine type's state with further normal clips taken into mean, spread and thresholds.

    Thresholds come from these clips and the calibration clips so far, unless those are training clips, or were scored
    in other modes.

    Args:
        machine: its state so far.
        new: the calibration with other clips for some machine IDs, as `Calibration.updated` makes it.
        modes: each member's score mode, in which the clips were scored: others stay as they are.
        memory: for how many clips what is known so far counts at most; `None` for as many as it is of.
        robust: whether mean and spread are medians.
    """
    old = machine.calibration or Calibration({})
    baselines, samples = dict(machine.baselines), dict(new.samples)
    columns = {name: baseline.modes.index(modes[name]) for name, baseline in baselines.items()}
    for machine_id in _ids(old, new):
        scores, before = new.samples[machine_id], old.samples.get(machine_id, {})
        for name, place in columns.items():
            baselines[name] = baselines[name].adapted(machine_id, modes[name], scores[name][:, place], memory, robust)
        fits = before and all(np.isfinite(before[name][:, place]).all() for name, place in columns.items())
        if fits and machine_id not in old.training:
            both = {name: np.concatenate([evenly(before[name], memory), x]) for name, x in scores.items()}
            samples[machine_id] = {name: evenly(x) for name, x in both.items()}
    return replace(machine, baselines=baselines, calibration=Calibration(samples, new.training))


def remarks(machine: Machine, new: Calibration, modes: Mapping[str, str]) -> Iterator[str]:
    """Yield what the user should know of clips that are taken in, for some machine IDs; see `adapted`."""
    for machine_id in _ids(machine.calibration or Calibration({}), new):
        far = {}
        for name, baseline in machine.baselines.items():
            scores = new.samples[machine_id][name][:, baseline.modes.index(modes[name])]
            mean, spread = baseline.usual(machine_id, modes[name])
            far[name] = float((scores.mean() - mean) / spread)
        name = max(far, key=lambda name: far[name])
        if far[name] > FAR:
            yield (
                f"{machine_id!r}: the new clips score {far[name]:.1f} standard deviations above those known ({name}). "
                "Listen to some: if the machine is healthy, fitting again with them is better than adapting"
            )


def _ids(old: Calibration, new: Calibration) -> list[str]:
    """The machine IDs that have new clips: the others' are the same objects."""
    return [machine_id for machine_id, scores in new.samples.items() if scores is not old.samples.get(machine_id)]
