"""Computes Pascal VOC average precision, bit for bit as the usual loop does, vectorised over images and classes.

Scores sorted, each detection takes its highest-IoU object, inclusive pixels (+1), IoU strictly above the threshold; a
claim on a difficult object is neither true nor false, and difficult objects leave the count; a second claim is false.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, TypedDict, get_args

import numpy as np
from numpy.typing import NDArray

from focalbench.metrics.assignment import Assignment, MatchRules, check_and_assign

Interpolation = Literal["11point", "area"]
# The devkit's own steps: 0.30000000000000004, not 0.3, so a recall of exactly 3/10 does not reach the fourth.
RECALL_STEPS = np.arange(0.0, 1.1, 0.1)


class AveragePrecision(TypedDict):
    """Holds ``ap``: (K,) float64 in [0, 1], nan for a class without countable objects; ``map``: mean of the others."""

    ap: NDArray[np.float64]
    map: float


@dataclasses.dataclass(frozen=True)
class PrecisionRecall:
    """Holds the curve of one class: one point for each detection that counts, best first.

    Attributes:
        recall: (D',) float64 in [0, 1]; nan where the class has no countable object.
        precision: (D',) float64 in [0, 1], not made monotone.
        score: (D',) the score at which the point is reached.
        is_tp: (D',) bool.
        num_objects: countable objects of the class.
    """

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    score: NDArray[np.floating[Any]]
    is_tp: NDArray[np.bool_]
    num_objects: int


def voc_average_precision(
    detections: Mapping[str, Any],
    ground_truth: Mapping[str, Any],
    *,
    num_classes: int,
    iou_thresh: float = 0.5,
    interpolation: Interpolation = "11point",
    rules: MatchRules | None = None,
) -> AveragePrecision:
    """Computes the VOC average precision of every class, and their mean.

    Args:
        detections: ``image``, ``label``, ``score``, ``box`` (see the package); images without ground truth are fine.
        ground_truth: ``image``, ``label``, ``box``, ``difficult``.
        num_classes: K.
        iou_thresh: a hit has an IoU strictly above it; in [0, 1).
        interpolation: ``11point`` is VOC07's mean of the best precision at 11 recalls; ``area`` is VOC10's and later:
            the area under the monotone envelope.
        rules: variants of the matching, for comparison with other tools; None keeps the usual ones.

    Returns:
        ``{"ap": (K,) float64, "map": float}``; a class without countable objects is nan and left out of the mean.

    Raises:
        ValueError: input that is malformed; the text names the column.
    Source: Everingham et al., IJCV 2010, sec. 4.2, as the usual Python evaluators have it; the devkit's own VOCevaldet
    also takes an IoU equal to the threshold.
    """
    if interpolation not in get_args(Interpolation):
        raise ValueError(f"interpolation must be one of {', '.join(get_args(Interpolation))}, got {interpolation!r}")
    if not 0 <= iou_thresh < 1:
        raise ValueError(f"iou_thresh must lie in [0, 1), got {iou_thresh}")
    _, _, assignment = check_and_assign(
        detections, ground_truth, num_classes=num_classes, iou_thresh=iou_thresh, rules=rules
    )
    ap = assignment_ap(assignment, interpolation)
    return {"ap": ap, "map": mean_defined(ap)}


def precision_recall(
    detections: Mapping[str, Any], ground_truth: Mapping[str, Any], *, num_classes: int
) -> tuple[PrecisionRecall, ...]:
    """Returns the precision-recall curve of every class at IoU .5, for plots; see ``voc_average_precision``."""
    det, _, assignment = check_and_assign(detections, ground_truth, num_classes=num_classes)
    curves = []
    for k in range(num_classes):
        rows = assignment.order[assignment.class_start[k] : assignment.class_start[k + 1]]
        rows = rows[~assignment.is_ignored[rows]]
        is_tp = assignment.is_tp[rows]
        num_tp = np.cumsum(is_tp)
        num_objects = int(assignment.num_objects[k])
        recall = num_tp / num_objects if num_objects else np.full(len(rows), np.nan)
        precision = num_tp / np.arange(1, len(rows) + 1)
        curves.append(PrecisionRecall(recall, precision, det.score[rows], is_tp, num_objects))
    return tuple(curves)


def voc_variants(
    detections: Mapping[str, Any], ground_truth: Mapping[str, Any], *, num_classes: int
) -> dict[str, AveragePrecision]:
    """Scores the same detections by both VOC protocols and by the variants of public tools, name -> result.

    The first two rows are the protocols; each further row changes one rule of the first.
    """
    variants: dict[str, tuple[Interpolation, MatchRules]] = {
        "voc07 (11 points)": ("11point", MatchRules()),
        "voc12 (area)": ("area", MatchRules()),
        "voc07, IoU >= threshold": ("11point", MatchRules(equal_is_hit=True)),
        "voc07, no +1 pixel": ("11point", MatchRules(pixel_offset=0.0)),
        "voc07, difficult counted": ("11point", MatchRules(count_difficult=True)),
        "voc07, scores to 3 digits": ("11point", MatchRules(score_digits=3)),
    }
    return {
        name: voc_average_precision(
            detections, ground_truth, num_classes=num_classes, interpolation=interpolation, rules=rules
        )
        for name, (interpolation, rules) in variants.items()
    }


def mean_defined(ap: NDArray[np.float64]) -> float:
    """Returns the mean of the values that are not nan; nan if there is none."""
    defined = ap[~np.isnan(ap)]
    return float(defined.mean()) if len(defined) else float("nan")


def average_precision(
    tp_recall: NDArray[np.float64], tp_precision: NDArray[np.float64], interpolation: Interpolation
) -> float:
    """Returns the AP from the curve's points at true positives: elsewhere recall stands still and precision falls.

    Args:
        tp_recall: (T,) float64, rising, in (0, 1].
        tp_precision: (T,) float64 in (0, 1].
        interpolation: as in ``voc_average_precision``.
    """
    if len(tp_recall) == 0:
        return 0.0
    envelope = np.maximum.accumulate(tp_precision[::-1])[::-1]
    if interpolation == "11point":
        total = 0.0
        reached = np.searchsorted(tp_recall, RECALL_STEPS, side="left")
        for point in reached:  # one by one, as the devkit adds them: the last bit depends on it
            total += (float(envelope[point]) if point < len(envelope) else 0.0) / 11.0
        return total
    widths = np.diff(tp_recall, prepend=0.0)
    heights = envelope
    if tp_recall[-1] != 1.0:  # the loop adds an empty last step; numpy's pairwise sum depends on the number of terms
        widths, heights = np.append(widths, 1.0 - tp_recall[-1]), np.append(heights, 0.0)
    return float(np.sum(widths * heights))


def assignment_ap(assignment: Assignment, interpolation: Interpolation) -> NDArray[np.float64]:
    """Returns (K,) float64, the AP of every class from a finished assignment; nan where a class has no countable
    objects.
    """
    order, start = assignment.order, assignment.class_start
    is_tp, is_ignored = assignment.is_tp[order], assignment.is_ignored[order]
    tp_position = np.flatnonzero(is_tp)
    ignored_before = np.cumsum(is_ignored)
    first_tp = np.searchsorted(tp_position, start)
    ap = np.full(len(start) - 1, np.nan)
    for k in np.flatnonzero(assignment.num_objects):
        position = tp_position[first_tp[k] : first_tp[k + 1]]
        ignored_earlier = ignored_before[start[k] - 1] if start[k] else 0
        num_counted = position - start[k] + 1 - (ignored_before[position] - ignored_earlier)
        num_tp = np.arange(1, len(position) + 1)
        ap[k] = average_precision(num_tp / assignment.num_objects[k], num_tp / num_counted, interpolation)
    return ap
