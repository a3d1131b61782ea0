"""Learning detectors from clips: `fit`, and `score` for clips without a model."""

from __future__ import annotations

import contextlib
import os
import urllib.parse
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyasd import config, models, storage, training
from pyasd.audio import Channel
from pyasd.clips import Clip, find, for_fitting
from pyasd.config import VARIANCE_PRIOR_CLIPS, ClassifierConfig, Recipe, SpectrumConfig
from pyasd.detector import BATCH_CLIPS, ClipFeatures, Detector, Machine, UnknownIds, load, table_writer
from pyasd.ensemble import Statistics
from pyasd.errors import ClipError
from pyasd.pipeline import Pipeline
from pyasd.progress import Progress
from pyasd.training import Run

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pandas import DataFrame

BY_HEART = 3.0
"""Standard deviations of scores of clips learnt, further than which those of clips held out are told of."""


def fit(
    clips: Any,
    system: str | os.PathLike[str] | Recipe = "group-made-spectrum",
    *,
    out: str | os.PathLike[str] | None = None,
    ids: Sequence[str] | str | None = None,
    sample_rate: int | None = None,
    features: ClipFeatures = "audio",
    machine_type: str | None = None,
    channel: Channel = 0,
    seed: int = 0,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
    **settings: Any,
) -> Detector:
    """Learn what machines sound like when they are healthy: one model per machine type, over all its machine IDs.

    Where some clips are training clips (in a folder `train`), test and supplemental clips are left out. Clips
    whose name or folder says that they are anomalous are never learnt from.

    Args:
        clips, ids, sample_rate, features, machine_type: see `clips.find`.
        system: a name of `config.SYSTEMS`, a recipe, or its TOML file (docs/recipes.md).
        out: file to save the detector to. While training, checkpoints lie in a folder beside it, named `out` with
            `.checkpoint` added: the same call after a kill resumes there, and ends with the same detector.
        channel: which channel of a clip, from 0, or "mean".
        seed: the same seed on the same machine, with as many threads, gives the same detector, bit for bit.
        device: "auto" (a GPU where there is one), "cpu" or "cuda"; of several the first.
        backend, precision: of the operators, see `ops`; "auto" precision is float32, but classifiers are trained with
            bfloat16 products where the device is faster so (see `Pipeline.training_precision`).
        progress: told how reading, training and scoring go.
        **settings: of the recipe, to override its own: `epochs=20`, `order="middle"`, `score="conditional"`, ...

    Raises:
        FileNotFoundError, ValueError, TypeError: the arguments don't make sense, or no clip can be learnt from.
        TrainingDiverged: the loss became NaN or infinite.
        OSError: `out` can't be written to; asked before anything else.
    """
    recipe = config.system(system).override(**settings)
    path = None if out is None else storage.check_writable(out)
    normal = for_fitting(find(clips, ids=ids, sample_rate=sample_rate, features=features, machine_type=machine_type))
    pipeline = Pipeline.of(channel, device, backend, precision, progress)
    checkpoints = None if path is None else path.with_name(path.name + ".checkpoint")
    detector = _fit(normal, recipe, pipeline, seed, checkpoints)
    if path is not None and checkpoints is not None:
        detector.save(path)
        for file in checkpoints.glob("*.safetensors"):
            file.unlink()
        with contextlib.suppress(OSError):  # training was over at once, or something of somebody else's lies in it
            checkpoints.rmdir()
    return detector


