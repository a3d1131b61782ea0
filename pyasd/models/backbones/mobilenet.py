"""MobileNetV2 (Sandler et al., 2018) for one-channel images: report section 2.2, Table 2.

Parameters are named, shaped and initialised as torchvision names, shapes and initialises them.
"""

from __future__ import annotations

from torch import Tensor, nn

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels at width 1, blocks and first block's stride of each stage (Sandler et al., Table 2)."""

STEM = 32
"""Channels of the first convolution at width 1."""

EMBEDDING = 1280
"""Channels of the last convolution at width 1 and below (Sandler et al., section 5)."""


class MobileNetV2(nn.Module):
    """Inverted residual blocks from images to one logit per class.

    Args:
        classes: outputs.
        width: multiplies the channels of every layer, but below 1 not those of the last (the report's is 0.5).

    Attributes:
        embedding: the last layer's channels.
    """

    def __init__(self, classes: int, width: float = 0.5) -> None:
        super().__init__()
        self.embedding = _round_channels(EMBEDDING * max(1.0, width))
        channels = _round_channels(STEM * width)
        layers: list[nn.Module] = [_conv_norm_relu(1, channels, kernel=3, stride=2)]
        for expansion, base, blocks, stride in STAGES:
            for block in range(blocks):
                out = _round_channels(base * width)
                layers.append(InvertedResidual(channels, out, stride if block == 0 else 1, expansion))
                channels = out
        layers.append(_conv_norm_relu(channels, self.embedding, kernel=1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(self.embedding, classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)

    def embed(self, images: Tensor) -> Tensor:
        """`[images, 1, height, width]` to `[images, embedding]`: the last feature map's mean over the image."""
        features: Tensor = self.features(images)
        return features.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """`[images, 1, height, width]` to logits `[images, classes]`."""
        logits: Tensor = self.classifier(self.embed(images))
        return logits


class InvertedResidual(nn.Module):
    """Widen with a 1x1 convolution, filter each channel 3x3, narrow; added to the input where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *([_conv_norm_relu(inputs, hidden, kernel=1)] if expansion > 1 else []),
            _conv_norm_relu(hidden, hidden, kernel=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[images, inputs, h, w]` to `[images, outputs, h / stride, w / stride]`."""
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


def _conv_norm_relu(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True))


def _round_channels(channels: float, divisor: int = 8) -> int:
    """The multiple of 8 nearest to `channels`, but never more than a tenth below it."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
