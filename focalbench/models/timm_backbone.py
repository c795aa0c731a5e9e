"""Networks of timm's (PyTorch Image Models, extra ``timm``) as backbones; importing this module loads timm.

What a network can do is asked of the network, not of a list: a copy without memory (torch's device ``meta``) is run
once on the canvas, and autograd tells which parameters each of its maps depends on.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers import DropPath, convert_sync_batchnorm
from timm.models import get_arch_pretrained_cfgs, load_state_dict_from_hf
from torch import Tensor, nn
from torch.hub import load_state_dict_from_url
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from focalbench.errors import ConfigError, DataError
from focalbench.extras import TIMM
from focalbench.models.features import FeatureExtractor
from focalbench.models.weights import load_whole


@dataclass(frozen=True)
class _Layout:
    """What a network's maps are.

    Attributes:
        out_indices: timm's numbers of the maps up to stride 32.
        places: which of them are C3, C4 and C5.
        channels: width of C3, C4 and C5.
        channels_last: whether they are (N, H, W, C).
        stages: names of the parameters that each map depends on, all that lies before it included.
        used: names of those that C3, C4 or C5 depends on.
    """

    out_indices: tuple[int, ...]
    places: tuple[int, int, int]
    channels: tuple[int, int, int]
    channels_last: bool
    stages: tuple[frozenset[str], ...]
    used: frozenset[str]


class TimmBackbone(FeatureExtractor):
    """A network of timm's, up to its map of stride 32.

    Its dropout and stochastic depth are off: a training step is a function of its batch, on one device or several.

    Args:
        name: timm's, with the tag of its weights or without.
        norm: batch | frozen | sync: batch norm of the batch, left as loaded, or over all processes.
        canvas: (H, W) of all images, pixels; None: the size that timm names for the network.

    Raises:
        ConfigError: for an unknown network, one without maps of strides 8, 16 and 32, one that cannot take the canvas,
            or ``frozen`` where there is no batch norm.
    """

    def __init__(self, name: str, norm: str, canvas: tuple[int, int] | None = None) -> None:
        super().__init__()
        _require_known(name)
        config = _published(name)
        canvas = canvas or config.input_size[-2:]
        self._name = name
        self._size = {"img_size": canvas} if config.fixed_input_size else {}
        self._layout = _layout_of(name, canvas, self._size)
        self.channels, self.num_stages = self._layout.channels, len(self._layout.stages)
        net = _create(name, features_only=True, out_indices=self._layout.out_indices, **self._size)
        self.net = convert_sync_batchnorm(net) if norm == "sync" else net
        for parameter_name, parameter in self.net.named_parameters():
            parameter.requires_grad_(parameter_name in self._layout.used)
        _switch_off_chance(self.net)
        if norm == "frozen":
            _freeze_batch_norm(self.net, name)
        self.train(self.training)

    def forward(self, images: Tensor) -> list[Tensor]:
        """See ``FeatureExtractor``."""
        maps = self.net(images)
        chosen = [maps[place] for place in self._layout.places]
        return [x.permute(0, 3, 1, 2) for x in chosen] if self._layout.channels_last else chosen

    def first_parameters(self, num_stages: int) -> Iterable[nn.Parameter]:
        """See ``FeatureExtractor``. Each of timm's maps ends a stage; the stem is the first one where it has a map."""
        first = frozenset[str]().union(*self._layout.stages[:num_stages])
        return [parameter for name, parameter in self.net.named_parameters() if name in first]

    def imagenet_state(self, name: str) -> dict[str, Tensor]:
        """See ``FeatureExtractor``; those of the tag in the name, else timm's default ones, for this canvas."""
        config = _published(self._name)
        if not (config.hf_hub_id or config.url):
            raise ConfigError(f"model.weights: imagenet: timm has no weights for {self._name}: use none or a file")
        place = config.hf_hub_id or config.url
        try:
            state = _download(config)
        except Exception as fault:  # the libraries below raise many kinds
            raise DataError(
                f"model.weights: imagenet: cannot download {place} ({_reason(fault)}): "
                "download it elsewhere and give the file's path as model.weights"
            ) from fault
        try:
            whole = self._converted(state)
        except Exception as fault:  # timm's conversions too
            made_for = _sides(config.input_size[-2:])
            raise DataError(
                f"model.weights: imagenet: timm cannot fit {place} to this canvas ({_reason(fault)}): set "
                f"data.image_size to {made_for}, which it is made for, or use weights: none or another backbone"
            ) from fault
        return self._own_part(whole)

    def adapted(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """See ``FeatureExtractor``; tables that depend on the canvas are resized as timm does."""
        if all(key.startswith("net.") for key in state):
            return dict(state)
        return self._own_part(self._classifier(state, source))

    def _own_part(self, whole: nn.Module) -> dict[str, Tensor]:
        """The tensors of a classifier of this network, under the names that they have here."""
        own, theirs = self.net.state_dict(), whole.state_dict()
        return {f"net.{here}": value for key, value in theirs.items() for here in _names_here(key) if here in own}

    def _classifier(self, state: Mapping[str, Tensor], source: str) -> nn.Module:
        """The whole network with the tensors of ``state``: all of them, and no others."""
        classes = self._num_classes(state)
        plain = _create(self._name, num_classes=classes, **self._size)
        if all(name in state for name in plain.state_dict() if not name.endswith("num_batches_tracked")):
            try:
                return self._converted(dict(state), num_classes=classes)
            except Exception:  # what does not fit is named below
                pass
        load_whole(plain, state, source)
        return plain

    def _converted(self, state: dict[str, Tensor], **classes: int) -> nn.Module:
        """The whole network with ``state`` as timm reads it: renamed, resized to the canvas, and in its place."""
        overlay = {"state_dict": state, "label_offset": 0, **classes}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's on how timm interpolates
            return _create(self._name, pretrained=True, pretrained_cfg_overlay=overlay, **classes, **self._size)

    def _num_classes(self, state: Mapping[str, Tensor]) -> int:
        """Outputs of the classifier in ``state``; 0 where it has none."""
        layers = _published(self._name).classifier
        first = layers if isinstance(layers, str) or layers is None else layers[0]
        weight = state.get(f"{first}.weight")
        return 0 if weight is None else len(weight)


def _create(name: str, **arguments: Any) -> Any:
    """A network of timm's, whose types say less than is known here."""
    return timm.create_model(name, **arguments)


def _published(name: str) -> Any:
    """What timm knows of the weights of a network: where they are, and for which images."""
    return timm.get_pretrained_cfg(name)


def _download(config: Any) -> dict[str, Tensor]:
    """The published weights, from the cache where they are there; only tensors are unpickled."""
    if not config.hf_hub_id:
        state = load_state_dict_from_url(config.url, map_location="cpu", progress=False, weights_only=True)
    elif config.hf_hub_filename:
        state = load_state_dict_from_hf(config.hf_hub_id, config.hf_hub_filename, weights_only=True)
    else:
        state = load_state_dict_from_hf(config.hf_hub_id, weights_only=True)
    return dict(state)


def _require_known(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        known = timm.list_models()
        raise ConfigError(
            f"model.backbone: {TIMM}{name}: timm {timm.__version__} has no such network{_near(name, known)}"
        )
    tags = get_arch_pretrained_cfgs(architecture)
    if tag and name not in tags:
        raise ConfigError(f"model.backbone: {TIMM}{name}: timm has no weights with that tag{_near(name, list(tags))}")


def _near(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _layout_of(name: str, canvas: tuple[int, int], size: dict[str, tuple[int, int]]) -> _Layout:
    """Builds the network without memory and runs it once on the canvas."""
    where = f"model.backbone: {TIMM}{name}"
    with torch.device("meta"):
        try:
            net = _create(name, features_only=True, **size).eval()
        except Exception as fault:  # assertions and many others: what timm thinks of the arguments
            raise ConfigError(
                f"{where}: timm makes no feature maps from it for {_sides(canvas)} px ({_reason(fault)}): "
                "use another backbone, or another data.image_size"
            ) from fault
        strides = net.feature_info.reduction()
        if not {*FeatureExtractor.strides} <= {*strides}:
            raise ConfigError(
                f"{where}: has maps of strides {', '.join(map(str, strides))}, and RetinaNet needs 8, 16 and 32: "
                "use a hierarchical network such as a resnet, convnext, swin or pvt_v2"
            )
        try:
            maps = net(torch.empty(1, 3, *canvas))
        except Exception as fault:
            raise ConfigError(
                f"{where}: cannot take a canvas of {_sides(canvas)} px ({_reason(fault)}): "
                "use another backbone, or another data.image_size"
            ) from fault
    channels_last = getattr(net, "output_fmt", "NCHW") == "NHWC"
    places = [max(place for place, found in enumerate(strides) if found == stride) for stride in (8, 16, 32)]
    c3, c4, c5 = places
    found = [tuple(maps[place].shape[1:3] if channels_last else maps[place].shape[2:]) for place in places]
    wanted = [(-(-canvas[0] // stride), -(-canvas[1] // stride)) for stride in FeatureExtractor.strides]
    if found != wanted:
        raise ConfigError(
            f"{where}: its maps for a canvas of {_sides(canvas)} px are {', '.join(map(_sides, found))}, not "
            f"{', '.join(map(_sides, wanted))}: make data.image_size a multiple of 32, or use another backbone"
        )
    widths = net.feature_info.channels()
    return _Layout(
        out_indices=tuple(net.feature_info.out_indices[: c5 + 1]),
        places=(c3, c4, c5),
        channels=(widths[c3], widths[c4], widths[c5]),
        channels_last=channels_last,
        stages=tuple(_behind(net, [x]) for x in maps[: c5 + 1]),
        used=_behind(net, [maps[place] for place in places]),
    )


def _reason(fault: Exception) -> str:
    """The first line of what another library says."""
    return next(filter(None, str(fault).splitlines()), type(fault).__name__)


def _sides(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def _behind(net: nn.Module, maps: list[Tensor]) -> frozenset[str]:
    """Names of the parameters that ``maps`` depend on."""
    parameters = dict(net.named_parameters())
    total = torch.stack([x.sum() for x in maps]).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True, retain_graph=True)
    return frozenset(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None)


def _switch_off_chance(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
        elif isinstance(module, _DropoutNd):
            module.p = 0.0


def _freeze_batch_norm(net: nn.Module, name: str) -> None:
    """Takes batch norm out of the training; being frozen, it stays in evaluation mode."""
    norms = [module for module in net.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        raise ConfigError(f"model.norm: frozen: {TIMM}{name} has no batch norm: use norm: batch")
    for norm in norms:
        norm.requires_grad_(False)


def _names_here(key: str) -> tuple[str, ...]:
    """What the tensor ``key`` of a classifier may be called in the ways in which timm takes its maps: some take the
    first level of containers apart, others put the network below a name.
    """
    first, _, rest = key.partition(".")
    return key, f"{first}_{rest}", f"model.{key}", f"body.{key}"
