"""MobileNetV2 against torchvision's, and against the shapes in the report's Table 2."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from torch import nn

from pyasd.models.backbones.mobilenet import MobileNetV2


def shaken(net: nn.Module) -> nn.Module:
    """The network with batch-norm statistics and gains that are no longer 0 and 1."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias, std=0.1)
    return net.eval()


@pytest.mark.parametrize("width", [0.35, 0.5, 1.0, 1.4])
def test_names_and_outputs_are_torchvisions(torchvision_models: ModuleType, width: float) -> None:
    oracle = torchvision_models.MobileNetV2(num_classes=7, width_mult=width)
    oracle.features[0][0] = nn.Conv2d(1, oracle.features[0][0].out_channels, 3, stride=2, padding=1, bias=False)
    shaken(oracle)
    net = MobileNetV2(7, width).eval()
    assert list(net.state_dict()) == list(oracle.state_dict())
    net.load_state_dict(oracle.state_dict())
    for shape in ((3, 1, 64, 128), (1, 1, 37, 65)):
        images = torch.randn(shape)
        torch.testing.assert_close(net(images), oracle(images), rtol=1e-5, atol=1e-6)


def test_initial_weights_are_distributed_as_torchvisions(torchvision_models: ModuleType) -> None:
    oracle = dict(torchvision_models.MobileNetV2(num_classes=7, width_mult=0.5).named_parameters())
    for name, own in MobileNetV2(7, 0.5).named_parameters():
        if own.numel() > 1000:
            assert own.std().item() == pytest.approx(oracle[name].std().item(), rel=0.1), name
        if name.startswith("classifier"):
            assert abs(own.mean().item()) < 0.001


def test_shapes_of_table_2() -> None:
    """Channels are those of MobileNetV2 at half width; an image of 64 x 128 ends as 2 x 4 positions."""
    net = MobileNetV2(4).eval()
    x = torch.zeros(2, 1, 64, 128)
    shapes = []
    for layer in net.features:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    stages = [shapes[i] for i in (0, 1, 3, 6, 10, 13, 16, 17, 18)]
    assert stages == [
        (16, 32, 64), (8, 32, 64), (16, 16, 32), (16, 8, 16), (32, 4, 8), (48, 4, 8), (80, 2, 4), (160, 2, 4),
        (1280, 2, 4),
    ]  # fmt: skip
    assert net(torch.zeros(2, 1, 64, 128)).shape == (2, 4)
    assert net.embed(torch.zeros(2, 1, 64, 128)).shape == (2, net.embedding)
