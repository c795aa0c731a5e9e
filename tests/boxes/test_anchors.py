"""Anchors: sizes, ratios and places, with torchvision's generator as oracle."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator

from focalbench.boxes.anchors import AnchorPyramid, cell_anchors, grid_anchors


def test_a_cells_anchors_by_hand():
    anchors = cell_anchors([16, 32], [0.25, 1, 4])
    widths_heights = (anchors[:, 2:] - anchors[:, :2]).tolist()
    assert widths_heights == [[32, 8], [16, 16], [8, 32], [64, 16], [32, 32], [16, 64]]
    assert (anchors[:, :2] + anchors[:, 2:]).abs().max() == 0


@pytest.mark.parametrize("ratio", [0.5, 1.0, 3.0])
def test_the_area_does_not_depend_on_the_ratio(ratio):
    (anchor,) = cell_anchors([24], [ratio])
    width, height = (anchor[2:] - anchor[:2]).tolist()
    assert width * height == pytest.approx(24**2)
    assert height / width == pytest.approx(ratio)


def test_torchvision_rounds_the_same_anchors():
    """torchvision lists ratios slowest and rounds corners to whole pixels."""
    sizes, ratios = (32, 40.3, 50.8), (0.5, 1.0, 2.0)
    reference = AnchorGenerator.generate_anchors(None, sizes, ratios).view(3, 3, 4).transpose(0, 1).reshape(-1, 4)
    assert (cell_anchors(sizes, ratios) - reference).abs().max() <= 0.5 + 1e-4


def test_the_grid_is_centred_in_cells_and_runs_row_by_row():
    cell = torch.tensor([[-1.0, -2, 1, 2], [-3.0, -1, 3, 1]])
    found = grid_anchors(cell, (2, 3), (8, 4)).view(2, 3, 2, 4)
    for row in range(2):
        for column in range(3):
            centre = torch.tensor([column * 4 + 2.0, row * 8 + 4.0] * 2)
            assert torch.equal(found[row, column], cell + centre)


def test_the_grid_covers_the_canvas():
    centres = grid_anchors(torch.zeros(1, 4), (4, 6), (16, 16))
    assert centres[:, 0].min() == 8
    assert centres[:, 0].max() == 6 * 16 - 8
    assert centres[:, 1].max() == 4 * 16 - 8


def test_a_pyramid_is_its_levels_one_after_the_other():
    """Sizes grow with the stride, and a canvas that is no multiple of it gets a last cell that reaches beyond."""
    pyramid = AnchorPyramid(3, scale=2, octaves=2, ratios=(1.0,))
    found = pyramid.on_canvas((24, 40))
    assert pyramid.strides == (8, 16, 32)
    parts = [
        grid_anchors(cell_anchors([16, 16 * 2**0.5], [1.0]), (3, 5), (8, 8)),
        grid_anchors(cell_anchors([32, 32 * 2**0.5], [1.0]), (2, 3), (16, 16)),
        grid_anchors(cell_anchors([64, 64 * 2**0.5], [1.0]), (1, 2), (32, 32)),
    ]
    assert torch.equal(found, torch.cat(parts))
    placed, counts = pyramid.place(((3, 5), (2, 3), (1, 2)), torch.device("cpu"))
    assert placed is found
    assert counts == tuple(map(len, parts))
