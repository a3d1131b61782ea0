"""Say what the CUDA backend can do on this device: `python -m benchmarks.gpu_probe`, in a process of its own.

A fault of a kernel can end the process or never return, so `gpu_run.py` asks here first, and then asks again with less
switched on.
"""

from __future__ import annotations

import sys

import torch

from pyasd.backends import cuda


def main() -> None:
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}: ", end="")
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: torch finds none")
    device = torch.device("cuda", 0)
    print(f"{torch.cuda.get_device_name(device)}, compute capability {torch.cuda.get_device_capability(device)}")
    print(f"backend cuda: {cuda.BACKEND.unavailable(device) or 'ready'}", flush=True)
    for what, state in cuda.BACKEND.facts().items():
        print(f"{what}: {state}", flush=True)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
