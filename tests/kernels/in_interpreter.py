"""The Triton kernels on CPU tensors, in Triton's interpreter, against float64. `test_triton_interpreter.py` runs this
file in a process of its own with `TRITON_INTERPRET=1`, which must be set before the kernels are imported.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyasd import ops
from pyasd.backends.contract import Floor, MixtureTensors, Pad, Precision
from pyasd.backends.reference import BACKEND as reference
from pyasd.backends.triton import BACKEND as triton
from pyasd.kernels import log_mel as log_mel_kernels
from pyasd.kernels import trunk

ORDERS = {"causal": [1, 2, 3, 4, 5], "middle": [1, 2, 5, 3, 4]}

VALUES, GRADIENTS = 4.0, 8.0
"""Multiples of torch's own float32 error that the kernels may err by: see `tests/ops/test_mixture.py`."""


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is allocated begins as NaN, so that an element which no one writes shows."""
    empty = torch.Tensor.new_empty

    def poisoned(*args: Any, **kwargs: Any) -> Tensor:
        tensor = empty(*args, **kwargs)
        return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)


def make_head(
    hidden: int, dims: int, components: int, order: str = "causal", scale: float = 0.1
) -> tuple[ops.MixtureHead, Tensor]:
    """A head, and its shape's mask as booleans."""
    weight = scale * torch.randn(3 * dims * components, hidden)
    bias = 0.3 * torch.randn(3 * dims * components)
    degrees = sorted(1 + i % 4 for i in range(hidden))
    head = ops.MixtureHead(weight, bias, degrees, ORDERS[order], components)
    return head, head.shape.mask(weight) > 0


def make_windows(head: ops.MixtureHead, windows: int) -> tuple[Tensor, Tensor]:
    return torch.randn(windows, head.weight.shape[1]).relu(), torch.randn(windows, head.shape.dims)


def assert_within_budget(got: Tensor, plain: Tensor, exact: Tensor, times: float) -> None:
    assert got.shape == exact.shape
    assert got.dtype == torch.float32
    size = 1 + exact.abs()
    budget = times * ((plain - exact).abs() / size).max() + 1e-6
    assert ((got - exact).abs() <= budget * size).all()


def check(head: ops.MixtureHead, h: Tensor, x: Tensor, precision: Precision, per_dim: bool) -> None:
    """Values and gradients against float64, with torch's own float32 as the measure."""
    args = (head.shape, precision, per_dim)
    mine = head.tensors(h, x)
    got = triton.mixture_log_prob(mine, *args)
    assert_within_budget(
        got, reference.mixture_log_prob(mine, *args), reference.mixture_log_prob(mine.double(), *args), VALUES
    )
    grad = torch.randn_like(got)
    grads = triton.mixture_log_prob_backward(grad, mine, *args)
    plain = reference.mixture_log_prob_backward(grad, mine, *args)
    exact = reference.mixture_log_prob_backward(grad.double(), mine.double(), *args)
    for a, b, c in zip(grads, plain, exact, strict=True):
        assert_within_budget(a, b, c, GRADIENTS)


# hidden, dims, components, windows
SHAPES = [
    (30, 65, 2, 9),  # 13 dims a group; prefixes that fill no tile
    (7, 35, 3, 70),  # two tiles of windows
    (33, 170, 1, 1),  # 34 dims a group: three tiles, two chunks; one window; a prefix over a tile of the sum
    (180, 5, 2, 5),  # two tiles of hidden units in the backward kernels
    (16, 10, 10, 3),
]


@pytest.mark.parametrize(("hidden", "dims", "components", "windows"), SHAPES)
@pytest.mark.parametrize("per_dim", [False, True])
def test_values_and_gradients_equal_float64(
    hidden: int, dims: int, components: int, windows: int, per_dim: bool
) -> None:
    head, _ = make_head(hidden, dims, components, "middle")
    check(head, *make_windows(head, windows), "float32", per_dim)


def test_bfloat16_is_rounded_factors_and_exact_products() -> None:
    head, _ = make_head(30, 65, 2)
    check(head, *make_windows(head, 9), "bfloat16", False)


