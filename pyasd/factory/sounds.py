"""Synthetic machines: what a fan, a reciprocating pump and a belt conveyor sound like, healthy and faulty.

The models are simple, but each fault changes what it changes in a real machine. Nothing here was recorded.

- **fan**: blade-pass tones, motor hum and turbulence, whose power grows with the fifth power of the speed (the fan
  laws). *imbalance* modulates all of it once per turn; *bearing* adds impacts, which ring the housing at the outer
  race's ball-pass rate with a little jitter from slip.
- **pump**: a piston pump with two valve knocks per stroke, flow noise that pulses with them, and its motor. *leak*
  adds a hiss at high frequencies, loudest in the pressure stroke; *missing-strokes* leaves strokes out at random,
  as a valve does that sticks.
- **conveyor**: gear mesh with sidebands at shaft speed, rumbling rollers, and the belt's joint passing. *slip* makes
  the speed sag for moments while the belt squeals; *bearing* adds a dry roller's impacts.

Levels are in dB re the machine's own main sound, frequencies in Hz, times in s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Signal = NDArray[Any]
Curve = tuple[tuple[float, float], ...]

RATE = 16000
"""Samples per second."""


# -- building blocks: each is of unit power where nothing else is said -------------------------------------------


@lru_cache(maxsize=64)
def _colour(n: int, curve: Curve) -> Signal:
    """Return amplitudes `[bins]` for Gaussian noise of this colour: `irfft` makes a signal of unit power of them."""
    frequency = np.maximum(np.fft.rfftfreq(n, 1 / RATE), 1.0)
    level = np.interp(np.log(frequency), np.log([hz for hz, _ in curve]), [db for _, db in curve])
    amplitude: Signal = 10 ** (level / 20)
    amplitude[0] = 0
    amplitude *= n / np.sqrt(4 * np.sum(amplitude**2))
    return amplitude


def noise(rng: np.random.Generator, n: int, curve: Curve) -> Signal:
    """Synthesise Gaussian noise with the power spectrum `curve`: points `(Hz, dB)`, joined by lines over log Hz."""
    amplitude = _colour(n, curve)
    spectrum = rng.standard_normal((len(amplitude), 2)).view(np.complex128)[:, 0]
    return np.fft.irfft(spectrum * amplitude, n)


def tones(rng: np.random.Generator, cycles: Signal, levels: Sequence[float] | Signal) -> Signal:
    """Synthesise a periodic sound with harmonics of random phases.

    Args:
        rng: draws the phases.
        cycles: `[n]`: how many periods have passed at each sample.
        levels: the harmonics' levels in dB.
    """
    size = 8192  # one period, looked up to the nearest point: the error lies 50 dB lower
    order = np.arange(1, len(levels) + 1)
    spectrum = np.zeros(size // 2 + 1, np.complex128)
    spectrum[order] = 10 ** (np.array(levels) / 20) * np.exp(2j * np.pi * rng.random(len(levels)))
    period: Signal = np.fft.irfft(spectrum, size)
    period /= np.std(period)
    return period[(cycles * size).astype(np.int64) % size]


def strikes(n: int, times: Signal, amplitudes: Signal, resonance: float, decay: float) -> Signal:
    """Synthesise impacts that each ring a resonance of unit peak, which decays with the time constant `decay`."""
    t = np.arange(int(7 * decay * RATE)) / RATE
    ring = np.exp(-t / decay) * np.sin(2 * np.pi * resonance * t)
    out = np.zeros(n + len(ring))
    for start, amplitude in zip(np.rint(times * RATE).astype(np.int64), amplitudes, strict=True):
        if 0 <= start < n:
            out[start : start + len(ring)] += amplitude * ring
    return out[:n]


def wander(rng: np.random.Generator, n: int, seconds: float) -> Signal:
    """Draw a smooth random course of unit variance that changes within about `seconds`."""
    step = max(1, int(seconds * RATE / 20))
    x = np.arange(0, n + step, step) / (RATE * seconds) + rng.random()
    knots = rng.standard_normal(int(x[-1]) + 2)
    cell = x.astype(np.int64)
    blend = 0.5 - 0.5 * np.cos(np.pi * (x - cell))
    course = (knots[cell] * (1 - blend) + knots[cell + 1] * blend) / np.sqrt((1 - blend) ** 2 + blend**2)
    return np.interp(np.arange(n), np.arange(len(x)) * step, course)


def crossings(turns: Signal, per_turn: float, offset: float) -> Signal:
    """Return the times at which a rotation has made another `1 / per_turn` of a turn."""
    count = turns * per_turn + offset
    return np.interp(np.arange(np.ceil(count[0]), np.floor(count[-1]) + 1), count, np.arange(len(turns)) / RATE)


def gain(level: float) -> float:
    """Return the amplitude of a level in dB."""
    return float(10 ** (level / 20))


# -- machines ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fan:
    """One fan: blades, speed (Hz), the colour of its turbulence, its housing's resonance (Hz)."""

    speed: float
    blades: int
    turbulence: Curve
    blade_pass: float
    resonance: float
    faults = ("imbalance", "bearing")

    def sound(self, rng: np.random.Generator, n: int, fault: str | None, severity: float) -> Signal:
        """Synthesise the fan for `n` samples; `severity` from 0 to 1 matters with a `fault`."""
        load = 1 + 0.04 * rng.standard_normal()
        speed = self.speed * load * (1 + 0.006 * wander(rng, n, 2.0))
        turns = np.cumsum(speed) / RATE
        harmonics = -4.0 * np.arange(8) + rng.normal(0, 1, 8)
        air = noise(rng, n, self.turbulence) * (speed / self.speed) ** 2.5 * (1 + 0.08 * wander(rng, n, 0.3))
        blade = tones(rng, turns * self.blades, harmonics) * gain(self.blade_pass + 50 * np.log10(load))
        out = air + blade + gain(-12) * tones(rng, 100 / RATE * np.arange(n), (0, -5, -10))  # twice the mains
        if fault == "imbalance":
            out *= 1 + (0.08 + 0.42 * severity) * np.cos(2 * np.pi * (turns + rng.random()))
        if fault == "bearing":
            out += bearing(rng, n, turns, 3.57, self.resonance, gain(-8 + 16 * severity))
        return out


