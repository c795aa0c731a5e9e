"""Anchor boxes of dense detectors (arXiv:1708.02002, sec. 4, "Anchors")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Returns the anchors of one cell, centred on the origin, one per (size, ratio); the area is size squared.

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
    """Repeats ``cell`` at the centre of every cell of a feature map.

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


class AnchorPyramid:
    """The anchors of a feature pyramid: on each level the same shapes, in sizes that grow with its stride.

    Args:
        num_levels: levels from P3 (stride 8) up, each with twice the stride of the one before.
        scale: side of a level's smallest square anchor in strides.
        octaves: sizes a level, evenly spaced within an octave.
        ratios: height / width.
    """

    def __init__(self, num_levels: int, *, scale: float, octaves: int, ratios: Sequence[float]) -> None:
        self.strides = tuple(8 * 2**level for level in range(num_levels))
        factors = [2 ** (step / octaves) for step in range(octaves)]
        self._cells = [cell_anchors([scale * s * factor for factor in factors], ratios) for s in self.strides]
        self._placed: dict[tuple[tuple[tuple[int, int], ...], torch.device], tuple[Tensor, tuple[int, ...]]] = {}

    def place(self, feature_sizes: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, tuple[int, ...]]:
        """Returns (R, 4) anchors of all levels and how many each has; kept for the next batch of the same size.

        Args:
            feature_sizes: (height, width) of each level's feature map in cells.
        """
        key = (feature_sizes, device)
        if key not in self._placed:
            grids = [
                grid_anchors(cell, size, (stride, stride))
                for cell, size, stride in zip(self._cells, feature_sizes, self.strides, strict=True)
            ]
            anchors = torch.cat(grids)
            # From pinned memory the copy makes nobody wait; the compiler knows no such memory, and copies once as well.
            if device.type == "cuda" and not torch.compiler.is_compiling():
                anchors = anchors.pin_memory()
            anchors = anchors.to(device, non_blocking=True)
            self._placed[key] = anchors, tuple(len(grid) for grid in grids)
        return self._placed[key]

    def __deepcopy__(self, memo: object) -> AnchorPyramid:
        """Returns itself: it does not change, and what a copy of a network has placed need not be placed again."""
        return self

    def on_canvas(self, canvas: tuple[int, int]) -> Tensor:
        """Returns (R, 4) anchors on a canvas of (H, W) pixels, on the CPU."""
        sizes = tuple((-(-canvas[0] // s), -(-canvas[1] // s)) for s in self.strides)
        return self.place(sizes, torch.device("cpu"))[0]
