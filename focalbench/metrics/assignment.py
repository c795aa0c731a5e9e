"""Decides which detection takes which object, as the usual VOC evaluators do, for all images and classes at once.

Each detection takes the object of its class and image that it overlaps most. Beyond the threshold the first (highest
scored) claimant of an object is a true positive and later ones are false; a difficult object makes its claimants
neither. Equal scores keep the order of the input.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalbench.metrics.flat import (
    BoolArray,
    FlatDetections,
    FlatGroundTruth,
    FloatArray,
    IntArray,
    check_detections,
    check_ground_truth,
)

NO_OBJECT = -1
_TABLE_LIMIT = 1 << 24  # entries of the (image, class) lookup table; beyond it image ids are renumbered first


@dataclass(frozen=True)
class MatchRules:
    """Holds the usual evaluators' rules by default; other values are variants of public tools, each of which moves mAP.

    Attributes:
        equal_is_hit: an IoU equal to the threshold counts as a hit, as in the devkit's VOCevaldet.
        pixel_offset: pixels added to every width and height; 1 for inclusive pixels, 0 for tools that forget it.
        count_difficult: difficult objects are objects like any other.
        score_digits: decimals kept of the scores, as result files written with %.3f do; None keeps all.
    """

    equal_is_hit: bool = False
    pixel_offset: float = 1.0
    count_difficult: bool = False
    score_digits: int | None = None


@dataclass(frozen=True)
class Assignment:
    """Says what became of every detection.

    Attributes:
        order: (D,) detections by class, within it by falling score, ties in input order.
        class_start: (K + 1,) where each class begins in ``order``.
        is_tp: (D,) bool, in input order.
        is_ignored: (D,) bool, in input order: claimants of a difficult object, neither true nor false.
        num_objects: (K,) objects that count, per class.
    """

    order: NDArray[np.intp]
    class_start: NDArray[np.int64]
    is_tp: BoolArray
    is_ignored: BoolArray
    num_objects: NDArray[np.int64]


def check_and_assign(
    detections: Mapping[str, Any],
    ground_truth: Mapping[str, Any],
    *,
    num_classes: int,
    iou_thresh: float = 0.5,
    rules: MatchRules | None = None,
) -> tuple[FlatDetections, FlatGroundTruth, Assignment]:
    """Returns both sets of columns as checked arrays and what became of every detection; None: the usual rules.

    Raises:
        ValueError: input that is malformed; the text names the column.
    """
    det, gt = check_detections(detections, num_classes), check_ground_truth(ground_truth, num_classes)
    rules = MatchRules() if rules is None else rules
    return det, gt, assign_detections(det, gt, num_classes=num_classes, iou_thresh=iou_thresh, rules=rules)


def assign_detections(
    det: FlatDetections, gt: FlatGroundTruth, *, num_classes: int, iou_thresh: float, rules: MatchRules
) -> Assignment:
    """Decides of every detection whether it is true, false or ignored."""
    score = det.score if rules.score_digits is None else np.round(det.score, rules.score_digits)
    order, class_start = order_by_class_and_score(det.label, score, num_classes)
    claimant, claimed, iou = best_overlaps(det, gt, num_classes=num_classes, pixel_offset=rules.pixel_offset)
    hit = iou >= iou_thresh if rules.equal_is_hit else iou > iou_thresh
    claimant, claimed = claimant[hit], claimed[hit]

    is_ignored = np.zeros(len(det.label), dtype=np.bool_)
    countable = np.ones(len(gt.label), dtype=np.bool_) if rules.count_difficult else ~gt.difficult
    counts = countable[claimed]
    is_ignored[claimant[~counts]] = True
    is_tp = _first_claimants(order, claimant[counts], claimed[counts], len(gt.label))
    num_objects = np.bincount(gt.label[countable], minlength=num_classes)
    return Assignment(order, class_start, is_tp, is_ignored, num_objects)


def order_by_class_and_score(
    label: IntArray, score: FloatArray, num_classes: int
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Returns (D,) indices by class, then by falling score, ties in input order; and the (K + 1,) starts of classes."""
    class_start = np.concatenate([[0], np.cumsum(np.bincount(label, minlength=num_classes))])
    num = len(label)
    index_bits = max(num - 1, 0).bit_length()
    if score.dtype == np.float32 and (num_classes - 1).bit_length() + 32 + index_bits <= 64:
        # One sortable word (class | falling score | index): unique, so numpy's fast unstable sort is exact.
        bits = (score + np.float32(0)).view(np.uint32)  # + 0 turns -0.0 into 0.0, which it ties with
        falling = np.where(bits >> 31, bits, bits ^ np.uint32(0x7FFFFFFF))
        word = label.astype(np.uint64) << np.uint64(32)
        word |= falling
        word <<= np.uint64(index_bits)
        word |= np.arange(num, dtype=np.uint64)
        word.sort()
        return (word & np.uint64((1 << index_bits) - 1)).astype(np.intp), class_start
    by_score = np.argsort(-score)
    ordered = score[by_score]
    if (ordered[1:] == ordered[:-1]).any():
        by_score = np.argsort(-score, kind="stable")
    narrow = np.uint16 if num_classes <= 1 << 16 else np.int64  # numpy's stable sort of 16-bit integers is a radix sort
    return by_score[np.argsort(label[by_score].astype(narrow), kind="stable")], class_start


