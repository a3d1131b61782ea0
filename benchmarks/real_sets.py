"""Real recordings to judge detection by, as log-Mels with machine IDs and labels.

The folder has `toycar_logmel/id_01.npz`, `id_04.npz`, `uav/UAV/{train,test}`, `make_diluted.py`,
`machines/<name>/{train,test}`, with DCASE 2020 names, and `mimii_mean/*.npz`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyasd.clips import Clip, find
from pyasd.features.log_mels import Extraction, extract
from pyasd.ops import LogMelPlan

SETS = ("toycar", "uav", "adiload", "tap", "uestcmix", "enginemix")

MEAN_SPECTRA = tuple(f"{machine}_{ratio}" for machine in ("fan", "slider") for ratio in ("p6", "0", "m6"))
"""Mean log-Mels of all MIMII fans and sliders, at signal-to-noise ratios of 6, 0 and -6 dB, without their level."""

TOYCAR_TRAIN = {"01": 22, "04": 200}
"""Normal clips of each ToyCar ID to learn from; the data set's own training clips are not part of the folder."""

FRAMES = 5
"""Equal frames that stand for a mean spectrum."""

LogMels = list[NDArray[np.float32]]


class ClipSet(NamedTuple):
    """One set: log-Mels `[frames, 128]`, machine IDs, and labels of the test clips (1 is faulty)."""

    train: LogMels
    train_ids: list[str]
    test: LogMels
    test_ids: list[str]
    labels: NDArray[np.int64]


def load(name: str, data: Path) -> ClipSet:
    """Load a set by its name."""
    if name == "toycar":
        return _toycar(data)
    if name in MEAN_SPECTRA:
        return _mean_spectra(name, data)
    if name != "uav":
        return _folder(data / "machines" / name)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(data / "make_diluted.py"), folder], check=True)
        return _folder(Path(folder) / "UAV")


def _toycar(data: Path) -> ClipSet:
    clips = ClipSet([], [], [], [], np.empty(0, np.int64))
    labels: list[int] = []
    for machine_id, count in TOYCAR_TRAIN.items():
        with np.load(data / "toycar_logmel" / f"id_{machine_id}.npz") as file:
            log_mels, names = file["logmel_q8"].astype(np.float32) / 256, file["names"]
        order = np.argsort(names)
        faulty = np.array([name.startswith("anomaly") for name in names[order]])
        normal = order[~faulty][np.random.default_rng(0).permutation((~faulty).sum())]
        clips.train.extend(log_mels[normal[:count]])
        clips.train_ids.extend([machine_id] * count)
        test = [*normal[count:], *order[faulty]]
        clips.test.extend(log_mels[test])
        clips.test_ids.extend([machine_id] * len(test))
        labels += [0] * (len(normal) - count) + [1] * int(faulty.sum())
    return clips._replace(labels=np.array(labels))


def _mean_spectra(name: str, data: Path) -> ClipSet:
    clips = ClipSet([], [], [], [], np.empty(0, np.int64))
    labels: list[int] = []
    for path in sorted((data / "mimii_mean").glob(f"{name}_id_*.npz")):
        with np.load(path) as file:
            log_mels = 10 / np.log(10) * (file["mel"] - 2 * file["basic"][:, :1])  # in dB, relative to the clip's level
            train, faulty = file["train"].astype(bool), file["anomaly"].astype(int)
        clip = np.repeat(log_mels[:, None].astype(np.float32), FRAMES, 1)
        machine_id = path.stem[-2:]
        clips.train.extend(clip[train])
        clips.train_ids.extend([machine_id] * int(train.sum()))
        clips.test.extend(clip[~train])
        clips.test_ids.extend([machine_id] * int((~train).sum()))
        labels += faulty[~train].tolist()
    return clips._replace(labels=np.array(labels))


def _folder(folder: Path) -> ClipSet:
    found = list(find(folder))
    train, test = ([x for x in found if x.split == split] for split in ("train", "test"))
    labels = np.array([x.label for x in test], np.int64)
    return ClipSet(
        _log_mels(train), [x.machine_id for x in train], _log_mels(test), [x.machine_id for x in test], labels
    )


def _log_mels(clips: list[Clip]) -> LogMels:
    return [x.log_mel.numpy() for x in extract(clips, Extraction(LogMelPlan())) if x.log_mel is not None]
