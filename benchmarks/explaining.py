"""How often `Detector.reasons` names the place of a fault that was put into a normal recording.

    python -m benchmarks.explaining --cases 200
    PYASD_REAL_DATA=folder python -m benchmarks.explaining --cases 200 --real

Into a normal recording that the model has not learnt goes a tone, a band of noise, a burst or a drop-out. Noise and
bursts are cut from another normal recording of the same machine and amplified, so that they lie the same number of dB
above it in all of their bands. The place is right where the strongest reason's edges are within a third of an octave (a
tone's: their middle), and its start and end within a second. docs/guide.md has the figures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

import pyasd
from benchmarks import real_data
from pyasd import audio
from pyasd.clips import find
from pyasd.detector import Reason, Reasons
from pyasd.factory import factory
from pyasd.factory.sounds import MACHINES, RATE
from pyasd.tables.markdown import markdown

Fault = Literal["tone", "band", "burst", "drop-out"]
FAULTS: tuple[Fault, ...] = get_args(Fault)

OCTAVES, SECONDS = 1 / 3, 1.0
"""How far off a place may be that is right."""

LOWEST = 100.0
"""Edges below this are taken as this, in Hz: a third of an octave is less than a Mel band there."""

REAL = ("uav", "enginemix", "uestcmix", "adiload", "tap")

Samples = NDArray[np.float64]


class Place(NamedTuple):
    """Describe a fault in a recording: start and end in s, edges in Hz, level in dB above the recording."""

    fault: Fault
    start: float
    end: float
    low: float
    high: float
    level: float

    def is_right(self, reason: Reason) -> bool:
        """Say whether a reason is this one."""
        ours, theirs = (np.log2(np.maximum((x.low, x.high), LOWEST)) for x in (self, reason))
        off = abs(theirs - ours) if self.fault != "tone" else abs(theirs.mean() - ours.mean())
        return bool(
            np.max(off) <= OCTAVES and max(abs(reason.start - self.start), abs(reason.end - self.end)) <= SECONDS
        )


class Recordings(NamedTuple):
    """Normal recordings of some machine IDs: those to learn, and others."""

    learn: list[Samples]
    learn_ids: list[str]
    hosts: list[Samples]
    host_ids: list[str]


class Case(NamedTuple):
    """A fault, and what was told of it."""

    place: Place
    told: Reasons

    @property
    def first(self) -> bool:
        """Tell whether the first reason names the right place."""
        return any(self.place.is_right(x) for x in self.told.reasons[:1])

    @property
    def among(self) -> bool:
        """Tell whether any of the reasons names the right place."""
        return any(self.place.is_right(x) for x in self.told.reasons)

    @property
    def named(self) -> bool:
        """Tell whether the first reason is called as the fault is."""
        return [x.kind for x in self.told.reasons[:1]] == [self.place.fault]


class Measured(NamedTuple):
    """Faults, and what was told of the normal recordings as they are."""

    cases: list[Case]
    normal: list[Reasons]


def inject(host: Samples, donor: Samples, fault: Fault, rng: np.random.Generator) -> tuple[Samples, Place]:
    """Put a fault into a recording, and say where. A tone's level is above the host in its Mel band."""
    length = len(host) / RATE
    seconds = (
        min(0.3, length / 4) * rng.uniform(0.4, 1) if fault == "burst" else max(0.6, length * rng.uniform(0.1, 0.4))
    )
    start = rng.uniform(0, length - seconds)
    gate = np.zeros(len(host))
    gate[round(start * RATE) : round((start + seconds) * RATE)] = 1
    gate = np.convolve(gate, np.hanning(160) / np.hanning(160).sum(), "same")  # no clicks
    low, high, level = 0.0, RATE / 2, 0.0
    if fault == "drop-out":
        level = rng.uniform(-40, -15)
        host = host * (1 + (10 ** (level / 20) - 1) * gate)
    elif fault == "tone":
        low = high = float(np.exp(rng.uniform(np.log(200), np.log(6000))))
        level = rng.uniform(10, 20)
        width = max(50.0, 0.07 * low)
        power = np.mean(np.square(_band_pass(host, low - width / 2, low + width / 2)))
        host = host + gate * np.sqrt(2 * power * 10 ** (level / 10)) * np.sin(
            2 * np.pi * low * np.arange(len(host)) / RATE
        )
    else:
        low = float(np.exp(rng.uniform(np.log(200), np.log(3000 if fault == "band" else 1000))))
        high = low * 2 ** (rng.uniform(1 / 3, 1) if fault == "band" else rng.uniform(2, 3))
        level = rng.uniform(8, 14) if fault == "band" else rng.uniform(12, 20)
        host = host + gate * 10 ** (level / 20) * _band_pass(np.resize(donor, len(host)), low, high)
    return host, Place(fault, start, start + seconds, low, high, level)


