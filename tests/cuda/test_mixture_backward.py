"""The gradients of the mixture head's CUDA kernels against float64, in the emulation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyasd import ops
from pyasd.backends.cuda import CudaBackend
from pyasd.backends.reference import BACKEND as reference

from .conftest import guarded, make_head, make_windows

GRADIENTS = 8.0
"""Multiple of torch's own float32 error that gradients may err by, as on the CPU (tests/ops/test_mixture.py)."""


def backward(
    cuda: CudaBackend,
    head: ops.MixtureHead,
    grad: Tensor,
    h: Tensor,
    x: Tensor,
    precision: str = "float32",
    per_dim: bool = False,
) -> tuple[Tensor, ...]:
    return cuda.mixture_log_prob_backward(grad, head.tensors(h, x), head.shape, precision, per_dim)


def assert_within_budget(
    got: tuple[Tensor, ...],
    head: ops.MixtureHead,
    grad: Tensor,
    h: Tensor,
    x: Tensor,
    precision: str = "float32",
    per_dim: bool = False,
) -> None:
    tensors = head.tensors(h, x)
    plain = reference.mixture_log_prob_backward(grad, tensors, head.shape, precision, per_dim)
    exact = reference.mixture_log_prob_backward(grad.double(), tensors.double(), head.shape, precision, per_dim)
    for name, a, b, c in zip(("hidden", "target", "weight", "bias"), got, plain, exact, strict=True):
        assert a.shape == c.shape, name
        size = 1 + c.abs()
        budget = GRADIENTS * ((b - c).abs() / size).max() + 1e-6
        assert ((a - c).abs() <= budget * size).all(), name
    assert (got[2][head.shape.mask(head.weight) == 0] == 0).all()


SHAPES = [  # hidden, dims, components, windows
    (128, 320, 1, 19),  # 64 Mel bands
    (150, 40, 2, 37),  # more than one tile of hidden units
    (32, 100, 3, 61),  # 20 dims a group
    (30, 65, 2, 1),  # 13 dims a group; prefixes that fill no step
    (7, 35, 10, 131),  # more than one block's windows
]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("hidden", "dims", "components", "windows"), SHAPES)
@pytest.mark.parametrize("per_dim", [False, True])
def test_equals_float64(
    cuda: CudaBackend, hidden: int, dims: int, components: int, windows: int, precision: str, per_dim: bool
) -> None:
    head = make_head(hidden, dims, components)
    h, x = make_windows(head, windows)
    grad = guarded(torch.randn(windows, dims if per_dim else 5))
    got = backward(cuda, head, grad, h, x, precision, per_dim)
    assert_within_budget(got, head, grad, h, x, precision, per_dim)


@pytest.mark.parametrize("shared_kb", [99, 163, 227])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_tile_of_every_gpu(
    cuda: CudaBackend, order: str, shared_kb: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYASD_HOST_SHARED_KB", str(shared_kb))
    head = make_head(128, 20, 2)
    h, x = make_windows(head, 41)
    grad = guarded(torch.randn(41, 5))
    got = backward(cuda, head, grad, h, x, precision)
    assert_within_budget(got, head, grad, h, x, precision)
    monkeypatch.setenv("PYASD_HOST_ORDER", "reverse" if order == "forward" else "forward")
    again = backward(cuda, head, grad, h, x, precision)
    assert all(torch.equal(a, b) for a, b in zip(again, got, strict=True))


def test_gradients_of_a_window_have_the_same_bits_in_every_batch(cuda: CudaBackend) -> None:
    head = make_head(32, 80, 2)
    h, x = make_windows(head, 150)
    grad = guarded(torch.randn(150, 5))
    whole = backward(cuda, head, grad, h, x)
    for first, last in [(0, 1), (17, 40), (100, 150)]:
        some_grad, some_h, some_x = (guarded(t[first:last]) for t in (grad, h, x))
        part = backward(cuda, head, some_grad, some_h, some_x)
        assert torch.equal(part[0], whole[0][first:last])
        assert torch.equal(part[1], whole[1][first:last])


def test_overlapping_windows_are_read_in_place(cuda: CudaBackend) -> None:
    head = make_head(30, 65, 2)
    windows = guarded(torch.randn(13 * 25)).as_strided((21, 65), (13, 1))
    hidden = guarded(torch.randn(21, 77))[:, 3:33]
    grad = torch.randn(21, 5)
    expected = backward(cuda, head, grad, guarded(hidden.contiguous()), guarded(windows.contiguous()))
    got = backward(cuda, head, grad.t().contiguous().t(), hidden, windows)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_tails_and_clamped_scales(cuda: CudaBackend) -> None:
    head = make_head(32, 80, 3)
    h, _ = make_windows(head, 6)
    far = torch.tensor([3.0, 30, 300, 3e3, 3e4, 3e6])[:, None].expand(6, 80).contiguous()
    grad = torch.ones(6, 5)
    assert all(g.isfinite().all() for g in backward(cuda, head, grad, h, far))
    head.bias[2 * 240 :] -= 6  # many log scales below the clamp
    h, x = make_windows(head, 9)
    grad = torch.ones(9, 5) * 1e-5  # d = 1 / scale^2: as large as 1e6
    assert_within_budget(backward(cuda, head, grad, h, x), head, grad, h, x)


def test_nan_costs_its_own_window_and_what_sums_over_windows(cuda: CudaBackend) -> None:
    head = make_head(30, 65, 2)
    h, x = make_windows(head, 40)
    grad = torch.randn(40, 5)
    clean = backward(cuda, head, grad, h, x)
    x[7, 20] = float("nan")  # group 1
    h[33, 8] = float("nan")  # degree 2: group 1, whose last step of hidden units it lies in, doesn't see it
    got = backward(cuda, head, grad, h, x)
    whole = torch.ones(40, dtype=torch.bool)
    whole[[7, 33]] = False
    for a, b in zip(got[:2], clean[:2], strict=True):
        assert a[~whole].isnan().any(1).all()
        assert torch.equal(a[whole], b[whole])
    assert torch.equal(got[0][7, 8:], clean[0][7, 8:])  # group 1 sees 8 hidden units
    assert torch.equal(got[1][33, :26], clean[1][33, :26])
    rows = torch.arange(65).repeat_interleave(2).repeat(3)  # each weight's dimension
    assert torch.equal(got[2][rows < 13], clean[2][rows < 13])
    assert torch.equal(got[3][rows < 13], clean[3][rows < 13])


def test_empty_batch(cuda: CudaBackend) -> None:
    head = make_head(16, 20, 2)
    got = backward(cuda, head, torch.zeros(0, 5), torch.zeros(0, 16), torch.zeros(0, 20))
    assert [g.shape[0] for g in got] == [0, 0, 120, 120]
    assert (got[2] == 0).all()
    assert (got[3] == 0).all()


def test_shapes_without_a_kernel_go_through_the_reference(cuda: CudaBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    head = make_head(128, 20, 1)
    h, x = make_windows(head, 3)
    grad = torch.randn(3, 5)
    monkeypatch.setenv("PYASD_HOST_SHARED_KB", "72")  # enough for the forward kernel alone
    got = backward(cuda, head, grad, h, x)
    exact = reference.mixture_log_prob_backward(grad, head.tensors(h, x), head.shape, "float32", False)
    assert all(torch.equal(a, b) for a, b in zip(got, exact, strict=True))
