"""The picture of a training batch: frames where the boxes are, and a legend of the classes in view."""

from dataclasses import replace

import numpy as np
import pytest

from focalbench.figures.batch import TrainingImage, draw_batch
from focalbench.figures.palette import IGNORED_COLOR, class_color

IMAGE = TrainingImage(np.zeros((60, 80, 3), np.uint8), np.zeros((0, 4)), np.zeros(0, int), np.zeros((0, 4)))


def holds(picture: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((picture == np.array(color, np.uint8)).all(axis=-1).any())


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (4, 2, 3), (9, 3, 3)])
def test_images_lie_three_in_a_row(count: int, rows: int, columns: int) -> None:
    picture = draw_batch([IMAGE] * count, ("a",), "first batch")
    width = (960 - 6 * (columns - 1)) // columns
    legend = 42
    assert picture.shape == (rows * round(width * 0.75) + 6 * (rows - 1) + legend, 960, 3)


def test_frames_have_the_colours_of_the_classes_and_gray_where_nothing_is_learned() -> None:
    image = replace(
        IMAGE, boxes=np.array([[10.0, 10, 30, 30]]), labels=np.array([1]), ignored=np.array([[40.0, 20, 70, 50]])
    )
    picture = draw_batch([image], ("a", "b"), "first batch")
    assert tuple(picture[10 * 12, 10 * 12]) == class_color(1)
    assert tuple(picture[20 * 12, 40 * 12]) == IGNORED_COLOR
    assert not holds(picture, class_color(0))  # no object of that class, so none in the legend


def test_frames_have_names_where_classes_share_a_colour() -> None:
    image = replace(IMAGE, boxes=np.array([[10.0, 10, 30, 30], [40, 10, 60, 30]]), labels=np.array([0, 20]))
    alone = replace(image, labels=np.array([0, 0]))
    names = [f"class {label}" for label in range(200)]
    below = slice(30 * 12 + 4, 30 * 12 + 20), slice(10 * 12, 10 * 12 + 50)
    assert holds(draw_batch([image], names, "first batch")[below], class_color(0))
    assert not holds(draw_batch([alone], names, "first batch")[below], class_color(0))


def test_boxes_that_are_not_finite_are_left_out() -> None:
    image = replace(IMAGE, boxes=np.array([[np.nan, 0, 9, 9]]), labels=np.array([0]))
    assert (draw_batch([image], ("a",), "first batch")[:720] == 0).all()


@pytest.mark.parametrize(("height", "width", "cell"), [(4000, 20, (1200, 6)), (20, 4000, (2, 316)), (1, 1, (316, 316))])
def test_strips_make_a_bounded_picture(height: int, width: int, cell: tuple[int, int]) -> None:
    strip = replace(IMAGE, pixels=np.zeros((height, width, 3), np.uint8))
    picture = draw_batch([strip] * 9, ("a",), "first batch")
    assert picture.shape == (3 * cell[0] + 2 * 6 + 42, 960, 3)
    assert (picture[: cell[0], : cell[1]] == 0).all()
