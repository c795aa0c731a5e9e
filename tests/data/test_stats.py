"""Counts and sizes worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest

from focalbench.data.stats import canvas_sizes, measure_records
from focalbench.data.voc import Record


def record(boxes, labels, difficult, size=(100, 50)):
    return Record(
        image_id="a",
        year="2007",
        image_path=Path("a.jpg"),
        width=size[0],
        height=size[1],
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        difficult=np.array(difficult, bool),
    )


@pytest.fixture
def records():
    return [
        record([[1, 1, 16, 25], [1, 1, 4, 4], [1, 1, 9, 9]], [0, 0, 1], [False, False, True]),
        record([], [], []),
        record([[1, 1, 100, 100]], [0], [False], (100, 200)),
    ]


def test_counts_are_as_counted_by_hand(records):
    stats = measure_records(records, ("cat", "dog"))
    cat, dog = stats.classes
    assert (cat.num_objects, cat.num_difficult, cat.num_images, cat.share, cat.median_side) == (3, 0, 2, 1.0, 20.0)
    assert (dog.num_objects, dog.num_difficult, dog.num_images, dog.share) == (0, 1, 0, 0.0)
    assert math.isnan(dog.median_side)
    assert math.isnan(stats.imbalance)
    assert (stats.num_images, stats.num_empty) == (3, 1)
    assert stats.objects_per_image == (1.0, 1.0, 2)
    assert (stats.num_small, stats.num_medium, stats.num_large) == (2, 0, 1)
    assert stats.image_sizes == (((100, 50), 2), ((100, 200), 1))
    assert stats.side[2] == 20.0
    assert stats.aspect[2] == 1.0


def test_imbalance_is_most_over_least():
    boxes = [[1, 1, 9, 9]] * 4
    assert measure_records([record(boxes, [0, 0, 0, 1], [False] * 4)], ("a", "b")).imbalance == 3.0


def test_a_split_without_any_object_is_measured():
    stats = measure_records([record([], [], [])], ("a",))
    assert stats.side == ()
    assert stats.to_json()["objects"] == 0


def test_canvas_sizes_stretch_with_the_image_and_leave_difficult_ones_out(records):
    sizes = canvas_sizes(records, (100, 200))
    np.testing.assert_allclose(sizes, [[32, 50], [8, 8], [200, 50]])
    assert canvas_sizes([], (10, 10)).shape == (0, 2)
