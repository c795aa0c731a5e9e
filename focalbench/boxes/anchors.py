"""Anchor boxes of dense detectors (arXiv:1708.02002, sec. 4, "Anchors")."""

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """The anchors of one cell, centred on the origin, one per (size, ratio); the area is size squared.

    Args:
        sizes: side lengths in pixels of the square anchors.
        ratios: height / width.

    Returns:
        (len(sizes) * len(ratios), 4) float32 xyxy; sizes vary slowest.
    """
    size = torch.tensor(sizes, dtype=torch.float32).repeat_interleave(len(ratios))
    ratio = torch.tensor(ratios, dtype=torch.float32).repeat(len(sizes))
    half = torch.stack((size / ratio.sqrt(), size * ratio.sqrt()), dim=1) / 2
    return torch.cat((-half, half), dim=1)


def grid_anchors(cell: Tensor, feature_size: tuple[int, int], stride: tuple[float, float]) -> Tensor:
    """``cell`` repeated at the centre of every cell of a feature map.

    Args:
        cell: (A, 4) float32 anchors around the origin.
        feature_size: (height, width) of the feature map in cells.
        stride: (vertical, horizontal) pixels per cell.

    Returns:
        (height * width * A, 4) float32 xyxy pixels; rows first, then columns, then A: the order of a head's flattened
        output.
    """
    height, width = feature_size
    ys = (torch.arange(height, dtype=torch.float32, device=cell.device) + 0.5) * stride[0]
    xs = (torch.arange(width, dtype=torch.float32, device=cell.device) + 0.5) * stride[1]
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    centres = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
    return (centres + cell).reshape(-1, 4)
