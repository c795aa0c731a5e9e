"""Anchors and objects at random, for tests of matching."""

import torch

from focalbench.boxes.anchors import cell_anchors, grid_anchors


def random_scene(seed, num_images=3, num_objects=6, *, grid=False):
    """Anchors, boxes and labels with some padding; on a grid of whole pixels, ties are common."""
    generator = torch.Generator().manual_seed(seed)
    anchors = grid_anchors(cell_anchors([16.0, 32.0], [0.5, 1.0]), (6, 5), (16, 16))
    corner = torch.rand(num_images, num_objects, 2, generator=generator) * 70
    size = torch.rand(num_images, num_objects, 2, generator=generator) * 50 + 4
    if grid:
        corner, size = (corner / 8).round() * 8, (size / 16).round() * 16 + 16
    labels = torch.randint(-1, 4, (num_images, num_objects), generator=generator)
    boxes = torch.cat((corner, corner + size), dim=-1) * (labels >= 0)[..., None]
    return anchors, boxes, labels
