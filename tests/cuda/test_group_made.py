"""Group MADE through the CUDA backend, in the emulation: both kernels, on windows read in place."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from pyasd import ops
from pyasd.backends.contract import Backend
from pyasd.backends.cuda import CudaBackend
from pyasd.backends.reference import BACKEND as reference

from .test_trunk import make_log_mel, make_network


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("per_dim", [False, True])
def test_equals_the_reference(
    cuda: CudaBackend, precision: str, per_dim: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network(13, (24, 30))
    log_mel = make_log_mel(network, 19)
    whole = cuda.group_made_log_prob(log_mel, network, range(5), precision, per_dim)
    expected = reference.group_made_log_prob(log_mel, network, range(5), precision, per_dim)
    torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-4)
    monkeypatch.setattr("pyasd.backends.cuda.WINDOWS_PER_PASS", 7)
    assert torch.equal(cuda.group_made_log_prob(log_mel, network, range(5), precision, per_dim), whole)


@pytest.mark.parametrize("why", ["another network", "it disagrees"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_layers_in_torch_where_their_kernel_cannot_run(
    cuda: CudaBackend, emulation: ModuleType, why: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network(13, (129, 30) if why == "another network" else (24, 30))
    assert cuda.hidden_layers_obstacle(torch.device("cpu")) is None
    if why == "it disagrees":
        monkeypatch.setattr(cuda, "hidden_layers_obstacle", lambda device: "the hidden layers disagree")
    monkeypatch.setattr(emulation.Trunk, "forward", None)
    monkeypatch.setattr(Backend, "mixture_log_prob", None)  # the head's kernel goes on
    monkeypatch.setattr("pyasd.backends.cuda.WINDOWS_PER_PASS", 7)
    log_mel = make_log_mel(network, 19)
    got = cuda.group_made_log_prob(log_mel, network, range(5), precision, False)
    monkeypatch.undo()
    expected = reference.group_made_log_prob(log_mel, network, range(5), precision, False)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("per_dim", [False, True])
def test_only_what_is_wanted(cuda: CudaBackend, per_dim: bool) -> None:
    network = make_network(13, (24, 30))
    log_mel = make_log_mel(network, 19)
    whole = cuda.group_made_log_prob(log_mel, network, range(5), "float32", per_dim)
    got = cuda.group_made_log_prob(log_mel, network, [2, 4], "float32", per_dim)
    wanted = torch.tensor([False, False, True, False, True]).repeat_interleave(whole.shape[1] // 5)
    assert torch.equal(got[:, wanted], whole[:, wanted])
    assert got[:, ~wanted].isnan().all()


@pytest.mark.parametrize("lengths", [[9, 9, 9], [5, 40, 7, 5], [12]])
def test_clips_of_a_batch_are_those_alone(
    cuda: CudaBackend, lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the operator, which leaves out the windows across the clips' seams."""
    monkeypatch.setattr("pyasd.backends.select", lambda name, device: cuda)
    network = make_network(13, (24, 30))
    log_mel = make_log_mel(network, sum(lengths) - 4)
    alone = torch.cat([ops.group_made_score(x, network) for x in log_mel.split(lengths)])
    assert torch.equal(ops.group_made_score(log_mel, network, lengths=lengths), alone)
    shares = ops.group_made_score(log_mel, network, [2], per_dim=True, lengths=lengths)
    torch.testing.assert_close(shares[:, 2].sum(1), alone[:, 2], rtol=1e-5, atol=1e-4)


def test_a_nan_costs_its_own_windows_only(cuda: CudaBackend) -> None:
    network = make_network(13, (24, 30))
    log_mel = make_log_mel(network, 19)
    clean = cuda.group_made_log_prob(log_mel, network, range(5), "float32", False)
    log_mel[11, 7] = float("nan")
    got = cuda.group_made_log_prob(log_mel, network, range(5), "float32", False)
    touched = torch.zeros(19, dtype=torch.bool)
    touched[7:12] = True
    assert got[touched].sum(1).isnan().all()
    assert torch.equal(got[~touched], clean[~touched])
