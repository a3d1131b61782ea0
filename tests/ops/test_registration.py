"""What it costs to have the operators, and what a compiler sees of them."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import Tensor

from pyasd.ops.registration import _untraced

SCORE = """
import sys
import numpy as np
import pyasd
clips = list(np.random.default_rng(0).normal(-40, 8, (4, 30, 16)).astype(np.float32))
sounds = list((3000 * np.random.default_rng(0).normal(size=(2, 16000))).astype(np.int16))
if sys.argv[2] == "fit":
    small = {"n_mels": 16, "hidden": (8, 8), "components": 2, "epochs": 1}
    pyasd.fit(clips, ids="00", features="log-mel", out=sys.argv[1], **small)
else:
    table = pyasd.score(sounds, sys.argv[1], sample_rate=16000, ids="00", device="cpu")
    assert table["status"].tolist() == ["ok", "ok"], table
    heavy = {"torch._dynamo", "torch.fx.experimental.symbolic_shapes", "sympy", "triton"} & sys.modules.keys()
    assert not heavy, heavy
"""


def test_a_score_loads_no_compiler(tmp_path: object) -> None:
    for what in ("fit", "score"):
        command = [sys.executable, "-W", "ignore", "-c", SCORE, f"{tmp_path}/model", what]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr


def test_a_compiler_does_not_look_into_kernels() -> None:
    seen = []

    def kernel(x: Tensor) -> Tensor:
        seen.append(torch.compiler.is_compiling())
        return x + 1

    compiled = torch.compile(_untraced(kernel), backend="eager")
    assert compiled(torch.ones(2)).tolist() == [2, 2]
    assert seen == [False]
