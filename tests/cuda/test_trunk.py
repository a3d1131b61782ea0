"""The hidden layers' CUDA kernel against float64, in the emulation: ragged shapes, bounds, masks, NaN, same bits."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest
import torch
from torch import Tensor

from pyasd import ops
from pyasd.backends import self_check
from pyasd.backends.cuda import CudaBackend

from .conftest import guarded, make_head

VALUES = 4.0
"""Multiple of torch's own float32 error that the kernel may err by, as for the head."""

CAUSAL, MIDDLE = (1, 2, 3, 4, 5), (1, 2, 5, 3, 4)
REPORT = (128, 128, 128, 128, 32, 128, 128, 128, 128)


def make_network(
    mels: int, widths: tuple[int, ...], order: tuple[int, ...] = MIDDLE, mask: bool = True
) -> ops.GroupMadeNetwork:
    """Layers masked by degrees, scaled so that activations stay of order 1, and a small head."""
    frames = len(order)
    degrees = [torch.tensor(order).repeat_interleave(mels)]
    degrees += [torch.tensor(sorted(1 + i % (frames - 1) for i in range(n))) for n in widths]
    layers = []
    for before, after in itertools.pairwise(degrees):
        keep = (before <= after[:, None]).float() if mask else torch.ones(len(after), len(before))
        weight = torch.randn(keep.shape) * keep / (0.5 * keep.sum(1, keepdim=True)).sqrt()
        layers.append((guarded(weight), guarded(0.1 * torch.randn(len(after)))))
    head = make_head(widths[-1], frames * mels, 1, order)
    return ops.GroupMadeNetwork(guarded(-60 + torch.randn(mels)), guarded(3 + torch.rand(mels)), tuple(layers), head)


def make_log_mel(network: ops.GroupMadeNetwork, windows: int) -> Tensor:
    frames = windows + network.head.shape.groups - 1
    return guarded(network.band_mean + network.band_scale * torch.randn(frames, len(network.band_mean)))


def hidden_of(cuda: CudaBackend, log_mel: Tensor, network: ops.GroupMadeNetwork, precision: str = "float32") -> Tensor:
    """The kernel's hidden units; its standardised frames are torch's, bit by bit."""
    made = cuda.hidden_layers(log_mel, network, precision)
    assert made is not None
    hidden, windows = made
    torch.testing.assert_close(windows, network.standardised_windows(log_mel), rtol=0, atol=0, equal_nan=True)
    return hidden


def assert_within_budget(got: Tensor, log_mel: Tensor, network: ops.GroupMadeNetwork, precision: str) -> None:
    double = ops.GroupMadeNetwork(
        network.band_mean.double(),
        network.band_scale.double(),
        tuple((weight.double(), bias.double()) for weight, bias in network.layers),
        network.head,
    )
    plain = network.hidden_layers(network.standardised_windows(log_mel), precision)
    exact = double.hidden_layers(double.standardised_windows(log_mel.double()), precision)
    assert got.shape == exact.shape
    if precision == "float32":
        size = 1 + exact.abs()
        assert ((got - exact).abs() <= VALUES * ((plain - exact).abs() / size).max() * size + 1e-6).all()
        return
    # The head's factors, rounded already. Sums beside a rounding boundary go either way, in torch as here.
    plain, exact = plain.bfloat16().double(), exact.bfloat16().double()
    size = 1 + exact.abs()
    error, allowed = (got - exact).abs() / size, (plain - exact).abs() / size
    assert error.mean() <= VALUES * allowed.mean() + 1e-5
    assert error.max() <= max(VALUES * allowed.max().item(), 0.02)


SHAPES = [  # mels, widths, order, windows
    (128, REPORT, CAUSAL, 131),  # more than one block's windows
    (128, REPORT, MIDDLE, 16),
    (64, (128, 32, 128), MIDDLE, 128),  # whole blocks: the last one has the last frames
    (13, (30, 7, 41), CAUSAL, 37),  # widths that fill no step, and no tile
    (20, (4,), MIDDLE, 129),  # a single layer, narrower than a step
    (1, (8, 128), (1, 2), 1),
    (24, (33, 65, 97, 127, 3), (3, 1, 2), 150),
    (5, (48, 48), tuple(range(1, 12)), 20),  # windows of 11 frames
]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("mels", "widths", "order", "windows"), SHAPES)
def test_equals_float64(
    cuda: CudaBackend, mels: int, widths: tuple[int, ...], order: tuple[int, ...], windows: int, precision: str
) -> None:
    network = make_network(mels, widths, order)
    log_mel = make_log_mel(network, windows)
    assert_within_budget(hidden_of(cuda, log_mel, network, precision), log_mel, network, precision)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_without_a_mask(cuda: CudaBackend, precision: str) -> None:
    network = make_network(40, (128, 70, 128), mask=False)
    log_mel = make_log_mel(network, 21)
    assert_within_budget(hidden_of(cuda, log_mel, network, precision), log_mel, network, precision)


