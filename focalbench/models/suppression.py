"""Non-maximum suppression for all images of a batch at once, by operations whose shapes depend on no value.

Greedy suppression keeps a box unless a better one that is kept, of its class, overlaps it too much. That rule has
exactly one solution, and repeating it from any start finds it: after n rounds the n best boxes are right, and usually
all are after a few. torchvision's operation takes one image at a time, and goes through its boxes one by one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Memory of the pairs of boxes that are looked at together.
_MAX_BYTES = 2**30
_BYTES_A_PAIR = 32  # three float64 at a time, and a few truth values
MAX_BOXES = math.isqrt(_MAX_BYTES // _BYTES_A_PAIR)
"""Boxes of one image whose pairs take no more than that."""


def suppress(boxes: Tensor, labels: Tensor, valid: Tensor, *, iou_thresh: float, rounds: int) -> tuple[Tensor, Tensor]:
    """Repeats the rule of greedy suppression within each class; IoU is computed in float64.

    Args:
        boxes: (N, T, 4) xyxy, the best first; memory grows with T squared beyond ``MAX_BOXES``.
        labels: (N, T) classes.
        valid: (N, T) bool; False where padded.
        iou_thresh: IoU above which the worse of two boxes goes.
        rounds: how often, at least 1; T + 1 are always enough.

    Returns:
        (N, T) bool, the boxes that stay; and (N,) bool, whether the last round changed nothing, so that these are they.
    """
    at_once = max(1, _MAX_BYTES // (_BYTES_A_PAIR * max(1, boxes.shape[1] ** 2)))
    groups = zip(boxes.split(at_once), labels.split(at_once), valid.split(at_once), strict=True)
    found = [_repeat(_suppressors(box, label, iou_thresh), chosen, rounds) for box, label, chosen in groups]
    keep, settled = zip(*found, strict=True)
    return torch.cat(keep), torch.cat(settled)


def _repeat(suppressors: Tensor, valid: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    keep = before = valid
    for _ in range(rounds):
        before, keep = keep, valid & ~(suppressors & keep[:, None, :]).any(dim=2)
    return keep, (keep == before).all(dim=1)


def _suppressors(boxes: Tensor, labels: Tensor, iou_thresh: float) -> Tensor:
    """(N, T, T) bool: whether the box of the last dimension, where it stays, drives out that of the second."""
    x1, y1, x2, y2 = boxes.double().unbind(dim=-1)
    inter = _shared(x1, x2).mul_(_shared(y1, y2))
    area = (x2 - x1) * (y2 - y1)
    union = (area[:, :, None] + area[:, None, :]).sub_(inter)
    overlap = inter.div_(union) > iou_thresh  # two boxes without area: nan, and both stay
    same_class = labels[:, :, None] == labels[:, None, :]
    return (overlap & same_class).tril_(diagonal=-1)  # only a better box drives out


def _shared(low: Tensor, high: Tensor) -> Tensor:
    """(N, T, T) length that each two of the intervals (N, T) have in common."""
    end = torch.minimum(high[:, :, None], high[:, None, :])
    return end.sub_(torch.maximum(low[:, :, None], low[:, None, :])).clamp_(min=0)
