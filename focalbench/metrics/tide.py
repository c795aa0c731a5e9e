"""Says where the missing AP went: each false detection and each missed object gets one cause, as TIDE defines them.

With the foreground threshold .5 and the background threshold .1, a detection that is no true positive is

- ``localisation``: overlaps an object of its class by .1 to .5;
- ``classification``: overlaps an object of another class by .5 or more;
- ``duplicate``: overlaps by .5 or more an object of its class that a surer detection took;
- ``background``: overlaps nothing by more than .1;
- ``both``: the rest, wrong in class and in place;

tested in this order, as tidecv, the authors' package, does: the paper defines the causes but does not order them.
``missed`` are the objects that no true positive took and that no classification or localisation error lies on.

A cause costs the AP that an oracle mending it alone would gain; the gains do not add up to the missing AP. One error
mends an object: the surest of classification and localisation together. The others on it are dropped when their cause
is mended, and so are those on an object that a true positive took, however sure they are. The paper says only that of
two detections which would be duplicates the lower scored one goes; this is tidecv's reading. Where all objects of a
class leave the count, its AP is 0 if it has detections, else it leaves the mean, as in tidecv; the paper is silent.
docs/metrics.md lists where tidecv's figures differ from these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from focalbench.metrics.assignment import (
    NO_OBJECT,
    Assignment,
    check_and_assign,
    order_by_class_and_score,
    pair_iou,
    pairs_in_image_and_class,
)
from focalbench.metrics.flat import FlatDetections, FlatGroundTruth
from focalbench.metrics.voc import Interpolation, assignment_ap, mean_defined

Cause = Literal["classification", "localisation", "both", "duplicate", "background", "missed"]
CAUSES: tuple[Cause, ...] = ("classification", "localisation", "both", "duplicate", "background", "missed")


@dataclass(frozen=True)
class ErrorsByCause:
    """Holds what each cause costs.

    Attributes:
        map: the detector's mAP.
        cost: mAP gained if only this cause were mended, in [0, 1]; per cause.
        count: detections with this cause (``missed``: objects).
        cost_of_false_positives: mAP gained if every false positive were dropped.
        cost_of_false_negatives: mAP gained if every object that no true positive took were not asked for.
    """

    map: float
    cost: dict[Cause, float]
    count: dict[Cause, int]
    cost_of_false_positives: float
    cost_of_false_negatives: float


@dataclass(frozen=True)
class _Overlaps:
    """Per detection, the best overlap (D,) and its object (D,) within one relation; IoU 0 and NO_OBJECT where none."""

    iou: NDArray[np.float64]
    best: NDArray[np.intp]


def errors_by_cause(
    detections: Mapping[str, Any],
    ground_truth: Mapping[str, Any],
    *,
    num_classes: int,
    foreground_iou: float = 0.5,
    background_iou: float = 0.1,
    interpolation: Interpolation = "area",
) -> ErrorsByCause:
    """Splits the missing AP by cause.

    True positives are VOC's (each detection takes the object it overlaps most; claims on difficult objects are
    neither and have no cause), so ``map`` is the figure of ``voc_average_precision``; tidecv uses COCO's matching and
    101 recalls.

    Raises:
        ValueError: malformed input, or thresholds not 0 <= background < foreground < 1.
    Source: Bolya et al., TIDE, arXiv:2008.08115, sec. 2.2 (causes) and 2.3 (oracles); tidecv 1.0.1 where it is silent.
    """
    if not 0 <= background_iou < foreground_iou < 1:
        raise ValueError(f"expected 0 <= background_iou < foreground_iou < 1, got {background_iou}, {foreground_iou}")
    det, gt, base = check_and_assign(detections, ground_truth, num_classes=num_classes, iou_thresh=foreground_iou)
    countable = dataclasses.replace(
        gt, image=gt.image[~gt.difficult], label=gt.label[~gt.difficult], box=gt.box[~gt.difficult]
    )
    same_class, other_class = _best_overlaps_by_relation(det, countable)
    taken = np.zeros(len(countable.label), dtype=np.bool_)
    taken[same_class.best[base.is_tp]] = True
    cause = _causes(base, same_class, other_class, foreground_iou, background_iou)
    return _costs(det, countable, base, cause, taken, same_class, other_class, interpolation)


def _best_overlaps_by_relation(det: FlatDetections, gt: FlatGroundTruth) -> tuple[_Overlaps, _Overlaps]:
    """Each detection's best object of its own class, and of any other class, in its image."""
    det_alike = dataclasses.replace(det, label=np.zeros_like(det.label))
    gt_alike = dataclasses.replace(gt, label=np.zeros_like(gt.label))
    _, _, pair_det, pair_object = pairs_in_image_and_class(det_alike, gt_alike, 1)
    iou = pair_iou(det.box[pair_det], gt.box[pair_object], 1.0)
    same = det.label[pair_det] == gt.label[pair_object]
    return (
        _best_of_pairs(pair_det[same], pair_object[same], iou[same], len(det.label)),
        _best_of_pairs(pair_det[~same], pair_object[~same], iou[~same], len(det.label)),
    )


