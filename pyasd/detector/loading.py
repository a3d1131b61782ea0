"""Reading detectors from their files, whatever these hold: see `Detector.save`."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import metadata
from typing import Any

from torch import Tensor

from pyasd import storage
from pyasd.compute import plain_torch
from pyasd.detector.calibration import Calibration
from pyasd.detector.conditions import Conditions
from pyasd.detector.detector import FORMAT, Detector
from pyasd.detector.machine import Machine
from pyasd.detector.statistics import Baseline
from pyasd.errors import ModelFileError
from pyasd.models import kinds
from pyasd.recipes import Recipe
from pyasd.training.run import History


@plain_torch()
def load(path: str | os.PathLike[str]) -> Detector:
    """Read the detector that `Detector.save` or `fit(out=...)` wrote to `path`.

    Raises:
        FileNotFoundError: there is no such file.
        ModelFileError: the file is truncated, of a newer format, or not a detector at all.
    """
    tensors, header = storage.read(path)
    number = header.get("format")
    if not isinstance(number, int):
        raise ModelFileError(f"{path} is not a whole detector: give one that `pyasd fit -o` or Detector.save wrote")
    if number > FORMAT:
        raise ModelFileError(
            f"{path} has format {header['format']}, written by pyasd {header.get('versions', {}).get('pyasd')}; this "
            f"is pyasd {metadata.version('pyasd')}, which reads formats up to {FORMAT}: upgrade it"
        )
    try:
        recipe = Recipe.from_dict(header["recipe"])
        machines = {}
        for number, entry in enumerate(header["machines"]):
            if not isinstance(entry["machine_type"], str):
                raise ValueError(f"{entry['machine_type']!r} is no machine type")
            parts = {name: _part(tensors, f"{number}/{name}/") for name in entry["members"]}
            machine = _read_machine(recipe, entry["members"], parts)
            if "calibrated" in entry:  # optional
                machine = replace(machine, calibration=_read_calibration(machine, entry["calibrated"], tensors, number))
            if conditions := _part(tensors, f"conditions/{number}/"):  # optional too
                machine = replace(machine, conditions=Conditions.from_tensors(machine.ids, conditions))
            machines[entry["machine_type"]] = machine
        if not machines:
            raise ValueError("it has no machine")
        return Detector(recipe, machines, versions=dict(header["versions"]))
    except (AttributeError, KeyError, OverflowError, StopIteration, TypeError, ValueError) as error:
        raise ModelFileError(
            f"{path} is not a whole detector ({error}): give one that `pyasd fit -o` or Detector.save wrote"
        ) from error


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, by the rest of the name."""
    return {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}


def _read_machine(recipe: Recipe, members: dict[str, Any], parts: dict[str, dict[str, Tensor]]) -> Machine:
    """Make the fitted state of a machine type from a file's header and tensors, by member's name.

    Raises:
        AttributeError, KeyError, OverflowError, StopIteration, TypeError, ValueError: they are not those of a machine.
    """
    machine = Machine()
    for name, facts in members.items():
        state, chosen, mels = parts[name], recipe[name], recipe.features.n_mels
        numbers = {key: state.pop(f"statistics.{key}") for key in ("count", "mean", "variance", "sample")}
        kind = kinds()[chosen.kind]
        has, needs = sum(x.numel() for x in state.values()), kind.size(chosen.config, mels)
        if has < needs:
            raise ValueError(f"{name} has {has:,} numbers, and its settings ask for {needs:,}")
        member = kind(name, chosen.config, mels)
        member.load_state(state)
        if tuple(facts["modes"]) != member.mode_names:
            raise ValueError(f"{name} has the modes {', '.join(member.mode_names)}, not {facts['modes']}")
        ids = facts["ids"]
        if not isinstance(ids, list) or not all(isinstance(x, str) for x in ids) or ids != sorted(set(ids)):
            raise ValueError(f"{ids!r} are no machine IDs")
        machine.baselines[name] = Baseline.from_tensors(ids, facts["modes"], numbers)
        machine.histories[name] = History(**facts["history"])
        machine.members[name] = member
    if len({baseline.ids for baseline in machine.baselines.values()}) != 1:
        raise ValueError("it has no members, or they know other machine IDs")
    return machine


def _read_calibration(machine: Machine, ids: Any, tensors: dict[str, Tensor], number: int) -> Calibration:
    """Read the calibration of the machine type of that number in a file.

    Raises:
        KeyError, TypeError, ValueError: it isn't one of that machine.
    """
    if not isinstance(ids, list) or ids != sorted(set(ids)) or not set(ids) <= set(machine.ids):
        raise ValueError(f"the calibration is of machine IDs {ids!r}, and the models know {machine.ids}")
    modes = {name: baseline.modes for name, baseline in machine.baselines.items()}
    return Calibration.from_tensors(ids, modes, _part(tensors, f"calibration/{number}/"))
