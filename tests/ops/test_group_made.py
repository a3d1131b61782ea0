"""group_made_score against float64, and against itself on other lengths, threads and instruction sets."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from pyasd import ops
from pyasd.backends.contract import Precision
from pyasd.backends.reference import BACKEND as reference

if TYPE_CHECKING:
    from tests.conftest import Engine

ORDERS = {"causal": [1, 2, 3, 4, 5], "middle": [1, 2, 5, 3, 4]}


def make_network(
    order: str = "causal",
    mels: int = 128,
    hidden: tuple[int, ...] = (128, 128, 128, 128, 32, 128, 128, 128, 128),
    components: int = 10,
) -> ops.GroupMadeNetwork:
    """Random layers with the masks of the degrees, scaled so that activations stay of order 1."""
    degrees = [torch.tensor(ORDERS[order]).repeat_interleave(mels)]
    degrees += [torch.tensor(sorted(1 + i % 4 for i in range(width))) for width in hidden]
    layers = []
    for before, after in itertools.pairwise(degrees):
        mask = (before <= after[:, None]).float()
        weight = torch.randn(mask.shape) * mask / (0.5 * len(before)) ** 0.5
        layers.append((weight, 0.1 * torch.randn(len(after))))
    outputs = 3 * 5 * mels * components
    head = ops.MixtureHead(
        0.1 * torch.randn(outputs, hidden[-1]),
        0.3 * torch.randn(outputs),
        degrees[-1].tolist(),
        ORDERS[order],
        components,
    )
    return ops.GroupMadeNetwork(-60 + torch.randn(mels), 3 + torch.rand(mels), tuple(layers), head)


def log_mel_of(network: ops.GroupMadeNetwork, frames: int) -> Tensor:
    mels = len(network.band_mean)
    return network.band_mean + network.band_scale * torch.randn(frames, mels)


def in_double(network: ops.GroupMadeNetwork) -> ops.GroupMadeNetwork:
    head = network.head
    double = ops.MixtureHead.__new__(ops.MixtureHead)
    double.weight, double.bias, double.shape = head.weight.double(), head.bias.double(), head.shape
    layers = tuple((w.double(), b.double()) for w, b in network.layers)
    return ops.GroupMadeNetwork(network.band_mean.double(), network.band_scale.double(), layers, double)


def on_meta(network: ops.GroupMadeNetwork) -> ops.GroupMadeNetwork:
    """With its layers on another device."""
    layers = tuple((weight.to("meta"), bias.to("meta")) for weight, bias in network.layers)
    return ops.GroupMadeNetwork(network.band_mean, network.band_scale, layers, network.head)


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize(
    ("mels", "hidden", "components", "frames"),
    [
        (128, (128, 128, 128, 128, 32, 128, 128, 128, 128), 10, 41),
        (128, (128, 128, 128, 128, 32, 128, 128, 128, 128), 10, 5),
        (64, (128, 32, 128), 5, 12),
        (13, (30, 7, 41), 3, 37),  # widths that fill no vector, and no pair
        (14, (30, 8, 42), 1, 20),  # even ones: pairs, but no vector
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("per_dim", [False, True])
def test_equals_float64(
    each_engine: Engine,
    order: str,
    mels: int,
    hidden: tuple[int, ...],
    components: int,
    frames: int,
    precision: Precision,
    per_dim: bool,
) -> None:
    network = make_network(order, mels, hidden, components)
    log_mel = log_mel_of(network, frames)
    wanted = range(5)
    log_mel_there, network_there = each_engine.put(log_mel, network)
    got = each_engine.implementation.group_made_log_prob(log_mel_there, network_there, wanted, precision, per_dim).cpu()
    plain = reference.group_made_log_prob(log_mel, network, wanted, precision, per_dim)
    exact = reference.group_made_log_prob(log_mel.double(), in_double(network), wanted, precision, per_dim)
    size = 1 + exact.abs()
    error, allowed = (got - exact).abs() / size, (plain - exact).abs() / size
    if precision == "float32":
        assert (error <= 4 * allowed.max() + 1e-6).all()
    else:
        # A sum next to a bfloat16 rounding boundary rounds either way, in torch as here; what then differs is a
        # bfloat16's last place (2^-9) of some activation.
        assert error.mean() <= 4 * allowed.mean() + 1e-6
        assert error.max() <= max(4 * allowed.max().item(), 0.02)


def test_is_the_sum_of_its_parts(each_engine: Engine) -> None:
    """The docstring's four lines, with the operator that has tests of its own."""
    network = make_network("middle")
    log_mel = log_mel_of(network, 30)
    z = (log_mel - network.band_mean) / network.band_scale
    windows = torch.stack([z[i : i + 5].flatten() for i in range(26)])
    hidden = windows
    for weight, bias in network.layers:
        hidden = torch.relu(hidden @ weight.T + bias)
    expected = network.band_scale.log().sum() - ops.mixture_log_prob(hidden, windows, network.head)
    log_mel, network = each_engine.put(log_mel, network)
    got = ops.group_made_score(log_mel, network, backend=each_engine.backend).cpu()
    assert got.dtype == torch.float64
    torch.testing.assert_close(got.float(), expected, rtol=1e-5, atol=1e-3)
    shares = ops.group_made_score(log_mel, network, backend=each_engine.backend, per_dim=True).cpu()
    assert shares.shape == (26, 5, 128)
    torch.testing.assert_close(shares.sum(-1), got, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_same_bits_whatever_the_length_and_the_threads(each_engine: Engine, precision: Precision) -> None:
    network = make_network()
    log_mel, network = each_engine.put(log_mel_of(network, 450), network)

    def score(part: Tensor) -> Tensor:
        return ops.group_made_score(part, network, backend=each_engine.backend, precision=precision)

    whole = score(log_mel)
    for first, last in [(0, 5), (3, 40), (100, 446), (445, 450)]:
        assert torch.equal(score(log_mel[first:last]), whole[first : last - 4])
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(score(log_mel), whole)
    finally:
        torch.set_num_threads(before)


def test_only_what_is_wanted(engine: Engine) -> None:
    network = make_network("middle")
    log_mel, network = engine.put(log_mel_of(network, 20), network)
    for backend in (engine.backend, "reference"):
        whole = ops.group_made_score(log_mel, network, backend=backend)
        got = ops.group_made_score(log_mel, network, [2], backend=backend)
        assert torch.equal(got[:, 2], whole[:, 2])
        assert got[:, [0, 1, 3, 4]].isnan().all()
        assert ops.group_made_score(log_mel, network, [], backend=backend).isnan().all()


def test_a_nan_costs_its_own_windows_only(each_engine: Engine) -> None:
    network = make_network()
    log_mel, network = each_engine.put(log_mel_of(network, 40), network)
    clean = ops.group_made_score(log_mel, network, backend=each_engine.backend)
    log_mel[20, 7] = float("nan")
    got = ops.group_made_score(log_mel, network, backend=each_engine.backend)
    touched = torch.zeros(36, dtype=torch.bool)
    touched[16:21] = True
    assert got[touched].sum(1).isnan().all()
    assert torch.equal(got[~touched], clean[~touched])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("lengths", [[9, 9, 9], [5, 40, 7, 5], [12]])
def test_clips_of_a_batch_are_those_alone(each_engine: Engine, precision: Precision, lengths: list[int]) -> None:
    network = make_network("middle")
    log_mel, network = each_engine.put(log_mel_of(network, sum(lengths)), network)
    score = partial(ops.group_made_score, network=network, backend=each_engine.backend, precision=precision)
    alone = [score(x) for x in log_mel.split(lengths)]
    assert torch.equal(score(log_mel, lengths=lengths), torch.cat(alone))
    shares = score(log_mel, groups=[1, 3], per_dim=True, lengths=lengths)
    alone = [score(x, groups=[1, 3], per_dim=True) for x in log_mel.split(lengths)]
    assert shares.shape == (sum(lengths) - 4 * len(lengths), 5, 128)
    assert torch.equal(shares[:, [1, 3]], torch.cat(alone)[:, [1, 3]])


def test_a_nan_stays_in_its_clip(each_engine: Engine) -> None:
    network = make_network()
    log_mel, network = each_engine.put(log_mel_of(network, 30), network)
    clean = ops.group_made_score(log_mel, network, backend=each_engine.backend, lengths=[10] * 3)
    log_mel[9] = float("nan")  # the first clip's last frame
    got = ops.group_made_score(log_mel, network, backend=each_engine.backend, lengths=[10] * 3)
    assert got[5].sum().isnan()
    assert torch.equal(got[6:], clean[6:])


def test_the_empty_batch() -> None:
    network = make_network(mels=14, hidden=(8,), components=1)
    assert ops.group_made_score(torch.zeros(0, 14), network, lengths=[]).shape == (0, 5)
    assert ops.group_made_score(torch.zeros(0, 14), network, per_dim=True, lengths=[]).shape == (0, 5, 14)


def test_wrong_input_is_refused() -> None:
    network = make_network(mels=14, hidden=(8,), components=1)
    with pytest.raises(TypeError, match="float32"):
        ops.group_made_score(torch.zeros(9, 14, dtype=torch.float64), network)
    with pytest.raises(ValueError, match="at least 5 frames a clip, 14"):
        ops.group_made_score(torch.zeros(4, 14), network)
    with pytest.raises(ValueError, match="at least 5 frames a clip, 14"):
        ops.group_made_score(torch.zeros(9, 15), network)
    with pytest.raises(ValueError, match=r"must be float32 on cpu as log_mel is, not torch\.float64 on cpu"):
        ops.group_made_score(torch.zeros(9, 14), in_double(network))
    with pytest.raises(ValueError, match=r"not torch\.float32 on meta"):
        ops.group_made_score(torch.zeros(9, 14), on_meta(network))
    with pytest.raises(ValueError, match="of clips of 4 frames and more"):
        ops.group_made_score(torch.zeros(9, 14), network, lengths=[5, 4])
    with pytest.raises(ValueError, match="add up to 8, and log_mel has 9"):
        ops.group_made_score(torch.zeros(9, 14), network, lengths=[8])


@pytest.mark.parametrize("hop", [2, 3, 5, 7])
@pytest.mark.parametrize("lengths", [(5,), (41,), (12, 30, 5, 9), (23, 23, 23)])
def test_windows_that_hop_are_those_of_every_frame(each_engine: Engine, hop: int, lengths: tuple[int, ...]) -> None:
    """The same bits where clips of a batch have them."""
    network = make_network("middle", 16, (16, 8, 24), 3)
    log_mel, network_there = each_engine.put(log_mel_of(network, sum(lengths)), network)
    score = partial(ops.group_made_score, log_mel, network_there, [1, 2, 4], each_engine.backend, lengths=lengths)
    for per_dim in (False, True):
        every, got = score(per_dim=per_dim), score(per_dim=per_dim, hop=hop)
        clips = torch.split(every, [n - 4 for n in lengths])
        wanted = torch.cat([x[::hop] for x in clips])
        exact = 0.0 if each_engine.implementation.batch_invariant else 1e-5
        torch.testing.assert_close(got, wanted, rtol=exact, atol=exact, equal_nan=True)


def test_a_hop_of_no_frames_is_refused() -> None:
    network = make_network("causal", 8, (16,), 2)
    with pytest.raises(ValueError, match="at least one frame, not by 0"):
        ops.group_made_score(log_mel_of(network, 9), network, hop=0)
