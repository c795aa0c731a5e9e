"""VOC's way of counting pixels, and back."""

import numpy as np
import pytest

from focalbench.boxes.voc import continuous_from_voc, voc_from_continuous


def test_the_first_pixel_covers_zero_to_one() -> None:
    assert continuous_from_voc([1, 1, 1, 1]).tolist() == [0, 0, 1, 1]
    assert voc_from_continuous([0, 0, 1, 1]).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("shape", [(4,), (0, 4), (5, 4), (2, 3, 4)])
def test_there_and_back_is_the_same_for_any_shape(shape: tuple[int, ...]) -> None:
    boxes = np.random.default_rng(0).integers(1, 500, shape).astype(np.float32)
    before = boxes.copy()
    assert continuous_from_voc(boxes).dtype == voc_from_continuous(boxes).dtype == np.float64
    np.testing.assert_array_equal(voc_from_continuous(continuous_from_voc(boxes)), boxes)
    np.testing.assert_array_equal(boxes, before)


def test_width_and_height_count_both_ends() -> None:
    left, top, right, bottom = continuous_from_voc([11, 7, 20, 12])
    assert (right - left, bottom - top) == (10, 6)
