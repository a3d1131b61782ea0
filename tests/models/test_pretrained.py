"""Classifiers that begin with torchvision's weights."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import safetensors.torch
import torch
from torch import nn

from pyasd.models.classifier import Backbone, Classifier, ClassifierConfig, Loss
from pyasd.training.data import TrainingSet
from pyasd.training.run import Run


def oracle(models: ModuleType, backbone: str, channels: int = 3) -> nn.Module:
    """torchvision's network for images of so many channels, and 1000 classes."""
    if backbone == "resnet":
        net = models.resnet50()
        net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    else:
        net = models.MobileNetV2(width_mult=0.5)
        net.features[0][0] = nn.Conv2d(channels, 16, 3, stride=2, padding=1, bias=False)
    net.eval()
    assert isinstance(net, nn.Module)
    return net


@pytest.mark.parametrize("backbone", ["mobilenet", "resnet"])
@pytest.mark.parametrize("channels", [3, 1])
def test_embeddings_are_torchvisions(
    torchvision_models: ModuleType, tmp_path: Path, backbone: Backbone, channels: int
) -> None:
    """Shown the same grey image in every channel, what comes before the last layer is torchvision's."""
    torchvisions = oracle(torchvision_models, backbone, channels)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(torchvisions.state_dict(), path)
    member = Classifier(backbone, ClassifierConfig(backbone=backbone, pretrained=str(path)), 128)
    member._make(["00", "01"])
    member._load_pretrained(path)
    head = "fc" if backbone == "resnet" else "classifier"
    setattr(torchvisions, head, nn.Identity())
    images = torch.randn(2, 1, 64, 128)
    embedded = member.net.eval().embed(images)  # type: ignore[operator]
    expected = torchvisions(images.expand(-1, channels, -1, -1))
    torch.testing.assert_close(embedded, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


def save(net: nn.Module, path: Path, **changes: torch.Tensor) -> None:
    safetensors.torch.save_file({**net.state_dict(), **changes}, path)


@pytest.mark.parametrize("loss", ["softmax", "arcface"])
def test_training_begins_with_them(latin1: Path, loss: Loss) -> None:
    donor = Classifier("mobilenet", ClassifierConfig(width=0.1, image_frames=32), 32, seed=7)
    donor._make(["a", "b", "c"])
    path = latin1 / "weights.safetensors"
    path.write_bytes(safetensors.torch.save(donor.net.state_dict()))
    config = ClassifierConfig(
        width=0.1, image_frames=32, pretrained=str(path), epochs=1, learning_rate=1e-9, validation=0.0, loss=loss
    )
    clips = [torch.randn(40, 32) for _ in range(4)]
    member = Classifier("mobilenet", config, 32)
    member.fit(TrainingSet(clips, ["00", "01"] * 2), Run())
    state, given = member.net.state_dict(), donor.net.state_dict()
    for name in ("features.0.0.weight", "features.9.conv.0.0.weight", "features.18.0.weight"):
        torch.testing.assert_close(state[name], given[name], rtol=0, atol=1e-7)
    other = Classifier("mobilenet", config, 32)
    path.unlink()
    other.load_state(member.state())  # a fitted model needs the file no more
    with pytest.raises(FileNotFoundError, match=r"weights\.safetensors of pretrained weights"):
        Classifier("mobilenet", config, 32).fit(TrainingSet(clips, ["00", "01"] * 2), Run())


def test_weights_of_another_network_are_told(tmp_path: Path) -> None:
    donor = Classifier("mobilenet", ClassifierConfig(width=0.35), 128)
    donor._make(["a", "b"])
    path = tmp_path / "weights.safetensors"
    member = Classifier("mobilenet", ClassifierConfig(), 128)
    member._make(["a", "b"])
    save(donor.net, path)
    with pytest.raises(ValueError, match=r"weights\.safetensors is not of a mobilenet of width 0\.5: .*must be"):
        member._load_pretrained(path)
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"features\.0\.0\.weight is missing"):
        member._load_pretrained(path)
    path.write_bytes(b"a pickle")
    with pytest.raises(ValueError, match=r"not a safetensors file.*save_file"):
        member._load_pretrained(path)
