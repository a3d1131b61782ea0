"""Many units, side by side: a process for each GPU, or for every few cores of the processor."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

import torch

from pyasd.progress import Progress, silent, within
from pyasd.reproduce import units
from pyasd.reproduce.units import Outcome, Unit

CORES_PER_UNIT = 8
"""On CPUs, units run side by side where each can have so many cores."""


def run_all(work: Sequence[Unit], jobs: int | None = None, progress: Progress = silent) -> Iterator[Outcome]:
    """Do all units, and yield their outcomes as they come.

    Args:
        work: the units; "auto" and "cuda" devices are shared out among them.
        jobs: how many run at a time; by default as many as there are GPUs, or as the processor has cores for.
        progress: hears of each step where one unit runs at a time, else of each unit.
    """
    device = work[0].hardware.device if work else "cpu"
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(jobs or gpus or max(1, cores // CORES_PER_UNIT), max(1, len(work)))
    if jobs == 1:
        for number, unit in enumerate(work):
            yield units.run(unit, within(progress, f"{number + 1}/{len(work)} {unit.name}"))
        return
    context = multiprocessing.get_context("spawn")
    devices = context.Queue()
    for worker in range(jobs):
        devices.put(f"cuda:{worker % gpus}" if gpus else device)
    pool = ProcessPoolExecutor(jobs, context, _start, (devices, max(1, cores // jobs), os.getpid()))
    try:
        waiting = [pool.submit(_run_here, unit) for unit in work]
        for done, future in enumerate(as_completed(waiting)):
            outcome = future.result()
            progress("units", done + 1, len(work), outcome.unit.name)
            yield outcome
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


_device = ""
"""In a worker: the device that its units run on."""


def _start(devices: Any, threads: int, parent: int) -> None:
    """Begin a worker: it takes a device and its share of the cores, and ends with its parent, even a killed one."""
    global _device
    with contextlib.suppress(queue.Empty):
        _device = devices.get(timeout=10)
    torch.set_num_threads(threads)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_here(unit: Unit) -> Outcome:
    return units.run(replace(unit, hardware=replace(unit.hardware, device=_device or unit.hardware.device)))
