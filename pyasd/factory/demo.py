"""A small synthetic factory to try pyasd on: DCASE 2020 folders and names, made up from physics, nothing recorded.

Nine machines of three types (`sounds.MACHINES`) stand in one hall. Each clip has one of them near the microphone,
with two of its neighbours, hall noise and now and then a clank behind it, at `SNR` dB. Speed, load, microphone gain
and background differ from clip to clip. Test clips are half healthy, half faulty; how bad a fault is differs too,
from hardly there to plain.

A clip depends on the factory's seed and on its own name alone, so that each can be made again by itself.
"""

from __future__ import annotations

import os
import re
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from pyasd import config, fitting
from pyasd.config import FULL_SCALE, Recipe
from pyasd.factory import sounds
from pyasd.factory.sounds import MACHINES, RATE
from pyasd.progress import Progress
from pyasd.report import picture
from pyasd.tables import evaluation

if TYPE_CHECKING:
    from pandas import DataFrame

    from pyasd.detector import Detector

SNR = (0.0, 9.0)
"""Machine over everything else, in dB: drawn evenly from this range for each clip."""

LEVEL = 0.05
"""Root mean square of a clip's machine, as a share of full scale; each clip is up to 2 dB off."""

SECONDS = 10.0

RECIPE = config.system("group-made-spectrum").override(epochs=8)
BASELINE = config.system("autoencoder").override(epochs=24)
"""What `run` learns: both losses have all but levelled off by then, and it all takes less than three minutes."""

NOTICE = """\
SYNTHETIC RECORDINGS. Nothing here was recorded: `pyasd demo` made these sounds of three types of machines, healthy
and faulty, from simple physical models (pyasd/factory/sounds.py), in the folders and names of DCASE 2020 Task 2.
They show how pyasd is used. They say nothing about how well it does on real machines.

seed {seed}, {seconds:g} s, {rate} Hz, 16 bit, {low:g} to {high:g} dB above the background
"""

_NAME = re.compile(
    r"(?P<machine>\w+)/(?P<split>train|test)/(?P<label>normal|anomaly)_id_(?P<id>\d\d)_(?P<number>\d{8})\.wav"
)


def names(train: int, test: int) -> Iterator[str]:
    """The clips of a factory with `train` healthy clips per machine to learn from, and `test` healthy and as many
    faulty ones to test: `fan/train/normal_id_00_00000000.wav`, ...
    """
    parts = (("train", "normal", train), ("test", "normal", test), ("test", "anomaly", test))
    for machine_type, units in MACHINES.items():
        for machine_id in units:
            for split, label, count in parts:
                for number in range(count):
                    yield f"{machine_type}/{split}/{label}_id_{machine_id}_{number:08d}.wav"


def fault(name: str) -> str | None:
    """What is wrong with the machine of that clip: faults take turns. `None`: it is healthy."""
    clip = _parse(name)
    faults = MACHINES[clip["machine"]][clip["id"]].faults
    return faults[int(clip["number"]) % len(faults)] if clip["label"] == "anomaly" else None


def clip(name: str, seed: int = 0, seconds: float = SECONDS) -> NDArray[np.int16]:
    """The samples of one clip of the factory with that seed, `[n]` at 16 kHz.

    Raises:
        ValueError: the factory has no clip of that name.
    """
    parsed = _parse(name)
    machine = MACHINES[parsed["machine"]][parsed["id"]]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return record(machine, parsed["machine"], rng, round(seconds * RATE), fault(name), seed)[0]


