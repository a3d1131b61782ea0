"""What the native operators make of input that is legal but unkind: an exact result, on every instruction set.

Wrong dtypes, devices and shapes are refused in each operator's own test module.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from pyasd import ops
from pyasd.backends.contract import Precision
from pyasd.backends.cpu import BACKEND as cpu
from pyasd.backends.cpu import EMULATED
from pyasd.backends.reference import BACKEND as reference

NAN = float("nan")
PRECISIONS = ["float32", "bfloat16"]


def make_head(hidden: int, dims: int, components: int) -> ops.MixtureHead:
    weight, bias = 0.3 * torch.randn(3 * dims * components, hidden), 0.3 * torch.randn(3 * dims * components)
    return ops.MixtureHead(weight, bias, sorted(1 + i % 4 for i in range(hidden)), [1, 2, 5, 3, 4], components)


def make_network(mels: int, hidden: tuple[int, ...] = (20, 33), components: int = 2) -> ops.GroupMadeNetwork:
    sizes = [5 * mels, *hidden]
    layers = tuple(
        (torch.randn(after, before) / before**0.5, torch.randn(after)) for before, after in itertools.pairwise(sizes)
    )
    head = make_head(hidden[-1], 5 * mels, components)
    return ops.GroupMadeNetwork(-60 + torch.randn(mels), 3 + torch.rand(mels), layers, head)


def gradients(h: Tensor, x: Tensor, head: ops.MixtureHead, precision: Precision) -> tuple[Tensor, ...]:
    grad = torch.linspace(-1, 1, 5 * len(h)).view(-1, 5)
    return cpu.mixture_log_prob_backward(grad, head.tensors(h, x), head.shape, precision, False)


def misaligned(x: Tensor, by: int = 1) -> Tensor:
    """The same numbers, beginning `by` bytes after where an element may begin."""
    raw = bytearray(by) + bytearray(x.contiguous().numpy().tobytes())
    shifted = torch.frombuffer(raw, dtype=x.dtype, offset=by).view(x.shape)
    assert shifted.data_ptr() % x.element_size() == by
    return shifted


def inside(x: Tensor, offset: int) -> Tensor:
    """The same numbers as a view into a larger tensor, of NaN all around, that begins at an odd element."""
    whole = torch.full((x.shape[0] + 3, x.shape[1] + 2 * offset + 1), NAN)
    view = whole[2:-1, offset : offset + x.shape[1]]
    view.copy_(x)
    return view


@pytest.mark.parametrize("precision", PRECISIONS)
def test_misaligned_pointers(isa: str, precision: Precision) -> None:
    head = make_head(9, 35, 3)
    h, x = torch.randn(19, 9).relu(), torch.randn(19, 35)
    odd_head = make_head(9, 35, 3)
    odd_head.weight, odd_head.bias = misaligned(head.weight), misaligned(head.bias, 3)
    expected = ops.mixture_log_prob(h, x, head, "cpu", precision)
    odd_h, odd_x = misaligned(h, 2), misaligned(x)
    assert torch.equal(ops.mixture_log_prob(odd_h, odd_x, odd_head, "cpu", precision), expected)
    for got, known in zip(gradients(odd_h, odd_x, odd_head, precision), gradients(h, x, head, precision), strict=True):
        assert torch.equal(got, known)

    network = make_network(7)
    log_mel = network.band_mean + torch.randn(30, 7)
    shifted = ops.GroupMadeNetwork(
        misaligned(network.band_mean),
        misaligned(network.band_scale),
        tuple((misaligned(w), misaligned(b)) for w, b in network.layers),
        network.head,
    )
    got = ops.group_made_score(misaligned(log_mel), shifted, None, "cpu", precision)
    assert torch.equal(got, ops.group_made_score(log_mel, network, None, "cpu", precision))


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_misaligned_samples(isa: str, dtype: torch.dtype) -> None:
    samples = (1000 * torch.randn(2, 3000)).to(dtype)
    assert torch.equal(ops.log_mel(misaligned(samples), ops.LogMelPlan()), ops.log_mel(samples, ops.LogMelPlan()))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("offset", [1, 5])
def test_offsets_into_larger_tensors(isa: str, precision: Precision, offset: int) -> None:
    head = make_head(33, 65, 3)
    h, x = torch.randn(19, 33).relu(), torch.randn(19, 65)
    within = make_head(33, 65, 3)
    within.weight, within.bias = inside(head.weight, offset), inside(head.bias[None], offset)[0]
    expected = ops.mixture_log_prob(h, x, head, "cpu", precision)
    assert torch.equal(ops.mixture_log_prob(inside(h, offset), inside(x, offset), within, "cpu", precision), expected)
    known = gradients(h, x, head, precision)
    for a, b in zip(gradients(inside(h, offset), inside(x, offset), within, precision), known, strict=True):
        assert torch.equal(a, b)
    network = make_network(13)
    log_mel = network.band_mean + torch.randn(30, 13)
    assert torch.equal(
        ops.group_made_score(inside(log_mel, offset), network, None, "cpu", precision),
        ops.group_made_score(log_mel, network, None, "cpu", precision),
    )


def test_rows_that_are_one_row(isa: str) -> None:
    head = make_head(16, 20, 2)
    h, x = torch.randn(1, 16).relu(), torch.randn(1, 20)
    one = ops.mixture_log_prob(h, x, head, "cpu")
    assert torch.equal(ops.mixture_log_prob(h.expand(35, -1), x.expand(35, -1), head, "cpu"), one.expand(35, -1))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("hidden", [9, 30, 45])  # prefixes that are odd, and that fill no vector or AMX tile
@pytest.mark.parametrize("poison", [NAN, math.inf])
def test_a_unit_costs_only_the_groups_that_see_it(isa: str, precision: Precision, hidden: int, poison: float) -> None:
    head = make_head(hidden, 35, 3)
    h, x = torch.randn(20, hidden).relu(), torch.randn(20, 35)
    clean = ops.mixture_log_prob(h, x, head, "cpu", precision)
    for unit in range(hidden):
        poisoned = h.clone()
        poisoned[3, unit] = poison
        got = ops.mixture_log_prob(poisoned, x, head, "cpu", precision)
        sees = torch.zeros(20, 5, dtype=torch.bool)
        sees[3] = torch.tensor([unit < prefix for prefix in head.shape.prefix])
        assert got[sees].isnan().all()
        assert torch.equal(got[~sees], clean[~sees])


def test_a_component_whose_logit_is_minus_infinity_is_not_there(isa: str) -> None:
    head = make_head(16, 20, 3)
    with torch.no_grad():
        head.bias.view(3, 20, 3)[0, :, 1] = -math.inf
    fewer = make_head(16, 20, 2)
    fewer.weight = head.weight.view(3, 20, 3, 16)[:, :, [0, 2]].reshape(-1, 16)
    fewer.bias = head.bias.view(3, 20, 3)[:, :, [0, 2]].reshape(-1)
    h, x = torch.randn(20, 16).relu(), torch.randn(20, 20)
    torch.testing.assert_close(
        ops.mixture_log_prob(h, x, head, "cpu"), ops.mixture_log_prob(h, x, fewer, "cpu"), rtol=1e-5, atol=1e-5
    )


def test_infinite_samples_cost_their_own_frames(isa: str) -> None:
    samples = torch.randn(1, 16000)
    plan = ops.LogMelPlan()
    clean = ops.log_mel(samples, plan, backend="cpu")
    samples[0, 5000] = math.inf
    got = ops.log_mel(samples, plan, backend="cpu")
    touched = torch.zeros(32, dtype=torch.bool)
    touched[[9, 10]] = True
    assert not got[0, touched].isfinite().any()
    assert torch.equal(got[0, ~touched], clean[0, ~touched])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("poison", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("mels", [8, 13])  # windows of 40 and 65: the last AMX tile reaches into the next frames
def test_a_frame_costs_its_own_windows(isa: str, precision: Precision, poison: float, mels: int) -> None:
    network = make_network(mels)
    log_mel = network.band_mean + torch.randn(40, mels)
    clean = ops.group_made_score(log_mel, network, None, "cpu", precision)
    for band in (0, mels - 1):
        poisoned = log_mel.clone()
        poisoned[20, band] = poison
        got = ops.group_made_score(poisoned, network, None, "cpu", precision)
        touched = torch.zeros(36, dtype=torch.bool)
        touched[16:21] = True
        assert not got[touched].sum(1).isfinite().any()
        assert torch.equal(got[~touched], clean[~touched])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_denormals(isa: str, precision: Precision) -> None:
    """Denormal factors are zeros or next to: nothing else may come of them."""
    head = make_head(16, 20, 3)
    h, x = torch.randn(20, 16).relu(), torch.randn(20, 20)
    h[:, ::3], x[::2, ::2] = 1e-41, -3e-42
    with torch.no_grad():
        head.weight[::5] = 1e-40
        head.bias[::7] = -2e-39
    got = ops.mixture_log_prob(h, x, head, "cpu", precision)
    exact = reference.mixture_log_prob(head.tensors(h, x).double(), head.shape, precision, False)
    torch.testing.assert_close(got.double(), exact, rtol=2e-6, atol=2e-5)
    grads = gradients(h, x, head, precision)
    grad = torch.linspace(-1, 1, 100).view(-1, 5).double()
    exact_grads = reference.mixture_log_prob_backward(grad, head.tensors(h, x).double(), head.shape, precision, False)
    for a, b in zip(grads, exact_grads, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-4)


def test_denormal_samples_are_silence(isa: str) -> None:
    plan = ops.LogMelPlan()
    silence = ops.log_mel(torch.zeros(1, 5000), plan, backend="cpu")
    assert torch.equal(ops.log_mel(torch.full((1, 5000), 1e-40), plan, backend="cpu"), silence)


@pytest.mark.parametrize("components", range(1, 33))
def test_every_number_of_components(isa: str, components: int) -> None:
    head = make_head(12, 15, components)
    h, x = torch.randn(5, 12).relu(), torch.randn(5, 15)
    tensors = head.tensors(h, x).double()
    exact = reference.mixture_log_prob(tensors, head.shape, "float32", False)
    torch.testing.assert_close(ops.mixture_log_prob(h, x, head, "cpu").double(), exact, rtol=1e-5, atol=1e-5)
    grad = torch.linspace(-1, 1, 25).view(5, 5).double()
    exact_grads = reference.mixture_log_prob_backward(grad, tensors, head.shape, "float32", False)
    for got, known in zip(gradients(h, x, head, "float32"), exact_grads, strict=True):
        torch.testing.assert_close(got.double(), known, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mels", [1, 2, 3, 7, 15, 17, 31, 33])
def test_every_number_of_mels(isa: str, mels: int) -> None:
    network = make_network(mels)
    log_mel = network.band_mean + torch.randn(23, mels)
    got = ops.group_made_score(log_mel, network, None, "cpu", per_dim=True)
    known = ops.group_made_score(log_mel, network, None, "reference", per_dim=True)
    torch.testing.assert_close(got, known, rtol=1e-4, atol=1e-4)
    samples = (3000 * torch.randn(2, 9001)).to(torch.int16)
    plan = ops.LogMelPlan(n_mels=mels)
    torch.testing.assert_close(
        ops.log_mel(samples, plan, backend="cpu"), ops.log_mel(samples, plan, backend="reference"), rtol=0, atol=1e-3
    )


FAR = 2**31 + 5
"""Elements: beyond what 32 bits address. Memory that nothing touches is never there."""


def test_rows_far_apart(isa: str) -> None:
    head = make_head(16, 20, 2)
    h, x = torch.randn(2, 16).relu(), torch.randn(2, 20)
    far_h, far_x = (torch.empty(FAR + t.shape[1]).as_strided(t.shape, (FAR, 1)).copy_(t) for t in (h, x))
    assert torch.equal(ops.mixture_log_prob(far_h, far_x, head, "cpu"), ops.mixture_log_prob(h, x, head, "cpu"))
    for got, known in zip(gradients(far_h, far_x, head, "float32"), gradients(h, x, head, "float32"), strict=True):
        assert torch.equal(got, known)
    samples = (3000 * torch.randn(2, 2000)).to(torch.int16)
    far = torch.empty(FAR + 2000, dtype=torch.int16).as_strided((2, 2000), (FAR, 1)).copy_(samples)
    assert torch.equal(ops.log_mel(far, ops.LogMelPlan()), ops.log_mel(samples, ops.LogMelPlan()))


@pytest.mark.slow
@pytest.mark.huge
def test_outputs_of_more_than_2_to_the_31_elements(isa: str) -> None:
    """Takes 9 GB of memory, three times over."""
    if isa == EMULATED:
        pytest.skip("the emulation would take an hour")
    windows = 2**31 // 640 + 1000
    head = make_head(4, 640, 1)
    h, x = torch.randn(1, 4).relu(), torch.randn(1, 640)
    one = ops.mixture_log_prob(h, x, head, "cpu", per_dim=True)
    out = ops.mixture_log_prob(h.expand(windows, -1), x.expand(windows, -1), head, "cpu", per_dim=True)
    assert out.numel() > 2**31
    assert all(torch.equal(part, one.expand_as(part)) for part in out.split(100_000))
    del out

    plan = ops.LogMelPlan(n_fft=64, hop_length=1, n_mels=128)
    frames = 2**31 // 128 + 1000
    samples = (3000 * torch.randn(1, frames - 1)).to(torch.int16)
    got = ops.log_mel(samples, plan, backend="cpu")
    assert got.numel() > 2**31
    end = ops.log_mel(samples[:, -5000:].contiguous(), plan, backend="cpu")
    assert torch.equal(got[0, -4000:], end[0, -4000:])
    del got

    network = make_network(128, (4,), 1)
    log_mel = (network.band_mean + torch.randn(1, 128)).expand(windows + 4, -1).contiguous()
    out = cpu.group_made_log_prob(log_mel, network, range(5), "float32", True)
    one = cpu.group_made_log_prob(log_mel[:5], network, range(5), "float32", True)
    assert out.numel() > 2**31
    assert all(torch.equal(part, one.expand_as(part)) for part in out.split(100_000))
