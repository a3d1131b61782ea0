"""The synthetic factory: each clip by itself, each fault where physics puts it, nothing else touched."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pyasd.clips import find
from pyasd.clips.names import Names, parse
from pyasd.factory import demo, sounds
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


# -- the factory -------------------------------------------------------------------------------------------------


def test_there_are_machines_enough_and_two_faults_each() -> None:
    assert len(MACHINES) >= 3
    for kind, units in MACHINES.items():
        assert len(units) >= 3
        faults = {demo.fault(f"{kind}/test/anomaly_id_{number}_{i:08d}.wav") for number in units for i in range(4)}
        assert len(faults) == 2


def test_names_are_those_of_dcase_2020() -> None:
    names = list(demo.names(train=3, test=2))
    assert len(names) == len(set(names)) == 9 * (3 + 2 + 2)
    parsed = parse(Path("/data") / "pump/test/anomaly_id_02_00000001.wav")
    assert parsed == Names(machine_type="pump", machine_id="02", split="test", label=1)
    assert "pump/test/anomaly_id_02_00000001.wav" in names
    assert not [name for name in names if "train" in name and "anomaly" in name]


def test_a_clip_depends_on_its_name_and_the_seed_alone() -> None:
    name, other = "conveyor/test/anomaly_id_02_00000001.wav", "fan/train/normal_id_00_00000000.wav"
    first = demo.clip(name, 5, seconds=1)
    demo.clip(other, 5, seconds=1)
    assert np.array_equal(first, demo.clip(name, 5, seconds=1))
    assert not np.array_equal(first, demo.clip(name, 6, seconds=1))
    assert not np.array_equal(first, demo.clip(name.replace("1.wav", "3.wav"), 5, seconds=1))
    assert first.dtype == np.int16
    assert first.shape == (RATE,)


@pytest.mark.parametrize(("kind", "number"), UNITS)
def test_levels_are_those_of_recordings(kind: str, number: str) -> None:
    samples = np.stack([demo.clip(f"{kind}/train/normal_id_{number}_{i:08d}.wav", seconds=10) for i in range(3)])
    rms = samples.std(axis=1) / 32768
    low, high = demo.LEVEL * sounds.gain(-4), demo.LEVEL * sounds.gain(7)  # background up to as loud as the machine
    assert ((low < rms) & (rms < high)).all()
    assert np.abs(samples.astype(int)).max() < 32767  # nothing is clipped


def test_the_background_has_the_stated_level() -> None:
    name, seed = "fan/train/normal_id_00_00000000.wav", 0
    around = demo._background(np.random.default_rng(1), N, "fan", seed)
    assert 0.9 < np.std(around) < 2  # unit power, and clanks at times
    machine = sound("fan", "00", None) / demo._loudness(MACHINES["fan"]["00"])
    assert np.std(machine) == pytest.approx(1, abs=0.25)
    assert len(demo.clip(name, seed)) == N


@pytest.mark.parametrize(
    "name", ["", "fan/train/anomaly_id_99_00000000.wav", "lathe/train/normal_id_00_00000000.wav", "../x.wav"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"no clip .*normal_id_00_00000000\.wav"):
        demo.clip(name)


def test_write(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    folder = tmp_path / "factory"
    paths = demo.write(
        folder,
        train=2,
        test=1,
        seconds=0.5,
        seed=4,
        progress=lambda stage, done, total, info: told.append((done, total)),
    )
    assert len(paths) == 9 * 4
    assert told == [(i + 1, 36) for i in range(36)]
    assert {path.relative_to(folder).as_posix() for path in paths} == set(demo.names(2, 1))
    assert (folder / "README.txt").read_text().startswith("SYNTHETIC RECORDINGS")
    info = soundfile.info(paths[0])
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (RATE, 1, "PCM_16", RATE // 2)
    samples, _ = soundfile.read(paths[-1], dtype="int16")
    assert np.array_equal(samples, demo.clip(paths[-1].relative_to(folder).as_posix(), 4, 0.5))
    found = list(find(folder))
    assert {(x.machine_type, x.machine_id) for x in found} == {(k, i) for k in MACHINES for i in MACHINES[k]}


def test_a_smaller_factory_leaves_nothing_of_a_larger_one_but_what_is_yours(tmp_path: Path) -> None:
    demo.write(tmp_path, train=2, test=1, seconds=0.1)
    mine = tmp_path / "fan" / "train" / "mine.wav"
    mine.write_bytes(b"mine")
    demo.write(tmp_path, train=1, test=1, seconds=0.1)
    assert len(list(tmp_path.rglob("*_id_*.wav"))) == 27
    assert mine.read_bytes() == b"mine"


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("my recordings")
    with pytest.raises(FileExistsError, match="something else"):
        demo.write(tmp_path, train=1, test=1, seconds=0.1)
    assert [path.name for path in tmp_path.iterdir()] == ["README.txt"]


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
    speed, band = MACHINES["fan"][number].speed, (300, 4000)
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
    pitch = MACHINES["conveyor"][number].squeal

    def course(fault: str | None) -> np.ndarray:
        parts = sound("conveyor", number, fault).reshape(100, -1)
        return np.array([power(part, 0.8 * pitch, 1.1 * pitch) for part in parts])

    slipping, healthy = course("slip"), course(None)
    assert slipping.max() > 3 * healthy.max()
    assert np.quantile(slipping, 0.1) < 2 * np.median(healthy)  # and is quiet in between
