"""A fitted system: its members, the baselines that standardise their scores, and the recipe of both; one file."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyasd import storage
from pyasd.clips import Channel, Clip, find, for_scoring, for_shard
from pyasd.compute import Compute, plain_torch
from pyasd.cutting import Cutting
from pyasd.detector import adaptation, reasons
from pyasd.detector.calibration import Calibration
from pyasd.detector.decisions import (
    DecisionRule,
    Threshold,
    check_calibrated,
    check_rate,
    member_scores,
    normal_scores,
    remarks,
    threshold,
)
from pyasd.detector.explanation import Explanation
from pyasd.detector.machine import Machine
from pyasd.detector.scoring import Scoring, UnknownIds, extraction, known_type, locate, recognise, score_modes
from pyasd.detector.table import Rows
from pyasd.features.log_mels import extract
from pyasd.models import Mode
from pyasd.progress import Progress, silent
from pyasd.recipes import Recipe
from pyasd.tables.table import Row, read
from pyasd.tables.writer import Resume

if TYPE_CHECKING:
    from pandas import DataFrame

FORMAT = 2
"""The number of the model files' format: raised whenever older versions can't read newer files. Version 0.1 wrote 1,
with another form of recipe."""

ClipFeatures = Literal["audio", "log-mel"]


class Detector:
    """A fitted system.

    Attributes:
        recipe: what it is made of.
        machines: what was learnt, by machine type.
        skipped: the clips that could not be learnt from: `{"clip", "status", "error"}` each (not saved).
        versions: of pyasd and torch that fitted it.
    """

    def __init__(
        self,
        recipe: Recipe,
        machines: dict[str, Machine],
        skipped: Sequence[dict[str, str]] = (),
        versions: dict[str, str] | None = None,
    ) -> None:
        self.recipe = recipe
        self.machines = machines
        self.skipped = list(skipped)
        self.versions = versions or {"pyasd": metadata.version("pyasd"), "torch": str(torch.__version__)}

    def __repr__(self) -> str:
        known = "; ".join(f"{name or 'machine'}: {', '.join(x.ids)}" for name, x in self.machines.items())
        return f"<Detector {' + '.join(self.recipe.names)} ({known})>"

    def score_modes(self, score_mode: str | None = None) -> dict[str, str]:
        """Choose each member's score mode; see `scoring.score_modes`."""
        return score_modes(self, score_mode)

    def mode(self, member: str, name: str) -> Mode:
        """Return a member's score mode of that name: its unit and what it measures.

        Raises:
            KeyError: there is no such member in any machine type.
        """
        fitted = {key: x for machine in self.machines.values() for key, x in machine.members.items()}
        return fitted[member].mode(name)

    def threshold(
        self,
        rate: float,
        machine_id: str = "",
        *,
        machine_type: str | None = None,
        member: str | None = None,
        score_mode: str | None = None,
    ) -> Threshold:
        """Choose the score above which a clip is an anomaly, for a rate of false alarms.

        It comes from the scores of normal clips that the models have not learnt: those that `fit` held out or scored
        by models of the others, or those of `calibrate`. Warn where these are too few to be sure, or training clips.

        Args:
            rate: of false alarms among normal clips, above 0 and below 1, such as 0.01.
            machine_id: the machine ID.
            machine_type: the machine type, where there are several.
            member: whose own scores count, in its own units; by default the combined score's.
            score_mode: instead of the members' own.

        Raises:
            ValueError: there is no such machine type, machine ID, member or score mode, the rate can't be one, or the
                detector has no calibration.
        """
        check_rate(rate)
        check_calibrated(self)
        machine_type = next(iter(self.machines)) if machine_type is None and len(self.machines) == 1 else machine_type
        if machine_type not in self.machines:
            raise ValueError(f"no machine type {machine_type!r}; this detector has {', '.join(self.machines)}")
        machine, modes = self.machines[machine_type], self.score_modes(score_mode)
        if machine_id not in machine.ids:
            raise ValueError(f"no machine ID {machine_id!r}; this detector has {', '.join(map(repr, machine.ids))}")
        if member is None:
            normal = normal_scores(machine, machine_id, modes, self.recipe)
        elif member in machine.members:
            normal = np.sort(member_scores(machine, machine_id, member, modes[member]))
        else:
            raise ValueError(f"no member {member!r}; this detector has {', '.join(machine.members)}")
        for remark in remarks(machine, [machine_id], modes, rate):
            warnings.warn(remark, stacklevel=2)
        return threshold(normal, rate)

    def calibrate(  # noqa: PLR0913 (a public door: as `score`)
        self,
        clips: Any,
        *,
        ids: Sequence[str] | str | None = None,
        sample_rate: int | None = None,
        features: ClipFeatures = "audio",
        machine_type: str | None = None,
        channel: Channel = 0,
        window: float | None = None,
        hop: float | None = None,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "auto",
        score_mode: str | None = None,
        progress: Progress = silent,
    ) -> Detector:
        """Return the same detector with other normal clips to take thresholds from, instead of those kept so far.

        Scores stay as they are. A machine ID without new clips keeps its old ones; one with new clips has thresholds
        for this score mode alone. Clips that are labelled anomalous are left out, and warned of; silent ones and those
        that can't be scored are in the new detector's `skipped`.

        Args:
            clips: normal clips that the models have not learnt; see `score`, as for all that follow. Of a data set's
                folder with training and test clips, the normal test clips.
            ids: machine IDs.
            sample_rate: of arrays of samples, in Hz.
            features: what arrays hold, "audio" or "log-mel".
            machine_type: instead of the one that paths tell.
            channel: which channel of a clip, from 0, "mean", or "all" for each by itself.
            window: cut recordings into sections of so many seconds; `None` leaves them whole.
            hop: from one section to the next, in seconds; `None` is `window`. See `cutting.Cutting`.
            device: "auto", "cpu", "cuda", or several GPUs.
            backend: of the operators.
            precision: of the operators; the one that clips will be scored in.
            score_mode: the one that clips will be scored by, instead of the members' own.
            progress: told of each clip.

        Raises:
            FileNotFoundError, ValueError, TypeError: the arguments don't make sense, or no clip can be used.
            DeviceLost: a GPU failed.
        """
        listed = list(
            for_scoring(find(clips, ids=ids, sample_rate=sample_rate, features=features, machine_type=machine_type))
        )
        normal = [clip for clip in listed if clip.label != 1]
        if len(normal) < len(listed):
            warnings.warn(
                f"{len(listed) - len(normal)} of {len(listed)} clips are labelled anomalous, and left out", stacklevel=2
            )
        compute = Compute.choose(device, backend, precision)
        cutting = Cutting.of(window, hop)
        scoring = Scoring(self, compute, channel=channel, cutting=cutting, score_mode=score_mode, progress=progress)
        skipped = []
        used: dict[str, list[tuple[str, Row]]] = {name: [] for name in self.machines}
        for row in scoring.rows(normal):
            if row.score is None or row.status == "silent":
                error = row.error or f"{row.clip}: digital silence tells nothing of a machine"
                skipped.append({"clip": row.clip, "status": row.status, "error": error})
                continue
            used[known_type(self, row.machine_type)].append((row.machine_id, row))
        if not any(used.values()):
            why = "; ".join(row["error"] for row in skipped[:3]) or "all are labelled anomalous"
            raise ValueError(f"none of the {len(listed)} clips can be used for thresholds: {why}")
        machines = {
            name: replace(machine, calibration=_calibrated(machine, scoring.modes, used[name]))
            for name, machine in self.machines.items()
        }
        return Detector(self.recipe, machines, skipped, self.versions)

    def adapt(  # noqa: PLR0913 (a public door: as `score`)
        self,
        clips: Any,
        *,
        memory: int | None = None,
        ids: Sequence[str] | str | None = None,
        sample_rate: int | None = None,
        features: ClipFeatures = "audio",
        machine_type: str | None = None,
        channel: Channel = 0,
        window: float | None = None,
        hop: float | None = None,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "auto",
        score_mode: str | None = None,
        progress: Progress = silent,
    ) -> Detector:
        """Return the detector with further normal clips taken into what is usual: the mean and spread by which scores
        are standardised, and thresholds. The models stay as they are.

        Scores change, and so do those of the machine IDs alone that have new clips, in this score mode alone. Each
        clip counts as much as each that mean and spread are of. Thresholds come from the new clips and the calibration
        clips so far, unless these are training clips. Clips that score far above what is known are warned of.

        Args:
            clips: normal clips, as in `calibrate`, as for all that follow but for the next.
            memory: for how many clips what is known so far counts at most, from 1 on: the fewer, the more the new ones
                count. `None` is for as many as were learnt.
            ids: machine IDs.
            sample_rate: of arrays of samples, in Hz.
            features: what arrays hold, "audio" or "log-mel".
            machine_type: instead of the one that paths tell.
            channel: which channel of a clip, from 0, "mean", or "all" for each by itself.
            window: cut recordings into sections of so many seconds; `None` leaves them whole.
            hop: from one section to the next, in seconds; `None` is `window`. See `cutting.Cutting`.
            device: "auto", "cpu", "cuda", or several GPUs.
            backend: of the operators.
            precision: of the operators.
            score_mode: the one that clips will be scored by, instead of the members' own.
            progress: told of each clip.

        Raises:
            FileNotFoundError, ValueError, TypeError: the arguments don't make sense, or no clip can be used.
            DeviceLost: a GPU failed.
        """
        if memory is not None and memory < 1:
            raise ValueError(f"memory must be a number of clips from 1 on, not {memory}")
        new = self.calibrate(
            clips,
            ids=ids,
            sample_rate=sample_rate,
            features=features,
            machine_type=machine_type,
            channel=channel,
            window=window,
            hop=hop,
            device=device,
            backend=backend,
            precision=precision,
            score_mode=score_mode,
            progress=progress,
        )
        modes, robust = self.score_modes(score_mode), self.recipe.statistics == "robust"
        machines = {}
        for name, machine in self.machines.items():
            found = new.machines[name].calibration or Calibration({})
            for remark in adaptation.remarks(machine, found, modes):
                warnings.warn(f"{name} {remark}".lstrip(), stacklevel=2)
            machines[name] = adaptation.adapted(machine, found, modes, memory, robust)
        return Detector(self.recipe, machines, new.skipped, self.versions)

    def rows(  # noqa: PLR0913 (a public door: what clips are, how they are heard, and what is wanted)
        self,
        clips: Any,
        *,
        ids: Sequence[str] | str | None = None,
        sample_rate: int | None = None,
        features: ClipFeatures = "audio",
        machine_type: str | None = None,
        channel: Channel = 0,
        window: float | None = None,
        hop: float | None = None,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "auto",
        unknown_ids: UnknownIds = "refuse",
        score_mode: str | None = None,
        false_alarms: float | None = None,
        confirm: tuple[int, int] | None = None,
        out: str | os.PathLike[str] | None = None,
        resume: Resume = False,
        shard: tuple[int, int] | None = None,
        progress: Progress = silent,
    ) -> Rows:
        """Score any number of clips, a few at a time: an iterator of the rows of `score`, each of which comes once
        `out` has it. Memory doesn't grow with the number of clips; more than ten thousand are scored while they are
        listed.

        Args:
            clips: see `score`, as for all that follow.
            ids: machine IDs.
            sample_rate: of arrays of samples, in Hz.
            features: what arrays hold.
            machine_type: instead of the one that paths tell.
            channel: which channel of a clip.
            window: seconds of a section.
            hop: from one section to the next, in seconds.
            device: where.
            backend: of the operators.
            precision: of the operators.
            unknown_ids: "refuse" or "pool".
            score_mode: instead of the members' own.
            false_alarms: decide clips with this rate of false alarms.
            confirm: `(3, 5)` adds the column `confirmed`.
            out: a .csv or .parquet file for the table.
            resume: go on with the rows of an ended run. They are not given again.
            shard: `(i, n)` scores a share.
            progress: told of each clip.

        Raises:
            FileNotFoundError, ValueError, TypeError: see `score`.
            DeviceLost, OSError: from the iterator; see `score`.
        """
        chosen = for_scoring(
            find(clips, ids=ids, sample_rate=sample_rate, features=features, machine_type=machine_type)
        )
        scoring = Scoring(
            self,
            Compute.choose(device, backend, precision),
            channel=channel,
            cutting=Cutting.of(window, hop),
            unknown_ids=unknown_ids,
            score_mode=score_mode,
            rule=DecisionRule.of(false_alarms, confirm),
            progress=progress,
        )
        if resume and out is None:
            raise ValueError("resume= goes on with a table's file: give out=")
        if resume and scoring.wanted.several:
            chosen = _without_sections(chosen)
        if confirm is not None and (resume == "retry-failed" or shard is not None):
            raise ValueError(
                "confirm= looks back at the clips before, which runs with shard=, or that retry failed clips, don't "
                "read: leave it out"
            )
        if shard is not None:
            chosen = for_shard(chosen, shard)
        made_by: dict[str, Any] | None = None
        if out is not None:
            named = ids if ids is None or isinstance(ids, str) else list(map(str, ids))
            made_by = {"model": self.digest(), "ids": named, "sample_rate": sample_rate, "machine_type": machine_type}
            made_by |= {"shard": shard} | scoring.made_by()
        return Rows(scoring, chosen, self.recipe.names, out, made_by, resume)

    def score(  # noqa: PLR0913 (a public door: what clips are, how they are heard, and what is wanted)
        self,
        clips: Any,
        *,
        ids: Sequence[str] | str | None = None,
        sample_rate: int | None = None,
        features: ClipFeatures = "audio",
        machine_type: str | None = None,
        channel: Channel = 0,
        window: float | None = None,
        hop: float | None = None,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "auto",
        unknown_ids: UnknownIds = "refuse",
        score_mode: str | None = None,
        false_alarms: float | None = None,
        confirm: tuple[int, int] | None = None,
        out: str | os.PathLike[str] | None = None,
        resume: Resume = False,
        shard: tuple[int, int] | None = None,
        progress: Progress = silent,
    ) -> DataFrame:
        """Score clips. Where both training and test clips are given (a data set's folder), training clips are left out.

        Args:
            clips: paths, folders, globs, archives or arrays; see `clips.find`.
            ids: machine IDs, one per clip or one for all, instead of those that names tell.
            sample_rate: of arrays of samples, in Hz.
            features: what arrays hold, "audio" or "log-mel".
            machine_type: instead of the one that paths tell.
            channel: which channel of a clip, from 0, "mean", or "all" for each by itself.
            window: cut recordings into sections of so many seconds, each with a row of its own; `None` leaves them
                whole. Memory holds a few of them, however long a recording is.
            hop: from one section to the next, in seconds; `None` is `window`. See `cutting.Cutting`.
            device: "auto" (a GPU where there is one), "cpu" or "cuda"; or several GPUs, "cuda:0,cuda:1", among which
                batches take turns. A GPU whose memory ends gets smaller batches.
            backend: of the operators: "auto", "reference", "cpu", "cuda" or "triton".
            precision: of the operators; "auto" is float32.
            unknown_ids: clips of a machine ID that the detector never learnt are refused (they get a row with the
                reason), or scored against all IDs' normal clips ("pool", and status "pooled").
            score_mode: instead of the members' own, such as "joint" or "probability".
            false_alarms: decide clips with this rate of false alarms among normal ones, such as 0.01: columns
                `p_value` and `decision`. See `threshold`; too few clips to decide by are warned of.
            confirm: `(3, 5)` adds the column `confirmed`: "anomaly" where 3 of the last 5 clips of that machine ID, in
                their order, are anomalies.
            out: a .csv or .parquet file for the table, written as clips are scored.
            resume: go on with the rows that an ended run of the same model and settings has left in `<out>.partial`:
                clips that have a row there are not read again. Where there are none, all are scored. "retry-failed"
                reads those again that have no score; their rows stand at the end.
            shard: `(i, n)` scores the i-th of n shares of the clips, which i from 1 to n together hold once each: see
                `clips.for_shard`. Each share may be scored on another machine, by the same names.
            progress: told of each clip.

        Returns:
            One row per clip, in order: see `tables.table`. `score` is in standard deviations above the mean of
            the machine ID's normal clips, combined over the members as the recipe says, `score.mean` and `score.max`
            are both ways of that; `score.<member>` is what the member itself measures, in its mode's unit. Higher is
            more anomalous. The table's `attrs` say in which `precision` it was computed, and each member's score mode
            (`modes`).

        Raises:
            FileNotFoundError, ValueError, TypeError: the arguments don't make sense, or rows are to be gone on with
                that another model or other settings made; what is wrong with a clip stands in its row.
            DeviceLost: a GPU failed; the rows so far are in `<out>.partial`.
        """
        rows = self.rows(
            clips, ids=ids, sample_rate=sample_rate, features=features, machine_type=machine_type, channel=channel,
            window=window, hop=hop, device=device, backend=backend, precision=precision, unknown_ids=unknown_ids,
            score_mode=score_mode, false_alarms=false_alarms, confirm=confirm, out=out, resume=resume, shard=shard,
            progress=progress,
        )  # fmt: skip
        scores = rows.table()
        if out is not None and rows.resumed:
            attrs, scores = scores.attrs, read(out)
            scores.attrs |= attrs
        return scores

    @plain_torch()
    def explain(  # noqa: PLR0913 (a public door: as `score`)
        self,
        clip: Any,
        *,
        ids: Sequence[str] | str | None = None,
        sample_rate: int | None = None,
        features: ClipFeatures = "audio",
        machine_type: str | None = None,
        channel: Channel = 0,
        device: str = "auto",
        backend: str = "auto",
        score_mode: str | None = None,
        member: str | None = None,
    ) -> Explanation:
        """Show where in time and frequency a clip's score comes from.

        Args:
            clip: a path or an array, see `clips.find`.
            ids: its machine ID.
            sample_rate: see `score`.
            features: see `score`.
            machine_type: see `score`.
            channel: see `score`.
            device: see `score`.
            backend: see `score`.
            score_mode: see `score`.
            member: the ensemble member to ask, by default the first.

        Raises:
            ClipError: the clip can't be read, or is of a machine type that the detector never learnt.
            ValueError: not exactly one clip, or no such member or score mode.
        """
        _check_one(channel)
        listed = list(find(clip, ids=ids, sample_rate=sample_rate, features=features, machine_type=machine_type))
        if len(listed) != 1:
            raise ValueError(f"explain takes one clip, not {len(listed)}")
        modes = self.score_modes(score_mode)
        member = member or next(iter(modes))
        if member not in modes:
            raise ValueError(f"no member {member!r}; this detector has {', '.join(modes)}")
        compute = Compute.choose(device, backend, "float32")
        (item,) = extract(listed, extraction(self.recipe, channel), compute.on([compute.device]))
        if item.error is not None:
            raise item.error
        assert item.log_mel is not None
        machine_type, machine_id = locate(self, recognise(self, item.clip), "pool")
        members = self.machines[machine_type].members
        if member not in members:
            raise ValueError(f"{machine_type} has no member {member!r}: its clips or machine IDs were too few")
        score_map = members[member].scorer(compute).explain(item.log_mel, modes[member], machine_id)
        return Explanation.of(item.log_mel.cpu().numpy(), score_map.cpu().numpy())

    @plain_torch()
    def reasons(  # noqa: PLR0913 (a public door: as `score`)
        self,
        clips: Any,
        *,
        ids: Sequence[str] | str | None = None,
        sample_rate: int | None = None,
        features: ClipFeatures = "audio",
        machine_type: str | None = None,
        channel: Channel = 0,
        device: str = "auto",
        backend: str = "auto",
        precision: str = "auto",
        unknown_ids: UnknownIds = "refuse",
        score_mode: str | None = None,
        progress: Progress = silent,
    ) -> list[reasons.Reasons]:
        """Say why clips scored as they did: where in time and frequency they differ from the machine ID's normal
        clips, by how many dB and standard deviations, and which members raised the score.

        Args:
            clips: see `score`, as for all that follow. Training clips of a data set's folder are left out, too.
            ids: machine IDs.
            sample_rate: of arrays of samples, in Hz.
            features: what arrays hold, "audio" or "log-mel".
            machine_type: instead of the one that paths tell.
            channel: which channel of a clip, from 0, or "mean".
            device: "auto", "cpu", "cuda", or several GPUs.
            backend: of the operators.
            precision: of the operators.
            unknown_ids: "refuse" or "pool".
            score_mode: instead of the members' own.
            progress: told of each clip.

        Returns:
            One for each clip, in order. A clip that can't be scored has its `status` and `error`.

        Raises:
            FileNotFoundError, ValueError, TypeError: the arguments don't make sense, or no member of the detector keeps
                what is usual (classifiers and autoencoders alone don't).
            DeviceLost: a GPU failed.
        """
        _check_one(channel)
        chosen = list(
            for_scoring(find(clips, ids=ids, sample_rate=sample_rate, features=features, machine_type=machine_type))
        )
        scoring = Scoring(
            self,
            Compute.choose(device, backend, precision),
            channel=channel,
            unknown_ids=unknown_ids,
            score_mode=score_mode,
            progress=progress,
        )
        return list(reasons.of_clips(self, scoring, extraction(self.recipe, channel), chosen))

    @plain_torch()
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the detector to one safetensors file: tensors, and a JSON header with the recipe.

        Raises:
            OSError: the file can't be written.
        """
        storage.write(path, *self._contents())

    def digest(self) -> str:
        """Return the SHA-256 of all that a file of it holds: detectors with the same give the same scores."""
        return storage.checksum(*self._contents())

    def _contents(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The tensors and the header of its file."""
        tensors: dict[str, Tensor] = {}
        machines = []
        for number, (machine_type, machine) in enumerate(self.machines.items()):
            members = {}
            for name, member in machine.members.items():
                prefix, baseline = f"{number}/{name}", machine.baselines[name]
                tensors |= {f"{prefix}/{key}": x for key, x in member.state().items()}
                tensors |= {f"{prefix}/statistics.{key}": x for key, x in baseline.tensors().items()}
                history = asdict(machine.histories[name])
                members[name] = {"ids": baseline.ids, "modes": baseline.modes, "history": history}
            entry = {"machine_type": machine_type, "members": members}
            if machine.calibration is not None and machine.calibration.samples:
                tensors |= {f"calibration/{number}/{key}": x for key, x in machine.calibration.tensors().items()}
                entry["calibrated"] = list(machine.calibration.samples)
            if machine.conditions is not None:
                tensors |= {f"conditions/{number}/{key}": x for key, x in machine.conditions.tensors().items()}
            machines.append(entry)
        header = {"format": FORMAT, "versions": self.versions, "recipe": self.recipe.to_dict(), "machines": machines}
        return tensors, header


def _without_sections(clips: Iterable[Clip]) -> Iterator[Clip]:
    """Yield clips that are whole recordings.

    Raises:
        ValueError: one is a section.
    """
    for clip in clips:
        if clip.duration is not None:
            raise ValueError("resume= can't tell a manifest's sections from cuts: leave out window= and channel='all'")
        yield clip


def _check_one(channel: Channel) -> None:
    if channel == "all":
        raise ValueError("one channel is explained at a time: give its number, or 'mean'")


def _calibrated(machine: Machine, modes: Mapping[str, str], used: Sequence[tuple[str, Row]]) -> Calibration | None:
    """A machine type's calibration with the scores of clips with these machine IDs in it."""
    scores = {name: [row.members[name] for _, row in used] for name in machine.baselines}
    new = machine.calibration_of([machine_id for machine_id, _ in used], scores, modes)
    return new if machine.calibration is None else machine.calibration.updated(new)
