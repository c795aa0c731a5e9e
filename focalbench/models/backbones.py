"""Feature extractors for RetinaNet: a list of feature maps with strides 8, 16 and 32 (C3, C4, C5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn
from torchvision import models as torchvision_models
from torchvision.ops import FrozenBatchNorm2d

from focalbench.errors import ConfigError
from focalbench.extras import TIMM, require_timm
from focalbench.models import efficientnet
from focalbench.models.features import FeatureExtractor
from focalbench.models.own_backbone import OwnBackbone
from focalbench.models.weights import torchvision_state

Norm = Callable[..., nn.Module]


@dataclass(frozen=True)
class Published:
    """A classifier with ImageNet weights, which a backbone is the lower part of.

    Attributes:
        state: returns its tensors, or raises what ``FeatureExtractor.imagenet_state`` does.
        names: prefixes of their names, and those that stand for them in the backbone.
        classifier: prefixes of what the backbone does without.
    """

    state: Callable[[], dict[str, Tensor]]
    names: Mapping[str, str]
    classifier: tuple[str, ...] = ("fc.", "classifier.")


class Backbone(FeatureExtractor):
    """Stages in sequence behind a stem; the outputs of the last three are returned.

    Attributes:
        published: where the network's ImageNet weights come from; None where there are none.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: list[nn.Module],
        channels: tuple[int, int, int],
        published: Published | None = None,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.channels, self.num_stages = channels, len(stages)
        self.published = published

    def forward(self, images: Tensor) -> list[Tensor]:
        """See ``FeatureExtractor``."""
        x = self.stem(images)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[-3:]

    def imagenet_state(self, name: str) -> dict[str, Tensor]:
        """See ``FeatureExtractor``; under the names that they are published with."""
        if self.published is None:
            raise ConfigError(f"model.weights: imagenet: backbone {name} has no ImageNet weights: use none or a file")
        return self.published.state()

    def adapted(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """See ``FeatureExtractor``; a state of this network stays as it is."""
        if any(key.startswith("stages.") for key in state):
            return dict(state)
        if self.published is None:
            return dict(state)
        kept = {key: value for key, value in state.items() if not key.startswith(self.published.classifier)}
        return {_renamed(key, self.published.names): value for key, value in kept.items()}

    def first_parameters(self, num_stages: int) -> Iterable[nn.Parameter]:
        """See ``FeatureExtractor``."""
        return nn.ModuleList([self.stem, *list(self.stages)[:num_stages]]).parameters()


def _renamed(key: str, prefixes: Mapping[str, str]) -> str:
    """``key`` with its first fitting prefix replaced; unknown keys stay, to be reported as left over."""
    for old, new in prefixes.items():
        if key.startswith(old):
            return new + key[len(old) :]
    return key


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
        """Turns (N, in, H, W) into (N, out, ceil(H / stride), ceil(W / stride))."""
        return torch.relu(self.body(x) + self.shortcut(x))


def _pool_and_relu() -> tuple[nn.Module, nn.Module]:
    """The end of a stem. ReLU and the maximum commute, values and gradients alike, and after the pooling ReLU has a
    quarter of the work.
    """
    return nn.MaxPool2d(3, 2, 1), nn.ReLU(inplace=True)


def tiny() -> Backbone:
    """Returns a small residual trunk (widths 16, 16, 32, 64, 128; 0.3 M parameters) that a CPU trains from scratch."""
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), *_pool_and_relu())
    widths, strides = (16, 16, 32, 64, 128), (1, 2, 2, 2)
    stages: list[nn.Module] = [_ResidualBlock(widths[i], widths[i + 1], strides[i]) for i in range(4)]
    backbone = Backbone(stem, stages, (32, 64, 128))
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return backbone


# Frozen: statistics and scale stay as loaded. Sync: statistics of the batches of all processes together.
_NORMS: dict[str, Norm] = {"batch": nn.BatchNorm2d, "frozen": FrozenBatchNorm2d, "sync": nn.SyncBatchNorm}


def _resnet(name: str, norm: str) -> Backbone:
    """torchvision's ResNet without its classifier; ``norm`` is batch | frozen | sync."""
    net = getattr(torchvision_models, name)(weights=None, norm_layer=_NORMS[norm])
    channels = (512, 1024, 2048) if name == "resnet50" else (128, 256, 512)
    stem = nn.Sequential(net.conv1, net.bn1, *_pool_and_relu())
    names = {"conv1.": "stem.0.", "bn1.": "stem.1."} | {f"layer{n}.": f"stages.{n - 1}." for n in (1, 2, 3, 4)}
    published = Published(partial(torchvision_state, name), names)
    return Backbone(stem, [net.layer1, net.layer2, net.layer3, net.layer4], channels, published)


