"""The angular margin: where it is, where it isn't, and that nothing is infinite at the ends."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyasd.models.backbones.arcface import ArcFace, widen


def test_the_margin_is_on_the_true_class_alone() -> None:
    head = ArcFace(5, 3, margin=0.5, scale=30)
    embedding, labels = torch.randn(8, 5), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    plain, trained = head(embedding), head(embedding, labels)
    for row, label in enumerate(labels.tolist()):
        for column in range(3):
            a, b = embedding[row].double(), head.weight[column].double()
            angle = math.acos((a @ b / a.norm() / b.norm()).item())
            assert plain[row, column].item() == pytest.approx(30 * math.cos(angle), abs=1e-4)
            wide = 30 * math.cos(angle + 0.5) if angle + 0.5 < math.pi else None
            if column != label:
                assert trained[row, column] == plain[row, column]
            elif wide is not None:
                assert trained[row, column].item() == pytest.approx(wide, abs=1e-4)


@settings(max_examples=50, deadline=None)
@given(margin=st.floats(0, 1.5))
def test_a_wider_angle_never_has_the_larger_logit(margin: float) -> None:
    angles = torch.linspace(0, math.pi, 4001, dtype=torch.float64)
    widened = widen(torch.cos(angles), margin)
    steps = widened.diff()
    assert (steps <= 1e-9).all()
    assert steps.abs().max() < 2e-3, "there is a jump"
    assert (widened <= torch.cos(angles) + 1e-9).all()


@pytest.mark.parametrize("cosine", [1.0, -1.0, 1 + 1e-7, -1 - 1e-7, 1 - 1e-7, 0.0])
def test_finite_at_the_ends(cosine: float) -> None:
    x = torch.tensor([cosine], requires_grad=True)
    y = widen(x, 0.5)
    y.backward()
    assert x.grad is not None
    assert torch.isfinite(y).all()
    assert torch.isfinite(x.grad).all()


def test_embeddings_along_their_class_and_zero_ones_train() -> None:
    """The true class's direction itself, its opposite, and an embedding that vanished."""
    head = ArcFace(4, 2)
    direction = head.weight.detach()[0]
    embedding = torch.stack([direction, -direction, 0 * direction, 1e20 * direction]).requires_grad_()
    loss = torch.nn.functional.cross_entropy(head(embedding, torch.tensor([0, 0, 0, 0])), torch.tensor([0, 0, 0, 0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert embedding.grad is not None
    assert head.weight.grad is not None
    assert torch.isfinite(embedding.grad).all()
    assert torch.isfinite(head.weight.grad).all()


def test_gradient_is_right_away_from_the_ends() -> None:
    x = torch.linspace(-0.8, 0.99, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c: widen(c, 0.5), x)
