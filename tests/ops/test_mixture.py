"""mixture_log_prob and its gradients against float64, and against itself on other batches, threads and sets."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from pyasd import ops
from pyasd.backends.contract import MixtureTensors, Precision
from pyasd.backends.cpu import BACKEND as cpu
from pyasd.backends.reference import BACKEND as reference
from pyasd.errors import BackendUnavailable
from pyasd.ops.packing import pack

if TYPE_CHECKING:
    from tests.conftest import Engine

ORDERS = {"causal": [1, 2, 3, 4, 5], "middle": [1, 2, 5, 3, 4]}


def make_head(
    hidden: int = 128, dims: int = 640, components: int = 10, degrees_out: list[int] | None = None, scale: float = 0.1
) -> ops.MixtureHead:
    degrees_out = degrees_out or ORDERS["causal"]
    degrees = sorted(1 + i % 4 for i in range(hidden))
    weight = scale * torch.randn(3 * dims * components, hidden)
    bias = 0.3 * torch.randn(3 * dims * components)
    return ops.MixtureHead(weight, bias, degrees, degrees_out, components)


def make_windows(head: ops.MixtureHead, windows: int) -> tuple[Tensor, Tensor]:
    return torch.randn(windows, head.weight.shape[1]).relu(), torch.randn(windows, head.shape.dims)


def forward(
    engine: Engine, h: Tensor, x: Tensor, head: ops.MixtureHead, precision: Precision = "float32", per_dim: bool = False
) -> Tensor:
    """The engine's values, on the CPU."""
    h, x, head = engine.put(h, x, head)
    return engine.implementation.mixture_log_prob(head.tensors(h, x), head.shape, precision, per_dim).cpu()


def backward(
    engine: Engine,
    grad: Tensor,
    h: Tensor,
    x: Tensor,
    head: ops.MixtureHead,
    precision: Precision = "float32",
    per_dim: bool = False,
) -> tuple[Tensor, ...]:
    """The engine's gradients, on the CPU."""
    grad, h, x, head = engine.put(grad, h, x, head)
    args = (grad, head.tensors(h, x), head.shape, precision, per_dim)
    return tuple(g.cpu() for g in engine.implementation.mixture_log_prob_backward(*args))


def in_double(head: ops.MixtureHead, *tensors: Tensor) -> list[Tensor]:
    return [x.double() for x in (*tensors, head.weight, head.bias)]


VALUES, GRADIENTS = 4.0, 8.0
"""Multiples of torch's own float32 error that the kernels may err by. Sums of terms that cancel make the largest of a
few hundred errors a matter of luck: over many seeds gradients reach 6 times torch's, and torch's 6 times theirs."""


def assert_within_budget(got: Tensor, plain: Tensor, exact: Tensor, times: float = VALUES) -> None:
    """Element by element, an error at most `times` the largest that plain float32 torch makes at such a size."""
    size = 1 + exact.abs()
    budget = times * ((plain - exact).abs() / size).max() + 1e-6
    used = (got - exact).abs() / (budget * size)
    assert (used <= 1).all(), f"{used.max():.3g} times the budget, {(used > 1).sum()} of {used.numel()}"


# hidden, dims, components, windows: ragged in every direction
SHAPES = [
    (128, 640, 10, 33),
    (128, 640, 10, 1),
    (128, 320, 5, 7),  # 64 Mel bands
    (128, 640, 1, 13),
    (32, 100, 3, 61),  # 20 dims a group: no multiple of any vector
    (30, 65, 2, 9),  # 13 dims a group; prefixes that fill no vector
    (128, 5, 32, 40),
    (7, 35, 10, 97),
]


@pytest.mark.parametrize(("hidden", "dims", "components", "windows"), SHAPES)
@pytest.mark.parametrize("per_dim", [False, True])
def test_values_and_gradients_equal_float64(
    each_engine: Engine, hidden: int, dims: int, components: int, windows: int, per_dim: bool
) -> None:
    head = make_head(hidden, dims, components, ORDERS["middle"])
    h, x = make_windows(head, windows)
    got = forward(each_engine, h, x, head, per_dim=per_dim)
    plain = reference.mixture_log_prob(head.tensors(h, x), head.shape, "float32", per_dim)
    leaves = [x.requires_grad_() for x in in_double(head, h, x)]
    exact = reference.mixture_log_prob(MixtureTensors(*leaves), head.shape, "float32", per_dim)
    assert_within_budget(got, plain, exact.detach())

    grad = torch.randn_like(got)
    mine = backward(each_engine, grad, h, x, head, per_dim=per_dim)
    torch_s = reference.mixture_log_prob_backward(grad, head.tensors(h, x), head.shape, "float32", per_dim)
    oracle = torch.autograd.grad(exact, leaves, grad.double())  # torch's own autograd, of the formula
    for name, a, b, c in zip(("hidden", "target", "weight", "bias"), mine, torch_s, oracle, strict=True):
        assert a.shape == c.shape, name
        assert_within_budget(a, b, c, GRADIENTS)


