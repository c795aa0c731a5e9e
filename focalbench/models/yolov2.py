"""YOLOv2: Darknet-19 with a passthrough, boxes from priors, one objectness and K classes a box (arXiv:1612.08242)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from focalbench.boxes.priors import VOC_PRIORS, fit_priors
from focalbench.boxes.yolo import PRIOR_UNIT, decode_cells, place_priors
from focalbench.errors import ConfigError
from focalbench.models.backbones import build_backbone
from focalbench.models.darknet import ConvBlock, darknet19, reorganise, tiny_darknet
from focalbench.models.darknet_weights import load_darknet_weights, read_darknet_file
from focalbench.models.detector import Detector
from focalbench.models.weight_files import holds_named_tensors, read_state_dict, refuse_other_kinds
from focalbench.models.weights import check_backbone_weights, fitting_part, load_backbone_weights, load_whole
from focalbench.structures import IMAGE_MEAN, IMAGE_STD, HeadOutputs

_DARKNET_URL = "https://pjreddie.com/media/files/darknet19_448.conv.23"
_DARKNETS = {"darknet19": darknet19, "tiny": tiny_darknet}
# Width of the head and of the passthrough.
_WIDTHS = {"darknet19": (1024, 64), "tiny": (128, 32), "efficientnet_lite0": (256, 32)}


class BackboneTrunk(nn.Module):
    """A backbone of RetinaNet's where YOLOv2 has Darknet: the maps of strides 16 and 32.

    Attributes:
        channels, stride, momentum, takes_unit_range: as of ``DarknetTrunk``.
    """

    takes_unit_range = False
    stride = 32
    momentum = 0.1

    def __init__(self, name: str, norm: str) -> None:
        super().__init__()
        self.backbone = build_backbone(name, norm)
        self.channels = self.backbone.channels[1:]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns C4 and C5 of (N, 3, H, W) normalised images."""
        _, fine, coarse = self.backbone(images)
        return fine, coarse


