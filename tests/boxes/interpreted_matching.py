"""Run with TRITON_INTERPRET=1: the GPU's kernels in Triton's interpreter assign exactly what the CPU does."""

import numpy as np
import torch
from scenes import random_scene

from focalbench.boxes import matching, matching_triton

OPTIONS = (0.5, 0.4)


def compare(anchors, boxes, labels, *, force_best=True, thresholds=OPTIONS):
    found = matching_triton.match(anchors, boxes, labels, *thresholds, force_best, matching.BACKGROUND, matching.IGNORE)
    assert torch.equal(found, matching._match_on_cpu(anchors, boxes, labels, *thresholds, force_best))
    return found


def random_scenes_with_and_without_ties():
    for grid in (False, True):
        for force_best in (False, True):
            compare(*random_scene(7 + grid, 5, 5, grid=grid), force_best=force_best, thresholds=(0.5, 0.3))


def one_object_and_hundreds():
    compare(*random_scene(1, 2, 1))
    assert compare(*random_scene(2, 1, 150)).unique().numel() > 40


def more_anchors_than_one_program_sees():
    """Five blocks and a part; the two objects find their best anchors in different programs."""
    anchors = torch.rand(5300, 2, generator=torch.Generator().manual_seed(5)) * 400
    anchors = torch.cat((anchors, anchors + 24), dim=1)
    boxes = torch.stack((anchors[17] + 1, anchors[5250] - 1))[None]
    compare(anchors, boxes, torch.zeros(1, 2, dtype=torch.int64), thresholds=(0.99, 0.4))


def ties_thresholds_and_padding_by_hand():
    anchors = torch.tensor([[0.0, 0, 16, 16], [4.0, 0, 20, 16], [100.0, 0, 116, 16]])
    small = torch.tensor([[[8.0, 0, 12, 4]]])  # a tie of two anchors at 1/16
    assert compare(anchors, small, torch.tensor([[1]])).tolist() == [[0, 0, -1]]
    twice = small.expand(1, 2, 4).contiguous()  # the first of equal objects wins, unless it is padding
    assert compare(anchors, twice, torch.tensor([[0, 1]])).tolist() == [[0, 0, -1]]
    assert compare(anchors, twice, torch.tensor([[-1, 1]])).tolist() == [[1, 1, -1]]
    assert compare(anchors, twice, torch.tensor([[-1, -1]])).tolist() == [[-1, -1, -1]]
    away = torch.tensor([[[500.0, 500, 510, 510]]])  # an IoU of 0 forces nothing
    assert compare(anchors, away, torch.tensor([[0]])).tolist() == [[-1, -1, -1]]
    sizes = torch.tensor([[0.0, 0, 16, 16], [0.0, 0, 32, 16], [0.0, 0, 32, 32]])  # exactly 1, .5 and .25
    assert compare(sizes, sizes[None, :1], torch.tensor([[0]]), thresholds=(0.5, 0.25)).tolist() == [[0, 0, -2]]


def no_images_and_no_anchors():
    anchors, boxes, labels = random_scene(0)
    assert compare(anchors, boxes[:0], labels[:0]).shape == (0, len(anchors))
    assert compare(anchors[:0], boxes, labels).shape == (3, 0)


if __name__ == "__main__":
    np.seterr(invalid="ignore")  # what stands in for padding has no area
    random_scenes_with_and_without_ties()
    one_object_and_hundreds()
    more_anchors_than_one_program_sees()
    ties_thresholds_and_padding_by_hand()
    no_images_and_no_anchors()
    print("equal")
