"""The plan's tables, and what a backend gets from its base class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pyasd import backends, ops
from pyasd.backends.contract import Backend, LogMelPlan, MixtureShape, MixtureTensors
from pyasd.backends.reference import BACKEND as REFERENCE


def test_equal_plans_share_their_tables() -> None:
    first, second = LogMelPlan(n_mels=37), LogMelPlan(n_mels=37)
    assert first is not second
    assert first.window is second.window
    assert first.mel_weights is second.mel_weights
    assert not np.array_equal(first.dense_weights(), LogMelPlan(n_mels=37, f_min=100.0).dense_weights())


class Halved(Backend):
    """Overrides one operator."""

    name = "halved"

    def mixture_log_prob(self, x: MixtureTensors, shape: MixtureShape, precision: str, per_dim: bool) -> Tensor:
        return super().mixture_log_prob(x, shape, precision, per_dim) / 2


def test_a_backend_has_the_references_operators_and_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "select", lambda name, device: Halved())
    head = ops.MixtureHead(torch.randn(60, 8), torch.randn(60), sorted([1, 2, 3, 4] * 2), [1, 2, 3, 4, 5], 2)
    layers = ((torch.randn(8, 10), torch.randn(8)),)
    network = ops.GroupMadeNetwork(torch.zeros(2), torch.ones(2), layers, head)
    log_mel = torch.randn(9, 2)
    assert torch.equal(
        ops.group_made_score(log_mel, network),
        -REFERENCE.group_made_log_prob(log_mel, network, range(5), "float32", False).double() / 2,
    )
    samples = torch.randn(1, 2000)
    plan = LogMelPlan(n_mels=8)
    assert torch.equal(ops.log_mel(samples, plan)[0], REFERENCE.log_mel(samples, plan, [2000]))


def test_facts_are_for_doctor() -> None:
    assert backends.load("reference").facts() == {}
    assert set(backends.load("cpu").facts()) == {"CPU kernels", "AMX"}
