"""ResNet-50 against torchvision's."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import nn

from pyasd.models.backbones.resnet import ResNet50


def test_names_and_outputs_are_torchvisions(torchvision_models: ModuleType) -> None:
    oracle = torchvision_models.resnet50(num_classes=7)
    oracle.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    for module in oracle.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    oracle.eval()
    net = ResNet50(7).eval()
    assert list(net.state_dict()) == list(oracle.state_dict())
    net.load_state_dict(oracle.state_dict())
    for shape in ((2, 1, 64, 128), (1, 1, 37, 65)):
        images = torch.randn(shape)
        expected = oracle(images)
        torch.testing.assert_close(net(images), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_initial_weights_are_distributed_as_torchvisions(torchvision_models: ModuleType) -> None:
    oracle = dict(torchvision_models.resnet50(num_classes=7).named_parameters())
    for name, own in ResNet50(7).named_parameters():
        if own.numel() > 5000:
            assert own.std().item() == pytest.approx(oracle[name].std().item(), rel=0.1), name


def test_shapes() -> None:
    net = ResNet50(4).eval()
    images = torch.zeros(2, 1, 64, 128)
    assert net.embed(images).shape == (2, ResNet50.embedding)
    assert net(images).shape == (2, 4)
    assert sum(x.numel() for x in net.parameters()) == 25_557_032 - 2 * 64 * 49 - 996 * 2049
