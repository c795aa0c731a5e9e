"""YOLOv2's boxes: darknet's formulas written out as loops."""

import math

import pytest
import torch

from focalbench.boxes.matching import BACKGROUND
from focalbench.boxes.priors import VOC_PRIORS
from focalbench.boxes.yolo import decode_cells, encode_cells, match_cells, place_priors


def test_the_published_priors():
    flat = [number for prior in VOC_PRIORS for number in prior]
    assert flat == [1.3221, 1.73145, 3.19275, 4.00944, 5.05587, 8.09892, 9.47112, 4.84053, 11.2364, 10.0071]


@pytest.mark.parametrize("stride", [16, 32])
def test_priors_are_in_32_pixels_whatever_the_stride(stride):
    anchors = place_priors(((1.0, 2.0), (0.5, 0.25)), (64, 96), stride)
    rows, columns = 64 // stride, 96 // stride
    assert anchors.shape == (rows * columns * 2, 4)
    grid = anchors.view(rows, columns, 2, 4)
    assert (grid[1, 2, 0, 2:] - grid[1, 2, 0, :2]).tolist() == [32, 64]
    assert (grid[1, 2, 1, 2:] - grid[1, 2, 1, :2]).tolist() == [16, 8]
    assert ((grid[1, 2, 0, 2:] + grid[1, 2, 0, :2]) / 2).tolist() == [2.5 * stride, 1.5 * stride]


def test_decoding_is_darknets_formula():
    priors, canvas, stride = VOC_PRIORS, (96, 64), 32
    anchors = place_priors(priors, canvas, stride)
    deltas = torch.randn(3 * 2 * 5, 4, generator=torch.Generator().manual_seed(0))
    found = decode_cells(deltas, anchors, stride=stride)
    for index, (tx, ty, tw, th) in enumerate(deltas.tolist()):
        cell, prior = divmod(index, 5)
        j, i = divmod(cell, 2)
        x, y = (i + 1 / (1 + math.exp(-tx))) * 32, (j + 1 / (1 + math.exp(-ty))) * 32
        w, h = priors[prior][0] * math.exp(tw) * 32, priors[prior][1] * math.exp(th) * 32
        expected = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        torch.testing.assert_close(found[index], expected, atol=1e-3, rtol=1e-5)


def test_encoding_undoes_decoding():
    anchors = place_priors(VOC_PRIORS, (64, 64), 32)
    deltas = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    found = encode_cells(decode_cells(deltas, anchors, stride=32), anchors, stride=32)
    torch.testing.assert_close(found[:, :2], deltas[:, :2].sigmoid(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[:, 2:], deltas[:, 2:], atol=1e-5, rtol=1e-5)


def test_absurd_sizes_stay_finite():
    anchors = place_priors(VOC_PRIORS, (32, 32), 32)
    assert decode_cells(torch.full((5, 4), 1e9), anchors, stride=32).isfinite().all()
    assert encode_cells(torch.zeros(5, 4), anchors, stride=32).isfinite().all()


def match_by_loop(priors, canvas, boxes, labels, stride):
    """darknet's search for the responsible prior of every object, in the order of the list."""
    rows, columns = canvas[0] // stride, canvas[1] // stride
    matched = [BACKGROUND] * (rows * columns * len(priors))
    for number, ((x1, y1, x2, y2), label) in enumerate(zip(boxes, labels, strict=True)):
        if label < 0:
            continue
        i, j = min(int((x1 + x2) / 2 / stride), columns - 1), min(int((y1 + y2) / 2 / stride), rows - 1)
        best, best_iou = 0, 0.0
        for n, (pw, ph) in enumerate(priors):
            inter = min(x2 - x1, pw * 32) * min(y2 - y1, ph * 32)
            iou = inter / ((x2 - x1) * (y2 - y1) + pw * ph * 1024 - inter)
            if iou > best_iou:
                best, best_iou = n, iou
        matched[(j * columns + i) * len(priors) + best] = number
    return matched


@pytest.mark.parametrize("stride", [16, 32])
@pytest.mark.parametrize("seed", range(5))
def test_matching_is_darknets(stride, seed):
    generator = torch.Generator().manual_seed(seed)
    canvas = (96, 128)
    centre = torch.rand(2, 12, 2, generator=generator) * torch.tensor([128.0, 96.0])
    half = torch.rand(2, 12, 2, generator=generator) * 60 + 2
    boxes = torch.cat((centre - half, centre + half), dim=2)
    labels = torch.randint(-1, 3, (2, 12), generator=generator)
    anchors = place_priors(VOC_PRIORS, canvas, stride)
    found = match_cells(anchors, canvas, boxes, labels, stride=stride)
    expected = [match_by_loop(VOC_PRIORS, canvas, b, v, stride) for b, v in zip(boxes.tolist(), labels.tolist())]  # noqa: B905
    assert found.tolist() == expected
    assert (found >= 0).any()


def test_of_two_objects_in_one_place_the_later_wins():
    anchors = place_priors(((1.0, 1.0),), (32, 32), 32)
    boxes = torch.tensor([[[0.0, 0, 20, 20], [4.0, 4, 30, 30]]])
    assert match_cells(anchors, (32, 32), boxes, torch.tensor([[0, 1]]), stride=32).tolist() == [[1]]
    assert match_cells(anchors, (32, 32), boxes, torch.tensor([[0, -1]]), stride=32).tolist() == [[0]]


def test_a_centre_on_the_far_border_belongs_to_the_last_cell():
    anchors = place_priors(((1.0, 1.0),), (64, 64), 32)
    boxes = torch.tensor([[[60.0, 60, 68, 68]]])
    assert match_cells(anchors, (64, 64), boxes, torch.tensor([[0]]), stride=32).tolist() == [[-1, -1, -1, 0]]


def test_no_objects():
    anchors = place_priors(VOC_PRIORS, (64, 64), 32)
    for num in (0, 3):
        found = match_cells(anchors, (64, 64), torch.zeros(2, num, 4), torch.full((2, num), -1), stride=32)
        assert found.shape == (2, 20)
        assert (found == BACKGROUND).all()