def test_reference_gradients_are_autograds() -> None:
    head = make_head(12, 20, 3)
    h, x = make_windows(head, 4)
    leaves = [t.requires_grad_() for t in in_double(head, h, x)]
    for per_dim in (False, True):
        value = reference.mixture_log_prob(MixtureTensors(*leaves), head.shape, "float32", per_dim)
        grad = torch.randn_like(value)
        expected = torch.autograd.grad(value, leaves, grad)
        got = reference.mixture_log_prob_backward(
            grad, MixtureTensors(*[t.detach() for t in leaves]), head.shape, "float32", per_dim
        )
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_is_the_density_of_torch_distributions() -> None:
    """The formula itself, against torch's mixture distribution and a mask applied by hand."""
    head = make_head(16, 20, 3)
    h, x = in_double(head, *make_windows(head, 6))[:2]
    groups = torch.arange(5).repeat_interleave(4)
    degrees = torch.tensor(sorted(1 + i % 4 for i in range(16)))
    mask = (degrees < (groups + 1)[:, None]).double().repeat_interleave(3, 0).repeat(3, 1)
    out = (h @ (head.weight.double() * mask).T + head.bias.double()).view(6, 3, 20, 3)
    scale = out[:, 2].clamp(min=head.shape.log_scale_min).exp()
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=out[:, 0]), torch.distributions.Normal(out[:, 1], scale)
    )
    expected = mixture.log_prob(x).view(6, 5, 4).sum(-1)
    got = reference.mixture_log_prob(
        MixtureTensors(h, x, head.weight.double(), head.bias.double()), head.shape, "float32", False
    )
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_masked_weights_never_matter(each_engine: Engine) -> None:
    head = each_engine.put(make_head(degrees_out=ORDERS["middle"]))
    h, x = each_engine.put(*make_windows(head, 5))
    clean = ops.mixture_log_prob(h, x, head, each_engine.backend)
    with torch.no_grad():
        head.weight[head.shape.mask(head.weight) == 0] = float("nan")
    assert torch.equal(ops.mixture_log_prob(h, x, head, each_engine.backend), clean)
    head.weight.requires_grad_()
    ops.mixture_log_prob(h, x, head, each_engine.backend).sum().backward()
    assert head.weight.grad is not None
    assert (head.weight.grad[head.shape.mask(head.weight) == 0] == 0).all()


def test_tails_are_large_finite_numbers(each_engine: Engine) -> None:
    head = make_head()
    h, _ = make_windows(head, 6)
    far = torch.tensor([3.0, 30, 300, 3e3, 3e4, 3e6])[:, None].expand(6, 640).contiguous()
    got = forward(each_engine, h, far, head)
    exact = reference.mixture_log_prob(head.tensors(h, far).double(), head.shape, "float32", False)
    plain = reference.mixture_log_prob(head.tensors(h, far), head.shape, "float32", False)
    assert got.isfinite().all()
    assert_within_budget(got, plain, exact)
    assert all(g.isfinite().all() for g in backward(each_engine, torch.ones_like(got), h, far, head))


def test_infinity_and_nan_cost_their_own_window_only(each_engine: Engine) -> None:
    head = make_head()
    h, x = make_windows(head, 40)
    clean = forward(each_engine, h, x, head)
    x[7, 200] = float("nan")  # group 1
    x[21, 500] = float("inf")  # group 3
    h[33, 0] = float("nan")  # seen by all groups but the first
    got = forward(each_engine, h, x, head)
    other = torch.ones(40, 5, dtype=torch.bool)
    other[7, 1] = other[21, 3] = False
    other[33, 1:] = False
    assert got[7, 1].isnan()
    assert got[21, 3] == -math.inf
    assert got[33, 1:].isnan().all()
    assert torch.equal(got[other], clean[other])


