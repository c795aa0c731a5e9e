"""Anchors: sizes, ratios and places, with torchvision's generator as oracle."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _default_anchorgen

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


@pytest.mark.parametrize(
    ("side", "farthest"),  # on a level in pixels; strides of torchvision: side // cells
    [(512, (4, 8, 16, 32, 64)), (608, (4, 8, 16, 68, 92)), (800, (4, 8, 16, 68, 148))],
)
def test_torchvisions_retinanet_has_smaller_anchors_on_the_corners_of_cells(side, farthest):
    """The figures of docs/detectors.md: half a stride away, more where the canvas is no whole number of cells."""
    ours = AnchorPyramid(5, scale=4, octaves=3, ratios=(0.5, 1.0, 2.0))
    cells = [-(-side // stride) for stride in ours.strides]
    canvas = ImageList(torch.zeros(1, 1, side, side), [(side, side)])
    (reference,) = _default_anchorgen()(canvas, [torch.zeros(1, 1, n, n) for n in cells])
    found = ours.on_canvas((side, side))
    counts, size_differences = [9 * n * n for n in cells], []
    for index, (here, there) in enumerate(zip(found.split(counts), reference.split(counts), strict=True)):
        here, there = here.view(-1, 3, 3, 4), there.view(-1, 3, 3, 4).transpose(1, 2)
        away = (here[..., :2] + here[..., 2:] - there[..., :2] - there[..., 2:]) / 2
        assert away.min().item() == pytest.approx(ours.strides[index] / 2, abs=1e-3)
        assert away.max().item() == pytest.approx(farthest[index], abs=1e-3)
        ratio = (there[..., 2:] - there[..., :2]) / (here[..., 2:] - here[..., :2])
        size_differences.append([100 * (ratio.min().item() - 1), 100 * (ratio.max().item() - 1)])
    expected = [[-2.8, 1.7], [-1.8, 1.7], [-0.8, 0.5], [-0.2, 0.5], [-0.2, 0.0]]
    torch.testing.assert_close(torch.tensor(size_differences), torch.tensor(expected), atol=0.06, rtol=0)


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


def test_compiled_code_places_anchors_on_a_gpu_without_pinned_memory() -> None:
    """torch.compile cannot trace a call of ``pin_memory``; what it compiles is not run here, for there is no GPU."""
    pyramid = AnchorPyramid(2, scale=4, octaves=1, ratios=(1.0,))
    compiled: list[torch.fx.GraphModule] = []

    def backend(module: torch.fx.GraphModule, example_inputs: object) -> Callable[..., list[Tensor]]:
        compiled.append(module)
        return lambda *inputs: [torch.zeros(3, 4)]

    place = torch.compile(lambda: pyramid.place(((2, 3), (1, 2)), torch.device("cuda"))[0], backend=backend)
    place()
    assert len(compiled) == 1
    assert "to" in [node.target for node in compiled[0].graph.nodes]


def test_a_copy_of_a_network_and_the_network_place_anchors_once() -> None:
    pyramid = AnchorPyramid(2, scale=4, octaves=1, ratios=(1.0,))
    on_copy, _ = copy.deepcopy(pyramid).place(((2, 3), (1, 2)), torch.device("cpu"))
    assert pyramid.place(((2, 3), (1, 2)), torch.device("cpu"))[0] is on_copy
