"""Multi-scale training (arXiv:1612.08242, sec. 2): another canvas size every few batches, drawn from the step alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from focalbench.structures import Targets

SIZE_STEP = 32
"""Sizes are multiples of this many pixels, the stride of Darknet-19."""
# Keeps the draws apart from the other random streams of a seed, those of the loader.
_SIZE_STREAM = 3


def multiscale_size(step: int, sizes: tuple[int, int], seed: int, *, every: int = 10) -> int:
    """Draws the side of the square canvas at ``step``: a multiple of 32, anew every ``every`` steps.

    A pure function, so that a resumed training goes on with the sizes it would have had.

    Args:
        step: finished steps.
        sizes: smallest and largest side in pixels, multiples of 32, both included.
        seed: of the training.
    """
    smallest, largest = sizes
    if smallest > largest or smallest % SIZE_STEP or largest % SIZE_STEP:
        raise ValueError(f"sizes should be two rising multiples of {SIZE_STEP}, not {sizes}")
    rng = np.random.default_rng([seed, _SIZE_STREAM, step // every])
    return smallest + SIZE_STEP * int(rng.integers((largest - smallest) // SIZE_STEP + 1))


def resize_batch(images: Tensor, targets: Targets, size: int) -> tuple[Tensor, Targets]:
    """Stretches the batch to a square canvas of ``size`` pixels, like data.fit: warp.

    Args:
        images: (B, 3, H, W) float, on any device.
        targets: boxes in pixels of the old canvas.

    Returns:
        (B, 3, size, size) images and targets with boxes in pixels of the new canvas.
    """
    height, width = images.shape[-2:]
    if (height, width) == (size, size):
        return images, targets
    # Antialiased only where it shrinks: enlarging, it would be the same at a price.
    shrinks = size < max(height, width)
    resized = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=shrinks)
    corners = targets.boxes.unflatten(-1, (2, 2))
    scaled = torch.stack([corners[..., 0] * (size / width), corners[..., 1] * (size / height)], dim=-1)
    return resized, Targets(scaled.flatten(-2), targets.labels)
