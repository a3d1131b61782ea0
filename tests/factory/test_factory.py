"""The synthetic factory: each clip by itself, as loud as recordings are, in folders and names of DCASE 2020."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pyasd.clips import find
from pyasd.clips.names import Names, parse
from pyasd.factory import factory, sounds
from pyasd.factory.sounds import MACHINES, RATE

N = 10 * RATE
UNITS = [pytest.param(kind, number, id=f"{kind}-{number}") for kind in MACHINES for number in MACHINES[kind]]


def test_there_are_machines_enough_and_two_faults_each() -> None:
    assert len(MACHINES) >= 3
    for kind, units in MACHINES.items():
        assert len(units) >= 3
        faults = {factory.fault(f"{kind}/test/anomaly_id_{number}_{i:08d}.wav") for number in units for i in range(4)}
        assert len(faults) == 2


def test_names_are_those_of_dcase_2020() -> None:
    names = list(factory.names(train=3, test=2))
    assert len(names) == len(set(names)) == 9 * (3 + 2 + 2)
    parsed = parse(Path("/data") / "pump/test/anomaly_id_02_00000001.wav")
    assert parsed == Names(machine_type="pump", machine_id="02", split="test", label=1)
    assert "pump/test/anomaly_id_02_00000001.wav" in names
    assert not [name for name in names if "train" in name and "anomaly" in name]


def test_a_clip_depends_on_its_name_and_the_seed_alone() -> None:
    name, other = "conveyor/test/anomaly_id_02_00000001.wav", "fan/train/normal_id_00_00000000.wav"
    first = factory.clip(name, 5, seconds=1)
    factory.clip(other, 5, seconds=1)
    assert np.array_equal(first, factory.clip(name, 5, seconds=1))
    assert not np.array_equal(first, factory.clip(name, 6, seconds=1))
    assert not np.array_equal(first, factory.clip(name.replace("1.wav", "3.wav"), 5, seconds=1))
    assert first.dtype == np.int16
    assert first.shape == (RATE,)


@pytest.mark.parametrize(("kind", "number"), UNITS)
def test_levels_are_those_of_recordings(kind: str, number: str) -> None:
    samples = np.stack([factory.clip(f"{kind}/train/normal_id_{number}_{i:08d}.wav", seconds=10) for i in range(3)])
    rms = samples.std(axis=1) / 32768
    low, high = (
        factory.LEVEL * sounds.gain(-4),
        factory.LEVEL * sounds.gain(7),
    )  # background up to as loud as the machine
    assert ((low < rms) & (rms < high)).all()
    assert np.abs(samples.astype(int)).max() < 32767  # nothing is clipped


def test_the_background_has_the_stated_level() -> None:
    name, seed = "fan/train/normal_id_00_00000000.wav", 0
    around = factory._background(np.random.default_rng(1), N, "fan", seed)
    assert 0.9 < np.std(around) < 2  # unit power, and clanks at times
    machine = MACHINES["fan"]["00"].sound(np.random.default_rng(3), N, None, 1.0) / factory._loudness(
        MACHINES["fan"]["00"]
    )
    assert np.std(machine) == pytest.approx(1, abs=0.25)
    assert len(factory.clip(name, seed)) == N


@pytest.mark.parametrize(
    "name", ["", "fan/train/anomaly_id_99_00000000.wav", "lathe/train/normal_id_00_00000000.wav", "../x.wav"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"no clip .*normal_id_00_00000000\.wav"):
        factory.clip(name)


def test_write(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    folder = tmp_path / "recordings"
    paths = factory.write(
        folder,
        train=2,
        test=1,
        seconds=0.5,
        seed=4,
        progress=lambda stage, done, total, info: steps.append((done, total)),
    )
    assert len(paths) == 9 * 4
    assert steps == [(i + 1, 36) for i in range(36)]
    assert {path.relative_to(folder).as_posix() for path in paths} == set(factory.names(2, 1))
    assert (folder / "README.txt").read_text().startswith("SYNTHETIC RECORDINGS")
    info = soundfile.info(paths[0])
    assert (info.samplerate, info.channels, info.subtype, info.frames) == (RATE, 1, "PCM_16", RATE // 2)
    samples, _ = soundfile.read(paths[-1], dtype="int16")
    assert np.array_equal(samples, factory.clip(paths[-1].relative_to(folder).as_posix(), 4, 0.5))
    found = list(find(folder))
    assert {(x.machine_type, x.machine_id) for x in found} == {(k, i) for k in MACHINES for i in MACHINES[k]}


def test_a_smaller_factory_leaves_nothing_of_a_larger_one_but_what_is_yours(tmp_path: Path) -> None:
    factory.write(tmp_path, train=2, test=1, seconds=0.1)
    mine = tmp_path / "fan" / "train" / "mine.wav"
    mine.write_bytes(b"mine")
    factory.write(tmp_path, train=1, test=1, seconds=0.1)
    assert len(list(tmp_path.rglob("*_id_*.wav"))) == 27
    assert mine.read_bytes() == b"mine"


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("my recordings")
    with pytest.raises(FileExistsError, match="something else"):
        factory.write(tmp_path, train=1, test=1, seconds=0.1)
    assert [path.name for path in tmp_path.iterdir()] == ["README.txt"]


def test_importing_the_factory_loads_numpy_and_soundfile_alone() -> None:
    program = (
        "import sys; import pyasd.factory.factory; "
        "print(*{'torch', 'pandas', 'sklearn', 'triton', 'safetensors', 'requests'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
