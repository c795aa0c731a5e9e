"""RetinaNet: a feature pyramid, anchors in every cell, a class and a box subnet (arXiv:1708.02002, sec. 4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from focalbench.boxes.anchors import AnchorPyramid
from focalbench.models.backbones import HEAD_DEFAULTS, HeadDefaults, PluginBackbone, build_backbone
from focalbench.models.detector import Detector
from focalbench.models.fpn import FeaturePyramid
from focalbench.models.heads import Subnet, class_subnet
from focalbench.models.weights import load_backbone_weights
from focalbench.structures import HeadOutputs


def head_settings(backbone: object, **given: float | str | None) -> HeadDefaults:
    """Returns what suits ``backbone``, replaced by the fields of ``HeadDefaults`` in ``given`` that are not None."""
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(HEAD_DEFAULTS.get(str(backbone), HeadDefaults()), **chosen)


def anchor_pyramid(head: HeadDefaults, ratios: Sequence[float]) -> AnchorPyramid:
    """Returns the anchors of a RetinaNet with this head."""
    return AnchorPyramid(head.num_levels, scale=head.anchor_scale, octaves=head.anchor_octaves, ratios=ratios)


class RetinaNet(Detector):
    """A RetinaNet for K classes.

    Args:
        num_classes, activation, pre_nms_top: see ``Detector``.
        backbone: see ``build_backbone``.
        prior_prob: start value of an object's probability, None for none.
        fpn_channels: width of the pyramid and of the subnets; None, here and below: what suits the backbone.
        fpn_norm: none | batch, see ``FeaturePyramid``.
        num_levels: pyramid levels from P3 up, at least 3.
        head_convs: hidden convolutions of each subnet.
        anchor_scale: side of a level's smallest square anchor in strides.
        anchor_octaves: anchor sizes a level, evenly spaced within an octave.
        anchor_ratios: height / width of the anchors.
        norm: batch | frozen | sync, the backbone's normalisation (not for ``tiny``).
        weights: none | imagenet | a file: the backbone's first weights, see :mod:`focalbench.models.weights`.
        trainable_stages: how many of the backbone's last stages learn; None: all of it.
        canvas: see ``build_backbone``.
    """

    skips_boxes = True

    def __init__(
        self,
        num_classes: int,
        backbone: str | PluginBackbone = "resnet18",
        *,
        activation: str = "sigmoid",
        prior_prob: float | None = 0.01,
        fpn_channels: int | None = None,
        fpn_norm: str | None = None,
        num_levels: int | None = None,
        head_convs: int | None = None,
        anchor_scale: float | None = None,
        anchor_octaves: int | None = None,
        anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        norm: str = "batch",
        weights: str = "none",
        trainable_stages: int | None = None,
        canvas: tuple[int, int] | None = None,
        pre_nms_top: int = 1000,
    ) -> None:
        super().__init__(num_classes, activation=activation, pre_nms_top=pre_nms_top)
        head = head_settings(
            backbone,
            fpn_channels=fpn_channels,
            fpn_norm=fpn_norm,
            num_levels=num_levels,
            head_convs=head_convs,
            anchor_scale=anchor_scale,
            anchor_octaves=anchor_octaves,
        )
        self.backbone = build_backbone(backbone, norm, canvas)
        load_backbone_weights(self.backbone, str(backbone), weights)
        self.backbone.freeze(trainable_stages)
        self.fpn = FeaturePyramid(self.backbone.channels, head.fpn_channels, head.num_levels - 3, head.fpn_norm)
        self._pyramid = anchor_pyramid(head, anchor_ratios)
        num_anchors = head.anchor_octaves * len(anchor_ratios)
        self.box_subnet = Subnet(head.fpn_channels, head.head_convs, num_anchors, 4)
        # Last, so that whatever the loss asks of its outputs, all other weights of one seed are the same.
        self.class_subnet = class_subnet(
            head.fpn_channels, head.head_convs, num_anchors, num_classes, activation, prior_prob
        )

    def forward(self, images: Tensor, boxes_at: Tensor | None = None) -> HeadOutputs:
        """See ``Detector``."""
        levels = self.fpn(self.backbone(images))
        anchors, sizes = self._pyramid.place(tuple((x.shape[2], x.shape[3]) for x in levels), images.device)
        canvas = (images.shape[2], images.shape[3])
        return HeadOutputs(self.class_subnet(levels), self.box_subnet(levels, boxes_at), anchors, canvas, sizes)

    def backbone_parameters(self) -> Iterable[nn.Parameter]:
        """See ``Detector``."""
        return self.backbone.parameters()

    def anchors_for(self, canvas: tuple[int, int]) -> Tensor:
        """See ``Detector``."""
        return self._pyramid.on_canvas(canvas)
