"""CUDA devices as the runtime built into the extension sees them (csrc/bindings/cuda.cpp)."""

from typing import Any

runtime_version: int

def device_count() -> tuple[int, str]: ...
def device(index: int) -> dict[str, Any]: ...