def record(
    machine: sounds.Machine,
    machine_type: str,
    rng: np.random.Generator,
    n: int,
    wrong: str | None,
    seed: int,
    distances: tuple[float, ...] = (0.0,),
) -> NDArray[np.int16]:
    """A machine in the hall, `[microphones, n]` at 16 kHz.

    Args:
        machine, machine_type: what is recorded; machines of the other types are heard behind it.
        rng: of this clip.
        n: samples.
        wrong: one of the machine's `faults`, or `None`.
        seed: of the hall.
        distances: of each microphone: by how many dB it hears the machine less than its surroundings.
    """
    sound = machine.sound(rng, n, wrong, severity=rng.random())
    sound /= _loudness(machine)
    around = _background(rng, n, machine_type, seed)
    snr = rng.uniform(*SNR)
    mix = sound * np.array([sounds.gain(-x) for x in distances])[:, None] + around * sounds.gain(-snr)
    loudness = LEVEL * sounds.gain(rng.uniform(-2, 2))
    return np.clip(np.rint(mix * loudness * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def write(
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    train: int = 24,
    test: int = 24,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> list[Path]:
    """Make a factory's clips in `folder`, with a README.txt that says that they are synthetic.

    Args:
        folder: made where it doesn't exist. One that an earlier call filled is filled anew.
        seed: of the factory.
        train, test: clips per machine, see `names`.
        seconds: of each clip.
        progress: told of each clip.

    Returns:
        The files.

    Raises:
        FileExistsError: something else is in the folder.
        OSError: the files can't be written.
    """
    folder = Path(folder)
    wanted = list(names(train, test))
    _clear(folder)
    for name in wanted:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    notice = NOTICE.format(seed=seed, seconds=seconds, rate=RATE, low=SNR[0], high=SNR[1])
    (folder / "README.txt").write_text(notice, encoding="utf-8")

    def make(name: str) -> Path:
        samples = clip(name, seed, seconds)
        with open(folder / name, "wb") as file:  # soundfile's own errors don't say which file, or that a disk is full
            soundfile.write(file, samples, RATE, "PCM_16", format="WAV")
        return folder / name

    written = []
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))  # NumPy's transforms and noise let other threads run
    try:
        for path in pool.map(make, wanted):
            written.append(path)
            if progress is not None:
                progress("synthesising", len(written), len(wanted), "")
    finally:
        pool.shutdown(cancel_futures=True)
    return written


class Result(NamedTuple):
    """What `run` found.

    Attributes:
        detector: the fitted system.
        scores: the table of `pyasd.score`, of the test clips.
        evaluations: the table of `pyasd.evaluate` for each member, for "both" (the system's score), and for the
            baseline.
        files: what was written besides the recordings: what it is, and where.
    """

    detector: Detector
    scores: DataFrame
    evaluations: dict[str, DataFrame]
    files: dict[str, Path]


def run(
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    clips: int = 24,
    recipe: Recipe = RECIPE,
    baseline: Recipe = BASELINE,
    seconds: float = SECONDS,
    progress: Progress | None = None,
) -> Result:
    """Make a factory in `folder/recordings`, learn its machines, score and evaluate its test clips.

    Args:
        folder: for the recordings, the model, the scores and a picture of one normal and one faulty clip.
        seed: of the factory and the training.
        clips: per machine, to learn from; as many healthy and as many faulty ones are for testing.
        recipe: of the detector.
        baseline: of another one beside it, of one member, that is only evaluated.
        seconds: of each clip.
        progress: told how it goes.

    Raises:
        FileExistsError: something else is in `folder/recordings`.
        OSError: the files can't be written.
    """
    folder = Path(folder)
    recordings = folder / "recordings"
    files = {"recordings": recordings, "model": folder / "model.safetensors", "scores": folder / "scores.csv"}
    write(recordings, seed=seed, train=clips, test=clips, seconds=seconds, progress=progress)
    detector = fitting.fit(recordings, recipe, out=files["model"], seed=seed, progress=progress)
    scores = detector.score(recordings, out=files["scores"], progress=progress)
    columns = {name: f"score.{name}" for name in detector.score_modes(None)} | {"both": "score"}
    evaluations = {name: evaluation.evaluate(scores, score=column) for name, column in columns.items()}
    other = fitting.fit(recordings, baseline, seed=seed, progress=progress)
    evaluations |= {name: evaluation.evaluate(other.score(recordings, progress=progress)) for name in baseline.members}
    try:
        files["picture"] = picture.draw(detector, _examples(scores), folder / "picture.png")
    except ImportError as error:
        warnings.warn(str(error), stacklevel=2)
    return Result(detector, scores, evaluations, files)


def _examples(scores: DataFrame) -> dict[str, str]:
    """For the picture: of one machine, the normal clip in the middle of the ranking and the faulty one on top."""
    own = scores[(scores["machine_type"] == "pump") & (scores["machine_id"] == "00")].sort_values("score")
    normal, faulty = own[own["label"] == 0], own[own["label"] == 1]
    chosen = {"healthy": normal.iloc[len(normal) // 2], "": faulty.iloc[-1]}
    named = {what or fault("/".join(Path(row["clip"]).parts[-3:])): row for what, row in chosen.items()}
    # Adding 0.0 makes 0.0 of -0.0.
    return {f"pump 00, {k} (synthetic): score {round(x['score'], 1) + 0.0:.1f}": x["clip"] for k, x in named.items()}


def _clear(folder: Path) -> None:
    """Removes the clips of an earlier factory, and only those."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    notice = folder / "README.txt"
    if not notice.is_file() or not notice.read_text(encoding="utf-8", errors="replace").startswith(NOTICE[:20]):
        raise FileExistsError(f"{folder} holds something else than a synthetic factory: choose an empty folder")
    for path in folder.rglob("*.wav"):
        if _NAME.fullmatch(path.relative_to(folder).as_posix()):
            path.unlink()


def _parse(name: str) -> dict[str, str]:
    match = _NAME.fullmatch(name)
    if match is None or match["id"] not in MACHINES.get(match["machine"], {}):
        raise ValueError(f"the synthetic factory has no clip {name!r}; one is fan/train/normal_id_00_00000000.wav")
    return match.groupdict()


HALL: sounds.Curve = ((50, 0), (200, 0), (8000, -24))
"""The colour of the hall's noise."""

TAKES = 4
"""Sounds of each machine from across the hall; a clip's background starts anywhere in some of them."""


def _background(rng: np.random.Generator, n: int, machine_type: str, seed: int) -> sounds.Signal:
    """The rest of the hall, of unit power: two healthy machines of other types, the hall itself, and clanks."""
    around = sounds.noise(rng, n, HALL) * (1 + 0.2 * sounds.wander(rng, n, 1.0))
    for other, units in MACHINES.items():
        if other != machine_type:
            neighbour = _far(other, list(units)[rng.integers(len(units))], int(rng.integers(TAKES)), seed, n)
            around += np.roll(neighbour, rng.integers(n)) * sounds.gain(rng.uniform(-6, 3))
    around /= np.std(around)
    clanks = rng.uniform(0, n / RATE, rng.poisson(0.15 * n / RATE))
    amplitudes = sounds.gain(12) * rng.lognormal(0, 0.4, len(clanks))
    return around + sounds.strikes(n, clanks, amplitudes, rng.uniform(600, 3000), 0.04)


@lru_cache(maxsize=64)
def _loudness(machine: sounds.Machine) -> float:
    """The root mean square of a machine when it is healthy."""
    sound = machine.sound(np.random.default_rng(0), 10 * RATE, None, 0.0)
    return float(np.std(sound))


@lru_cache(maxsize=64)
def _far(machine_type: str, machine_id: str, take: int, seed: int, n: int) -> sounds.Signal:
    """A healthy machine across the hall, of unit power: what is high is absorbed, 6 dB per octave above 1 kHz."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{machine_type} {machine_id} {take}".encode())])
    spectrum = np.fft.rfft(MACHINES[machine_type][machine_id].sound(rng, n, None, 0.0))
    spectrum /= np.sqrt(1 + (np.fft.rfftfreq(n, 1 / RATE) / 1000) ** 2)
    far = np.fft.irfft(spectrum, n)
    return far / np.std(far)
