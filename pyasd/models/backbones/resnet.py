"""ResNet-50 (He et al., 2016) for one-channel images: report section 2.2.

Parameters are named, shaped and initialised as torchvision names, shapes and initialises them. As there, a
bottleneck's stride is in its 3x3 convolution ("v1.5").
"""

from __future__ import annotations

from torch import Tensor, nn

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Width, blocks and first block's stride of each stage."""

EXPANSION = 4
"""A bottleneck's outputs for each channel that it has inside."""


class ResNet50(nn.Module):
    """Bottleneck blocks from images to one logit per class.

    Args:
        classes: outputs.
    """

    embedding = STAGES[-1][0] * EXPANSION

    def __init__(self, classes: int) -> None:
        super().__init__()
        channels = STAGES[0][0]
        self.conv1 = nn.Conv2d(1, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for number, (width, blocks, stride) in enumerate(STAGES, 1):
            layers = []
            for block in range(blocks):
                layers.append(Bottleneck(channels, width, stride if block == 0 else 1))
                channels = width * EXPANSION
            self.add_module(f"layer{number}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def embed(self, images: Tensor) -> Tensor:
        """`[images, 1, height, width]` to `[images, 2048]`: the last feature map's mean over the image."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for number in range(1, len(STAGES) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        features: Tensor = x.mean((2, 3))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """`[images, 1, height, width]` to logits `[images, classes]`."""
        logits: Tensor = self.fc(self.embed(images))
        return logits


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, added to the input (or to its projection, where the shape changes)."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            if stride > 1 or inputs != outputs
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[images, inputs, h, w]` to `[images, 4 * width, h / stride, w / stride]`."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return out
