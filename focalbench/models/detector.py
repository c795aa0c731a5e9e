"""What every detector shares: from images to the outputs of its head, and from those to boxes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from focalbench.boxes.coding import decode_boxes
from focalbench.models.postprocess import class_scores, decode_outputs
from focalbench.structures import Detections, HeadOutputs


class Detector(nn.Module, ABC):
    """A network that scores anchors; it knows no loss.

    The section of a detector in the configuration names its network; keys of that section are keywords of the network
    or of its criterion. Class layers are made last, so that arms with other outputs share all other initial weights.
    A network with the keyword ``box_sizes`` gets a function that returns the widths and heights of the training boxes,
    (M, 2) float32 pixels of the canvas, or None where a checkpoint will bring what they are for.

    Args:
        num_classes: K.
        activation: how class logits become scores: sigmoid | softmax (K + 1 outputs, background last, unless
            objectness tells the background).
        pre_nms_top: candidates kept per level before suppression.
    """

    skips_boxes: ClassVar[bool] = False
    """Whether ``forward`` takes a second argument, (N, R) bool or None for all: the anchors whose box a training step
    looks at. The deltas of the others may then be anything finite."""

    def __init__(self, num_classes: int, *, activation: str, pre_nms_top: int) -> None:
        super().__init__()
        self.num_classes, self.activation, self.pre_nms_top = num_classes, activation, pre_nms_top

    @abstractmethod
    def forward(self, images: Tensor) -> HeadOutputs:
        """Returns head outputs for (N, 3, H, W) normalised images."""

    @abstractmethod
    def anchors_for(self, canvas: tuple[int, int]) -> Tensor:
        """Returns the (R, 4) anchors on a canvas of (H, W) pixels, on the CPU, without running the network."""

    def backbone_parameters(self) -> Iterable[nn.Parameter]:
        """Returns what ``optim.backbone_lr`` is for: parameters that first weights may be loaded into; none where the
        network has no such part.
        """
        return ()

    def criterion_arguments(self) -> dict[str, Any]:
        """Returns what the criterion has to know of this network, by its keywords."""
        return {}

    def scores(self, outputs: HeadOutputs) -> Tensor:
        """Returns the (N, R, K) float32 scores of every anchor in [0, 1]."""
        return class_scores(outputs.cls_logits, self.activation)

    def boxes(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """Returns (..., 4) boxes, xyxy canvas pixels, from deltas and anchors (..., 4): encoded as in Faster R-CNN."""
        return decode_boxes(deltas, anchors)

    def dense(self, outputs: HeadOutputs) -> tuple[Tensor, Tensor]:
        """Returns scores (N, R, K) and boxes (N, R, 4) of every anchor, before any is chosen or cut."""
        return self.scores(outputs), self.boxes(outputs.box_deltas, outputs.anchors)

    @torch.no_grad()
    def decode(
        self, outputs: HeadOutputs, *, score_thresh: float, nms_thresh: float, max_detections: int
    ) -> list[Detections]:
        """Returns the final boxes of each image, on the CPU: see ``postprocess.decode_outputs``."""
        return decode_outputs(
            outputs,
            self.scores(outputs),
            self.boxes,
            top_k=self.pre_nms_top,
            score_thresh=score_thresh,
            nms_thresh=nms_thresh,
            max_detections=max_detections,
        )
