"""Boxes as YOLOv2 sees them: priors in grid cells, offsets within a cell (arXiv:1612.08242, sec. 2).

Sizes of priors are in units of 32 pixels, the published network's cells, whatever the stride of the network at hand.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from focalbench.boxes.anchors import grid_anchors
from focalbench.boxes.coding import MAX_LOG_RATIO
from focalbench.boxes.matching import BACKGROUND

PRIOR_UNIT = 32
"""Pixels in one unit of a prior's width and height."""


def place_priors(priors: Sequence[tuple[float, float]] | Tensor, canvas: tuple[int, int], stride: int) -> Tensor:
    """Places the priors in the centre of every cell.

    Args:
        priors: (width, height) in units of 32 px; of a tensor (A, 2) no value is read, and the result lies beside it.
        canvas: (H, W) pixels, multiples of ``stride``.

    Returns:
        (R, 4) float32 xyxy pixels; rows first, then columns, then priors.
    """
    half = torch.as_tensor(priors, dtype=torch.float32).reshape(-1, 2) * PRIOR_UNIT / 2
    return grid_anchors(torch.cat((-half, half), dim=1), (canvas[0] // stride, canvas[1] // stride), (stride, stride))


def decode_cells(deltas: Tensor, anchors: Tensor, *, stride: int) -> Tensor:
    """Turns raw outputs into boxes: b_xy = sigmoid(t_xy) + cell, b_wh = prior * exp(t_wh) (arXiv:1612.08242, fig. 3).

    Args:
        deltas: (..., 4) raw t_x, t_y, t_w, t_h; t_wh is cut at ``MAX_LOG_RATIO``, far beyond any canvas.
        anchors: (..., 4) from :func:`place_priors`, broadcastable.

    Returns:
        (..., 4) float32 xyxy pixels.
    """
    deltas = deltas.float()
    corner = (anchors[..., :2] + anchors[..., 2:] - stride) / 2
    centre = corner + deltas[..., :2].sigmoid() * stride
    half = deltas[..., 2:].clamp(max=MAX_LOG_RATIO).exp() * (anchors[..., 2:] - anchors[..., :2]) / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def encode_cells(boxes: Tensor, anchors: Tensor, *, stride: int) -> Tensor:
    """Returns what sigmoid(t_xy) and t_wh should be: inverts :func:`decode_cells`, with t_xy after its sigmoid.

    Args:
        boxes: (..., 4) xyxy pixels, centres within the anchors' cells.
        anchors: (..., 4) from :func:`place_priors`, same shape.

    Returns:
        (..., 4): place of the centre in its cell, 0 to 1, and log of the size ratio.
    """
    place = ((boxes[..., :2] + boxes[..., 2:]) - (anchors[..., :2] + anchors[..., 2:]) + stride) / (2 * stride)
    ratio = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6) / (anchors[..., 2:] - anchors[..., :2])
    return torch.cat((place, ratio.log()), dim=-1)


def match_cells(anchors: Tensor, canvas: tuple[int, int], boxes: Tensor, labels: Tensor, *, stride: int) -> Tensor:
    """Assigns to each prior the object that it is responsible for.

    Of the priors of the cell that an object is centred in, the one whose shape fits it best is responsible. The first
    of equally good priors is taken. Where two objects claim one prior, the later one in the list has it, as in darknet.

    Args:
        anchors: (R, 4) from :func:`place_priors`.
        canvas: (H, W) pixels.
        boxes: (N, M, 4) xyxy pixels.
        labels: (N, M) int64; negative where padded.

    Returns:
        (N, R) int64: index into M, or BACKGROUND.
    """
    height, width = canvas[0] // stride, canvas[1] // stride
    num_images, num_objects = labels.shape
    num_anchors, num_priors = len(anchors), len(anchors) // (height * width)
    matched = torch.full((num_images, num_anchors + 1), BACKGROUND, dtype=torch.int64, device=anchors.device)
    if num_objects == 0:
        return matched[:, :num_anchors]
    cell = ((boxes[..., :2] + boxes[..., 2:]) / (2 * stride)).floor().long()
    column, row = cell[..., 0].clamp(0, width - 1), cell[..., 1].clamp(0, height - 1)
    prior_wh = anchors[:num_priors, 2:] - anchors[:num_priors, :2]
    index = (row * width + column) * num_priors + _shape_iou(boxes[..., 2:] - boxes[..., :2], prior_wh).argmax(dim=-1)
    index = torch.where(labels >= 0, index, num_anchors)  # padding claims the spare last column
    objects = torch.arange(num_objects, device=anchors.device).expand(num_images, -1)
    return matched.scatter_reduce(1, index, objects, "amax")[:, :num_anchors]


def _shape_iou(box_wh: Tensor, prior_wh: Tensor) -> Tensor:
    """IoU of sizes laid corner on corner: (N, M, 2) and (A, 2) to (N, M, A)."""
    inter = torch.minimum(box_wh[..., None, :], prior_wh).prod(dim=-1)
    return inter / (box_wh.prod(dim=-1)[..., None] + prior_wh.prod(dim=-1) - inter)