def _mobilenet(norm: str) -> Backbone:
    """torchvision's MobileNetV3-Large (arXiv:1905.02244) without its classifier; ``norm`` is batch | frozen | sync."""
    options = {"eps": 0.001} if norm == "frozen" else {"eps": 0.001, "momentum": 0.01}
    net = torchvision_models.mobilenet_v3_large(weights=None, norm_layer=partial(_NORMS[norm], **options))
    blocks = list(net.features)
    parts = (blocks[:4], blocks[4:7], blocks[7:13], blocks[13:])  # up to stride 4, 8, 16, 32
    stem, *stages = [nn.Sequential(*part) for part in parts]
    names: dict[str, str] = {}
    start = 0
    for prefix, part in zip(("stem.", "stages.0.", "stages.1.", "stages.2."), parts, strict=True):
        names |= {f"features.{start + index}.": f"{prefix}{index}." for index in range(len(part))}
        start += len(part)
    published = Published(partial(torchvision_state, "mobilenet_v3_large"), names)
    return Backbone(stem, list(stages), (40, 112, 960), published)


def _efficientnet_lite0(norm: str) -> Backbone:
    """EfficientNet-Lite0 without its classifier; ``norm`` is batch | frozen | sync."""
    options = {} if norm == "frozen" else {"momentum": efficientnet.MOMENTUM}
    stem, stages = efficientnet.stem_and_stages(partial(_NORMS[norm], **options))
    names, classifier = efficientnet.published_names(), ("_conv_head.", "_bn1.", "_fc.")
    return Backbone(stem, stages, efficientnet.CHANNELS, Published(efficientnet.published_state, names, classifier))


@dataclass(frozen=True)
class HeadDefaults:
    """What suits a backbone where the user says nothing; the arguments of ``RetinaNet`` of the same names."""

    fpn_channels: int = 256
    fpn_norm: str = "none"
    num_levels: int = 5
    head_convs: int = 4
    anchor_scale: float = 4.0
    anchor_octaves: int = 3


# The paper's head on a 0.3 M trunk would be all of the cost; and small canvases need small anchors.
_SMALL = HeadDefaults(fpn_channels=64, num_levels=4, head_convs=2, anchor_scale=2.0, anchor_octaves=2)
# The maps of EfficientNet-Lite0 are those of linear layers, of a root mean square of 3 to 8: without batch norm the
# first logits scatter so far that the first loss is a multiple of what the prior stands for.
HEAD_DEFAULTS = {"tiny": _SMALL, "efficientnet_lite0": replace(_SMALL, fpn_norm="batch")}

BACKBONES: dict[str, Callable[[str], Backbone]] = {
    "tiny": lambda norm: tiny(),
    "resnet18": lambda norm: _resnet("resnet18", norm),
    "resnet34": lambda norm: _resnet("resnet34", norm),
    "resnet50": lambda norm: _resnet("resnet50", norm),
    "mobilenet_v3_large": _mobilenet,
    "efficientnet_lite0": _efficientnet_lite0,
}


@dataclass(frozen=True)
class PluginBackbone:
    """A backbone of a plugin.

    Attributes:
        name: in the configuration.
        make: returns the module.
        place: file, line and name, for messages.
    """

    name: str
    make: Callable[[], nn.Module]
    place: str

    def __str__(self) -> str:
        """The name."""
        return self.name


def build_backbone(name: str | PluginBackbone, norm: str, canvas: tuple[int, int] | None = None) -> FeatureExtractor:
    """Returns the backbone ``name`` with random weights.

    Args:
        name: a key of ``BACKBONES``, ``timm/`` and the name of a network of timm's, or one of a plugin.
        norm: batch | frozen | sync, its normalisation.
        canvas: (H, W) of all images, pixels, which some of timm's networks are made for; None: what timm suggests.

    Raises:
        ConfigError: when timm is not installed or has no such network, or one that cannot do this.
        PluginError: when a plugin's is none.
    """
    if isinstance(name, PluginBackbone):
        return OwnBackbone(name.make(), norm, place=name.place)
    if not name.startswith(TIMM):
        return BACKBONES[name](norm)
    require_timm(name)
    from focalbench.models.timm_backbone import TimmBackbone

    return TimmBackbone(name.removeprefix(TIMM), norm, canvas)
