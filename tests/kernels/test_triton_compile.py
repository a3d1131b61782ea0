"""The Triton kernels compiled ahead of time, as their launchers would launch them, for GPUs that needn't be there."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from pyasd import ops

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from pyasd.backends.triton import BACKEND as backend  # noqa: E402
from pyasd.errors import BackendUnavailable  # noqa: E402
from pyasd.kernels import log_mel, mixture  # noqa: E402

pytestmark = pytest.mark.skipif(mixture.INTERPRETED, reason="TRITON_INTERPRET is set")

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

SHARED = {"cuda": 99 << 10, "hip": 64 << 10}
"""Shared memory that a program may have: the least of all GPUs from compute capability 8.0 on, and of MI300."""

SPILL = {"power_kernel": 1024, "mixture": 128}
"""Bytes a thread that may leave the registers on NVIDIA's GPUs: measured, rounded up. On AMD's there are none."""

TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.int16: "i16",
    torch.int32: "i32",
    torch.int64: "i64",
}


class Call(NamedTuple):
    kernel: Any
    args: tuple[Any, ...]
    options: dict[str, Any]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """What the launchers launch, recorded instead of run."""
    recorded: list[Call] = []

    def run(self: Any, *args: Any, grid: object, warmup: bool, **options: Any) -> None:
        recorded.append(Call(self, args, options))

    monkeypatch.setattr(triton.JITFunction, "run", run)
    return recorded


def launch_mixture(precision: str) -> None:
    """The default head's sizes, with two groups: one that sees nothing, one that sees all 128 hidden units."""
    degrees = sorted(1 + i % 4 for i in range(128))
    head = ops.MixtureHead(torch.zeros(3 * 256 * 10, 128), torch.zeros(3 * 256 * 10), degrees, [1, 5], 10)
    h, x = torch.zeros(309, 128), torch.zeros(309, 256)
    args = (head.tensors(h, x), head.shape, precision, False)
    backend.mixture_log_prob(*args)
    backend.mixture_log_prob_backward(torch.zeros(309, 2), *args)


def launch_group_made(precision: str) -> None:
    """Group MADE of the report's size, on one clip."""
    widths = (640, 128, 128, 128, 128, 32, 128, 128, 128, 128)
    layers = tuple((torch.zeros(n, m), torch.zeros(n)) for m, n in itertools.pairwise(widths))
    degrees = sorted(1 + i % 4 for i in range(128))
    head = ops.MixtureHead(torch.zeros(19200, 128), torch.zeros(19200), degrees, [1, 2, 3, 4, 5], 10)
    network = ops.GroupMadeNetwork(torch.zeros(128), torch.ones(128), layers, head)
    backend.group_made_log_prob(torch.zeros(313, 128), network, range(5), precision, False)