def best_overlaps(
    det: FlatDetections, gt: FlatGroundTruth, *, num_classes: int, pixel_offset: float = 1.0
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Finds the object that each detection overlaps most, among those of its image and class.

    Returns:
        Detections that have such an object (C,), that object (C,) and their IoU (C,); the first object of equal IoUs.
    """
    candidates, pair_start, pair_det, pair_object = pairs_in_image_and_class(det, gt, num_classes)
    if len(candidates) == 0:
        return candidates, candidates, np.zeros(0)
    iou = pair_iou(det.box[pair_det], gt.box[pair_object], pixel_offset)
    best = np.maximum.reduceat(iou, pair_start)
    pairs_per_candidate = np.diff(pair_start, append=len(iou))
    attaining = np.flatnonzero(iou == np.repeat(best, pairs_per_candidate))
    owner = np.repeat(np.arange(len(candidates)), pairs_per_candidate)[attaining]
    first = np.flatnonzero(np.diff(owner, prepend=-1))
    return candidates, pair_object[attaining[first]], best


def pairs_in_image_and_class(
    det: FlatDetections, gt: FlatGroundTruth, num_classes: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Returns every (detection, object) pair of one image and class, detection by detection, objects in input order.

    Returns:
        The detections that have at least one (C,), the first pair of each (C,); detection and object of each pair (P,).
    """
    none = np.zeros(0, dtype=np.intp)
    if len(gt.label) == 0 or len(det.label) == 0:
        return none, none, none, none
    det_key, gt_key, table_size = _image_class_keys(det, gt, num_classes)
    objects = np.argsort(gt_key, kind="stable")
    num_in_key = np.bincount(gt_key, minlength=table_size)
    key_start = np.cumsum(num_in_key) - num_in_key
    num_pairs = num_in_key[det_key]
    candidates = np.flatnonzero(num_pairs)
    num_pairs = num_pairs[candidates]
    pair_start = np.cumsum(num_pairs) - num_pairs
    within = np.arange(num_pairs.sum()) - np.repeat(pair_start, num_pairs)
    pair_object = objects[np.repeat(key_start[det_key[candidates]], num_pairs) + within]
    return candidates, pair_start, np.repeat(candidates, num_pairs), pair_object


def pair_iou(a: NDArray[Any], b: NDArray[Any], pixel_offset: float) -> NDArray[np.float64]:
    """Returns the IoU of rows (P, 4) with rows (P, 4), float64, in the devkit's order of operations; 0 where both are
    empty.
    """
    ax1, ay1, ax2, ay2 = np.ascontiguousarray(a.T, dtype=np.float64)
    bx1, by1, bx2, by2 = np.ascontiguousarray(b.T, dtype=np.float64)
    width = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1) + pixel_offset, 0.0)
    height = np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1) + pixel_offset, 0.0)
    intersection = width * height
    area_a = (ax2 - ax1 + pixel_offset) * (ay2 - ay1 + pixel_offset)
    area_b = (bx2 - bx1 + pixel_offset) * (by2 - by1 + pixel_offset)
    union = area_a + area_b - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _image_class_keys(
    det: FlatDetections, gt: FlatGroundTruth, num_classes: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], int]:
    """Table positions of (image, class), and the table's size; images without ground truth share a spare, empty one."""
    low, high = int(gt.image.min()), int(gt.image.max())
    if (high - low + 1) * num_classes <= _TABLE_LIMIT:
        num_images = high - low + 1
        gt_image = gt.image.astype(np.intp) - low
        det_image = det.image.astype(np.intp) - low
        known = (det.image >= low) & (det.image <= high)
    else:
        ids, gt_image = np.unique(gt.image, return_inverse=True)
        num_images = len(ids)
        det_image = np.searchsorted(ids, det.image)
        known = ids[np.minimum(det_image, num_images - 1)] == det.image
    spare = num_images * num_classes
    det_key = det_image * num_classes
    det_key += det.label
    det_key[~known] = spare
    return det_key, gt_image * num_classes + gt.label, spare + 1


def _first_claimants(
    order: NDArray[np.intp], claimant: NDArray[np.intp], claimed: NDArray[np.intp], num_objects: int
) -> BoolArray:
    """(D,) bool: the detections that come first in ``order`` among those that claim the same object."""
    rank = np.empty(len(order), dtype=np.intp)
    rank[order] = np.arange(len(order))
    claimant_rank = rank[claimant]
    first_rank = np.full(num_objects, len(order), dtype=np.intp)
    np.minimum.at(first_rank, claimed, claimant_rank)
    is_first = np.zeros(len(order), dtype=np.bool_)
    is_first[order[first_rank[first_rank < len(order)]]] = True
    return is_first