def _band_pass(x: Samples, low: float, high: float) -> Samples:
    spectrum = np.fft.rfft(x)
    hertz = np.fft.rfftfreq(len(x), 1 / RATE)
    passed: Samples = np.fft.irfft(np.where((hertz >= low) & (hertz <= high), spectrum, 0), len(x))
    return passed


def measure(recordings: Recordings, cases: int, system: str = "fast", seed: int = 0) -> Measured:
    """Learn normal recordings, put faults into others in turn, and ask for the reasons."""
    detector = pyasd.fit(recordings.learn, system, ids=recordings.learn_ids, sample_rate=RATE, device="cpu")
    rng = np.random.default_rng(seed)
    made, ids = [], []
    for case in range(cases):
        number = int(rng.integers(len(recordings.hosts)))
        machine_id = recordings.host_ids[number]
        donors = [x for x, other in zip(recordings.learn, recordings.learn_ids, strict=True) if other == machine_id]
        fault = FAULTS[case % len(FAULTS)]
        made.append(inject(recordings.hosts[number], donors[rng.integers(len(donors))], fault, rng))
        ids.append(machine_id)
    told = detector.reasons([x.astype(np.float32) for x, _ in made], ids=ids, sample_rate=RATE, device="cpu")
    hosts = [x.astype(np.float32) for x in recordings.hosts]
    normal = detector.reasons(hosts, ids=recordings.host_ids, sample_rate=RATE, device="cpu")
    return Measured([Case(place, x) for (_, place), x in zip(made, told, strict=True)], normal)


def synthetic(machine_type: str, learn: int, hosts: int, seconds: float = factory.SECONDS) -> Recordings:
    """Make normal recordings of the factory's machines of one type."""
    made = Recordings([], [], [], [])
    for machine_id in MACHINES[machine_type]:
        for split, count, where, ids in (
            ("train", learn, made.learn, made.learn_ids), ("test", hosts, made.hosts, made.host_ids),
        ):  # fmt: skip
            for number in range(count):
                samples = factory.clip(
                    f"{machine_type}/{split}/normal_id_{machine_id}_{number:08d}.wav", seconds=seconds
                )
                where.append(samples / 32768)
                ids.append(machine_id)
    return made


def real(name: str, data: Path) -> Recordings:
    """Load a real set's normal recordings."""
    if name == "uav":
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([sys.executable, str(data / "make_diluted.py"), folder], check=True)
            return _folder(Path(folder) / "UAV")
    return _folder(data / "machines" / name)


def _folder(folder: Path) -> Recordings:
    loaded = Recordings([], [], [], [])
    for clip in find(folder):
        if clip.label != 1:
            where, ids = (loaded.learn, loaded.learn_ids) if clip.split == "train" else (loaded.hosts, loaded.host_ids)
            samples = audio.read(clip, RATE).samples
            where.append(samples / (32768 if samples.dtype == np.int16 else 1))
            ids.append(clip.machine_id)
    return loaded


def table(measured: dict[str, Measured]) -> str:
    """Return a Markdown table: in how many of how many cases the first reason is right, any is, and its name is; and in
    how many normal recordings a place is told.
    """
    rows = []
    for name, (cases, normal) in measured.items():
        told = f"{sum(bool(x.reasons) for x in normal)} of {len(normal)}"
        for fault in (*FAULTS, "all"):
            of = [x for x in cases if fault in (x.place.fault, "all")]
            counts = (sum(x.first for x in of), sum(x.among for x in of), sum(x.named for x in of))
            rows.append([name, fault, *(f"{count} of {len(of)}" for count in counts), told if fault == "all" else ""])
    return markdown(["recordings", "fault", "the first", "one of five", "its name", "told in normal ones"], rows)


def misses(cases: Sequence[Case]) -> Iterator[str]:
    """Yield a line for each case whose first reason is wrong."""
    for case in cases:
        if not case.first:
            place = "{}: {:.1f} to {:.1f} s, {:.0f} to {:.0f} Hz, {:.0f} dB".format(*case.place)
            yield f"{place}; told: {'; '.join(map(str, case.told.reasons)) or case.told.error or 'nothing'}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200, help="faults in each machine type's or set's recordings")
    parser.add_argument("--system", default="fast", help="what learns")
    parser.add_argument("--real", action="store_true", help="real recordings, in PYASD_REAL_DATA or --data")
    parser.add_argument("--data", type=Path, help="their folder")
    parser.add_argument("--misses", action="store_true", help="say which cases are wrong, on stderr")
    given = parser.parse_args()
    measured: dict[str, Measured] = {}
    for name in REAL if given.real else MACHINES:
        recordings = real(name, real_data(given.data)) if given.real else synthetic(name, 24, 8)
        measured[name] = measure(recordings, given.cases, given.system)
        if given.misses:
            print(name, *misses(measured[name].cases), sep="\n  ", file=sys.stderr)
    print(table(measured))


if __name__ == "__main__":
    main()