def launch_log_mel(n_fft: int) -> None:
    dtype = torch.int16 if n_fft == 1024 else torch.float32
    plan = ops.LogMelPlan(n_fft=n_fft, hop_length=n_fft // 2)
    backend.log_mel(torch.zeros(2, 16000, dtype=dtype), plan, [16000, 16000])


def source(call: Call, target: GPUTarget) -> ASTSource:
    """The call as the compiler takes it: types, constants, and which addresses and sizes are multiples of 16."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for parameter, arg in zip(call.kernel.params, [*call.args, *[None] * 99], strict=False):
        value = call.options.get(parameter.name, arg)
        key = (parameter.num,)
        one = isinstance(value, int) and value == 1 and not parameter.do_not_specialize
        if parameter.is_constexpr or value is None or one:
            signature[parameter.name] = "constexpr"
            constants[key] = value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = "*" + TYPES[value.dtype]
            if value.data_ptr() % 16 == 0:
                attributes[key] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[parameter.name] = "fp32"
        else:
            signature[parameter.name] = "i32"
            if value % 16 == 0 and not parameter.do_not_specialize:
                attributes[key] = [["tt.divisibility", 16]]
    return ASTSource(call.kernel, signature=signature, constexprs=constants, attrs=attributes)


def compiled(calls: list[Call], target: GPUTarget) -> Iterator[tuple[Call, Any]]:
    """A call, and the compiled kernel, of each different kernel among the calls."""
    known = set()
    for call in calls:
        this = source(call, target)
        key = (call.kernel.__name__, str(this.signature), str(this.constants), str(this.attrs))
        if key not in known:
            known.add(key)
            options = {name: value for name, value in call.options.items() if name.startswith("num_")}
            yield call, triton.compile(this, target, options)


def resources(target: GPUTarget, asm: dict[str, str], folder: Path) -> tuple[int, int]:
    """Registers a thread, and what it keeps in memory for want of more: bytes on NVIDIA's GPUs, registers on AMD's."""
    if target.backend == "hip":
        found = [re.search(rf"\.{key}:\s*(\d+)", asm["amdgcn"]) for key in ("vgpr_count", "vgpr_spill_count")]
        return int(found[0][1]), int(found[1][1])  # type: ignore[index]
    ptx = folder / "kernel.ptx"
    ptx.write_text(asm["ptx"])
    ptxas = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    arch = re.search(r"\.target (sm_\w+)", asm["ptx"])[1]  # type: ignore[index]
    run = subprocess.run(
        [ptxas, "-v", f"-arch={arch}", ptx, "-o", folder / "kernel.cubin"], capture_output=True, text=True, check=True
    )
    found = [re.search(pattern, run.stderr) for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores")]
    return int(found[0][1]), int(found[1][1])  # type: ignore[index]


def dtypes(call: Call) -> set[torch.dtype]:
    return {x.dtype for x in call.args if isinstance(x, torch.Tensor)}


def prefix_of(call: Call) -> int | None:
    """The hidden units that a kernel of the mixture head sees."""
    names = [parameter.name for parameter in call.kernel.params]
    return call.args[names.index("prefix")] if "prefix" in names else None


def check(calls: list[Call], target: GPUTarget, folder: Path) -> set[str]:
    """Compile all; limits, no atomics, products on tensor cores in the precision that was asked for. Prints what each
    kernel takes (`pytest -rP`): registers a thread, bytes of shared memory, spills, warps.
    """
    names = set()
    for call, kernel in compiled(calls, target):
        name = call.kernel.__name__
        names.add(name)
        assembly = kernel.asm["ptx" if target.backend == "cuda" else "amdgcn"]
        assert kernel.metadata.shared <= SHARED[target.backend], name
        assert not re.search(r"\b(atom|red)\.|_atomic_", assembly), name
        limit = SPILL["power_kernel" if name == "power_kernel" else "mixture"] if target.backend == "cuda" else 0
        registers, spills = resources(target, kernel.asm, folder)
        factors = "bfloat16" if torch.bfloat16 in dtypes(call) else "float32"
        what = {x: call.options[x] for x in ("BLOCK_H", "SUM") if x in call.options} | {"prefix": prefix_of(call)}
        print(target.arch, name, factors, what, registers, kernel.metadata.shared, spills, kernel.metadata.num_warps)
        assert spills <= limit, name
        if name in ("sum_kernel", "mel_kernel"):
            continue
        if target.backend == "hip":
            assert "v_mfma_f32" in assembly, name
            continue
        factors = "bf16" if torch.bfloat16 in dtypes(call) else "tf32"
        gradients = {"tf32"} if call.options.get("BLOCK_H") else set()  # never rounded to bfloat16
        assert set(re.findall(r"mma\S*\.(tf32|bf16|f16)\b", assembly)) == {factors} | gradients, name
    return names


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> GPUTarget:
    """Each target; the launchers choose tiles and precision by torch's own build, which for AMD's is another."""
    found = TARGETS[request.param]
    monkeypatch.setattr(torch.version, "hip", "6.4" if found.backend == "hip" else None)
    return found


def test_mixture_kernels_compile(calls: list[Call], target: GPUTarget, tmp_path: Path) -> None:
    launch_mixture("float32")
    launch_mixture("bfloat16")
    names = check(calls, target, tmp_path)
    assert names == {"density_kernel", "sum_kernel", "input_kernel", "weight_kernel"}


def test_group_made_kernels_compile(calls: list[Call], target: GPUTarget, tmp_path: Path) -> None:
    launch_group_made("float32")
    launch_group_made("bfloat16")
    names = [call.kernel.__name__ for call in calls]
    assert names == ["trunk_kernel", *["density_kernel"] * 5, "sum_kernel"] * 2, "a handful of launches a batch"
    trunk_calls = [call for call in calls if call.kernel.__name__ == "trunk_kernel"]
    assert check(trunk_calls, target, tmp_path) == {"trunk_kernel"}


def test_log_mel_kernels_compile(calls: list[Call], target: GPUTarget, tmp_path: Path) -> None:
    launch_log_mel(1024)
    assert check(calls, target, tmp_path) == {"power_kernel", "mel_kernel"}


@pytest.mark.slow
@pytest.mark.parametrize("n_fft", log_mel.FACTORS)
def test_other_frame_sizes_compile(calls: list[Call], target: GPUTarget, n_fft: int, tmp_path: Path) -> None:
    launch_log_mel(n_fft)
    check(calls, target, tmp_path)


def test_cpu_tensors_are_refused_with_the_reason() -> None:
    reason = backend.unavailable(torch.device("cpu"))
    assert reason is not None
    assert "TRITON_INTERPRET=1" in reason
    with pytest.raises(BackendUnavailable, match="TRITON_INTERPRET"):
        ops.log_mel(torch.zeros(1, 16000), ops.LogMelPlan(), backend="triton")


def test_an_old_triton_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    assert backend.unavailable(torch.device("cuda")) is None
    monkeypatch.setattr("importlib.metadata.version", lambda name: "3.3.0")
    reason = backend.unavailable(torch.device("cuda"))
    assert reason == "Triton 3.3.0 can't compile its kernels: 3.6 can, install it"
