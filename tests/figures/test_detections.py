"""Boxes and crops are where they belong, legible on small pictures, and the caller's picture stays as it was."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from focalbench.figures import figure_pixels
from focalbench.figures.detections import (
    PREDICTION_COLOR,
    TRUTH_COLOR,
    crop_around,
    draw_crops,
    draw_detections,
)
from focalbench.figures.palette import IGNORED_COLOR, class_color

EMPTY = {"boxes": np.zeros((0, 4)), "labels": np.zeros(0, dtype=int), "scores": np.zeros(0)}


def holds(picture, color):
    return bool((picture == np.array(color, dtype=np.uint8)).all(axis=-1).any())


def test_a_small_picture_is_enlarged_by_a_whole_factor():
    picture = draw_detections(np.full((96, 128, 3), 7, dtype=np.uint8), classes=("a",), **EMPTY)
    assert picture.dtype == np.uint8
    assert picture.shape[1] == 128 * 4
    assert picture.shape[0] > 96 * 4
    assert (picture[: 96 * 4] == 7).all()


def test_a_large_picture_keeps_its_size():
    picture = draw_detections(np.zeros((400, 500, 3), dtype=np.uint8), classes=("a",), **EMPTY)
    assert picture.shape[1] == 500


@pytest.mark.parametrize(
    ("height", "width", "drawn"),
    [(20, 3440, (20, 3440)), (10, 1000, (40, 4000)), (1, 1, (384, 384)), (50, 20_000, (41, 16_384))],
)
def test_a_strip_is_bounded_in_both_directions(height, width, drawn):
    boxes = {"boxes": np.array([[0.0, 0, 5, 1]]), "labels": np.array([0]), "scores": np.array([0.9])}
    for turned in (False, True):
        image = np.full((width, height, 3) if turned else (height, width, 3), 90, dtype=np.uint8)
        picture = draw_detections(image, classes=("a",), **boxes)
        bottom, right = drawn[::-1] if turned else drawn
        assert picture.shape[1] == max(right, 24 * (8 + min(drawn) // 48))
        assert bottom < picture.shape[0] < bottom + 200
        assert holds(picture[:bottom, :right], class_color(0))


def test_beside_a_strip_there_is_room_for_the_words_below_it():
    with_words = draw_detections(np.zeros((3000, 4, 3), dtype=np.uint8), classes=("a",), **EMPTY)
    assert (with_words[:3000, 4:] == 255).all()
    assert (with_words[3000:, 40:] < 128).any()


def test_frames_lie_on_the_scaled_boxes_in_their_colours():
    image = np.zeros((128, 128, 3), dtype=np.uint8)
    picture = draw_detections(
        image,
        classes=("circle", "square"),
        boxes=np.array([[40.0, 50.0, 60.0, 70.0]]),
        labels=np.array([1]),
        scores=np.array([0.9]),
        truth_boxes=np.array([[10.0, 20.0, 30.0, 40.0], [80.0, 90.0, 100.0, 110.0]]),
        truth_labels=np.array([0, 1]),
        truth_difficult=np.array([False, True]),
    )
    assert tuple(picture[50 * 3, 40 * 3]) == class_color(1)
    assert tuple(picture[20 * 3, 10 * 3]) == class_color(0)
    assert tuple(picture[90 * 3, 80 * 3]) == IGNORED_COLOR
    assert (picture[60 * 3, 50 * 3] == 0).all()  # inside a frame the picture shows
    assert (image == 0).all()


def test_predictions_below_the_threshold_are_not_drawn():
    arguments = {"classes": ("a",), "boxes": np.array([[10.0, 30, 50, 60]]), "labels": np.array([0])}
    image = np.zeros((128, 128, 3), dtype=np.uint8)
    above = draw_detections(image, **arguments, scores=np.array([0.5]), score_thresh=0.5)[: 128 * 3]
    below = draw_detections(image, **arguments, scores=np.array([0.49]), score_thresh=0.5)[: 128 * 3]
    assert holds(above, class_color(0))
    assert not holds(below, class_color(0))


def edge(picture, box, factor):
    """Whether each pixel of the upper edge of a box is drawn."""
    x1, y1, x2, _ = (round(value * factor) for value in box)
    return (picture[y1, x1 : x2 + 1] != 0).any(axis=-1)


def test_truth_is_dashed_and_predictions_are_solid():
    box = [20.0, 40, 100, 90]
    arguments = {"classes": ("a",), **EMPTY}
    image = np.zeros((128, 128, 3), dtype=np.uint8)
    truth = draw_detections(image, **arguments, truth_boxes=np.array([box]), truth_labels=np.array([0]))
    arguments |= {"boxes": np.array([box]), "labels": np.array([0]), "scores": np.array([0.5])}
    prediction = draw_detections(image, **arguments)
    drawn = edge(truth, box, 3)
    assert 0.4 < drawn.mean() < 0.8
    assert drawn[:5].all()  # corners are whole
    assert drawn[-5:].all()
    assert edge(prediction, box, 3).all()


def test_names_keep_clear_of_each_other():
    boxes = np.array([[100.0, 100, 200, 200], [102, 101, 203, 205]])
    arguments = {"classes": ("ab", "cd"), "boxes": boxes, "labels": np.array([0, 1])}
    picture = draw_detections(np.zeros((400, 400, 3), dtype=np.uint8), **arguments, scores=np.array([0.9, 0.8]))
    areas = [(picture[:400] == np.array(class_color(label))).all(axis=-1).sum() for label in (0, 1)]
    assert min(areas) > 0.6 * max(areas)


@pytest.mark.parametrize(
    "name", ["кошка", "γάτα", "Straße/Öl", "猫", "👩‍🔬", "e\u0301", "a\nb\x07", "", "x" * 200, "\ud800"]
)
def test_any_name_makes_a_picture(name):
    picture = draw_detections(
        np.zeros((128, 128, 3), dtype=np.uint8),
        classes=(name,),
        boxes=np.array([[20.0, 40, 60, 80]]),
        labels=np.array([0]),
        scores=np.array([0.5]),
        truth_boxes=np.array([[20.0, 40, 60, 80]]),
        truth_labels=np.array([0]),
    )
    assert picture.shape[1] == 128 * 3
    assert holds(picture, class_color(0))


def test_an_empty_picture_of_two_hundred_classes():
    picture = draw_detections(
        np.zeros((400, 400, 3), dtype=np.uint8),
        classes=[f"c{label}" for label in range(200)],
        boxes=np.array([[50.0, 50, 100, 100]]),
        labels=np.array([199]),
        scores=np.array([1.0]),
    )
    assert tuple(picture[50, 50]) == class_color(199) == class_color(19)


@pytest.mark.parametrize(
    "box",
    [
        [-50.0, -50, 500, 500],
        [120, 120, 128, 128],
        [0, 0, 0, 0],
        [60, 60, 20, 20],
        [np.nan, 0, 5, 5],
        [0, 0, np.inf, 5],
    ],
)
def test_boxes_at_and_over_the_border_do_not_fail(box):
    picture = draw_detections(
        np.zeros((128, 128, 3), dtype=np.uint8),
        classes=("a name far too long to fit into the picture of a small canvas, truly",),
        boxes=np.array([box], dtype=np.float32),
        labels=np.array([0]),
        scores=np.array([1.0]),
        truth_boxes=np.array([box], dtype=np.float32),
        truth_labels=np.array([0]),
    )
    assert picture.shape[2] == 3


def test_a_figure_becomes_its_pixels():
    figure = Figure(figsize=(2, 1), dpi=50, facecolor=(1, 0, 0))
    pixels = figure_pixels(figure)
    assert pixels.shape == (50, 100, 3)
    assert (pixels == (255, 0, 0)).all()


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


def test_a_crop_is_drawn_with_its_boxes() -> None:
    crop = (
        np.zeros((90, 45, 3), np.uint8),
        np.array([5, 5, 30, 60]),
        np.array([[10, 20, 40, 80]]),
        "RBC 0.71\nnothing",
    )
    sheet = draw_crops([crop] * 7, columns=3)
    assert sheet.shape[1] > sheet.shape[0] / 2
    colors = {tuple(color) for color in sheet.reshape(-1, 3).tolist()}
    assert {TRUTH_COLOR, PREDICTION_COLOR} <= colors
    assert draw_crops([]).shape[2] == 3


def test_where_names_have_no_room_the_legend_names_the_colours():
    """Thirty names of cells would cover the cells."""
    corners = np.array([(x, y) for x in range(0, 600, 100) for y in range(0, 500, 100)], dtype=np.float64)
    boxes = np.concatenate([corners + 10, corners + 90], axis=1)
    labels = np.arange(30) % 2

    def drawn(number):
        return draw_detections(
            np.full((500, 600, 3), 90, dtype=np.uint8), classes=("a long name", "another one"),
            boxes=boxes[:number], labels=labels[:number], scores=np.full(number, 0.9),
        )  # fmt: skip

    few, many = drawn(16), drawn(30)
    assert not holds(few[500:], class_color(0))
    assert holds(many[500:], class_color(0))
    assert holds(many[500:], class_color(1))
    inside = np.zeros(600 * 500, dtype=bool).reshape(500, 600)
    inside[10:90, 10:90] = True

    def coloured(picture):
        return (picture[:500][inside] == class_color(0)).all(axis=-1).sum()

    assert coloured(many) < coloured(few)  # a score takes less room than a name with it