def bearing(
    rng: np.random.Generator, n: int, turns: Signal, per_turn: float, resonance: float, amplitude: float
) -> Signal:
    """Synthesise impacts of a worn outer race: stronger under the load, with a jitter of 2 % of their distance."""
    times = crossings(turns, per_turn, rng.random())
    pressed = 1 + 0.4 * np.cos(2 * np.pi * np.interp(times, np.arange(n) / RATE, turns))
    amplitudes = amplitude * pressed * rng.lognormal(0, 0.25, len(times))
    times = times + rng.normal(0, 0.02, len(times)) * np.median(np.diff(times, prepend=0))
    return strikes(n, times, amplitudes, resonance, 0.003)


HISS: Curve = ((1500, -40), (3500, -6), (5000, 0), (7000, 0), (8000, -6))
"""The colour of air or steam that leaves a small hole."""


@dataclass(frozen=True)
class Pump:
    """One piston pump: strokes per second, resonances (Hz) of both valves, colour of its flow, motor speed (Hz)."""

    strokes: float
    valves: tuple[float, float]
    flow: Curve
    motor: float
    faults = ("leak", "missing-strokes")

    def sound(self, rng: np.random.Generator, n: int, fault: str | None, severity: float) -> Signal:
        """Synthesise the pump for `n` samples; `severity` from 0 to 1 matters with a `fault`."""
        load = 1 + 0.04 * rng.standard_normal()
        turns = np.cumsum(self.strokes * load * (1 + 0.01 * wander(rng, n, 1.0))) / RATE
        start = rng.random()
        stroke = np.floor(turns + start).astype(np.int64)  # which stroke each sample belongs to
        works = np.ones(stroke[-1] + 2)
        if fault == "missing-strokes":
            works[rng.random(len(works)) < 0.06 + 0.34 * severity] = 0.1
        pulse = (1 + 0.7 * np.sin(2 * np.pi * (turns + start))) * works[stroke]
        out = noise(rng, n, self.flow) * pulse / 1.12 * gain(rng.normal(0, 1.0))
        for resonance, offset, level in zip(self.valves, (0.0, 0.5), (15.0, 12.0), strict=True):
            times = crossings(turns, 1, start + offset)
            strength = works[stroke[(times * RATE).astype(np.int64)]] if offset else 1.0
            amplitudes = gain(level) * strength * rng.lognormal(0, 0.2, len(times))
            times = times + rng.normal(0, 0.004, len(times))
            out += strikes(n, times, amplitudes, resonance * (1 + 0.01 * rng.standard_normal()), 0.006)
        motor = np.cumsum(self.motor * (1 + 0.002 * wander(rng, n, 2.0))) / RATE
        out += gain(-4) * tones(rng, motor, -3.0 * np.arange(12) + rng.normal(0, 1, 12))
        if fault == "leak":
            hiss = noise(rng, n, HISS)
            out += hiss * (1 + 0.5 * np.sin(2 * np.pi * (turns + start))) * gain(-22 + 14 * severity)
        return out