def test_clamped_scales(each_engine: Engine) -> None:
    head = make_head(scale=1.0)
    with torch.no_grad():
        head.bias[2 * 6400 :] -= 6  # many log scales below the clamp
    h, x = make_windows(head, 9)
    leaves = [t.requires_grad_() for t in in_double(head, h, x)]
    value = reference.mixture_log_prob(MixtureTensors(*leaves), head.shape, "float32", False)
    oracle = torch.autograd.grad(value.sum(), leaves)
    args = (torch.ones(9, 5), head.tensors(h, x), head.shape, "float32", False)
    mine = backward(each_engine, args[0], h, x, head)
    for a, b, c in zip(mine, reference.mixture_log_prob_backward(*args), oracle, strict=True):
        scale = c.abs().max()
        assert_within_budget(a / scale, b / scale, c / scale, GRADIENTS)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_same_bits_whatever_the_batch_and_the_threads(each_engine: Engine, precision: Precision) -> None:
    head = each_engine.put(make_head())
    h, x = each_engine.put(*make_windows(head, 131))
    whole = ops.mixture_log_prob(h, x, head, each_engine.backend, precision)
    for cut in (1, 2, 8, 33, 64, 130):
        batches = zip(h.split(cut), x.split(cut), strict=True)
        parts = [ops.mixture_log_prob(a, b, head, each_engine.backend, precision) for a, b in batches]
        assert torch.equal(torch.cat(parts), whole)
    args = (torch.randn(131, 5), h, x, head, precision)
    grads = backward(each_engine, *args)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(ops.mixture_log_prob(h, x, head, each_engine.backend, precision), whole)
            assert all(torch.equal(a, b) for a, b in zip(backward(each_engine, *args), grads, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_log_likelihood_is_the_sum_and_its_gradients(isa: str, precision: Precision) -> None:
    head = make_head(30, 65, 2, ORDERS["middle"])
    h, x = make_windows(head, 1030)  # more than two of the chunks that the backward pass works in
    rest = (head.tensors(h, x), head.shape, precision)
    log_prob, grads = cpu.mixture_log_likelihood(*rest, 0.5)
    assert torch.equal(log_prob, cpu.mixture_log_prob(*rest, False))
    half = torch.full_like(log_prob, 0.5)
    for got, expected in zip(grads, cpu.mixture_log_prob_backward(half, *rest, False), strict=True):
        assert torch.equal(got, expected)

    leaves = [t.requires_grad_() for t in (h, x, head.weight, head.bias)]
    value = ops.mixture_log_likelihood(h, x, head, "cpu", precision, scale=0.5)
    torch.testing.assert_close(value, 0.5 * log_prob.double().sum().float())
    for got, expected in zip(torch.autograd.grad(value, leaves, retain_graph=True), grads, strict=True):
        assert torch.equal(got, expected)
    with pytest.raises(RuntimeError, match="once"):
        value.backward()
    with torch.no_grad():
        assert torch.equal(ops.mixture_log_likelihood(h, x, head, "cpu", precision, 0.5), value)
    value = ops.mixture_log_likelihood(h, x, head, "cpu", precision, scale=0.5)
    for got, expected in zip(torch.autograd.grad(-2 * value, leaves), grads, strict=True):
        assert torch.equal(got, -2 * expected)


def test_gradients_of_many_windows_equal_float64(isa: str) -> None:
    head = make_head(30, 65, 2, ORDERS["middle"])
    h, x = make_windows(head, 1030)
    grad = torch.randn(1030, 5)
    mine = cpu.mixture_log_prob_backward(grad, head.tensors(h, x), head.shape, "float32", False)
    torch_s = reference.mixture_log_prob_backward(grad, head.tensors(h, x), head.shape, "float32", False)
    oracle = reference.mixture_log_prob_backward(
        grad.double(), head.tensors(h, x).double(), head.shape, "float32", False
    )
    for a, b, c in zip(mine, torch_s, oracle, strict=True):
        assert_within_budget(a, b, c, GRADIENTS)


def test_bfloat16_is_rounded_factors_and_exact_products(each_engine: Engine) -> None:
    head = make_head(degrees_out=ORDERS["middle"])
    h, x = make_windows(head, 21)
    got = forward(each_engine, h, x, head, "bfloat16")
    args = (head.shape, "bfloat16", False)
    exact = reference.mixture_log_prob(head.tensors(h, x).double(), *args)
    plain = reference.mixture_log_prob(head.tensors(h, x), *args)
    assert_within_budget(got, plain, exact)
    grad = torch.randn_like(got)
    mine = backward(each_engine, grad, h, x, head, "bfloat16")
    torch_s = reference.mixture_log_prob_backward(grad, head.tensors(h, x), *args)
    oracle = reference.mixture_log_prob_backward(grad.double(), head.tensors(h, x).double(), *args)
    for a, b, c in zip(mine, torch_s, oracle, strict=True):
        assert_within_budget(a, b, c, GRADIENTS)


def test_overlapping_windows_and_odd_strides_are_read_in_place(each_engine: Engine) -> None:
    head = each_engine.put(make_head())
    log_mel = each_engine.put(torch.randn(25, 128))
    windows = log_mel.as_strided((21, 640), (128, 1))
    wide = each_engine.put(torch.randn(21, 200))
    hidden = wide[:, 3:131]
    expected = ops.mixture_log_prob(hidden.contiguous(), windows.contiguous(), head, each_engine.backend)
    assert torch.equal(ops.mixture_log_prob(hidden, windows, head, each_engine.backend), expected)
    turned = hidden.t().contiguous().t()
    assert torch.equal(ops.mixture_log_prob(turned, windows, head, each_engine.backend), expected)
    assert torch.equal(ops.mixture_log_prob(hidden[::2], windows[::2], head, each_engine.backend), expected[::2])
    odd = torch.empty(21 * 640 + 1, device=each_engine.device)[1:].view(21, 640).copy_(windows)  # four bytes off
    assert torch.equal(ops.mixture_log_prob(hidden, odd, head, each_engine.backend), expected)


def test_every_output_is_written(each_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs begin as NaN, so that an element which no one writes shows."""
    head = make_head(30, 65, 2)
    h, x = make_windows(head, 9)
    for where, name in ((torch.Tensor, "new_empty"), (torch, "empty_like"), (torch, "empty")):
        monkeypatch.setattr(where, name, _poisoned(getattr(where, name)))
    for per_dim in (False, True):
        value = forward(each_engine, h, x, head, per_dim=per_dim)
        assert value.isfinite().all()
        assert all(
            g.isfinite().all() for g in backward(each_engine, torch.ones_like(value), h, x, head, per_dim=per_dim)
        )
    log_prob, grads = cpu.mixture_log_likelihood(head.tensors(h, x), head.shape, "float32", 1.0)
    assert all(g.isfinite().all() for g in (log_prob, *grads))


def _poisoned(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def made(*args: Any, **kwargs: Any) -> Tensor:
        tensor = make(*args, **kwargs)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    return made


def test_a_changed_weight_is_packed_again(engine: Engine) -> None:
    head = engine.put(make_head(16, 20, 2))
    h, x = engine.put(*make_windows(head, 3))
    first = ops.mixture_log_prob(h, x, head, engine.backend)
    assert torch.equal(ops.mixture_log_prob(h, x, head, engine.backend), first)
    with torch.no_grad():
        head.bias += 1
    second = ops.mixture_log_prob(h, x, head, engine.backend)
    assert not torch.equal(second, first)
    head.weight.data = head.weight.data * 2
    assert not torch.equal(ops.mixture_log_prob(h, x, head, engine.backend), second)
    with torch.inference_mode():
        frozen = ops.MixtureHead(head.weight * 1, head.bias * 1, sorted([1, 2, 3, 4] * 4), [1, 2, 3, 4, 5], 2)
        before = ops.mixture_log_prob(h, x, frozen, engine.backend)
        frozen.weight.mul_(2)
        assert not torch.equal(ops.mixture_log_prob(h, x, frozen, engine.backend), before)


def test_a_fused_optimiser_changes_weights_unseen(engine: Engine) -> None:
    head = engine.put(make_head(16, 20, 2))
    h, x = engine.put(*make_windows(head, 3))
    optimizer = torch.optim.Adam([head.weight.requires_grad_()], lr=0.1, fused=True)
    for _ in range(2):
        optimizer.zero_grad()
        ops.mixture_log_prob(h, x, head, engine.backend).sum().backward()
        optimizer.step()
        with torch.no_grad():
            expected = reference.mixture_log_prob(head.tensors(h, x), head.shape, "float32", False)
            torch.testing.assert_close(ops.mixture_log_prob(h, x, head, engine.backend), expected)


def test_empty_batch(engine: Engine) -> None:
    head = engine.put(make_head(16, 20, 2))
    h, x = engine.put(*make_windows(head, 0))
    assert ops.mixture_log_prob(h, x, head, engine.backend).shape == (0, 5)
    head.weight.requires_grad_()
    ops.mixture_log_prob(h, x, head, engine.backend).sum().backward()
    assert head.weight.grad is not None
    assert (head.weight.grad == 0).all()


def test_wrong_input_is_refused() -> None:
    head = make_head(16, 20, 2)
    h, x = make_windows(head, 3)
    with pytest.raises(TypeError, match="must be float32"):
        ops.mixture_log_prob(h.half(), x, head)
    double = ops.MixtureHead(head.weight.double(), head.bias.double(), sorted([1, 2, 3, 4] * 4), [1, 2, 3, 4, 5], 2)
    with pytest.raises(TypeError, match="reference"):
        ops.mixture_log_prob(h.double(), x.double(), double)
    with pytest.raises(TypeError, match="precision"):
        ops.mixture_log_prob(h, x, head, precision="float16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"hidden must be \[windows, 16\]"):
        ops.mixture_log_prob(h[:, :8], x, head)
    with pytest.raises(ValueError, match="target must be"):
        ops.mixture_log_prob(h, x[:2], head)
    with pytest.raises(ValueError, match="one device"):
        ops.mixture_log_prob(h.to("meta"), x, head)
    with pytest.raises(ValueError, match="sorted by degree"):
        ops.MixtureHead(head.weight, head.bias, [2, 1] * 8, [1, 2, 3, 4, 5], 2)
    with pytest.raises(ValueError, match="equal groups"):
        ops.MixtureHead(head.weight, head.bias, sorted([1, 2, 3, 4] * 4), [1, 2, 3], 2)
    with pytest.raises(BackendUnavailable, match="cuda"):
        ops.mixture_log_prob(h, x, head, backend="cuda")


def test_operator_checks(engine: Engine) -> None:
    head = engine.put(make_head(16, 20, 2))
    h, x = engine.put(*make_windows(head, 3))
    tensors = [t.requires_grad_() for t in (h, x, head.weight, head.bias)]
    rest = (pack(head.shape), engine.backend, "float32", False)
    torch.library.opcheck(torch.ops.pyasd.mixture_log_prob.default, (*tensors, *rest))
    plain = [t.detach() for t in tensors]
    grad = torch.ones(3, 5, device=engine.device)
    torch.library.opcheck(torch.ops.pyasd.mixture_log_prob_backward.default, (grad, plain, *rest))
    torch.library.opcheck(torch.ops.pyasd.mixture_log_likelihood.default, (*tensors, *rest[:-1], 0.5))


@pytest.mark.parametrize("summed", [False, True])
def test_under_compile(engine: Engine, summed: bool) -> None:
    head = engine.put(make_head(16, 20, 2))
    h, x = engine.put(*make_windows(head, 3))
    head.weight.requires_grad_()

    def loss(h: Tensor, x: Tensor) -> Tensor:
        if summed:
            return ops.mixture_log_likelihood(h * 2, x, head, engine.backend) / 15
        return ops.mixture_log_prob(h * 2, x, head, engine.backend).mean()

    loss(h, x).backward()
    eager = head.weight.grad
    head.weight.grad = None
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    value = compiled(h, x)
    value.backward()
    torch.testing.assert_close(value, loss(h, x))
    torch.testing.assert_close(head.weight.grad, eager)


def test_many_python_threads_at_once(engine: Engine) -> None:
    head = engine.put(make_head())
    h, x = engine.put(*make_windows(head, 64))
    expected = ops.mixture_log_prob(h, x, head, engine.backend)
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: ops.mixture_log_prob(h, x, head, engine.backend), range(32)):
            assert torch.equal(got, expected)


def test_works_in_a_forked_child() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        head = make_head(16, 20, 2)
        h, x = make_windows(head, 50)
        expected = cpu.mixture_log_prob(head.tensors(h, x), head.shape, "float32", False)
        child = os.fork()
        if child == 0:
            again = cpu.mixture_log_prob(head.tensors(h, x), head.shape, "float32", False)
            os._exit(0 if torch.equal(again, expected) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        torch.set_num_threads(before)
