"""Canvas sizes that follow from the step, and batches stretched to them."""

from collections import Counter

import pytest
import torch

from focalbench.data.multiscale import multiscale_size, resize_batch
from focalbench.structures import Targets


def test_sizes_hold_for_ten_batches_and_cover_the_range_evenly():
    sizes = [multiscale_size(step, (320, 608), seed=1) for step in range(4000)]
    assert all(sizes[10 * block : 10 * block + 10] == [sizes[10 * block]] * 10 for block in range(400))
    counts = Counter(sizes[::10])
    assert sorted(counts) == list(range(320, 609, 32))
    assert min(counts.values()) > 20  # of 40 expected


def test_a_size_depends_on_step_and_seed_alone():
    first = [multiscale_size(step, (320, 608), seed=0) for step in range(0, 500, 10)]
    assert first == [multiscale_size(step, (320, 608), seed=0) for step in reversed(range(0, 500, 10))][::-1]
    assert first != [multiscale_size(step, (320, 608), seed=1) for step in range(0, 500, 10)]


def test_one_size_and_another_interval():
    assert multiscale_size(123, (416, 416), seed=0) == 416
    sizes = [multiscale_size(step, (32, 320), seed=0, every=1) for step in range(50)]
    assert len(set(sizes)) == 10


@pytest.mark.parametrize("sizes", [(608, 320), (320, 600), (300, 608)])
def test_sizes_that_are_none(sizes):
    with pytest.raises(ValueError, match="multiples of 32"):
        multiscale_size(0, sizes, seed=0)


@pytest.mark.parametrize("size", [64, 160])
def test_boxes_stay_on_their_objects(size):
    """A bright rectangle and its box, stretched: the box still frames it."""
    images = torch.zeros(1, 3, 96, 128)
    images[:, :, 24:48, 32:96] = 1
    targets = Targets(torch.tensor([[[32.0, 24, 96, 48], [0, 0, 0, 0]]]), torch.tensor([[4, -1]]))
    resized, moved = resize_batch(images, targets, size)
    assert resized.shape == (1, 3, size, size)
    x1, y1, x2, y2 = moved.boxes[0, 0].tolist()
    assert [x1, y1, x2, y2] == pytest.approx([size * 0.25, size * 0.25, size * 0.75, size * 0.5])
    inside = resized[0, 0, round(y1) + 1 : round(y2) - 1, round(x1) + 1 : round(x2) - 1]
    assert inside.min() > 0.9
    assert resized[0, 0].sum().item() == pytest.approx((x2 - x1) * (y2 - y1), rel=0.02)
    assert moved.boxes[0, 1].abs().max() == 0
    assert torch.equal(moved.labels, targets.labels)


def test_boxes_are_scaled_in_their_own_precision():
    boxes = 90 * torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0))
    _, moved = resize_batch(torch.zeros(2, 3, 96, 128), Targets(boxes, torch.zeros(2, 5, dtype=torch.int64)), 160)
    assert torch.equal(moved.boxes, boxes * torch.tensor([160 / 128, 160 / 96] * 2))


def test_the_same_size_is_left_alone():
    images, targets = torch.rand(1, 3, 64, 64), Targets(torch.rand(1, 1, 4), torch.zeros(1, 1, dtype=torch.int64))
    resized, moved = resize_batch(images, targets, 64)
    assert resized is images
    assert moved is targets
