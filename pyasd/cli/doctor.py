"""The command `doctor`."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

from pyasd.cli import terminal
from pyasd.cli.command import command

LIBRARIES = ("numpy", "soundfile", "soxr", "scikit-learn", "pandas", "pyarrow", "safetensors", "triton", "matplotlib")


@command
def doctor() -> bool:
    """Say what pyasd finds on this machine: versions, instruction set, backends and why one can't run, GPU.

    The exit code is 1 where the native CPU kernels can't run, without which everything is slow.
    """
    import torch

    from pyasd import backends

    obstacles = backends.available()
    native = obstacles["cpu"] is None
    facts = {
        "pyasd": metadata.version("pyasd"),
        "Python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "torch": f"{torch.__version__}, {torch.get_num_threads()} threads",
        "GPU": _gpu(),
    }
    facts |= {f"backend {name}": obstacle or "ready" for name, obstacle in obstacles.items()}
    for name, obstacle in obstacles.items():
        if obstacle is None:
            facts |= backends.load(name).facts()
    facts |= {name: _version(name) for name in LIBRARIES}
    for name, fact in facts.items():
        terminal.line(f"{name:18}{fact}")
    if not native:
        terminal.say(
            "the native CPU kernels can't run, so that everything is slow: install pyasd again with a C++ compiler"
        )
    return native


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def _gpu() -> str:
    """Return the GPUs that torch can use, or why it can use none."""
    import torch

    platform_version = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    if not torch.version.cuda and not torch.version.hip:
        return f"none: torch {torch.__version__} is a build without CUDA and ROCm"
    if not torch.cuda.is_available():
        return f"none that torch can use: no driver answers, or it is older than {platform_version} needs"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{', '.join(names)} ({platform_version})"
