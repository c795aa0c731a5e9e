"""A module of a plugin as RetinaNet's backbone, after a look at what it returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from focalbench.errors import ConfigError, PluginError
from focalbench.models.features import FeatureExtractor

_LOOK = (1, 3, 64, 64)


class OwnBackbone(FeatureExtractor):
    """Any module that returns three maps of strides 8, 16 and 32 and says their widths in ``channels``.

    Args:
        module: the network; its weights are its own matter, unless a file is loaded.
        norm: batch, as the module was made with whatever normalisation it has.
        place: file, line and name, for messages.

    Raises:
        ConfigError: for another ``norm``.
        PluginError: for something that returns other maps: what is wrong.
    """

    num_stages = 0

    def __init__(self, module: nn.Module, norm: str, *, place: str) -> None:
        super().__init__()
        if norm != "batch":
            raise ConfigError(f"model.norm: {norm}: a plugin's backbone is made with its own normalisation: use batch")
        if fault := widths_fault(module):
            raise PluginError(f"{place}: {fault}")
        self.module = module
        fine, middle, coarse = module.channels  # type: ignore[misc]
        self.channels = (fine, middle, coarse)
        was_training = module.training
        with torch.no_grad():
            fault = maps_fault(module.eval()(torch.zeros(_LOOK)), self.channels, _LOOK)
        module.train(was_training)
        if fault:
            raise PluginError(f"{place}: {fault}")

    def forward(self, images: Tensor) -> list[Tensor]:
        """See ``FeatureExtractor``."""
        return list(self.module(images))

    def imagenet_state(self, name: str) -> dict[str, Tensor]:
        """See ``FeatureExtractor``: a plugin that has weights loads them itself."""
        raise ConfigError(f"model.weights: imagenet: focalbench has no weights for the plugin's backbone {name}")

    def adapted(self, state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """See ``FeatureExtractor``: the module's own names."""
        return {f"module.{name}": value for name, value in state.items()}

    def first_parameters(self, num_stages: int) -> Iterable[nn.Parameter]:
        """See ``FeatureExtractor``: all of them, as it is not known where its stages begin."""
        return self.parameters()


def widths_fault(module: object) -> str | None:
    """Returns what is wrong with ``channels`` of a backbone; None where nothing is."""
    if not isinstance(module, nn.Module):
        return f"returns {type(module).__name__}, not a torch.nn.Module"
    widths = getattr(module, "channels", None)
    if isinstance(widths, tuple | list) and len(widths) == 3 and all(type(width) is int for width in widths):
        return None
    said = "has no attribute channels" if widths is None else f"its channels are {widths!r}"
    return f"{said}: the three widths of its maps are needed, as in (128, 256, 512)"


def maps_fault(maps: object, widths: tuple[int, ...], images: tuple[int, int, int, int]) -> str | None:
    """Returns what is wrong with the maps of ``images`` (N, 3, H, W), multiples of 32; None where nothing is."""
    if not isinstance(maps, list | tuple) or not all(isinstance(found, Tensor) for found in maps):
        return f"returns {type(maps).__name__}: a list of three maps is needed"
    if len(maps) != 3:
        return f"returns {len(maps)} maps, not three, of strides 8, 16 and 32"
    num, _, height, width = images
    for stride, channels, found in zip(FeatureExtractor.strides, widths, maps, strict=True):
        wanted = (num, channels, height // stride, width // stride)
        if tuple(found.shape) != wanted:
            return f"the map of stride {stride} is {tuple(found.shape)} for {images} images, not {wanted}"
        if not bool(found.isfinite().all()):
            return f"the map of stride {stride} is not finite"
    return None
