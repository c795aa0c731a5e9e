"""From scores and boxes of all anchors to the final detections of each image.

Two forms of one rule. On a GPU all images of a batch are judged together: the host waits a fixed number of times,
whatever the size of the batch. On a CPU each image goes through torchvision's suppression, which is faster there. A
test holds them equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms

from focalbench.models.suppression import MAX_BOXES, suppress
from focalbench.structures import Detections, HeadOutputs

# 3000 random boxes of one class on 300 px took 11, candidates of anchors around objects 9.
_FIRST_ROUNDS = 16


def class_scores(logits: Tensor, activation: str) -> Tensor:
    """Returns the (..., K) float32 probabilities of the K classes; a softmax's background column is left out."""
    logits = logits.float()
    return logits.sigmoid() if activation == "sigmoid" else logits.softmax(dim=-1)[..., :-1]


def decode_outputs(
    outputs: HeadOutputs,
    scores: Tensor,
    decode_boxes: Callable[[Tensor, Tensor], Tensor],
    *,
    top_k: int,
    score_thresh: float,
    nms_thresh: float,
    max_detections: int,
) -> list[Detections]:
    """Returns the final boxes of each image, on the CPU: top candidates of each level, threshold, NMS within a class.

    Args:
        scores: (N, R, K) of all anchors, in [0, 1].
        decode_boxes: boxes (N, T, 4), xyxy canvas pixels, from the candidates' deltas and anchors, both (N, T, 4).
        top_k: candidates kept per level before suppression.
    """
    num_classes = scores.shape[2]
    scores, indices = top_candidates(scores, outputs.level_sizes, top_k)
    anchor = indices // num_classes
    deltas = outputs.box_deltas.gather(1, anchor[..., None].expand(-1, -1, 4))
    return select_detections(
        scores,
        indices,
        decode_boxes(deltas, outputs.anchors[anchor]),
        num_classes=num_classes,
        canvas=outputs.canvas,
        score_thresh=score_thresh,
        nms_thresh=nms_thresh,
        max_detections=max_detections,
    )


def top_candidates(scores: Tensor, level_sizes: tuple[int, ...], top_k: int) -> tuple[Tensor, Tensor]:
    """Returns the ``top_k`` best (anchor, class) pairs of each level of each image.

    Args:
        scores: (N, R, K).
        level_sizes: anchors per level; they add up to R.

    Returns:
        scores (N, T) and flat indices (N, T) into R * K.
    """
    num_classes = scores.shape[2]
    values, indices, offset = [], [], 0
    for size in level_sizes:
        flat = scores[:, offset : offset + size].flatten(1)
        value, index = flat.topk(min(top_k, flat.shape[1]), dim=1)
        values.append(value)
        indices.append(index + offset * num_classes)
        offset += size
    return torch.cat(values, dim=1), torch.cat(indices, dim=1)


def select_detections(
    scores: Tensor,
    indices: Tensor,
    boxes: Tensor,
    *,
    num_classes: int,
    canvas: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    max_detections: int,
) -> list[Detections]:
    """Returns each image's best detections by threshold and by non-maximum suppression within each class, on the CPU.

    What is found in an image does not depend on the others of its batch, and of equal scores the candidate that comes
    first counts as the better one.

    Args:
        scores: (N, T) of the candidates.
        indices: (N, T) flat indices into R * K.
        boxes: (N, T, 4) xyxy canvas pixels of the candidates; cut at the canvas here.
        canvas: (H, W) pixels.
    """
    select = _select_together if scores.is_cuda else _select_one_by_one
    return select(scores, indices % num_classes, boxes, _Rule(canvas, score_thresh, nms_thresh, max_detections))


@dataclass(frozen=True)
class _Rule:
    """What becomes of candidates, in either form: see :func:`select_detections`."""

    canvas: tuple[int, int]
    score_thresh: float
    nms_thresh: float
    max_detections: int


def _select_one_by_one(scores: Tensor, labels: Tensor, boxes: Tensor, rule: _Rule) -> list[Detections]:
    """The form for a CPU: torchvision's suppression, in float64, for it shifts the boxes of each class by a multiple of
    the largest coordinate.
    """
    chosen = scores > rule.score_thresh
    image, place = chosen.nonzero(as_tuple=True)
    score, label, box = scores[image, place], labels[image, place], _cut(boxes[image, place], rule.canvas)
    counts = chosen.sum(dim=1).tolist()
    detections = []
    for own_box, own_score, own_label in zip(box.split(counts), score.split(counts), label.split(counts), strict=True):
        # its own order of equal scores differs from processor to processor
        order = own_score.argsort(descending=True, stable=True)
        falling = torch.arange(len(order), 0, -1, dtype=torch.float64)
        keep = batched_nms(own_box[order].double(), falling, own_label[order], rule.nms_thresh)  # best first
        keep = order[keep[: rule.max_detections]]
        detections.append(Detections(own_box[keep], own_score[keep], own_label[keep]))
    return detections


def _select_together(scores: Tensor, labels: Tensor, boxes: Tensor, rule: _Rule) -> list[Detections]:
    """The form for a GPU: the host waits twice for a whole batch, for the largest number of candidates and for what is
    left of them, and once more each time that the suppression took more rounds than it was given. Candidates of which
    there are too many to look at all pairs are fetched, and judged on the host.
    """
    chosen = scores > rule.score_thresh
    largest = int(_wait_for(chosen.sum(dim=1).max()))
    if largest > MAX_BOXES:
        candidates = (scores.cpu(), labels.cpu(), boxes.cpu())
        return _select_one_by_one(*candidates, rule)
    order = scores.masked_fill(~chosen, -1.0).argsort(dim=1, descending=True, stable=True)[:, :largest]
    scores, labels, chosen = (values.gather(1, order) for values in (scores, labels, chosen))
    boxes = _cut(boxes.gather(1, order[..., None].expand(-1, -1, 4)), rule.canvas)
    rounds = _FIRST_ROUNDS
    while True:
        keep, settled = suppress(boxes, labels, chosen, iou_thresh=rule.nms_thresh, rounds=rounds)
        columns = (scores, labels, keep, settled[:, None].expand_as(keep))
        packed = torch.cat((boxes.double(), torch.stack([column.double() for column in columns], dim=-1)), dim=-1)
        found = _wait_for(packed)  # float64 holds all of it exactly
        if found[..., 7].all():
            return [_unpack(rows[rows[:, 6] > 0][: rule.max_detections]) for rows in found]
        rounds *= 4


def _unpack(rows: NDArray[np.float64]) -> Detections:
    """The detections in (D, 8) rows of box, score, label and two that say nothing of them."""
    table = torch.from_numpy(rows)
    return Detections(table[:, :4].float(), table[:, 4].float(), table[:, 5].long())


def _wait_for(tensor: Tensor) -> NDArray[Any]:
    """The values of a tensor once the device has computed them."""
    return tensor.cpu().numpy()


def _cut(boxes: Tensor, canvas: tuple[int, int]) -> Tensor:
    """(..., 4) boxes cut at the canvas; by numbers, for a tensor of them would have to be copied to the device."""
    x, y = boxes[..., 0::2].clamp(0, canvas[1]), boxes[..., 1::2].clamp(0, canvas[0])
    return torch.stack((x, y), dim=-1).flatten(-2)