def _best_of_pairs(
    pair_det: NDArray[np.intp], pair_object: NDArray[np.intp], iou: NDArray[np.float64], num: int
) -> _Overlaps:
    best_iou = np.zeros(num)
    best = np.full(num, NO_OBJECT, dtype=np.intp)
    by_rising_iou = np.argsort(iou[::-1], kind="stable")  # reversed: of equal overlaps the first object is written last
    rows = pair_det[::-1][by_rising_iou]
    best_iou[rows] = iou[::-1][by_rising_iou]
    best[rows] = pair_object[::-1][by_rising_iou]
    best[best_iou == 0] = NO_OBJECT
    return _Overlaps(best_iou, best)


def _causes(
    base: Assignment, same: _Overlaps, other: _Overlaps, foreground_iou: float, background_iou: float
) -> NDArray[np.int64]:
    """(D,) index into CAUSES, or -1 for true positives and ignored detections."""
    tests: dict[Cause, NDArray[np.bool_]] = {
        "localisation": (same.best != NO_OBJECT) & (same.iou >= background_iou) & (same.iou <= foreground_iou),
        "classification": other.iou >= foreground_iou,
        "duplicate": same.iou > foreground_iou,
        "background": np.maximum(same.iou, other.iou) <= background_iou,
    }
    neither = base.is_tp | base.is_ignored
    return np.select([neither, *tests.values()], [-1, *map(CAUSES.index, tests)], default=CAUSES.index("both"))


def _costs(
    det: FlatDetections,
    gt: FlatGroundTruth,
    base: Assignment,
    cause: NDArray[np.int64],
    taken: NDArray[np.bool_],
    same: _Overlaps,
    other: _Overlaps,
    interpolation: Interpolation,
) -> ErrorsByCause:
    base_map = mean_defined(assignment_ap(base, interpolation))
    target = np.where(cause == CAUSES.index("classification"), other.best, same.best)
    mendable = np.isin(cause, [CAUSES.index("classification"), CAUSES.index("localisation")])
    winners = _surest_per_object(det.score, np.flatnonzero(mendable), target, taken)
    missed = ~taken
    missed[target[winners]] = False
    count: dict[Cause, int] = {name: int((cause == i).sum()) for i, name in enumerate(CAUSES)}
    count["missed"] = int(missed.sum())
    cost: dict[Cause, float] = {}
    for i, name in enumerate(CAUSES[:-1]):
        corrected = winners[cause[winners] == i]
        mended = _with_corrected(base, det, gt, corrected, target) if len(corrected) else base
        mended = dataclasses.replace(mended, is_ignored=mended.is_ignored | ((cause == i) & ~mended.is_tp))
        cost[name] = mean_defined(assignment_ap(mended, interpolation)) - base_map
    cost["missed"] = _map_without_objects(base, det, gt, missed, interpolation) - base_map
    no_false = dataclasses.replace(base, is_ignored=~base.is_tp)
    return ErrorsByCause(
        base_map,
        cost,
        count,
        mean_defined(assignment_ap(no_false, interpolation)) - base_map,
        _map_without_objects(base, det, gt, ~taken, interpolation) - base_map,
    )


def _surest_per_object(
    score: NDArray[np.floating[Any]], rows: NDArray[np.intp], target: NDArray[np.intp], taken: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """The surest of ``rows`` for each of their objects that no true positive took: the one an oracle corrects."""
    rows = rows[~taken[target[rows]]]
    rows = rows[np.argsort(-score[rows], kind="stable")]
    _, first = np.unique(target[rows], return_index=True)
    return rows[first]


def _with_corrected(
    base: Assignment, det: FlatDetections, gt: FlatGroundTruth, winners: NDArray[np.intp], target: NDArray[np.intp]
) -> Assignment:
    """The assignment after ``winners`` got the class and place of their objects."""
    label = det.label.copy()
    label[winners] = gt.label[target[winners]]
    is_tp = base.is_tp.copy()
    is_tp[winners] = True
    order, class_start = order_by_class_and_score(label, det.score, len(base.num_objects))
    return dataclasses.replace(base, order=order, class_start=class_start, is_tp=is_tp)


def _map_without_objects(
    base: Assignment,
    det: FlatDetections,
    gt: FlatGroundTruth,
    dropped: NDArray[np.bool_],
    interpolation: Interpolation,
) -> float:
    """The mAP if ``dropped`` objects were not asked for; 1 where that leaves no class to average: nothing is wrong."""
    fewer = base.num_objects - np.bincount(gt.label[dropped], minlength=len(base.num_objects))
    ap = assignment_ap(dataclasses.replace(base, num_objects=fewer), interpolation)
    has_claims = np.bincount(det.label[~base.is_ignored], minlength=len(base.num_objects)) > 0
    ap[(fewer == 0) & (base.num_objects > 0) & has_claims] = 0.0
    return 1.0 if np.isnan(ap).all() else mean_defined(ap)