@dataclass(frozen=True)
class Conveyor:
    """One conveyor: shaft speed (Hz), teeth of the gear, colour of the rollers, belt turns and squeal (Hz)."""

    speed: float
    teeth: int
    rollers: Curve
    belt: float
    squeal: float
    resonance: float
    faults = ("slip", "bearing")

    def sound(self, rng: np.random.Generator, n: int, fault: str | None, severity: float) -> Signal:
        """Synthesise the conveyor for `n` samples; `severity` from 0 to 1 matters with a `fault`."""
        speed = self.speed * (1 + 0.03 * rng.standard_normal()) * (1 + 0.006 * wander(rng, n, 1.5))
        slips = np.zeros(n)
        if fault == "slip":
            t = np.arange(n) / RATE
            for _ in range(rng.integers(3, 8)):
                length = rng.uniform(0.15, 0.5)
                slips += np.clip(1 - np.abs(t - rng.uniform(0, n / RATE)) / length, 0, 1)
            speed = speed * (1 - (0.03 + 0.12 * severity) * np.minimum(slips, 1))
        turns = np.cumsum(speed) / RATE
        mesh = tones(rng, turns * self.teeth, -3.0 * np.arange(7) + rng.normal(0, 1, 7))
        shaft = 1 + 0.15 * np.cos(2 * np.pi * (turns + rng.random()))
        cargo = 10 ** (1.5 * wander(rng, n, 1.0) / 20) * gain(rng.normal(0, 1.0))
        out = noise(rng, n, self.rollers) * cargo + gain(-2) * shaft * mesh
        joint = crossings(turns, self.belt / self.speed, rng.random())
        out += strikes(n, joint, gain(12) * rng.lognormal(0, 0.15, len(joint)), 180, 0.03)
        rattle = rng.uniform(0, n / RATE, rng.poisson(6 * n / RATE))
        out += strikes(n, rattle, gain(2) * rng.lognormal(0, 0.6, len(rattle)), 900, 0.004)
        if fault == "slip":
            pitch = self.squeal * (1 + 0.03 * wander(rng, n, 0.2)) * (1 - 0.1 * slips)
            squeal = tones(rng, np.cumsum(pitch) / RATE, (0, -8, -14))
            out += squeal * np.minimum(slips, 1) ** 2 * gain(-19 + 18 * severity)
        if fault == "bearing":
            out += bearing(rng, n, turns * 0.35, 3.08, self.resonance, gain(-4 + 16 * severity))
        return out


Machine = Fan | Pump | Conveyor

MACHINES: dict[str, dict[str, Machine]] = {
    "fan": {
        "00": Fan(9.5, 5, ((40, 4), (300, 0), (1500, -10), (8000, -26)), -2, 3100),
        "02": Fan(12.4, 7, ((40, 0), (500, 0), (2500, -6), (8000, -22)), -4, 4200),
        "04": Fan(7.6, 9, ((40, 6), (200, 2), (1000, -12), (8000, -32)), -1, 2400),
    },
    "pump": {
        "00": Pump(3.1, (1450, 2300), ((60, -6), (400, 0), (1500, -4), (8000, -28)), 24.3),
        "02": Pump(4.3, (1900, 2900), ((60, -4), (600, 0), (2200, -6), (8000, -24)), 24.6),
        "04": Pump(2.2, (1100, 1700), ((60, -3), (250, 0), (1200, -8), (8000, -32)), 16.2),
    },
    "conveyor": {
        "00": Conveyor(24.2, 17, ((50, 2), (250, 0), (1200, -8), (8000, -26)), 0.45, 2100, 3500),
        "02": Conveyor(16.3, 23, ((50, 4), (180, 0), (900, -8), (8000, -30)), 0.6, 2700, 4100),
        "04": Conveyor(20.1, 31, ((50, 0), (350, 0), (1600, -6), (8000, -22)), 0.38, 1700, 2900),
    },
}
"""The factory: machine types, machine IDs, and what makes each machine its own."""
