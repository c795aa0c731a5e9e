"""Feature extractors for RetinaNet: a list of feature maps with strides 8, 16 and 32 (C3, C4, C5)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.ops import FrozenBatchNorm2d

Norm = Callable[[int], nn.Module]


class Backbone(nn.Module):
    """Stages in sequence; the outputs of the last three are returned.

    Attributes:
        channels: width of C3, C4 and C5.
    """

    strides = (8, 16, 32)

    def __init__(self, stem: nn.Module, stages: list[nn.Module], channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.channels = channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps C3, C4, C5: (N, channels[i], ceil(H / stride), ceil(W / stride))."""
        x = self.stem(images)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[-3:]


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (arXiv:1512.03385, fig. 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) to (N, out, ceil(H / stride), ceil(W / stride))."""
        return torch.relu(self.body(x) + self.shortcut(x))


def tiny() -> Backbone:
    """A small residual trunk (widths 16, 16, 32, 64, 128) that trains from scratch on a CPU; 0.3 M parameters."""
    stem = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    )
    widths, strides = (16, 16, 32, 64, 128), (1, 2, 2, 2)
    stages: list[nn.Module] = [_ResidualBlock(widths[i], widths[i + 1], strides[i]) for i in range(4)]
    backbone = Backbone(stem, stages, (32, 64, 128))
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return backbone


def _resnet(name: str, norm: str) -> Backbone:
    """torchvision's ResNet without its classifier; ``norm`` is batch | frozen | sync."""
    layers: dict[str, Norm] = {"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d, "sync": nn.SyncBatchNorm}
    net = getattr(torchvision_models, name)(weights=None, norm_layer=layers[norm])
    channels = (512, 1024, 2048) if name == "resnet50" else (128, 256, 512)
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return Backbone(stem, [net.layer1, net.layer2, net.layer3, net.layer4], channels)


BACKBONES: dict[str, Callable[[str], Backbone]] = {
    "tiny": lambda norm: tiny(),
    "resnet18": lambda norm: _resnet("resnet18", norm),
    "resnet34": lambda norm: _resnet("resnet34", norm),
    "resnet50": lambda norm: _resnet("resnet50", norm),
}
