"""Which class is taken for which: detections above a score against the objects that they overlap, of any class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from focalbench.metrics.assignment import pair_iou
from focalbench.metrics.flat import FlatDetections, FlatGroundTruth


def confusion_matrix(
    detections: FlatDetections,
    ground_truth: FlatGroundTruth,
    *,
    num_classes: int,
    score_thresh: float,
    iou_thresh: float = 0.5,
) -> NDArray[np.int64]:
    """Counts pairs of true and detected class.

    A detection and an object are a pair when their IoU is above ``iou_thresh`` and neither has a partner with a higher
    one. Difficult objects, and detections that are paired with one, do not count.

    Args:
        detections: boxes in VOC's pixels.
        ground_truth: likewise.
        num_classes: K.
        score_thresh: detections with a lower score are left out.
        iou_thresh: of a pair, in [0, 1).

    Returns:
        (K + 1, K + 1): rows are true classes, the last one background; columns are detected classes, the last one
        what no detection was paired with.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    kept = np.flatnonzero(detections.score >= score_thresh)
    of_image = _rows_by_image(detections.image[kept])
    objects_of_image = _rows_by_image(ground_truth.image)
    for image in of_image.keys() | objects_of_image.keys():
        found = kept[of_image.get(image, _NONE)]
        objects = objects_of_image.get(image, _NONE)
        partner = _partners(detections.box[found], ground_truth.box[objects], iou_thresh)
        is_paired = partner >= 0
        partners = objects[partner[is_paired]]
        counts = ~ground_truth.difficult[partners]
        np.add.at(matrix, (ground_truth.label[partners[counts]], detections.label[found[is_paired]][counts]), 1)
        np.add.at(matrix[num_classes], detections.label[found[~is_paired]], 1)
        missed = np.setdiff1d(objects[~ground_truth.difficult[objects]], partners)
        np.add.at(matrix[:, num_classes], ground_truth.label[missed], 1)
    return matrix


_NONE: NDArray[np.intp] = np.empty(0, dtype=np.intp)


def _rows_by_image(image: NDArray) -> dict[int, NDArray[np.intp]]:
    order = np.argsort(image, kind="stable")
    names, starts = np.unique(image[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True)) if len(order) else {}


def _partners(boxes: NDArray, objects: NDArray, iou_thresh: float) -> NDArray[np.intp]:
    """The object that each box is paired with, the closest pairs first; -1 for none."""
    partner = np.full(len(boxes), -1, dtype=np.intp)
    iou = pair_iou(np.repeat(boxes, len(objects), axis=0), np.tile(objects, (len(boxes), 1)), 1.0)
    taken = np.zeros(len(objects), dtype=bool)
    for pair in np.argsort(-iou, kind="stable")[: int((iou > iou_thresh).sum())].tolist():
        box, there = divmod(pair, len(objects))
        if partner[box] < 0 and not taken[there]:
            partner[box], taken[there] = there, True
    return partner
