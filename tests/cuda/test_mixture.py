"""The mixture head's CUDA kernels against float64, in the emulation: ragged shapes, bounds, NaN, tails, same bits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from pyasd import ops
from pyasd.backends import cuda as backend
from pyasd.backends import self_check
from pyasd.backends.cuda import CudaBackend
from pyasd.backends.reference import BACKEND as reference

from .conftest import guarded, make_head, make_windows

pytestmark = pytest.mark.usefixtures("warpgroups")

VALUES = 4.0
"""Multiple of torch's own float32 error that the kernels may err by, as on the CPU (tests/ops/test_mixture.py)."""


def forward(
    cuda: CudaBackend, head: ops.MixtureHead, h: Tensor, x: Tensor, precision: str = "float32", per_dim: bool = False
) -> Tensor:
    return cuda.mixture_log_prob(head.tensors(h, x), head.shape, precision, per_dim)


def assert_within_budget(
    got: Tensor, head: ops.MixtureHead, h: Tensor, x: Tensor, precision: str = "float32", per_dim: bool = False
) -> None:
    """Element by element, an error at most `VALUES` times the largest that plain float32 torch makes at such a size."""
    plain = reference.mixture_log_prob(head.tensors(h, x), head.shape, precision, per_dim)
    exact = reference.mixture_log_prob(head.tensors(h, x).double(), head.shape, precision, per_dim)
    size = 1 + exact.abs()
    budget = VALUES * ((plain - exact).abs() / size).max() + 1e-6
    assert ((got - exact).abs() <= budget * size).all()


SHAPES = [  # hidden, dims, components, windows
    (128, 640, 1, 131),  # more than one block's windows
    (128, 320, 5, 7),  # 64 Mel bands
    (32, 100, 3, 61),  # 20 dims a group
    (30, 65, 2, 1),  # 13 dims a group; prefixes that fill no step
    (7, 5, 32, 17),
    (40, 80, 10, 33),
]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("hidden", "dims", "components", "windows"), SHAPES)
@pytest.mark.parametrize("per_dim", [False, True])
def test_equals_float64(
    cuda: CudaBackend, hidden: int, dims: int, components: int, windows: int, precision: str, per_dim: bool
) -> None:
    head = make_head(hidden, dims, components)
    h, x = make_windows(head, windows)
    got = forward(cuda, head, h, x, precision, per_dim)
    assert_within_budget(got, head, h, x, precision, per_dim)