def score(
    clips: Any,
    model: str | os.PathLike[str] | Detector | None = None,
    *,
    ids: Sequence[str] | str | None = None,
    sample_rate: int | None = None,
    features: ClipFeatures = "audio",
    machine_type: str | None = None,
    channel: Channel = 0,
    seed: int = 0,
    device: str = "auto",
    backend: str = "auto",
    precision: str = "auto",
    unknown_ids: UnknownIds = "refuse",
    score_mode: str | None = None,
    out: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> DataFrame:
    """Score clips with a model; or without one, rank them by how unlike the rest they are.

    Args:
        clips: see `clips.find`; the other arguments are those of `Detector.score`.
        model: a detector or its file. `None` fits the default system on those very clips, all of them, whatever their
            names tell: it learns what most of them are like, in few epochs, and the odd ones score highest.
        seed, **settings: of that fit; see `fit`.

    Returns:
        The table of `Detector.score`.
    """
    if model is not None:
        if settings:
            raise TypeError(f"{', '.join(settings)}: settings are for fitting, and a model is given")
        detector = model if isinstance(model, Detector) else load(model)
        return detector.score(
            clips,
            ids=ids,
            sample_rate=sample_rate,
            features=features,
            machine_type=machine_type,
            channel=channel,
            device=device,
            backend=backend,
            precision=precision,
            unknown_ids=unknown_ids,
            score_mode=score_mode,
            out=out,
            progress=progress,
        )
    recipe = config.system("group-made-spectrum").override(**({"statistics": "robust"} | settings))
    pipeline = Pipeline.of(channel, device, backend, precision, progress)
    found = list(find(clips, ids=ids, sample_rate=sample_rate, features=features, machine_type=machine_type))
    with table_writer(out, recipe) as writer:
        budget = None if "epochs" in settings else config.RANKING_WINDOWS
        detector = _fit(found, recipe, pipeline, seed, window_budget=budget)
        return detector.score_found(found, pipeline, unknown_ids, score_mode, writer)


def _fit(
    clips: Sequence[Clip],
    recipe: Recipe,
    pipeline: Pipeline,
    seed: int,
    checkpoints: Path | None = None,
    window_budget: int | None = None,
) -> Detector:
    """A detector that learnt from all of `clips`; `window_budget` sets the epochs by the number of windows."""
    skipped: list[dict[str, str]] = []
    machines: dict[str, Machine] = {}
    settings = [recipe.settings_of(name) for name in recipe.members]
    ratios = dict.fromkeys(ratio for x in settings if isinstance(x, ClassifierConfig) for ratio in x.ratios)
    for machine_type in sorted({clip.machine_type for clip in clips}):
        own = [clip for clip in clips if clip.machine_type == machine_type]
        good = own
        versions: dict[float, list[Tensor]] = {}
        for ratio in (1.0, *ratios):
            places, log_mels = [], []
            stage = f"reading {machine_type}".strip() + ("" if ratio == 1 else f" at ratio {ratio:g}")
            for item in pipeline.extract(good, recipe, stage, ratio):
                if item.log_mel is not None and not item.silent:
                    places.append(item.index)
                    log_mels.append(item.log_mel)
                else:
                    error = item.error or ClipError("silent", f"{item.clip.name}: digital silence teaches nothing")
                    skipped.append({"clip": item.clip.name, "status": error.status, "error": str(error)})
            good = [good[i] for i in places]
            versions = {other: [x[i] for i in places] for other, x in versions.items()} | {ratio: log_mels}
        if not good:
            first = "; ".join(row["error"] for row in skipped[-len(own) :][:3])
            raise ValueError(f"none of the {len(own)} {machine_type} clips can be learnt from: {first}")
        ids = [clip.machine_id for clip in good]
        if window_budget is not None and not all(isinstance(x, SpectrumConfig) for x in settings):
            recipe = recipe.override(epochs=max(1, min(30, window_budget // sum(len(x) for x in versions[1.0]))))
        machines[machine_type] = _fit_machine(machine_type, versions, ids, recipe, pipeline, seed, checkpoints)
    if skipped:
        warnings.warn(
            f"{len(skipped)} of {len(clips)} clips were not learnt from; the first: {skipped[0]['error']} "
            "(Detector.skipped lists them all)",
            stacklevel=3,
        )
    return Detector(recipe, machines, skipped)


def _fit_machine(
    machine_type: str,
    versions: Mapping[float, Sequence[Tensor]],
    ids: Sequence[str],
    recipe: Recipe,
    pipeline: Pipeline,
    seed: int,
    checkpoints: Path | None,
) -> Machine:
    """A machine type's members, fitted to its clips' log-Mels; `versions` has these by the ratio they are played at."""
    machine = Machine({}, {}, {})
    log_mels = versions[1.0]
    single = sorted(machine_id for machine_id, count in Counter(ids).items() if count == 1)
    if single and len(ids) > 1 and recipe.statistics == "training":
        warnings.warn(
            f"machine ID {', '.join(map(repr, single))} has a single {machine_type} clip".replace("  ", " ")
            + ", and its scores are standardised by the other IDs' spread: give more clips of it",
            stacklevel=2,
        )
    for name in _able(recipe, machine_type, ids):
        place = f"{urllib.parse.quote(machine_type, safe='') or 'machine'}.{name}.safetensors"
        stage = f"training {name} {machine_type}".strip()
        checkpoint = None if checkpoints is None else checkpoints / place
        precision = pipeline.training_precision(recipe.settings_of(name))
        run = Run(seed, pipeline.device, pipeline.backend, precision, checkpoint, pipeline.progress, stage)
        member = models.build(name, recipe, seed)
        if isinstance(member, models.Classifier):
            resampled = [versions[ratio] for ratio in member.config.ratios]
            machine.histories[name] = member.fit(log_mels, ids, run, resampled)
            _warn_of_guessing(member, machine_type, machine.histories[name], ids)
        else:
            machine.histories[name] = member.fit(log_mels, ids, run)
        machine.members[name] = member
        machine.statistics[name] = _statistics(member, machine_type, log_mels, ids, recipe, pipeline, seed)
    return machine


def _statistics(
    member: models.Member,
    machine_type: str,
    log_mels: Sequence[Tensor],
    ids: Sequence[str],
    recipe: Recipe,
    pipeline: Pipeline,
    seed: int,
) -> Statistics:
    """What a fitted member's scores are like on normal clips, by those that it learnt from."""
    robust = recipe.statistics == "robust"
    if isinstance(member, models.Spectrum):  # every clip's score is that of a clip held out
        held = member.cross_validate(log_mels, ids)
        return Statistics.of(held, ids, member.modes, robust, prior=VARIANCE_PRIOR_CLIPS)
    chosen, prior = list(range(len(ids))), 0.0
    settings = recipe.settings_of(member.name)
    assert not isinstance(settings, SpectrumConfig)
    if recipe.statistics == "held-out":
        chosen = np.flatnonzero(training.held_out(ids, settings.validation, seed)).tolist()
        prior = VARIANCE_PRIOR_CLIPS
        counts = Counter(ids[i] for i in chosen)
        missing = sorted(set(ids) - set(counts))
        if missing or max(counts.values()) < 2:
            raise ValueError(
                "held-out statistics need a held-out clip of each machine ID, and two of some ID: "
                + (f"{', '.join(map(repr, missing))} have none" if missing else "each has one")
                + '. Raise validation=, give more clips, or take statistics="training"'
            )
    scorer = member.scorer(pipeline.device, pipeline.backend, pipeline.precision)
    scores = []
    for first in range(0, len(chosen), BATCH_CLIPS):
        some = chosen[first : first + BATCH_CLIPS]
        scores.append(models.score_many(scorer, [log_mels[i] for i in some], [ids[i] for i in some]).cpu().numpy())
        if pipeline.progress is not None:
            pipeline.progress(f"scoring normal {machine_type} clips", first + len(some), len(chosen), member.name)
    found = np.concatenate(scores)
    if recipe.statistics == "training" and isinstance(member, models.Classifier):
        _warn_of_learning_by_heart(member, machine_type, found, ids, training.held_out(ids, settings.validation, seed))
    return Statistics.of(found, [ids[i] for i in chosen], member.modes, robust, prior=prior)


def _warn_of_learning_by_heart(
    member: models.Member,
    machine_type: str,
    scores: NDArray[np.float64],
    ids: Sequence[str],
    held: NDArray[np.bool_],
) -> None:
    """Says so where the clips held out score further from those learnt than these from each other (`BY_HEART` standard
    deviations, root mean square): standardised by the latter, any clip that is new outweighs the other members.
    """
    if not held.any():
        return
    learnt = Statistics.of(scores[~held], [ids[int(i)] for i in np.flatnonzero(~held)], member.modes)
    mode = member.default_mode
    column = member.modes.index(mode)
    z = [learnt.standardise(float(scores[i, column]), ids[int(i)], mode) for i in np.flatnonzero(held)]
    far = float(np.sqrt(np.mean(np.square(z))))
    if far > BY_HEART:
        what = f"{member.name} has learnt its {machine_type} clips by heart".replace("  ", " ")
        warnings.warn(
            f'{what}: normal ones held out score {far:.1f} standard deviations off. Take statistics="held-out", give '
            "more clips or fewer epochs, or leave it out",
            stacklevel=2,
        )


def _able(recipe: Recipe, machine_type: str, ids: Sequence[str]) -> list[str]:
    """The members that can learn from clips of these machine IDs; warns of those that can't, and where one ID is all
    that classifiers have.
    """
    settings = {name: recipe.settings_of(name) for name in recipe.members}
    left_out, told = [], []
    if max(Counter(ids).values()) < 3:
        left_out += [name for name, x in settings.items() if isinstance(x, SpectrumConfig)]
        if left_out:
            told.append(
                f"no {machine_type} machine ID has three clips, and {left_out[0]} compares an ID's clips with each "
                "other: give three or more"
            )
    classifiers = {name: x for name, x in settings.items() if isinstance(x, ClassifierConfig)}
    if classifiers and len(set(ids)) == 1:
        alone = [name for name, x in classifiers.items() if x.variants == 1]
        left_out += alone
        what = f"all {machine_type} clips are of machine ID {ids[0]!r}"
        if alone:
            told.append(
                f"{what}, and classifiers tell IDs apart: give clips of two IDs or more, or take warps=1 or more (each "
                "warp of an ID is a further class)"
            )
        else:
            told.append(f"{what}: {', '.join(classifiers)} learnt to tell it from its own warps and resamplings")
    able = [name for name in settings if name not in left_out]
    text = "; ".join(told).replace("  ", " ")
    if not able:
        raise ValueError(f"{text}; or fit group-made")
    if left_out:
        text += f". {', '.join(left_out)} left out, {' and '.join(able)} learnt"
    if text:
        warnings.warn(text, stacklevel=2)
    return able


def _warn_of_guessing(
    member: models.Classifier, machine_type: str, history: training.History, ids: Sequence[str]
) -> None:
    """Says so where a classifier has hardly learnt: less than a quarter of the way from guessing to certainty."""
    if not history.accuracy or len(set(ids)) < 2:
        return
    found = history.accuracy[history.kept]
    counts = Counter(ids)
    guessed = 1 / len(counts) if member.config.balance else max(counts.values()) / len(ids)
    if found < guessed + (1 - guessed) / 4:
        images = f"{found:.0%} of the held-out {machine_type} images".replace("  ", " ")
        images += " (mean over IDs)" if member.config.balance else ""
        guess = "guessing" if member.config.balance else "always guessing the most frequent one"
        warnings.warn(
            f"{member.name} finds the machine ID of {images}, and {guess} finds about {guessed:.0%}: its scores tell "
            "little. Give more epochs or clips, or leave it out",
            stacklevel=2,
        )
