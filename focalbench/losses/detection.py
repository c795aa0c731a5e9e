"""RetinaNet's training criterion: anchors to targets, one classification loss, one box loss, one normaliser: the number
of positive anchors of the batch, at least 1 (arXiv:1708.02002, sec. 4.1).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from focalbench.boxes.coding import decode_boxes, encode_boxes
from focalbench.boxes.matching import BACKGROUND, IGNORE, match_anchors
from focalbench.losses.base import ClassificationLoss, Counts
from focalbench.losses.box import smooth_l1_loss
from focalbench.losses.criterion import ClassProblem, Criterion, normaliser
from focalbench.ranks import sum_over_ranks
from focalbench.structures import HeadOutputs, Targets


class DetectionLoss(Criterion):
    """Class and box loss of anchors that are matched by IoU and whose boxes are encoded as deltas.

    Args:
        classification, num_classes, weight: see ``Criterion``.
        pos_iou, neg_iou: matching thresholds.
        box_weight: factor of the box loss.
        box_beta: where smooth L1 turns linear.
    """

    def __init__(
        self,
        classification: ClassificationLoss,
        *,
        num_classes: int,
        weight: float = 1.0,
        pos_iou: float = 0.5,
        neg_iou: float = 0.4,
        box_weight: float = 1.0,
        box_beta: float = 0.1,
    ) -> None:
        super().__init__(classification, num_classes=num_classes, weight=weight)
        self.pos_iou, self.neg_iou = pos_iou, neg_iou
        self.box_weight, self.box_beta = box_weight, box_beta

    def match(self, anchors: Tensor, targets: Targets) -> Tensor:
        """See ``Criterion``: index of the object, or BACKGROUND / IGNORE."""
        return match_anchors(anchors, targets.boxes, targets.labels, pos_iou=self.pos_iou, neg_iou=self.neg_iou)

    def boxes_at(self, matched: Tensor) -> Tensor | None:
        """See ``Criterion``: the positives; all where the loss under test looks at boxes itself."""
        return None if self.classification.needs_boxes else matched >= 0

    def forward(self, outputs: HeadOutputs, targets: Targets, matched: Tensor | None = None) -> dict[str, Tensor]:
        """See ``Criterion``."""
        if matched is None:
            matched = self.match(outputs.anchors, targets)
        problem = self.class_problem(outputs, targets, matched)
        box = self.box_weight * self._box_loss(outputs, targets, matched) / problem.avg_factor
        return {
            "cls": problem.loss(self.classification, self.weight),
            "box": box,
            "num_pos": sum_over_ranks((matched >= 0).sum()),
        }

    def class_problem(self, outputs: HeadOutputs, targets: Targets, matched: Tensor | None = None) -> ClassProblem:
        """See ``Criterion``; ``matched`` where it is known already."""
        if matched is None:
            matched = self.match(outputs.anchors, targets)
        labels = anchor_labels(matched, targets, self.num_classes)
        needs = self.classification
        boxes = quality = None
        if needs.needs_boxes or needs.needs_quality:
            boxes = decode_boxes(outputs.box_deltas.detach(), outputs.anchors)
        if needs.needs_quality and boxes is not None:
            quality = aligned_iou(boxes, matched_boxes(matched, targets)) * (matched >= 0)
        return ClassProblem(outputs.cls_logits, labels, quality, boxes, normaliser((matched >= 0).sum()))

    def count(self, anchors: Tensor, targets: Targets) -> dict[str, Counts]:
        """See ``Criterion``: positives of each class and background after matching."""
        labels = anchor_labels(self.match(anchors, targets), targets, self.num_classes).flatten()
        counts = torch.bincount(labels[labels >= 0], minlength=self.num_classes + 1).tolist()
        return {"classification": Counts(positives_per_class=tuple(counts[:-1]), negatives=counts[-1])}

    def _box_loss(self, outputs: HeadOutputs, targets: Targets, matched: Tensor) -> Tensor:
        """Sum over positives. By index on a CPU; by mask on a GPU, where an index list would wait for the device."""
        if not matched.is_cuda:
            image, anchor = (matched >= 0).nonzero(as_tuple=True)
            encoded = encode_boxes(targets.boxes[image, matched[image, anchor]], outputs.anchors[anchor])
            return smooth_l1_loss(outputs.box_deltas[image, anchor], encoded, beta=self.box_beta)
        positive = (matched >= 0)[..., None]
        boxes = torch.where(positive, matched_boxes(matched, targets), outputs.anchors)
        encoded = encode_boxes(boxes, outputs.anchors)
        deltas = torch.where(positive, outputs.box_deltas.float(), encoded)
        return F.smooth_l1_loss(deltas, encoded, beta=self.box_beta, reduction="sum")


def matched_boxes(matched: Tensor, targets: Targets) -> Tensor:
    """Returns the (N, R, 4) ground-truth box of each anchor; any box where the anchor is not positive."""
    if targets.boxes.shape[1] == 0:
        return targets.boxes.new_zeros((*matched.shape, 4))
    return targets.boxes.gather(1, matched.clamp(min=0)[..., None].expand(-1, -1, 4))


def anchor_labels(matched: Tensor, targets: Targets, num_classes: int) -> Tensor:
    """Returns the (N, R) int64 labels of anchors: class of the matched object, K where background, -1 where ignored."""
    if targets.labels.shape[1] == 0:
        return torch.full_like(matched, num_classes)
    labels = targets.labels.gather(1, matched.clamp(min=0))
    labels = torch.where(matched == BACKGROUND, num_classes, labels)
    return torch.where(matched == IGNORE, -1, labels)


def aligned_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Returns the IoU of boxes pair by pair: (..., 4) and (..., 4) to (...)."""
    low = torch.maximum(boxes[..., :2], others[..., :2])
    high = torch.minimum(boxes[..., 2:], others[..., 2:])
    inter = (high - low).clamp(min=0).prod(dim=-1)
    area, other = ((one[..., 2:] - one[..., :2]).clamp(min=0).prod(-1) for one in (boxes, others))
    return inter / (area + other - inter).clamp(min=1e-9)
