"""Group MADE through the CUDA backend, in the emulation: the head's kernel on windows read in place."""

from __future__ import annotations

import itertools
from types import ModuleType

import pytest
import torch

from pyasd import ops
from pyasd.backends import reference

from .conftest import make_head


def make_network(mels: int) -> tuple[ops.GroupMadeNetwork, torch.Tensor]:
    """Layers of the widths 24 and 30, masked by degrees, and the log-Mel of 23 frames."""
    order = torch.tensor([1, 2, 5, 3, 4])
    degrees = [order.repeat_interleave(mels), *(torch.tensor(sorted(1 + i % 4 for i in range(n))) for n in (24, 30))]
    layers = []
    for before, after in itertools.pairwise(degrees):
        mask = (before <= after[:, None]).float()
        layers.append((torch.randn(mask.shape) * mask / (0.5 * len(before)) ** 0.5, 0.1 * torch.randn(len(after))))
    head = make_head(30, 5 * mels, 2)
    network = ops.GroupMadeNetwork(-60 + torch.randn(mels), 3 + torch.rand(mels), tuple(layers), head)
    return network, network.band_mean + network.band_scale * torch.randn(23, mels)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("per_dim", [False, True])
def test_equals_the_reference(cuda: ModuleType, precision: str, per_dim: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "WINDOWS_PER_PASS", 7)
    network, log_mel = make_network(13)
    got = cuda.group_made_log_prob(log_mel, network, range(5), precision, per_dim)
    expected = reference.group_made_log_prob(log_mel, network, range(5), precision, per_dim)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("per_dim", [False, True])
def test_only_what_is_wanted(cuda: ModuleType, per_dim: bool) -> None:
    network, log_mel = make_network(13)
    whole = cuda.group_made_log_prob(log_mel, network, range(5), "float32", per_dim)
    got = cuda.group_made_log_prob(log_mel, network, [2, 4], "float32", per_dim)
    wanted = torch.tensor([False, False, True, False, True]).repeat_interleave(whole.shape[1] // 5)
    assert torch.equal(got[:, wanted], whole[:, wanted])
    assert got[:, ~wanted].isnan().all()


def test_a_nan_costs_its_own_windows_only(cuda: ModuleType) -> None:
    network, log_mel = make_network(13)
    clean = cuda.group_made_log_prob(log_mel, network, range(5), "float32", False)
    log_mel[11, 7] = float("nan")
    got = cuda.group_made_log_prob(log_mel, network, range(5), "float32", False)
    touched = torch.zeros(19, dtype=torch.bool)
    touched[7:12] = True
    assert got[touched].sum(1).isnan().all()
    torch.testing.assert_close(got[~touched], clean[~touched])
