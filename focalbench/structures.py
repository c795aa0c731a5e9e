"""The records that the parts of a detector exchange.

Shape legend: N images, R anchors per image, K classes, M ground-truth boxes (padded), C class outputs (K or K + 1), H x
W pixels. Boxes are ``xyxy`` float32 in pixels of the network's canvas, 0-based and continuous: a pixel i covers [i, i +
1), so VOC's 1-based inclusive (xmin, ymin, xmax, ymax) is (xmin - 1, ymin - 1, xmax, ymax) here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
"""ImageNet's statistics of red, green and blue in 0..1: a normalised image is (image / 255 - mean) / std."""


@dataclass(frozen=True)
class Targets:
    """Ground truth of a batch, padded to the longest image.

    Attributes:
        boxes: (N, M, 4) float32, xyxy canvas pixels; zeros where padded.
        labels: (N, M) int64, 0..K-1; -1 where padded.
    """

    boxes: Tensor
    labels: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Targets:
        """Returns the same targets on ``device``."""
        boxes, labels = (part.to(device, non_blocking=non_blocking) for part in (self.boxes, self.labels))
        return Targets(boxes, labels)


@dataclass(frozen=True)
class HeadOutputs:
    """What a detector's head says about every anchor.

    Attributes:
        cls_logits: (N, R, C); C is K with a sigmoid loss, K + 1 with a softmax loss (background last).
        box_deltas: (N, R, 4) encoded against ``anchors``.
        anchors: (R, 4) float32, xyxy canvas pixels.
        canvas: (H, W) of the images, pixels.
        level_sizes: anchors per pyramid level, in the order of R; they add up to R.
        objectness: (N, R) logits, or None where the detector has none (RetinaNet).
    """

    cls_logits: Tensor
    box_deltas: Tensor
    anchors: Tensor
    canvas: tuple[int, int]
    level_sizes: tuple[int, ...]
    objectness: Tensor | None = None

    def of_first(self, count: int) -> HeadOutputs:
        """Returns what is said about the first ``count`` images."""
        objectness = None if self.objectness is None else self.objectness[:count]
        return replace(
            self, cls_logits=self.cls_logits[:count], box_deltas=self.box_deltas[:count], objectness=objectness
        )


@dataclass(frozen=True)
class Detections:
    """Final boxes of one image, best first.

    Attributes:
        boxes: (D, 4) float32, xyxy canvas pixels.
        scores: (D,) float32 in [0, 1].
        labels: (D,) int64, 0..K-1.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
