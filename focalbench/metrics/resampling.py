"""Computes AP on resampled test sets, without matching again: it varies with which images are in the set.

Matching happens within an image, so drawing an image twice repeats its true and false positives; only the counts along
the curve change. All resamples are computed at once from one assignment and one weight for each image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalbench.metrics.assignment import Assignment, check_and_assign
from focalbench.metrics.flat import FlatDetections, FlatGroundTruth
from focalbench.metrics.voc import RECALL_STEPS, Interpolation


def draw_image_weights(num_images: int, num_resamples: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Returns (B, num_images): how often each image is drawn in each of B bootstrap samples of the test set."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_images, np.full(num_images, 1 / num_images), size=num_resamples)


def resampled_average_precision(
    detections: Mapping[str, Any],
    ground_truth: Mapping[str, Any],
    weights: NDArray[np.int64],
    *,
    num_classes: int,
    interpolation: Interpolation = "11point",
) -> NDArray[np.float64]:
    """Returns (B, K) float64: AP of every class on each resampled test set; nan where a sample has no object of the
    class.

    Args:
        detections: as in ``voc_average_precision``; ``image`` must lie in 0..num_images-1.
        ground_truth: likewise.
        weights: (B, num_images), see ``draw_image_weights``.
        num_classes: K.
        interpolation: as in ``voc_average_precision``.

    Raises:
        ValueError: malformed input, or image ids that ``weights`` has no column for.
    """
    det, gt, assignment = check_and_assign(detections, ground_truth, num_classes=num_classes)
    for name, image in (("detections", det.image), ("ground_truth", gt.image)):
        if image.size and (image.min() < 0 or image.max() >= weights.shape[1]):
            raise ValueError(f"{name}['image'] must lie in 0..{weights.shape[1] - 1}, one for each column of weights")
    per_image = np.ascontiguousarray(weights.T, dtype=np.float32)  # (images, B); whole numbers, exact in float32
    columns = [_class_ap(k, assignment, det, gt, per_image, interpolation) for k in range(num_classes)]
    return np.stack(columns, axis=1)


def _class_ap(
    k: int,
    assignment: Assignment,
    det: FlatDetections,
    gt: FlatGroundTruth,
    per_image: NDArray[np.float32],
    interpolation: Interpolation,
) -> NDArray[np.float64]:
    """(B,) AP of class k."""
    num_objects = per_image[gt.image[(gt.label == k) & ~gt.difficult]].sum(axis=0, dtype=np.float64)
    rows = assignment.order[assignment.class_start[k] : assignment.class_start[k + 1]]
    rows = rows[~assignment.is_ignored[rows]]
    tp = np.flatnonzero(assignment.is_tp[rows])
    if len(tp) == 0:
        return np.where(num_objects > 0, 0.0, np.nan)
    drawn = per_image[det.image[rows[: tp[-1] + 1]]]  # (D', B): what follows the last true positive costs no AP
    num_tp = np.cumsum(drawn[tp], axis=0, dtype=np.float64)
    between = np.add.reduceat(drawn, np.concatenate([[0], tp[:-1] + 1]), axis=0)
    num_counted = np.cumsum(between, axis=0, dtype=np.float64)
    precision = np.divide(num_tp, num_counted, out=np.zeros_like(num_tp), where=num_counted > 0)
    recall = np.divide(num_tp, num_objects, out=np.full_like(num_tp, np.nan), where=num_objects > 0)
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    if interpolation == "11point":
        envelope = np.concatenate([envelope, np.zeros((1, envelope.shape[1]))])
        reached = np.stack([(recall < step).sum(axis=0) for step in RECALL_STEPS])
        ap = np.take_along_axis(envelope, reached, axis=0).mean(axis=0)
    else:
        ap = (np.diff(recall, axis=0, prepend=0.0) * envelope).sum(axis=0)
    return np.where(num_objects > 0, ap, np.nan)
