"""What is annotated at a box, and the crop around it."""

import numpy as np
import pytest

from focalbench.analysis.surroundings import crop_around, what_is_annotated


@pytest.mark.parametrize(
    ("iou", "labels", "difficult", "found"),
    [
        ([0.6, 0.9], [1, 0], [0, 0], ("object", 0)),
        ([0.6, 0.9], [1, 0], [1, 0], ("difficult", 0)),
        ([0.4, 0.9], [1, 0], [0, 0], ("other class", 1)),
        ([0.2, 0.4], [1, 0], [0, 0], ("near", 0)),  # its own class first
        ([0.05, 0.4], [1, 0], [0, 0], ("near", 1)),
        ([0.5, 0.1], [1, 1], [0, 0], ("near", 0)),  # VOC's IoU is above .5
        ([0.1, 0.0], [1, 1], [0, 0], ("nothing", -1)),
        ([], [], [], ("nothing", -1)),
    ],
)
def test_what_is_annotated_there(iou: list, labels: list, difficult: list, found: tuple[str, int]) -> None:
    assert what_is_annotated(1, np.array(iou), np.array(labels, int), np.array(difficult, bool)) == found


def test_a_crop_shows_the_box_with_its_surroundings() -> None:
    pixels = np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)
    truth = np.array([[30.0, 20, 50, 40], [0, 0, 5, 5], [38, 10, 80, 14]])
    view, box, in_view = crop_around(np.array([30.0, 20, 50, 30]), truth, pixels)
    np.testing.assert_array_equal(view, pixels[10:40, 20:60])  # half the longer side, 10 pixels
    assert box.tolist() == [10, 10, 30, 20]
    assert in_view.tolist() == [[10, 10, 30, 30], [18, 0, 60, 4]]


@pytest.mark.parametrize("box", [[-5.0, -5, 2, 2], [78, 58, 90, 90], [200, 200, 210, 210], [3, 3, 3, 3]])
def test_a_crop_at_the_edge_or_beyond_is_a_picture(box: list[float]) -> None:
    view, _, in_view = crop_around(np.array(box), np.zeros((0, 4)), np.zeros((60, 80, 3), np.uint8))
    assert min(view.shape) > 0
    assert in_view.shape == (0, 4)
