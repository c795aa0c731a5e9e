"""The confusion matrix against a public one where boxes of an image do not overlap, and against hand-made cases."""

import numpy as np
import pytest
from supervision.metrics.detection import ConfusionMatrix

from focalbench.metrics.confusion import confusion_matrix
from focalbench.metrics.flat import FlatDetections, FlatGroundTruth

CLASSES = 4


def flat(rows: list[tuple]) -> tuple[FlatDetections, FlatGroundTruth]:
    """From (image, label, score, box) for detections and (image, label, box[, difficult]) for objects."""
    found = [row for row in rows if len(row) == 4 and not isinstance(row[3], bool)]
    objects = [row for row in rows if row not in found]
    return (
        FlatDetections(
            np.array([row[0] for row in found], int),
            np.array([row[1] for row in found], int),
            np.array([row[2] for row in found], float),
            np.array([row[3] for row in found], float).reshape(-1, 4),
        ),
        FlatGroundTruth(
            np.array([row[0] for row in objects], int),
            np.array([row[1] for row in objects], int),
            np.array([row[2] for row in objects], float).reshape(-1, 4),
            np.array([len(row) == 4 and row[3] for row in objects], bool),
        ),
    )


def matrix(rows: list[tuple], score_thresh: float = 0.5) -> dict[tuple[int, int], int]:
    found = confusion_matrix(*flat(rows), num_classes=CLASSES, score_thresh=score_thresh)
    return {(int(i), int(j)): int(found[i, j]) for i, j in np.argwhere(found)}


BOX, BESIDE, FAR = (1, 1, 10, 10), (2, 1, 11, 10), (50, 50, 60, 60)


def test_right_wrong_missed_and_invented() -> None:
    rows = [(0, 1, BOX), (0, 1, 0.9, BOX)]
    assert matrix(rows) == {(1, 1): 1}
    assert matrix([(0, 1, BOX), (0, 2, 0.9, BESIDE)]) == {(1, 2): 1}
    assert matrix([(0, 1, BOX), (0, 2, 0.9, FAR)]) == {(1, CLASSES): 1, (CLASSES, 2): 1}
    assert matrix([(0, 1, BOX), (1, 1, 0.9, BOX)]) == {(1, CLASSES): 1, (CLASSES, 1): 1}
    assert matrix([(0, 1, BOX), (0, 1, 0.4, BOX)]) == {(1, CLASSES): 1}
    assert matrix([]) == {}


def test_the_closest_pair_comes_first_whatever_the_scores() -> None:
    rows = [(0, 1, BOX), (0, 2, 0.99, BESIDE), (0, 1, 0.6, BOX)]
    assert matrix(rows) == {(1, 1): 1, (CLASSES, 2): 1}


def test_difficult_objects_and_what_lies_on_them_do_not_count() -> None:
    assert matrix([(0, 1, BOX, True), (0, 2, 0.9, BOX)]) == {}
    assert matrix([(0, 1, BOX, True)]) == {}


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_public_matrix_where_boxes_do_not_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows: list[tuple] = []
    expected = np.zeros((CLASSES + 1, CLASSES + 1), int)
    for image in range(12):
        corners = 40.0 * rng.permutation(25)[: rng.integers(0, 9), None] * np.array([1, 0]) + 1
        objects = np.concatenate([corners, corners + 20], axis=1)
        labels = rng.integers(0, CLASSES, len(objects))
        moved = rng.random(len(objects)) < 0.8
        boxes = objects[moved] + rng.uniform(-6, 6, (int(moved.sum()), 1))
        guesses, scores = rng.integers(0, CLASSES, len(boxes)), rng.random(len(boxes)).round(3)
        rows += [(image, int(k), tuple(box)) for k, box in zip(labels, objects, strict=True)]
        rows += [(image, int(k), float(s), tuple(b)) for k, s, b in zip(guesses, scores, boxes, strict=True)]
        one = np.array([0, 0, 1, 1])  # VOC's corners are inclusive
        expected += ConfusionMatrix.evaluate_detection_batch(
            np.column_stack([boxes + one, guesses, scores]).reshape(-1, 6),
            np.column_stack([objects + one, labels]).reshape(-1, 5),
            num_classes=CLASSES,
            conf_threshold=0.3,
            iou_threshold=0.5,
        )
    found = confusion_matrix(*flat(rows), num_classes=CLASSES, score_thresh=0.3)
    np.testing.assert_array_equal(found, expected)
    assert np.trace(found) > 0
