"""Online hard example mining: cross entropy on the hardest anchors only (arXiv:1604.03540; 1708.02002, table 1d)."""

from __future__ import annotations

import torch
from torch import Tensor

from focalbench.losses.arguments import compute_dtype
from focalbench.losses.base import ClassificationLoss, Counts, check_number
from focalbench.losses.elementwise import row_slices
from focalbench.losses.focal_op import focal_sum

_FIRST_CANDIDATES = 2  # for each anchor to be kept
_CANDIDATES_PER_KEPT, _MIN_CANDIDATES = 16, 1024  # of the 1:3 variant


class OHEM(ClassificationLoss):
    """Sigmoid cross entropy of the B hardest anchors of each image, after NMS with the loss as the score.

    NMS goes down the anchors of an image only as far as B of them survive. In the 1:3 variant it looks at the
    max(1024, 16 B) hardest and at all positives, which is exact unless it suppresses more than 15 in 16 of them.
    On a GPU a variant without NMS masks what it drops and never waits for the device; NMS, whose survivors have to be
    counted, does.

    Source: arXiv:1604.03540, sec. 4; arXiv:1708.02002, sec. 5.1 and table 1d (B 128, 256, 512; NMS .5, .7; 1:3).

    Args:
        num_classes, counts: see ``ClassificationLoss``.
        num_hardest: B, anchors kept per image.
        nms_thresh: IoU above which the easier of two anchors' predicted boxes is dropped; None for no NMS.
        negatives_per_positive: r, at most this many negatives for each kept positive (3 is the 1:3 variant; an image
            without positives counts as one); at most B / (1 + r) positives are kept, the hardest. None takes the
            hardest of either kind.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_hardest: int = 128,
        nms_thresh: float | None = 0.5,
        negatives_per_positive: float | None = None,
        counts: Counts | None = None,
    ) -> None:
        super().__init__(num_classes, counts)
        check_number("num_hardest", num_hardest, low=1)
        if nms_thresh is not None:
            check_number("nms_thresh", nms_thresh, high=1.0)
        if negatives_per_positive is not None:
            check_number("negatives_per_positive", negatives_per_positive, open_low=True)
        self.num_hardest = int(num_hardest)
        self.nms_thresh = nms_thresh
        self.negatives_per_positive = negatives_per_positive
        self.needs_boxes = self.waits_for_device = nms_thresh is not None

    @torch.compiler.disable
    def forward(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None, boxes: Tensor | None = None
    ) -> Tensor:
        """See ``ClassificationLoss.forward``; ``boxes`` are needed with NMS."""
        flat_logits, flat_labels = self.flat(logits, labels)
        if self.needs_boxes and (boxes is None or boxes.shape != (*labels.shape, 4)):
            shape = None if boxes is None else tuple(boxes.shape)
            raise ValueError(f"ohem with NMS needs the predicted boxes {(*labels.shape, 4)}, got {shape}")
        hardness = anchor_cross_entropy(flat_logits.detach(), flat_labels).view(labels.shape)
        zero, one = torch.zeros((), device=logits.device), torch.ones((), device=logits.device)
        if logits.is_cuda and not self.waits_for_device:
            kept_labels = labels.masked_fill(~self._is_hardest(hardness, labels), -1)
            return focal_sum(flat_logits, kept_labels.reshape(-1), zero, one, one)
        image_boxes = None if boxes is None else boxes.detach().reshape(*hardness.shape, 4)
        kept = [
            self._hardest(hardness[i], labels[i], None if image_boxes is None else image_boxes[i])
            + i * labels.shape[-1]
            for i in range(len(hardness))
        ]
        index = torch.cat(kept) if kept else flat_labels.new_zeros(0)
        return focal_sum(flat_logits[index], flat_labels[index], zero, one, one)

    @torch.no_grad()
    def _hardest(self, hardness: Tensor, labels: Tensor, boxes: Tensor | None) -> Tensor:
        """Indices of the anchors of one image that count, hardest first."""
        order = hardness.argsort(descending=True, stable=True)
        order = order[labels[order] >= 0]
        if self.nms_thresh is not None and boxes is not None:
            order = self._suppress(order, hardness, labels, boxes)
        if self.negatives_per_positive is None:
            return order[: self.num_hardest]
        is_positive = labels[order] < self.num_classes
        num_positives = min(int(is_positive.sum()), max(1, int(self.num_hardest / (1 + self.negatives_per_positive))))
        num_negatives = min(self.num_hardest - num_positives, int(self.negatives_per_positive * max(num_positives, 1)))
        return torch.cat([order[is_positive][:num_positives], order[~is_positive][:num_negatives]])

    @torch.no_grad()
    def _is_hardest(self, hardness: Tensor, labels: Tensor) -> Tensor:
        """(N, R) bool, what ``_hardest`` without NMS finds in each image; by ranks, so that no shape depends on it."""
        # Ignored anchors come last, where they move no rank.
        order = hardness.masked_fill(labels < 0, -torch.inf).argsort(dim=1, descending=True, stable=True)
        ordered = labels.gather(1, order)
        is_positive = (ordered >= 0) & (ordered < self.num_classes)
        is_negative = ordered >= self.num_classes
        if self.negatives_per_positive is None:
            chosen = (ordered >= 0) & (torch.arange(labels.shape[1], device=labels.device) < self.num_hardest)
        else:
            most = max(1, int(self.num_hardest / (1 + self.negatives_per_positive)))
            num_positives = is_positive.sum(dim=1, keepdim=True).clamp(max=most)
            wanted = (self.negatives_per_positive * num_positives.clamp(min=1).double()).long()  # rounded down
            num_negatives = torch.minimum(self.num_hardest - num_positives, wanted)
            chosen = (is_positive & (is_positive.cumsum(1) <= num_positives)) | (
                is_negative & (is_negative.cumsum(1) <= num_negatives)
            )
        return torch.zeros_like(chosen).scatter_(1, order, chosen)

    def _suppress(self, order: Tensor, hardness: Tensor, labels: Tensor, boxes: Tensor) -> Tensor:
        """What of ``order`` survives NMS on the loss, hardest first: all, or the first B at least."""
        from torchvision.ops import nms

        def survivors(candidates: Tensor) -> Tensor:
            return candidates[nms(boxes[candidates].float(), hardness[candidates].float(), self.nms_thresh)]

        if self.negatives_per_positive is not None:
            limit = max(_MIN_CANDIDATES, _CANDIDATES_PER_KEPT * self.num_hardest)
            rest = order[limit:]
            return survivors(torch.cat([order[:limit], rest[labels[rest] < self.num_classes]]))
        # Only harder anchors suppress one: what survives among the hardest survives among all.
        limit = _FIRST_CANDIDATES * self.num_hardest
        while len(kept := survivors(order[:limit])) < self.num_hardest and limit < len(order):
            limit *= 2
        return kept


@torch.no_grad()
def anchor_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the (A,) float32 sigmoid cross entropy of each anchor, summed over its classes; 0 where ignored.

    Args:
        logits: (A, K).
        labels: (A,) 0..K-1, K background, -1 ignored.
    """
    num_columns = logits.shape[1]
    result = torch.empty(len(logits), dtype=compute_dtype(logits.dtype), device=logits.device)
    for part in row_slices(logits):
        x, label = logits[part].to(result.dtype), labels[part]
        at_label = x.gather(1, label.long().clamp(0, num_columns - 1)[:, None]).squeeze(1)
        is_positive = (label >= 0) & (label < num_columns)
        # softplus(-x) = softplus(x) - x
        result[part] = torch.nn.functional.softplus(x).sum(1) - torch.where(is_positive, at_label, 0.0)
    return result.masked_fill_(labels < 0, 0)
