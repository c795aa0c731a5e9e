"""Boxes as offsets against anchors and back (Fast R-CNN's parametrisation, arXiv:1504.08083, with weights 1)."""

import math

import torch
from torch import Tensor

# exp() of a larger log-ratio is a box over 60 times its anchor: a fault of an untrained network, kept finite.
MAX_LOG_RATIO = math.log(1000.0 / 16)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Returns the offsets (dx, dy, dw, dh) that turn ``anchors`` into ``boxes``.

    Args:
        boxes: (..., 4) xyxy with positive width and height.
        anchors: (..., 4) xyxy, same shape.

    Returns:
        (..., 4): centre shift in anchor sizes, and log of the size ratio.
    """
    anchor_wh = anchors[..., 2:] - anchors[..., :2]
    box_wh = boxes[..., 2:] - boxes[..., :2]
    shift = (boxes[..., :2] + boxes[..., 2:] - anchors[..., :2] - anchors[..., 2:]) / 2
    return torch.cat((shift / anchor_wh, (box_wh / anchor_wh).log()), dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Inverts :func:`encode_boxes`; log-ratios are cut at ``MAX_LOG_RATIO``.

    Args:
        deltas: (..., 4) offsets.
        anchors: (..., 4) xyxy, broadcastable.

    Returns:
        (..., 4) float32 xyxy in the anchors' unit.
    """
    deltas = deltas.float()
    anchor_wh = anchors[..., 2:] - anchors[..., :2]
    centre = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] * anchor_wh
    half = deltas[..., 2:].clamp(max=MAX_LOG_RATIO).exp() * anchor_wh / 2
    return torch.cat((centre - half, centre + half), dim=-1)
