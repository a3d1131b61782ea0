"""compute-sanitizer over the GPU backends on small shapes: accesses out of bounds, races in shared memory."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.gpu

CODE = """
import sys, torch
from pyasd import ops
backend = sys.argv[1]
torch.manual_seed(0)
plan = ops.LogMelPlan()
samples = torch.randint(-9000, 9000, (2, 3001), dtype=torch.int16).cuda()
log_mels = torch.cat(ops.log_mel(samples, plan, [3001, 2600], backend))
degrees = sorted(1 + i % 4 for i in range(32))
leaves = [0.1 * torch.randn(3 * 640 * 2, 32), 0.1 * torch.randn(3 * 640 * 2)]
leaves = [x.cuda().requires_grad_() for x in leaves]
head = ops.MixtureHead(*leaves, degrees, [1, 2, 3, 4, 5], 2)
layers = tuple((torch.randn(32, n).cuda() / n**0.5, torch.zeros(32).cuda()) for n in (640, 32))
network = ops.GroupMadeNetwork(torch.full((128,), -60.0).cuda(), torch.ones(128).cuda(), layers, head)
hidden, target = torch.randn(37, 32).cuda().requires_grad_(), torch.randn(37, 640).cuda()
for precision in ("float32", "bfloat16"):
    nll = ops.group_made_score(log_mels, network, None, backend, precision, lengths=[6, 6])
    assert nll.isfinite().all()
    ops.mixture_log_prob(hidden, target, head, backend, precision).sum().backward()
torch.cuda.synchronize()
print("ran to the end")
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_nothing_is_found(tool: str, backend: str, make_engine: Any) -> None:
    make_engine(backend)
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not on the PATH: it comes with the CUDA toolkit")
    run = subprocess.run(
        [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", CODE, backend],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert run.returncode == 0, (run.stdout + run.stderr)[-3000:]
    assert "ran to the end" in run.stdout
