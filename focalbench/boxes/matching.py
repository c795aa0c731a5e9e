"""Which anchor answers for which object: from IoU 0.5 it does, below 0.4 it is background (arXiv:1708.02002, sec. 4).

Three forms of one rule, which tests hold equal. On a GPU two Triton kernels keep no IoU in memory; where Triton is
missing, the whole batch is one (N, M, R) tensor: few kernels, no synchronisation. On a CPU Numba's loop over images and
objects is twenty times faster than that.
"""

import torch
from torch import Tensor
from torchvision.ops import box_iou

from focalbench import kernels

BACKGROUND = -1
IGNORE = -2


def match_anchors(
    anchors: Tensor, boxes: Tensor, labels: Tensor, *, pos_iou: float, neg_iou: float, force_best: bool = True
) -> Tensor:
    """Assigns an object, the background or nothing to each anchor.

    With ``force_best`` an object's best anchors are positive whatever their IoU (above 0), ties too; such an anchor
    answers for the object that it overlaps most, as in torchvision and detectron2.

    Args:
        anchors: (R, 4) xyxy.
        boxes: (N, M, 4) xyxy, same unit.
        labels: (N, M) int64; negative where padded.
        pos_iou: IoU from which an anchor is positive.
        neg_iou: IoU below which an anchor is background.

    Returns:
        (N, R) int64: index into M, or BACKGROUND / IGNORE.

    Raises:
        ValueError: if ``neg_iou`` exceeds ``pos_iou``.
    """
    if neg_iou > pos_iou:
        raise ValueError(f"neg_iou {neg_iou} exceeds pos_iou {pos_iou}: an anchor would be both")
    if boxes.shape[1] == 0:
        return torch.full((len(boxes), len(anchors)), BACKGROUND, dtype=torch.int64, device=anchors.device)
    if not anchors.is_cuda:
        return _match_on_cpu(anchors, boxes, labels, pos_iou, neg_iou, force_best)
    compiled = kernels.triton_kernels("focalbench.boxes.matching_triton")
    if compiled is None:
        return _assign(_batched_iou(anchors, boxes, labels), pos_iou, neg_iou, force_best)
    return compiled.match(anchors, boxes, labels, pos_iou, neg_iou, force_best, BACKGROUND, IGNORE)


def _match_on_cpu(
    anchors: Tensor, boxes: Tensor, labels: Tensor, pos_iou: float, neg_iou: float, force_best: bool
) -> Tensor:
    from focalbench.boxes import matching_numba  # compiled code takes a while to load, and a GPU needs none

    matched = torch.empty((len(boxes), len(anchors)), dtype=torch.int64)
    columns = anchors.float().t().contiguous().numpy()
    given = boxes.float().contiguous().numpy(), labels.contiguous().numpy()
    matching_numba.match(columns, *given, pos_iou, neg_iou, force_best, matched.numpy())
    return matched


def _batched_iou(anchors: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """(N, M, R) IoU, -1 for padded objects."""
    iou = box_iou(boxes.flatten(0, 1), anchors).view(*boxes.shape[:2], -1)
    return iou.masked_fill((labels < 0)[..., None], -1.0)


def _assign(iou: Tensor, pos_iou: float, neg_iou: float, force_best: bool) -> Tensor:
    """Thresholds and forced best anchors on (N, M, R) IoU; the first of equal objects wins."""
    best_iou, matched = iou.max(dim=1)
    result = torch.where(best_iou >= pos_iou, matched, torch.where(best_iou < neg_iou, BACKGROUND, IGNORE))
    if not force_best:
        return result
    # An object's best anchors, ties included, keep the object that they overlap most.
    object_best = iou.amax(dim=2, keepdim=True)
    forced = ((iou == object_best) & (object_best > 0)).any(dim=1)
    return torch.where(forced, matched, result)
