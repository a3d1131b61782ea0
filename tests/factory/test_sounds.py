"""Synthetic machines: building blocks, and each fault where physics puts it, nothing else touched."""

from __future__ import annotations

import numpy as np
import pytest

from pyasd.factory import sounds
from pyasd.factory.sounds import MACHINES, RATE

N = 10 * RATE
UNITS = [pytest.param(kind, number, id=f"{kind}-{number}") for kind in MACHINES for number in MACHINES[kind]]


def power(signal: np.ndarray, low: float, high: float) -> float:
    """The power between two frequencies."""
    spectrum = np.abs(np.fft.rfft(signal)) ** 2
    hertz = np.fft.rfftfreq(len(signal), 1 / RATE)
    return float(spectrum[(hertz >= low) & (hertz < high)].sum() * 2 / len(signal) ** 2)


def pulsation(signal: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Spectrum of the envelope of the sound between two frequencies: hertz and amplitudes over the envelope's mean."""
    spectrum = np.fft.fft(signal)
    hertz = np.fft.fftfreq(len(signal), 1 / RATE)
    spectrum[(hertz < low) | (hertz >= high)] = 0
    envelope = np.abs(np.fft.ifft(2 * spectrum)) ** 2
    strength = np.abs(np.fft.rfft(envelope - envelope.mean())) / envelope.sum()
    return np.fft.rfftfreq(len(envelope), 1 / RATE), strength


def strongest(signal: np.ndarray, band: tuple[float, float], near: float, within: float) -> tuple[float, float]:
    """The strongest pulsation within `within` of `near` Hz, and how many times the median around it it is."""
    hertz, strength = pulsation(signal, *band)
    inside = np.abs(hertz - near) <= within * near
    around = np.abs(hertz - near) <= 0.3 * near
    return float(hertz[inside][strength[inside].argmax()]), float(strength[inside].max() / np.median(strength[around]))


def sound(kind: str, number: str, fault: str | None, severity: float = 1.0, seed: int = 3) -> np.ndarray:
    return MACHINES[kind][number].sound(np.random.default_rng(seed), N, fault, severity)


# -- building blocks ---------------------------------------------------------------------------------------------


def test_noise_has_unit_power_and_its_colour() -> None:
    signal = sounds.noise(np.random.default_rng(0), N, ((100, 0), (1000, 0), (4000, -20), (8000, -20)))
    assert np.std(signal) == pytest.approx(1, rel=0.02)
    density = [power(signal, low, low * 1.1) / (0.1 * low) for low in (300, 600, 4500, 7000)]
    assert 10 * np.log10(density[1] / density[0]) == pytest.approx(0, abs=1.5)
    assert 10 * np.log10(density[2] / density[0]) == pytest.approx(-20, abs=1.5)
    assert 10 * np.log10(density[3] / density[0]) == pytest.approx(-20, abs=1.5)


def test_tones_have_unit_power_at_their_harmonics() -> None:
    cycles = 200 * np.arange(N) / RATE
    signal = sounds.tones(np.random.default_rng(0), cycles, (0, -6, -12))
    assert np.std(signal) == pytest.approx(1, rel=1e-3)
    levels = [10 * np.log10(power(signal, 200 * k - 1, 200 * k + 1)) for k in (1, 2, 3)]
    assert np.diff(levels) == pytest.approx([-6, -6], abs=0.01)
    assert power(signal, 601, 8000) < 1e-4


def test_strikes_ring_at_their_times_and_frequency() -> None:
    signal = sounds.strikes(RATE, np.array([-1.0, 0.25, 0.999, 2.0]), np.array([9.0, 1.0, 0.5, 9.0]), 2000.0, 0.005)
    assert not signal[: RATE // 4].any()
    ring = signal[RATE // 4 :][: 8 * 80]
    assert 1900 < np.fft.rfftfreq(len(ring), 1 / RATE)[np.abs(np.fft.rfft(ring)).argmax()] < 2100
    assert 0.9 < np.abs(ring).max() <= 1
    assert np.abs(ring[80:160]).max() / np.abs(ring[:80]).max() == pytest.approx(np.exp(-1), rel=0.05)


def test_wander_is_smooth_and_of_unit_variance() -> None:
    courses = np.stack([sounds.wander(np.random.default_rng(i), RATE, 0.1) for i in range(60)])
    assert courses.mean() == pytest.approx(0, abs=0.1)
    assert courses.std() == pytest.approx(1, rel=0.1)
    assert np.abs(np.diff(courses)).max() < 0.02


def test_crossings() -> None:
    turns = 2.0 * np.arange(1, RATE + 1) / RATE
    assert sounds.crossings(turns, 3, 0.5) == pytest.approx((np.arange(1, 7) - 0.5) / 6, abs=2 / RATE)


# -- faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "number"), UNITS)
def test_a_healthy_machine_has_no_severity(kind: str, number: str) -> None:
    assert np.array_equal(sound(kind, number, None, 0.0), sound(kind, number, None, 1.0))


@pytest.mark.parametrize("number", MACHINES["fan"])
def test_imbalance_modulates_once_per_turn(number: str) -> None:
    unit, band = MACHINES["fan"][number], (300, 4000)
    assert isinstance(unit, sounds.Fan)
    speed = unit.speed
    at, clear = strongest(sound("fan", number, "imbalance"), band, speed, 0.15)
    assert at == pytest.approx(speed, rel=0.15)
    assert clear > 3 * strongest(sound("fan", number, None), band, speed, 0.15)[1]
    mild = strongest(sound("fan", number, "imbalance", 0.0), band, speed, 0.15)[1]
    assert mild < clear / 2


@pytest.mark.parametrize(
    ("kind", "number", "rate"),
    [("fan", number, 3.57) for number in MACHINES["fan"]]
    + [("conveyor", number, 0.35 * 3.08) for number in MACHINES["conveyor"]],
)
def test_a_bearing_strikes_at_its_rate(kind: str, number: str, rate: float) -> None:
    unit = MACHINES[kind][number]
    assert isinstance(unit, sounds.Fan | sounds.Conveyor)
    near, band = unit.speed * rate, (unit.resonance - 400, unit.resonance + 400)
    faulty, healthy = (strongest(sound(kind, number, fault), band, near, 0.12)[1] for fault in ("bearing", None))
    assert faulty > 2 * healthy
    high = (unit.resonance - 300, unit.resonance + 300)
    assert power(sound(kind, number, "bearing"), *high) > 1.5 * power(sound(kind, number, None), *high)


@pytest.mark.parametrize("number", MACHINES["pump"])
def test_a_leak_hisses(number: str) -> None:
    hiss = [power(sound("pump", number, "leak", x), 4000, 7500) for x in (0.0, 0.5, 1.0)]
    assert power(sound("pump", number, None), 4000, 7500) < hiss[0] < hiss[1] < hiss[2]
    low = [power(sound("pump", number, fault), 50, 1000) for fault in (None, "leak")]
    assert low[1] == pytest.approx(low[0], rel=0.01)


@pytest.mark.parametrize("number", MACHINES["pump"])
def test_missing_strokes_are_missing(number: str) -> None:
    """A stroke's flow is heard or it isn't: the quietest tenth of all strokes falls far below the median."""
    unit = MACHINES["pump"][number]
    assert isinstance(unit, sounds.Pump)
    size = int(RATE / unit.strokes)

    def depth(fault: str | None) -> float:
        signal = sound("pump", number, fault)
        spectrum = np.fft.rfft(signal)
        spectrum[np.fft.rfftfreq(N, 1 / RATE) < 500] = 0  # the motor
        high = np.fft.irfft(spectrum, N)
        strokes = np.sqrt((high[: N // size * size].reshape(-1, size) ** 2).mean(axis=1))
        return float(np.quantile(strokes, 0.1) / np.median(strokes))

    assert depth("missing-strokes") < 0.7 * depth(None)


@pytest.mark.parametrize("number", MACHINES["conveyor"])
def test_a_slipping_belt_squeals_at_times(number: str) -> None:
    unit = MACHINES["conveyor"][number]
    assert isinstance(unit, sounds.Conveyor)
    pitch = unit.squeal

    def course(fault: str | None) -> np.ndarray:
        parts = sound("conveyor", number, fault).reshape(100, -1)
        return np.array([power(part, 0.8 * pitch, 1.1 * pitch) for part in parts])

    slipping, healthy = course("slip"), course(None)
    assert slipping.max() > 3 * healthy.max()
    assert np.quantile(slipping, 0.1) < 2 * np.median(healthy)  # and is quiet in between