def test_clamped_scales() -> None:
    head, _ = make_head(16, 20, 2, scale=1.0)
    with torch.no_grad():
        head.bias[2 * 20 * 2 :] -= 4  # many log scales below the clamp
    h, x = make_windows(head, 3)
    mine, grad, rest = head.tensors(h, x), torch.ones(3, 5), (head.shape, "float32", False)
    exact = reference.mixture_log_prob_backward(grad.double(), mine.double(), *rest)
    plain = reference.mixture_log_prob_backward(grad, mine, *rest)
    for a, b, c in zip(triton.mixture_log_prob_backward(grad, mine, *rest), plain, exact, strict=True):
        assert_within_budget(a / c.abs().max().float(), b / c.abs().max(), c / c.abs().max(), GRADIENTS)


def test_tails_are_large_finite_numbers() -> None:
    head, _ = make_head(16, 20, 3)
    h, _ = make_windows(head, 6)
    far = torch.tensor([3.0, 30, 300, 3e3, 3e4, 3e6])[:, None].expand(6, 20)
    args = (head.shape, "float32", False)
    got = triton.mixture_log_prob(head.tensors(h, far), *args)
    assert got.isfinite().all()
    exact = reference.mixture_log_prob(head.tensors(h, far).double(), *args)
    assert_within_budget(got, reference.mixture_log_prob(head.tensors(h, far), *args), exact, VALUES)
    grads = triton.mixture_log_prob_backward(torch.ones(6, 5), head.tensors(h, far), *args)
    assert all(g.isfinite().all() for g in grads)


def test_infinity_and_nan_cost_their_own_window_only() -> None:
    head, _ = make_head(16, 20, 2)
    h, x = make_windows(head, 6)
    args = (head.tensors(h, x), head.shape, "float32", False)
    clean = triton.mixture_log_prob(*args)
    x[1, 5] = float("nan")  # group 1
    x[2, 13] = float("inf")  # group 3
    h[4, 0] = float("nan")  # seen by all groups but the first
    got = triton.mixture_log_prob(*args)
    other = torch.ones(6, 5, dtype=torch.bool)
    other[1, 1] = other[2, 3] = False
    other[4, 1:] = False
    assert got[1, 1].isnan()
    assert got[2, 3] == -math.inf
    assert got[4, 1:].isnan().all()
    assert torch.equal(got[other], clean[other])


def test_masked_weights_never_matter() -> None:
    head, mask = make_head(30, 20, 2, "middle")
    h, x = make_windows(head, 5)
    clean = head.tensors(h, x)
    poisoned = clean._replace(weight=torch.where(mask, head.weight, float("nan")))
    rest = (head.shape, "float32", False)
    assert torch.equal(triton.mixture_log_prob(poisoned, *rest), triton.mixture_log_prob(clean, *rest))
    grads = [triton.mixture_log_prob_backward(torch.ones(5, 5), x, *rest) for x in (poisoned, clean)]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert (grads[1].weight[~mask] == 0).all()


def test_same_bits_in_other_batches_and_twice() -> None:
    """In the interpreter a row's place in its tile decides numpy's order of summation: here it stays the same."""
    head, _ = make_head(16, 20, 2)
    h, x = make_windows(head, 67)
    whole = ops.mixture_log_prob(h, x, head, backend="triton")
    assert torch.equal(ops.mixture_log_prob(h[64:], x[64:], head, backend="triton"), whole[64:])
    assert torch.equal(ops.mixture_log_prob(h[:5], x[:5], head, backend="triton"), whole[:5])
    args = (torch.randn(67, 5), head.tensors(h, x), head.shape, "float32", False)
    twice = zip(triton.mixture_log_prob_backward(*args), triton.mixture_log_prob_backward(*args), strict=True)
    assert all(torch.equal(a, b) for a, b in twice)


