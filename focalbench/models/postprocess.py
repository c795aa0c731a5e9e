"""From scores and boxes of all anchors to the final detections of each image."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from focalbench.structures import Detections, HeadOutputs


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
    """Returns the final boxes of each image: top candidates of each level, threshold, NMS within each class.

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
    """Returns each image's best detections by threshold and by non-maximum suppression within each class.

    What is found in an image does not depend on the others of its batch: each goes through the suppression by itself,
    in float64, for torchvision shifts the boxes of each class by a multiple of the largest coordinate.

    Args:
        scores: (N, T) of the candidates.
        indices: (N, T) flat indices into R * K.
        boxes: (N, T, 4) xyxy canvas pixels of the candidates; cut at the canvas here.
        canvas: (H, W) pixels.
    """
    chosen = scores > score_thresh
    image, rank = chosen.nonzero(as_tuple=True)
    score, label, box = scores[image, rank], indices[image, rank] % num_classes, boxes[image, rank]
    limit = torch.tensor([canvas[1], canvas[0]] * 2, dtype=box.dtype, device=box.device)
    box = torch.minimum(box.clamp(min=0), limit)
    counts = chosen.sum(dim=1).tolist()
    detections = []
    for own_box, own_score, own_label in zip(box.split(counts), score.split(counts), label.split(counts), strict=True):
        keep = batched_nms(own_box.double(), own_score.double(), own_label, nms_thresh)  # best first
        keep = keep[:max_detections]
        detections.append(Detections(own_box[keep], own_score[keep], own_label[keep]))
    return detections
