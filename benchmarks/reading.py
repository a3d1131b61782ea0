"""How fast clips are read out of archives, against the same clips as files of their own.

    python -m benchmarks.reading --clips 400
    python -m benchmarks.reading --clips 200 --system default

Clips of ten seconds (16 bits, 16 kHz) are found and decoded in threads, without log-Mels, which would hide the reading;
or scored by a system. The kinds take turns, and each turn's time is compared with that of the plain files in the same
turn: by the clock, and by the processor's time, which other programs disturb less. The page cache is warm.
docs/performance.md has the figures.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import statistics
import tarfile
import tempfile
import time
import zipfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

import pyasd
from pyasd import audio
from pyasd.clips import find

RATE, SECONDS = 16_000, 10
FILES = "files"


def write(folder: Path, clips: int, suffix: str) -> dict[str, Path]:
    """Write a folder of clips and the archives of them; return each kind's place."""
    files = folder / FILES
    files.mkdir()
    rng = np.random.default_rng(0)
    for number in range(clips):
        level = 300 + 3000 * rng.random()
        samples = (level * rng.standard_normal(RATE * SECONDS)).astype(np.int16)
        soundfile.write(files / f"{number:06}{suffix}", samples, RATE, subtype="PCM_16")
    places = {FILES: files}
    for name, method in (("zip", zipfile.ZIP_STORED), ("zip, deflated", zipfile.ZIP_DEFLATED)):
        places[name] = folder / f"{name.replace(', ', '-')}.zip"
        with zipfile.ZipFile(places[name], "w", method) as archive:
            for path in sorted(files.iterdir()):
                archive.write(path, path.name)
    places["tar"], places["tar.gz"] = folder / "clips.tar", folder / "clips.tar.gz"
    with tarfile.open(places["tar"], "w") as tar:
        for path in sorted(files.iterdir()):
            tar.add(path, path.name)
    with gzip.open(places["tar.gz"], "wb", 6) as packed:
        packed.write(places["tar"].read_bytes())
    return places


def read(place: Path, threads: int) -> int:
    """Find and decode all clips; return how many there are."""
    count = 0
    waiting: deque[Future[audio.Audio]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for clip in find(place):
            if len(waiting) == 32:
                waiting.popleft().result()
            waiting.append(pool.submit(audio.read, clip, RATE))
            count += 1
        for future in waiting:
            future.result()
    return count


def scorer(place: Path, system: str) -> Callable[[Path], int]:
    """Return what scores a place's clips with a system that has learnt some of them."""
    some = list(itertools.islice(find(place), 20))
    detector = pyasd.fit(some, system, steps=10) if system == "default" else pyasd.fit(some, system)
    return lambda place: len(detector.score(place))


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--suffix", default=".wav", help="the clips' format, such as .flac")
    parser.add_argument("--system", help="score the clips, with this system")
    parser.add_argument("--only", help="kinds, with commas between: files,tar")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        places = write(Path(folder), given.clips, given.suffix)
        places = {name: place for name, place in places.items() if not given.only or name in given.only.split(",")}
        go = scorer(places[FILES], given.system) if given.system else partial(read, threads=given.threads)
        seconds: dict[str, list[float]] = {name: [] for name in places}
        busy: dict[str, list[float]] = {name: [] for name in places}
        for turn in range(-1, given.rounds):
            for name, place in places.items():
                begun, before = time.perf_counter(), time.process_time()
                assert go(place) == given.clips
                if turn >= 0:
                    seconds[name].append(time.perf_counter() - begun)
                    busy[name].append(time.process_time() - before)
    print("| clips are in | clips/s | against files | per second of processor time |\n|---|---:|---:|---:|")
    for name, taken in seconds.items():
        clips = given.clips / statistics.median(taken)
        print(f"| {name} | {clips:,.0f} | {_ratio(seconds, name):.0%} | {_ratio(busy, name):.0%} |")


def _ratio(taken: dict[str, list[float]], name: str) -> float:
    """How fast a kind is against files, turn by turn."""
    return statistics.median(files / mine for files, mine in zip(taken[FILES], taken[name], strict=True))


if __name__ == "__main__":
    main()
