"""Measures whether a score of 0.8 means that 8 of 10 boxes are right: reliability diagram, calibration error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalbench.metrics.assignment import check_and_assign
from focalbench.metrics.flat import BoolArray, FloatArray


@dataclass(frozen=True)
class Reliability:
    """Holds a reliability diagram: B bins of equal width over the score.

    Attributes:
        edges: (B + 1,) float64, from 0 to 1.
        count: (B,) int64, detections in the bin.
        mean_score: (B,) float64, nan in an empty bin.
        precision: (B,) float64, share of the bin's detections that are true positives; nan in an empty bin.
        d_ece: mean of abs(precision - mean_score), weighted by count; nan without detections.
    """

    edges: NDArray[np.float64]
    count: NDArray[np.int64]
    mean_score: NDArray[np.float64]
    precision: NDArray[np.float64]
    d_ece: float


def reliability(detections: Mapping[str, Any], ground_truth: Mapping[str, Any], *, num_classes: int) -> Reliability:
    """Returns the reliability diagram of a detector, all classes together.

    Right means a true positive of VOC's matching at IoU .5; claims on difficult objects are left out. D-ECE
    depends on the score threshold under which detections were dropped: compare it only between equal thresholds.

    Raises:
        ValueError: malformed input, or scores outside [0, 1].
    Source: Kueppers et al., arXiv:2004.13546, eq. 3, binned over confidence alone.
    """
    det, _, assignment = check_and_assign(detections, ground_truth, num_classes=num_classes)
    if det.score.size and (det.score.min() < 0 or det.score.max() > 1):
        raise ValueError("detections['score'] must lie in [0, 1] to be read as probabilities")
    counted = ~assignment.is_ignored
    return bin_reliability(det.score[counted], assignment.is_tp[counted])


def bin_reliability(score: FloatArray, is_right: BoolArray, *, num_bins: int = 20) -> Reliability:
    """Returns the diagram of scores (D,) in [0, 1] and whether each was right (D,)."""
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    index = np.minimum((score * num_bins).astype(np.int64), num_bins - 1)  # a score of 1 belongs to the last bin
    count = np.bincount(index, minlength=num_bins)
    filled = count > 0
    with np.errstate(invalid="ignore"):  # 0 / 0 in an empty bin
        mean_score = np.bincount(index, weights=score, minlength=num_bins) / count
        precision = np.bincount(index, weights=is_right, minlength=num_bins) / count
    gap = np.abs(precision - mean_score)[filled]
    d_ece = float(np.average(gap, weights=count[filled])) if filled.any() else float("nan")
    return Reliability(edges, count, mean_score, precision, d_ece)
