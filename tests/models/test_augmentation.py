"""Label augmentation against hand calculations and scipy's interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from pyasd.models import augmentation


def test_powers_add_up_and_decibels_average() -> None:
    a, b = torch.tensor([-20.0, 10.0, -156.5]), torch.tensor([-26.0, 10.0, 0.0])
    share = torch.tensor(0.25)
    power = augmentation.combine(a, b, share, "power")
    expected = 10 * torch.log10(0.25 * 10 ** (a.double() / 10) + 0.75 * 10 ** (b.double() / 10))
    torch.testing.assert_close(power.double(), expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(augmentation.combine(a, b, share, "log"), 0.25 * a + 0.75 * b)


@pytest.mark.parametrize("domain", ["power", "log"])
def test_all_or_nothing_of_an_image(domain: augmentation.Domain) -> None:
    a, b = torch.randn(100) * 30 - 60, torch.randn(100) * 30 - 60
    torch.testing.assert_close(augmentation.combine(a, b, torch.tensor(1.0), domain), a, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(augmentation.combine(a, b, torch.tensor(0.0), domain), b, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("domain", ["power", "log"])
def test_mixed_images_have_mixed_labels(domain: augmentation.Domain) -> None:
    """Images tell their class (its number, in dB), so that in the log domain they must tell the mixed label."""
    labels = torch.randint(4, (400,))
    images = labels.float()[:, None, None, None].expand(400, 1, 3, 5) * 10
    mixed, target = augmentation.mix(images, labels, 4, 0.5, domain)
    torch.testing.assert_close(target.sum(1), torch.ones(400))
    assert (target >= 0).all()
    two = (target > 0).sum(1) == 2
    assert ((target > 0).sum(1) <= 2).all()
    assert 0.25 < two.float().mean() < 0.5, "half of those that meet another class, three in four"
    torch.testing.assert_close(mixed[~two], images[~two], rtol=1e-6, atol=1e-5)
    powers = 10.0 ** torch.arange(4) if domain == "power" else 10.0 * torch.arange(4)
    expected = target @ powers
    expected = 10 * torch.log10(expected) if domain == "power" else expected
    torch.testing.assert_close(mixed[:, 0, 1, 2], expected, rtol=1e-4, atol=1e-4)
    assert 0.4 < target[two].gather(1, labels[two][:, None]).mean() < 0.6, "shares are uniform"


def test_no_mixing_among_one_class() -> None:
    images = torch.randn(8, 1, 4, 4)
    mixed, target = augmentation.mix(images, torch.full((8,), 2), 3, 1.0, "log")
    assert torch.equal(mixed, images)
    assert torch.equal(target, torch.nn.functional.one_hot(torch.full((8,), 2), 3).float())


def test_the_seed_decides() -> None:
    images, labels = torch.randn(16, 1, 4, 4), torch.arange(16) % 3
    runs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        runs.append(augmentation.mix(images, labels, 3, 0.5, "power")[0])
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    warps = [augmentation.polynomial_warps(3, 8, 8, 0.3, seed) for seed in (5, 5, 6)]
    assert torch.equal(warps[0], warps[1])
    assert not torch.equal(warps[0], warps[2])


def test_warps_are_what_interpolation_says() -> None:
    images = torch.randn(6, 1, 64, 128)
    grids = augmentation.polynomial_warps(3, 64, 128, 0.3, 0)
    which = torch.tensor([0, 1, 2, 3, 0, 1])
    warped = augmentation.warp(images, grids, which)
    for image, out, number in zip(images[:, 0], warped[:, 0], which.tolist(), strict=True):
        if number == 0:
            assert torch.equal(out, image)
            continue
        rows = (grids[number - 1, ..., 1].double().numpy() + 1) / 2 * 63
        columns = (grids[number - 1, ..., 0].double().numpy() + 1) / 2 * 127
        expected = map_coordinates(image.double().numpy(), [rows, columns], order=1, mode="nearest")
        np.testing.assert_allclose(out.numpy(), expected, atol=1e-3)


def test_warps_neither_fold_nor_leave_the_image_and_differ() -> None:
    grids = augmentation.polynomial_warps(8, 64, 128, 0.45, 7).double()
    assert grids.abs().max() <= 1 + 1e-6
    assert (grids[..., 0].diff(dim=2) > 0).all(), "frequencies keep their order"
    assert (grids[..., 1].diff(dim=1) > 0).all(), "so do frames"
    torch.testing.assert_close(grids[:, :, 0, 0], -torch.ones(8, 64).double())
    torch.testing.assert_close(grids[:, -1, :, 1], torch.ones(8, 128).double())
    still = torch.linspace(-1, 1, 128).double()
    moved = (grids[..., 0] - still).abs().amax((1, 2)) * 64
    assert (moved > 1).all(), "each moves some frequency by more than a band"
    distance = (grids[:, None] - grids[None]).abs().amax((2, 3, 4))
    assert (distance + torch.eye(8) > 0.01).all()
    assert augmentation.polynomial_warps(0, 64, 128, 0.3, 0).shape == (0, 64, 128, 2)
