"""Suppression of a batch at once: how many rounds it takes, and that groups of images change nothing."""

import pytest
import torch
from torchvision.ops import nms

from focalbench.models import suppression
from focalbench.models.suppression import suppress


def chain(length):
    """Boxes of which each overlaps only the next: who stays depends on all before."""
    x = 2.0 * torch.arange(length)
    return torch.stack((x, torch.zeros_like(x), x + 6, torch.full_like(x, 4)), dim=1)[None]


def one_class(boxes):
    return torch.zeros(boxes.shape[:2], dtype=torch.int64), torch.ones(boxes.shape[:2], dtype=torch.bool)


def test_n_rounds_settle_the_first_n_boxes_of_a_chain():
    boxes = chain(9)
    alternate = [True, False] * 4 + [True]
    for rounds in range(1, 12):
        keep, settled = suppress(boxes, *one_class(boxes), iou_thresh=0.4, rounds=rounds)
        assert keep[0, : rounds + 1].tolist() == alternate[: rounds + 1]
        assert settled.tolist() == [rounds >= 9]


def test_thousands_of_boxes_are_judged_as_torchvision_judges_them(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 1500, 2, generator=generator) * 200
    boxes = torch.cat((corner, corner + torch.rand(2, 1500, 2, generator=generator) * 60 + 5), dim=2)
    monkeypatch.setattr(suppression, "_MAX_BYTES", 2**20)  # less than one image takes
    keep, settled = suppress(boxes, *one_class(boxes), iou_thresh=0.5, rounds=30)
    assert settled.all()
    for image, stays in zip(boxes, keep, strict=True):
        order = torch.arange(1500, 0, -1, dtype=torch.float64)
        assert stays.nonzero()[:, 0].tolist() == nms(image.double(), order, 0.5).tolist()


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_images_are_taken_in_groups_of_what_fits(monkeypatch, at_once):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(5, 30, 2, generator=generator) * 40
    boxes = torch.cat((corner, corner + 20), dim=2)
    labels = torch.randint(0, 2, (5, 30), generator=generator)
    valid = torch.rand(5, 30, generator=generator) > 0.3
    whole = suppress(boxes, labels, valid, iou_thresh=0.3, rounds=3)
    sizes, real = [], suppression._suppressors
    monkeypatch.setattr(suppression, "_MAX_BYTES", at_once * 30 * 30 * suppression._BYTES_A_PAIR)
    monkeypatch.setattr(suppression, "_suppressors", lambda box, *args: sizes.append(len(box)) or real(box, *args))
    parts = suppress(boxes, labels, valid, iou_thresh=0.3, rounds=3)
    assert max(sizes) == at_once
    assert sum(sizes) == 5
    assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True))
    assert not (parts[0] & ~valid).any()
