"""A small synthetic factory to try pyasd on: folders and names of DCASE 2020, sounds from physical models.

Nine machines of three types (`sounds.MACHINES`) stand in one hall. Each clip has one of them near the microphone,
with two of its neighbours, hall noise and now and then a clank behind it, at `SNR` dB. Speed, load, microphone gain
and background differ from clip to clip. Test clips are half healthy, half faulty; how bad a fault is differs too,
from hardly there to plain.

A clip depends on the factory's seed and on its own name alone, so that each can be made again by itself.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pyasd.factory import sounds
from pyasd.factory.sounds import MACHINES, RATE
from pyasd.progress import Progress, silent

SNR = (0.0, 9.0)
"""Machine over everything else, in dB: drawn evenly from this range for each clip."""

LEVEL = 0.05
"""Root mean square of a clip's machine, as a share of full scale; each clip is up to 2 dB off."""

SECONDS = 10.0

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
    """Yield the names of a factory's clips, such as `fan/train/normal_id_00_00000000.wav`.

    Args:
        train: healthy training clips per machine.
        test: healthy test clips per machine, and as many faulty ones.
    """
    parts = (("train", "normal", train), ("test", "normal", test), ("test", "anomaly", test))
    for machine_type, units in MACHINES.items():
        for machine_id in units:
            for split, label, count in parts:
                for number in range(count):
                    yield f"{machine_type}/{split}/{label}_id_{machine_id}_{number:08d}.wav"


def fault(name: str) -> str | None:
    """Return what is wrong with the machine of that clip; `None` if it is healthy. Faults take turns."""
    clip = _parse(name)
    faults = MACHINES[clip["machine"]][clip["id"]].faults
    return faults[int(clip["number"]) % len(faults)] if clip["label"] == "anomaly" else None


def clip(name: str, seed: int = 0, seconds: float = SECONDS) -> NDArray[np.int16]:
    """Synthesise one clip of the factory with that seed: `[n]` int16 at 16 kHz.

    Raises:
        ValueError: the factory has no clip of that name.
    """
    parsed = _parse(name)
    machine = MACHINES[parsed["machine"]][parsed["id"]]
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    samples: NDArray[np.int16] = record(machine, parsed["machine"], rng, round(seconds * RATE), fault(name), seed)[0]
    return samples


def record(
    machine: sounds.Machine,
    machine_type: str,
    rng: np.random.Generator,
    n: int,
    wrong: str | None,
    seed: int,
    distances: tuple[float, ...] = (0.0,),
) -> NDArray[np.int16]:
    """Synthesise a machine in the hall: `[microphones, n]` int16 at 16 kHz.

    Args:
        machine: what is recorded.
        machine_type: its type; machines of the other types are heard behind it.
        rng: the clip's random numbers.
        n: how many samples.
        wrong: one of the machine's `faults`, or `None`.
        seed: the hall's.
        distances: for each microphone, how much less it hears of the machine, in dB.
    """
    sound = machine.sound(rng, n, wrong, severity=rng.random())
    sound /= _loudness(machine)
    around = _background(rng, n, machine_type, seed)
    snr = rng.uniform(*SNR)
    mix = sound * np.array([sounds.gain(-x) for x in distances])[:, None] + around * sounds.gain(-snr)
    loudness = LEVEL * sounds.gain(rng.uniform(-2, 2))
    limits = np.iinfo(np.int16)
    rounded: NDArray[np.float64] = np.clip(np.rint(mix * loudness * -limits.min), limits.min, limits.max)
    return rounded.astype(np.int16)


def write(
    folder: str | os.PathLike[str],
    *,
    seed: int = 0,
    train: int = 24,
    test: int = 24,
    seconds: float = SECONDS,
    progress: Progress = silent,
) -> list[Path]:
    """Make a factory's clips in `folder`, with a README.txt that says that they are synthetic.

    Args:
        folder: made where it doesn't exist. One that an earlier call filled is filled anew.
        seed: the factory's.
        train: training clips per machine.
        test: healthy test clips per machine, and as many faulty ones.
        seconds: length of each clip.
        progress: hears of each clip.

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
            progress("synthesising", len(written), len(wanted), "")
    finally:
        pool.shutdown(cancel_futures=True)
    return written


def _clear(folder: Path) -> None:
    """Remove the clips of an earlier factory, and only those."""
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
    """Synthesise the rest of the hall, of unit power: two healthy machines of other types, hall noise, and clanks."""
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
    """Return the root mean square of a machine when it is healthy."""
    sound = machine.sound(np.random.default_rng(0), 10 * RATE, None, 0.0)
    return float(np.std(sound))


@lru_cache(maxsize=64)
def _far(machine_type: str, machine_id: str, take: int, seed: int, n: int) -> sounds.Signal:
    """Synthesise a healthy machine across the hall, of unit power: 6 dB less per octave above 1 kHz."""
    rng = np.random.default_rng([seed, zlib.crc32(f"{machine_type} {machine_id} {take}".encode())])
    spectrum = np.fft.rfft(MACHINES[machine_type][machine_id].sound(rng, n, None, 0.0))
    spectrum /= np.sqrt(1 + (np.fft.rfftfreq(n, 1 / RATE) / 1000) ** 2)
    far: sounds.Signal = np.fft.irfft(spectrum, n)
    far /= np.std(far)
    return far
