"""Sizes of objects: as annotated, on a canvas, and through JSON."""

import numpy as np
import pytest

from focalbench.data.sizes import ObjectSizes


@pytest.fixture
def sizes():
    """Two images: one with two objects of 20 x 10 and 4 x 40 px, one without any."""
    boxes = np.array([(1, 1, 20, 10), (5, 1, 8, 40)], np.float32)
    return ObjectSizes.of_boxes([((100, 50), boxes), ((10, 10), np.zeros((0, 4)))])


def test_both_ends_of_a_box_count(sizes):
    assert sizes.objects.tolist() == [[20, 10], [4, 40]]
    assert sizes.counts.tolist() == [2, 0]


def test_short_sides_are_those_on_the_warped_canvas(sizes):
    assert sizes.short_sides((50, 100)).tolist() == [10, 4]
    assert sizes.short_sides((25, 200)).tolist() == [5, 8]


def test_the_recall_limit_counts_what_each_image_can_find(sizes):
    assert [sizes.recall_limit(most) for most in (0, 1, 2, 9)] == [0, 0.5, 1, 1]


def test_json_keeps_them_and_a_torn_document_is_refused(sizes):
    again = ObjectSizes.from_json(sizes.to_json())
    assert np.array_equal(again.images, sizes.images)
    assert np.array_equal(again.objects, sizes.objects)
    with pytest.raises(ValueError, match="add up"):
        ObjectSizes.from_json(sizes.to_json() | {"objects": []})