def test_overlapping_windows_and_odd_strides() -> None:
    head, _ = make_head(16, 20, 2)
    windows = torch.randn(9, 4).as_strided((5, 20), (4, 1))
    hidden = torch.randn(5, 40)[:, 3:19]
    expected = ops.mixture_log_prob(hidden.contiguous(), windows.contiguous(), head, backend="triton")
    assert torch.equal(ops.mixture_log_prob(hidden, windows, head, backend="triton"), expected)
    turned_hidden, turned_windows = (t.t().contiguous().t() for t in (hidden, windows))
    assert torch.equal(ops.mixture_log_prob(turned_hidden, turned_windows, head, backend="triton"), expected)


def test_through_autograd_and_the_empty_batch() -> None:
    head, _ = make_head(8, 10, 2)
    h, x = make_windows(head, 3)
    leaves = MixtureTensors(*(t.clone().requires_grad_() for t in head.tensors(h, x)))
    mine = ops.MixtureHead(leaves.weight, leaves.bias, sorted([1, 2, 3, 4] * 2), ORDERS["causal"], 2)
    expected = torch.autograd.grad(
        ops.mixture_log_prob(leaves.hidden, leaves.target, mine, backend="reference").sum(), list(leaves)
    )
    got = torch.autograd.grad(
        ops.mixture_log_prob(leaves.hidden, leaves.target, mine, backend="triton").sum(), list(leaves)
    )
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    none = ops.mixture_log_prob(leaves.hidden[:0], leaves.target[:0], mine, backend="triton")
    assert none.shape == (0, 5)
    none.sum().backward()
    assert leaves[2].grad is not None
    assert (leaves[2].grad == 0).all()


# -- Group MADE ----------------------------------------------------------------------------------------------------


def make_network(order: str, mels: int, hidden: tuple[int, ...], components: int) -> ops.GroupMadeNetwork:
    """Random layers with the masks of the degrees, scaled so that activations stay of order 1."""
    degrees = [torch.tensor(ORDERS[order]).repeat_interleave(mels)]
    degrees += [torch.tensor(sorted(1 + i % 4 for i in range(width))) for width in hidden]
    layers = []
    for before, after in itertools.pairwise(degrees):
        mask = (before <= after[:, None]).float()
        layers.append((torch.randn(mask.shape) * mask / (0.5 * len(before)) ** 0.5, 0.1 * torch.randn(len(after))))
    head, _ = make_head(hidden[-1], 5 * mels, components, order)
    return ops.GroupMadeNetwork(-60 + torch.randn(mels), 3 + torch.rand(mels), tuple(layers), head)


def in_double(network: ops.GroupMadeNetwork) -> ops.GroupMadeNetwork:
    head = ops.MixtureHead.__new__(ops.MixtureHead)
    head.weight, head.bias = network.head.weight.double(), network.head.bias.double()
    head.shape = network.head.shape
    layers = tuple((w.double(), b.double()) for w, b in network.layers)
    return ops.GroupMadeNetwork(network.band_mean.double(), network.band_scale.double(), layers, head)