class YoloV2(Detector):
    """A YOLOv2 for K classes; with ``darknet19``, 20 classes and 5 priors it is darknet's yolov2-voc.

    Class outputs are K with sigmoid and softmax alike: an empty cell is told by its objectness, there is no background
    class. For Darknet, images go back from normalised values to 0..1, the range that it is trained on.

    Args:
        num_classes, activation, pre_nms_top: see ``Detector``; the activation is over the K classes.
        backbone: darknet19 (stride 32), tiny (stride 16) or efficientnet_lite0 (stride 32).
        prior_prob: objectness that every box starts with, in (0, 1); None: 0.5.
        priors: (width, height) of each prior in units of 32 px, whatever the stride; ``voc``, those of the published
            network; ``auto``, k-means of ``box_sizes``.
        num_priors: how many for ``auto``.
        box_sizes: see ``Detector``.
        weights: none | imagenet (of efficientnet_lite0) | a file (darknet's formats, or a torch state dict).
        norm: batch | frozen | sync, that of efficientnet_lite0.
        trainable_stages: how many of the last stages of efficientnet_lite0 learn; None: all of it.

    Attributes:
        priors: (A, 2) float32 buffer, the priors' widths and heights in units of 32 px.
        stride: pixels per cell; canvases must be multiples of 32 in any case.

    Raises:
        ConfigError: for weights that this network cannot have, or more priors than there are box sizes.
        DataError: for a weight file that is damaged or does not fit.
    """

    priors: Tensor
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        num_classes: int,
        backbone: str = "darknet19",
        *,
        activation: str = "softmax",
        prior_prob: float | None = None,
        priors: Sequence[tuple[float, float]] | Literal["voc", "auto"] = "voc",
        num_priors: int = 5,
        box_sizes: Callable[[], np.ndarray] | None = None,
        weights: str = "none",
        norm: str | None = None,
        trainable_stages: int | None = None,
        pre_nms_top: int = 1000,
    ) -> None:
        super().__init__(num_classes, activation=activation, pre_nms_top=pre_nms_top)
        # In checkpoints, because priors may come from the training set.
        self.register_buffer("priors", choose_priors(priors, num_priors, box_sizes))
        self.register_load_state_dict_post_hook(_forget_anchors)
        width, passthrough = _WIDTHS[backbone]
        # Registered in the order of darknet's weight files.
        self.trunk = _DARKNETS[backbone]() if backbone in _DARKNETS else BackboneTrunk(backbone, norm or "batch")
        fine, coarse = self.trunk.channels
        momentum = self.trunk.momentum
        self.head = nn.Sequential(
            ConvBlock(coarse, width, 3, momentum=momentum), ConvBlock(width, width, 3, momentum=momentum)
        )
        self.passthrough = ConvBlock(fine, passthrough, 1, momentum=momentum)
        self.fuse = ConvBlock(4 * passthrough + width, width, 3, momentum=momentum)
        self.predict = nn.Conv2d(width, len(self.priors) * (5 + num_classes), 1)
        self._start_predictions(prior_prob)
        self.register_buffer("_mean", torch.tensor(IMAGE_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(IMAGE_STD).view(3, 1, 1), persistent=False)
        self.stride = self.trunk.stride
        self._anchors: dict[tuple[tuple[int, int], torch.device], Tensor] = {}
        self._load_weights(backbone, weights)
        if isinstance(self.trunk, BackboneTrunk):
            self.trunk.backbone.freeze(trainable_stages)

    def _start_predictions(self, prior_prob: float | None) -> None:
        """Small random weights, so that the first boxes are the priors, and the objectness bias at its prior."""
        nn.init.normal_(self.predict.weight, std=0.01)
        bias = torch.zeros(len(self.priors), 5 + self.num_classes)
        if prior_prob is not None:
            bias[:, 4] = -math.log((1 - prior_prob) / prior_prob)
        with torch.no_grad():
            self.predict.get_parameter("bias").copy_(bias.flatten())

    def forward(self, images: Tensor) -> HeadOutputs:
        """Returns the head outputs for (N, 3, H, W) normalised images, H and W multiples of 32.

        ``box_deltas`` are raw t_x, t_y, t_w, t_h, to be read with :func:`focalbench.boxes.yolo.decode_cells`.
        """
        canvas = (images.shape[2], images.shape[3])
        if canvas[0] % 32 or canvas[1] % 32:
            raise ValueError(f"YOLOv2 needs a canvas of multiples of 32 px, not {canvas[0]} x {canvas[1]}")
        fine, coarse = self.trunk(images * self._std + self._mean if self.trunk.takes_unit_range else images)
        # The passthrough's channels come first, as in darknet's [route] layers=-1,-4.
        joined = torch.cat((reorganise(self.passthrough(fine)), self.head(coarse)), dim=1)
        raw = self.predict(self.fuse(joined)).permute(0, 2, 3, 1).reshape(images.shape[0], -1, 5 + self.num_classes)
        anchors = self._place(canvas, images.device)
        return HeadOutputs(raw[..., 5:], raw[..., :4], anchors, canvas, (len(anchors),), raw[..., 4])

    def _place(self, canvas: tuple[int, int], device: torch.device) -> Tensor:
        """(R, 4) priors in all cells; kept for the next batch of the same size."""
        if (canvas, device) not in self._anchors:
            self._anchors[canvas, device] = place_priors(self.priors, canvas, self.stride).to(device)
        return self._anchors[canvas, device]

    def anchors_for(self, canvas: tuple[int, int]) -> Tensor:
        """See ``Detector``: the priors in all cells."""
        return self._place(canvas, torch.device("cpu"))

    def backbone_parameters(self) -> Iterable[nn.Parameter]:
        """See ``Detector``."""
        return self.trunk.parameters()

    def criterion_arguments(self) -> dict[str, Any]:
        """See ``Detector``."""
        return {"stride": self.stride}

    def darknet_layers(self) -> list[ConvBlock | nn.Conv2d]:
        """Returns the convolutions in the order of darknet's weight files."""
        blocks = [module for part in (self.trunk, self.head) for module in part.modules()]
        found = [block for block in blocks if isinstance(block, ConvBlock)]
        return [*found, self.passthrough, self.fuse, self.predict]

    def scores(self, outputs: HeadOutputs) -> Tensor:
        """See ``Detector``: objectness times class probability."""
        logits = outputs.cls_logits.float()
        classes = logits.sigmoid() if self.activation == "sigmoid" else logits.softmax(dim=-1)
        assert outputs.objectness is not None
        return classes * outputs.objectness.float().sigmoid()[..., None]

    def boxes(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """See ``Detector``: offsets within the cells."""
        return decode_cells(deltas, anchors, stride=self.stride)

    def _load_weights(self, backbone: str, weights: str) -> None:
        """Fills the network: from a darknet file, or from a torch or safetensors file with the state dict of the
        network or of its trunk, alone or below a prefix; or its backbone, see :mod:`focalbench.models.weights`.
        """
        if weights == "none":
            return
        if weights == "imagenet" and isinstance(self.trunk, BackboneTrunk):
            load_backbone_weights(self.trunk.backbone, backbone, weights)
            return
        path = Path(weights)
        if _is_darknet(backbone, weights):
            load_darknet_weights(self.darknet_layers(), path, num_trunk=18)
            return
        state = read_state_dict(path)
        if any(f".{key}".endswith(".fuse.conv.weight") for key in state):
            load_whole(self, fitting_part(self, state, weights, dict), weights)
        elif isinstance(self.trunk, BackboneTrunk):
            load_backbone_weights(self.trunk.backbone, backbone, weights)
        else:
            load_whole(self.trunk, fitting_part(self.trunk, state, weights, dict), weights)


def check_yolov2_weights(backbone: str, weights: str) -> None:
    """Raises what making a :class:`YoloV2` would raise of its weight file, as far as the file alone can tell: whether
    it fits depends on classes and priors too.
    """
    if weights == "none":
        return
    if weights == "imagenet" and backbone not in _DARKNETS:
        with torch.device("meta"):
            check_backbone_weights(build_backbone(backbone, "batch"), backbone, weights)
    elif _is_darknet(backbone, weights):
        read_darknet_file(Path(weights))
    else:
        read_state_dict(Path(weights))


def _is_darknet(backbone: str, weights: str) -> bool:
    """Whether ``weights`` is to be read as a darknet file rather than as tensors by name.

    Raises:
        ConfigError: for ``imagenet``, or a darknet file for another backbone.
        DataError: for a file that is missing, or of a kind that holds no weights.
    """
    if weights == "imagenet":
        way_out = f"download {_DARKNET_URL} and give its path" if backbone == "darknet19" else "use none or a file"
        raise ConfigError(f"model.weights: imagenet: torchvision has no {backbone} for YOLOv2: {way_out}")
    path = Path(weights)
    refuse_other_kinds(path)
    if holds_named_tensors(path):
        return False
    if backbone != "darknet19":
        raise ConfigError(f"model.weights: {weights}: darknet files fit backbone darknet19, not {backbone}")
    return True


def choose_priors(
    priors: Sequence[tuple[float, float]] | Literal["voc", "auto"],
    num_priors: int = 5,
    box_sizes: Callable[[], np.ndarray] | None = None,
) -> Tensor:
    """Returns the priors that the arguments of :class:`YoloV2` name: (A, 2) float32, in units of 32 px.

    Raises:
        ConfigError: for ``auto`` with fewer box sizes than priors.
    """
    if priors == "auto":
        if box_sizes is None:
            return torch.ones(num_priors, 2)
        try:
            found = fit_priors(box_sizes() / PRIOR_UNIT, num_priors).sizes
        except ValueError as fault:
            raise ConfigError(f"model.priors: auto: {fault}: lower model.num_priors") from fault
        return torch.tensor(found, dtype=torch.float32)
    return torch.tensor(VOC_PRIORS if priors == "voc" else priors, dtype=torch.float32).reshape(-1, 2)


def _forget_anchors(model: YoloV2, incompatible_keys: object) -> None:
    """After other priors were loaded, the anchors kept are wrong."""
    model._anchors.clear()
