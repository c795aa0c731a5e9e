"""Feature pyramid (arXiv:1612.03144) with the extra coarse levels of RetinaNet (arXiv:1708.02002, sec. 4)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FeaturePyramid(nn.Module):
    """C3, C4, C5 in; P3, P4, P5 and ``num_extra`` levels of half the size each out, all ``channels`` wide.

    Args:
        norm: none | batch, batch norm behind the lateral convolutions: what comes in may then have any magnitude.
    """

    def __init__(self, in_channels: tuple[int, ...], channels: int, num_extra: int, norm: str = "none") -> None:
        super().__init__()
        laterals: list[nn.Module] = [nn.Conv2d(width, channels, 1) for width in in_channels]
        if norm == "batch":
            laterals = [nn.Sequential(lateral, nn.BatchNorm2d(channels)) for lateral in laterals]
        self.lateral = nn.ModuleList(laterals)
        self.output = nn.ModuleList([nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels])
        self.extra = nn.ModuleList([nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(num_extra)])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.get_parameter("bias"))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Returns the levels, finest first; the extra ones are strided convolutions, P6 on P5, P7 on ReLU(P6)."""
        top = self.lateral[-1](features[-1])
        merged = [top]
        for lateral, feature in zip(reversed(self.lateral[:-1]), reversed(features[:-1]), strict=True):
            top = lateral(feature) + F.interpolate(top, size=feature.shape[-2:], mode="nearest")
            merged.insert(0, top)
        levels = [conv(x) for conv, x in zip(self.output, merged, strict=True)]
        for index, conv in enumerate(self.extra):
            levels.append(_halve(levels[-1] if index == 0 else torch.relu(levels[-1]), conv))
        return levels


def _halve(x: Tensor, conv: nn.Module) -> Tensor:
    """``conv`` (3x3, stride 2, padding 1) of ``x``.

    Only the kernel's centre meets a single pixel. There, oneDNN's bfloat16 gradient on a CPU leaves the kernel's rim as
    it found the memory, NaN or huge: the rim is left out.
    """
    if x.shape[2:] != (1, 1):
        return conv(x)
    return F.conv2d(x, conv.get_parameter("weight")[:, :, 1:2, 1:2], conv.get_parameter("bias"))