@pytest.mark.parametrize("shared_kb", [99, 163, 227])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_tile_of_every_gpu(
    cuda: CudaBackend, order: str, shared_kb: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shared memory of sm_86, sm_80 and sm_90; all 128 hidden units; threads in either order give the same bits."""
    monkeypatch.setenv("PYASD_HOST_SHARED_KB", str(shared_kb))
    head = make_head(128, 80, 2)
    h, x = make_windows(head, 19)
    got = forward(cuda, head, h, x, precision)
    assert_within_budget(got, head, h, x, precision)
    monkeypatch.setenv("PYASD_HOST_ORDER", "reverse" if order == "forward" else "forward")
    assert torch.equal(forward(cuda, head, h, x, precision), got)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_same_bits_whatever_the_batch(cuda: CudaBackend, precision: str) -> None:
    head = make_head(32, 80, 3)
    h, x = make_windows(head, 150)
    whole = forward(cuda, head, h, x, precision)
    for first, last in [(0, 1), (17, 40), (100, 150)]:
        part = forward(cuda, head, guarded(h[first:last]), guarded(x[first:last]), precision)
        assert torch.equal(part, whole[first:last])


def test_overlapping_windows_and_odd_strides_are_read_in_place(cuda: CudaBackend) -> None:
    head = make_head(30, 65, 2)
    windows = guarded(torch.randn(13 * 25)).as_strided((21, 65), (13, 1))
    wide = guarded(torch.randn(21, 77))
    hidden = wide[:, 3:33]
    expected = forward(cuda, head, guarded(hidden.contiguous()), guarded(windows.contiguous()))
    assert torch.equal(forward(cuda, head, hidden, windows), expected)
    assert torch.equal(forward(cuda, head, hidden.t().contiguous().t(), windows), expected)
    assert torch.equal(forward(cuda, head, hidden[::2], windows[::2]), expected[::2])


def test_masked_weights_never_matter(cuda: CudaBackend) -> None:
    head = make_head(30, 65, 2)
    h, x = make_windows(head, 5)
    clean = forward(cuda, head, h, x)
    head.weight[head.shape.mask(head.weight) == 0] = float("nan")
    assert torch.equal(forward(cuda, head, h, x), clean)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_infinity_and_nan_cost_their_own_window_only(cuda: CudaBackend, precision: str) -> None:
    head = make_head(30, 65, 2)
    h, x = make_windows(head, 40)
    clean = forward(cuda, head, h, x, precision)
    x[7, 20] = float("nan")  # group 1
    x[21, 50] = float("inf")  # group 3
    x[22, 50] = -float("inf")
    h[33, 8] = float("nan")  # degree 2: in the last step of hidden units of group 1, which doesn't see it
    got = forward(cuda, head, h, x, precision)
    other = torch.ones(40, 5, dtype=torch.bool)
    other[7, 1] = other[21, 3] = other[22, 3] = False
    other[33, 2:] = False
    assert got[7, 1].isnan()
    assert got[21, 3] == -math.inf
    assert got[22, 3] == -math.inf
    assert got[33, 2:].isnan().all()
    assert torch.equal(got[other], clean[other])


def test_tails_are_large_finite_numbers(cuda: CudaBackend) -> None:
    head = make_head(32, 80, 3)
    h, _ = make_windows(head, 6)
    far = torch.tensor([3.0, 30, 300, 3e3, 3e4, 3e6])[:, None].expand(6, 80).contiguous()
    got = forward(cuda, head, h, far)
    assert got.isfinite().all()
    assert_within_budget(got, head, h, far)


def test_a_changed_weight_is_packed_again(cuda: CudaBackend) -> None:
    head = make_head(16, 20, 2)
    h, x = make_windows(head, 3)
    first = forward(cuda, head, h, x)
    assert torch.equal(forward(cuda, head, h, x), first)
    head.bias += 1
    head.weight *= 2
    again = forward(cuda, head, h, x)
    assert not torch.equal(again, first)
    assert_within_budget(again, head, h, x)


def test_shapes_without_a_kernel_go_through_the_reference(cuda: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(head: ops.MixtureHead, h: Tensor, x: Tensor) -> Tensor:
        return reference.mixture_log_prob(head.tensors(h, x), head.shape, "float32", False)

    many = make_head(8, 65, 1, tuple(range(1, 66)))  # 65 groups
    h, x = make_windows(many, 2)
    assert torch.equal(forward(cuda, many, h, x), plain(many, h, x))
    monkeypatch.setenv("PYASD_HOST_SHARED_KB", "48")
    wide = make_head(128, 20, 1)
    h, x = make_windows(wide, 2)
    assert torch.equal(forward(cuda, wide, h, x), plain(wide, h, x))


def test_empty_batch(cuda: CudaBackend) -> None:
    head = make_head(16, 20, 2)
    assert forward(cuda, head, torch.zeros(0, 16), torch.zeros(0, 20)).shape == (0, 5)


def test_self_check_passes_and_would_fail(cuda: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    assert self_check.disagreement(cuda, torch.device("cpu")) is None
    right = cuda.mixture_log_prob
    monkeypatch.setattr(cuda, "mixture_log_prob", lambda *a: right(*a) * 1.001)
    reason = self_check.disagreement(cuda, torch.device("cpu"))
    assert reason is not None
    assert "mixture_log_prob (float32) disagrees" in reason
    monkeypatch.setenv("PYASD_HOST_SHARED_KB", "0")
    monkeypatch.setattr(cuda, "mixture_log_prob", right)
    monkeypatch.setattr("pyasd.backends.cuda._fits", lambda *a, **k: True)
    reason = self_check.disagreement(cuda, torch.device("cpu"))
    assert reason is not None
    assert "the self-check failed: CUDA: more shared memory" in reason


def test_weights_packed_in_a_cuda_graph_are_not_kept(cuda: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in the graph's memory, which holds them only when it is replayed."""
    head = make_head(16, 20, 2)
    h, x = make_windows(head, 3)
    monkeypatch.setattr(backend, "is_capturing", lambda device: True)
    forward(cuda, head, h, x)
    assert head.weight not in backend._packed
    monkeypatch.setattr(backend, "is_capturing", lambda device: False)
    forward(cuda, head, h, x)
    known = backend._packed[head.weight]
    monkeypatch.setattr(backend, "is_capturing", lambda device: True)
    forward(cuda, head, h, x)
    assert backend._packed[head.weight] is known, "those that were there before are used"