@pytest.mark.parametrize("shared_kb", [99, 163, 227])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_every_tile_of_every_gpu(
    cuda: CudaBackend, order: str, shared_kb: int, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shared memory of sm_86, sm_80 and sm_90; the report's size; threads in either order give the same bits."""
    monkeypatch.setenv("PYASD_HOST_SHARED_KB", str(shared_kb))
    network = make_network(128, REPORT)
    log_mel = make_log_mel(network, 133)
    got = hidden_of(cuda, log_mel, network, precision)
    assert_within_budget(got, log_mel, network, precision)
    monkeypatch.setenv("PYASD_HOST_ORDER", "reverse" if order == "forward" else "forward")
    assert torch.equal(hidden_of(cuda, log_mel, network, precision), got)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_same_bits_whatever_the_batch(cuda: CudaBackend, precision: str) -> None:
    network = make_network(13, (30, 41))
    log_mel = make_log_mel(network, 150)  # two blocks of 128 windows fill the emulated device; fewer get smaller ones
    whole = hidden_of(cuda, log_mel, network, precision)
    for first, last in [(0, 1), (17, 40), (100, 150)]:
        part = hidden_of(cuda, guarded(log_mel[first : last + 4]), network, precision)
        assert torch.equal(part, whole[first:last])


@pytest.mark.parametrize("mels", [13, 32])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_a_mask_hides_is_not_read(cuda: CudaBackend, mels: int, precision: str) -> None:
    """A NaN in one frame, at its place in the ordering: it reaches the tiles of 32 units in which any has its degree or
    a higher one, in this window and in those in which the frame has another place, and no other.
    """
    network = make_network(mels, (128, 128), CAUSAL)
    log_mel = make_log_mel(network, 12)
    clean = hidden_of(cuda, log_mel, network, precision)
    log_mel[6, mels - 1] = float("nan")
    got = hidden_of(cuda, log_mel, network, precision)
    for window in range(12):
        place = 6 - window  # of the frame in the window: its degree, less one; units 32 * place have that degree
        hidden_from = 32 * place if 0 <= place < 4 else 128
        assert torch.equal(got[window, :hidden_from], clean[window, :hidden_from])
        assert got[window, hidden_from:].isnan().all()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_infinity_and_nan_cost_their_own_windows_only(cuda: CudaBackend, precision: str) -> None:
    network = make_network(13, (30, 41))
    log_mel = make_log_mel(network, 40)
    clean = hidden_of(cuda, log_mel, network, precision)
    log_mel[11, 7] = float("nan")
    log_mel[30, 12] = -float("inf")
    got = hidden_of(cuda, log_mel, network, precision)
    touched = torch.zeros(40, dtype=torch.bool)
    touched[7:12] = touched[26:31] = True
    assert torch.equal(got[~touched], clean[~touched])
    assert not got[7:12].isfinite().all()
    assert not got[26:31].isfinite().all()


def test_far_from_the_mean(cuda: CudaBackend) -> None:
    network = make_network(13, (30, 41))
    log_mel = guarded(network.band_mean + torch.logspace(0, 6, 9)[:, None] * network.band_scale)
    got = hidden_of(cuda, log_mel, network)
    assert got.isfinite().all()
    assert_within_budget(got, log_mel, network, "float32")


def test_layers_without_a_weight(cuda: CudaBackend) -> None:
    network = make_network(13, (30, 41))
    network.layers[1][0].zero_()
    log_mel = make_log_mel(network, 3)
    assert torch.equal(hidden_of(cuda, log_mel, network), network.layers[1][1].relu().expand(3, 41))


def test_packs_once_for_each_network_and_precision(
    cuda: CudaBackend, emulation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network(13, (30, 41))
    log_mel = make_log_mel(network, 3)
    both = [hidden_of(cuda, log_mel, network, precision) for precision in ("float32", "bfloat16")]
    monkeypatch.setattr(emulation, "Trunk", None)
    again = [hidden_of(cuda, log_mel, network, precision) for precision in ("float32", "bfloat16")]
    assert all(torch.equal(a, b) for a, b in zip(again, both, strict=True))
    assert not torch.equal(*both)


def test_networks_without_a_kernel(cuda: CudaBackend, emulation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = make_network(13, (129, 30))
    assert cuda.hidden_layers(make_log_mel(wide, 3), wide, "float32") is None
    with pytest.raises(ValueError, match="too many units"):
        emulation.Trunk(layers=[{"inputs": 65, "outputs": 129, "weight": 0, "bias": 0}], mels=13, bfloat16=False)
    many = make_network(500, (8,))
    assert cuda.hidden_layers(make_log_mel(many, 3), many, "float32") is None
    monkeypatch.setenv("PYASD_HOST_SHARED_KB", "48")
    report = make_network(128, (128,))
    assert cuda.hidden_layers(make_log_mel(report, 3), report, "float32") is None


def test_self_check_passes_and_would_fail(
    cuda: CudaBackend, emulation: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = torch.device("cpu")
    assert cuda.hidden_layers_obstacle(device) is None
    right = cuda.hidden_layers

    def check(scale: float, precision: str) -> str | None:
        def wrong(log_mel: Tensor, network: ops.GroupMadeNetwork, how: str) -> tuple[Tensor, Tensor]:
            made = right(log_mel, network, how)
            assert made is not None
            hidden, windows = made
            return hidden * (scale if how == precision else 1), windows

        monkeypatch.setattr(cuda, "hidden_layers", wrong)
        return self_check.hidden_layers_disagreement(cuda.hidden_layers, device)

    assert check(1.001, "float32") == "the self-check of the hidden layers (float32) disagrees with the reference"
    assert check(1.05, "bfloat16") == "the self-check of the hidden layers (bfloat16) disagrees with the reference"
    monkeypatch.setattr(cuda, "hidden_layers", right)
    monkeypatch.setattr(emulation.Trunk, "fits", lambda self, device: True)
    monkeypatch.setenv("PYASD_HOST_SHARED_KB", "0")
    reason = self_check.hidden_layers_disagreement(cuda.hidden_layers, device)
    assert reason is not None
    assert "the self-check failed: CUDA: more shared memory" in reason