# mels, widths of the hidden layers, components, frames
NETWORKS = [
    (13, (30, 7, 41), 2, 12),  # widths that fill no tile; 65 inputs: two steps and a rest
    (7, (128, 32, 128), 1, 70),  # the report's widths; two tiles of windows
    (8, (16,), 3, 5),  # one layer, one window
    (6, (130, 20), 2, 9),  # wider than the kernel takes: the layers go through torch
]


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize(("mels", "hidden", "components", "frames"), NETWORKS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_group_made_equals_float64(
    order: str, mels: int, hidden: tuple[int, ...], components: int, frames: int, precision: Precision
) -> None:
    network = make_network(order, mels, hidden, components)
    log_mel = network.band_mean + network.band_scale * torch.randn(frames, mels)
    args = (range(5), precision, frames % 2 == 0)
    got = triton.group_made_log_prob(log_mel, network, *args)
    plain = reference.group_made_log_prob(log_mel, network, *args)
    exact = reference.group_made_log_prob(log_mel.double(), in_double(network), *args)
    if precision == "float32":
        assert_within_budget(got, plain, exact, VALUES)
    else:  # a sum next to a rounding boundary rounds either way, in torch as here: see tests/ops/test_group_made.py
        error, allowed = ((x - exact).abs() / (1 + exact.abs()) for x in (got, plain))
        assert error.mean() <= 4 * allowed.mean() + 1e-6
        assert error.max() <= max(4 * allowed.max().item(), 0.02)


def test_the_hidden_layers_alone_in_bfloat16() -> None:
    """Activations are rounded to nearest even between layers, as torch rounds them: the sums are then the same."""
    network = make_network("causal", 13, (30, 7, 41), 1)
    z = torch.randn(40, 13)
    windows = z.as_strided((36, 65), (13, 1))
    expected = windows
    for weight, bias in network.layers:
        expected = torch.relu(expected.bfloat16().double() @ weight.bfloat16().double().T + bias.double())
        expected = expected.float()
    got = trunk.Packed(network.layers, "bfloat16")(z)
    assert got.shape == (36, 41)
    assert (got - expected).abs().mean() < 1e-4, "but for a few that lie on a boundary"
    assert ((got - expected).abs() < 0.02 * (1 + expected)).all()


def test_group_made_same_bits_in_batches_and_wanted_groups_alone() -> None:
    network = make_network("middle", 13, (32, 16), 2)
    log_mel = network.band_mean + network.band_scale * torch.randn(90, 13)
    whole = ops.group_made_score(log_mel, network, backend="triton")
    assert torch.equal(ops.group_made_score(log_mel, network, backend="triton"), whole)
    # from a tile's first window on: in the interpreter a row's place decides numpy's order of summation
    assert torch.equal(ops.group_made_score(log_mel[64:], network, backend="triton"), whole[64:])
    batch = ops.group_made_score(log_mel, network, backend="triton", lengths=[64, 26])
    assert torch.equal(batch, torch.cat([whole[:60], whole[64:]]))
    for per_dim in (False, True):
        some = ops.group_made_score(log_mel, network, [2, 0], "triton", per_dim=per_dim)
        assert some[:, [1, 3, 4]].isnan().all()
        assert torch.equal(some[:, 2], ops.group_made_score(log_mel, network, None, "triton", per_dim=per_dim)[:, 2])
    assert ops.group_made_score(log_mel, network, [], "triton").isnan().all()


def test_group_made_nan_costs_its_own_windows() -> None:
    network = make_network("causal", 13, (32, 16), 2)
    log_mel = network.band_mean + network.band_scale * torch.randn(30, 13)
    clean = ops.group_made_score(log_mel, network, backend="triton")
    log_mel[20, 7] = float("nan")
    got = ops.group_made_score(log_mel, network, backend="triton")
    touched = torch.zeros(26, dtype=torch.bool)
    touched[16:21] = True
    assert got[touched].sum(1).isnan().all()
    assert torch.equal(got[~touched], clean[~touched])


def test_layers_that_are_too_wide_are_refused_by_the_kernel() -> None:
    with pytest.raises(NotImplementedError, match="up to 128 units, not 130"):
        trunk.Packed([(torch.zeros(130, 30), torch.zeros(130))], "float32")


# -- log-Mel -----------------------------------------------------------------------------------------------------


def machine(clips: int, n: int) -> Tensor:
    """Hum, harmonics and noise 50 dB below: int16 whose bands span some 80 dB."""
    rng = np.random.default_rng(0)
    t = np.arange(n) / 16000
    base = rng.uniform(40, 400, (clips, 1))
    tones = sum(np.sin(2 * np.pi * base * k * t) / k for k in range(1, 9))
    return torch.from_numpy((4000 * tones + 15 * rng.standard_normal((clips, n))).round().astype(np.int16))


@pytest.mark.parametrize(
    ("n_fft", "hop", "n_mels", "pad", "floor"),
    [
        (256, 100, 13, "reflect", "max"),
        (512, 256, 40, "constant", "add"),
        (1024, 512, 128, "reflect", "max"),
        (1024, 512, 64, "constant", "max"),
        (2048, 1024, 128, "reflect", "add"),
        (4096, 2048, 128, "constant", "max"),
    ],
)
def test_log_mel_equals_float64(n_fft: int, hop: int, n_mels: int, pad: Pad, floor: Floor) -> None:
    """Within 1e-3 dB of float64 in bands within 80 dB of the frame's peak, and no worse than twice torch's float32."""
    samples, lengths = machine(2, 5003), [5003, 3000]
    plan = ops.LogMelPlan(n_fft=n_fft, hop_length=hop, n_mels=n_mels, pad=pad, floor=floor)
    exact = reference.log_mel(samples.double() / 32768, plan, lengths)
    plain = reference.log_mel(samples, plan, lengths)
    heard = exact.amax(-1, keepdim=True) - exact <= 80
    budget = min(2 * (plain - exact)[heard].abs().max().item() + 1e-5, 1e-3)
    poisoned = samples.float() / 32768
    poisoned[1, 3000:] = float("nan")  # what lies past a clip's end must not be read
    got = triton.log_mel(samples, plan, lengths)
    assert got.dtype == torch.float32
    assert got.isfinite().all()
    assert ((got - exact)[heard].abs() <= budget).all()
    assert torch.equal(triton.log_mel(poisoned, plan, lengths), got)


def test_log_mel_same_bits_in_other_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, samples = ops.LogMelPlan(), machine(3, 3000)
    whole = ops.log_mel(samples, plan, backend="triton")
    assert torch.equal(ops.log_mel(samples[:1], plan, backend="triton"), whole[:1])
    both = ops.log_mel(samples[1:], plan, [3000, 2000], backend="triton")  # an even number of frames: tiles of two
    assert torch.equal(both[0], whole[1])
    monkeypatch.setattr(log_mel_kernels, "CHUNK_BYTES", 4 * 4 * 512)  # four frames between the kernels
    wide = torch.zeros(4, 3100, dtype=torch.int16)
    wide[1:, 7:3007] = samples
    assert torch.equal(ops.log_mel(wide[1:, 7:3007], plan, backend="triton"), whole)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_sample_costs_its_own_frames_only(bad: float) -> None:
    plan, samples = ops.LogMelPlan(), machine(2, 5000).float() / 32768
    clean = ops.log_mel(samples, plan, backend="triton")
    samples[1, 2500] = bad
    got = ops.log_mel(samples, plan, backend="triton")
    touched = torch.zeros(10, dtype=torch.bool)
    touched[[4, 5]] = True  # the frames whose windows hold sample 2500
    assert got[1, touched].isnan().all()
    assert torch.equal(got[1, ~touched], clean[1, ~touched])
    assert torch.equal(got[0], clean[0])


def test_silence_is_the_floor_and_short_clips_are_padded() -> None:
    got = ops.log_mel(torch.zeros(1, 700, dtype=torch.int16), ops.LogMelPlan(), backend="triton")
    torch.testing.assert_close(got, torch.full_like(got, -156.5356), rtol=0, atol=1e-4)
    one = ops.log_mel(torch.ones(1, 1), ops.LogMelPlan(pad="constant"), backend="triton")
    torch.testing.assert_close(one, ops.log_mel(torch.ones(1, 1), ops.LogMelPlan(pad="constant"), backend="reference"))
    assert ops.log_mel(torch.zeros(0, 16000), ops.LogMelPlan(), backend="triton").shape == (0, 32, 128)


def test_other_frame_sizes_go_through_the_reference() -> None:
    samples, plan = machine(1, 4000), ops.LogMelPlan(n_fft=400, hop_length=160, n_mels=80)
    assert torch.equal(ops.log_mel(samples, plan, backend="triton"), ops.log_mel(samples, plan, backend="reference"))
    with pytest.raises(NotImplementedError, match="256, 512, 1024, 2048, 4096, not 400"):
        log_mel_kernels.log_mel(samples, [4000], plan, log_mel_kernels.Tables(*[samples] * 4), scale=1, eps=0)


def test_it_runs_on_cpu_tensors_alone() -> None:
    assert triton.unavailable() is None
    assert triton.unavailable(torch.device("cpu")) is None
    assert "TRITON_INTERPRET" in (triton.unavailable(torch.device("cuda")) or "")
