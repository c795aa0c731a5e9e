"""Computes COCO average precision of VOC-shaped detections, by faster-coco-eval (equal to pycocotools to 6 digits).

Boxes go over as COCO's continuous x, y, width, height: VOC's inclusive (x1, y1, x2, y2) covers [x1 - 1, x2) by
[y1 - 1, y2), so areas and overlaps equal those of the VOC metrics. A difficult object becomes a crowd (``iscrowd``), as
the usual VOC-to-COCO converters have it: it is not counted, and detections on it are ignored, however many. COCO
measures the overlap with a crowd against the detection's own area, so a detection that lies inside a difficult object
is ignored here although VOC might call it false.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from focalbench.boxes.voc import continuous_from_voc
from focalbench.metrics.flat import FlatDetections, FlatGroundTruth, FloatArray, check_detections, check_ground_truth
from focalbench.metrics.voc import mean_defined

_ALL_AREAS, _SMALL, _MEDIUM, _LARGE = range(4)  # COCO's area ranges: all, below 32^2, 32^2 to 96^2, above 96^2 pixels


class CocoAveragePrecision(TypedDict):
    """Holds COCO's figures, each in [0, 1] or nan where nothing is there to be found.

    ``ap``: (K,) float64, mean over IoU .50:.95; ``map``: its mean over classes; ``map_50``, ``map_75``: at one IoU;
    ``map_small``, ``map_medium``, ``map_large``: by the object's area in original pixels.
    """

    ap: NDArray[np.float64]
    map: float
    map_50: float
    map_75: float
    map_small: float
    map_medium: float
    map_large: float


def coco_average_precision(
    detections: Mapping[str, Any], ground_truth: Mapping[str, Any], *, num_classes: int, max_detections: int = 100
) -> CocoAveragePrecision:
    """Computes COCO AP: the mean over 10 IoU thresholds (.50 to .95) of the precision at 101 recalls.

    Args:
        detections: ``image``, ``label``, ``score``, ``box`` (see the package).
        ground_truth: ``image``, ``label``, ``box``, ``difficult``.
        num_classes: K.
        max_detections: the best detections of a class kept in each image.

    Returns:
        See ``CocoAveragePrecision``; classes without countable objects are nan and left out of the means.

    Raises:
        ValueError: input that is malformed; the text names the column.
    Source: Lin et al., arXiv:1405.0312; cocodataset.org, detection evaluation.
    """
    det = check_detections(detections, num_classes)
    gt = check_ground_truth(ground_truth, num_classes)
    if len(gt.label) == 0:
        return _figures(np.full((10, 1, num_classes, 4), np.nan))
    return _figures(_precision(det, gt, num_classes, max_detections))


def coco_data_set(gt: FlatGroundTruth, images: NDArray[Any], num_classes: int) -> dict[str, Any]:
    """Returns the ground truth as a COCO data set (categories 1..K), for COCO's tools."""
    xywh = _to_xywh(gt.box)
    area = xywh[:, 2] * xywh[:, 3]
    rows = zip(gt.image.tolist(), gt.label.tolist(), xywh.tolist(), area.tolist(), gt.difficult.tolist(), strict=True)
    annotations = [
        {"id": i, "image_id": image, "category_id": label + 1, "bbox": box, "area": size, "iscrowd": int(difficult)}
        for i, (image, label, box, size, difficult) in enumerate(rows, start=1)
    ]
    return {
        "info": {},
        "images": [{"id": int(image)} for image in images],
        "categories": [{"id": k + 1, "name": str(k)} for k in range(num_classes)],
        "annotations": annotations,
    }


def coco_results(det: FlatDetections) -> list[dict[str, Any]]:
    """Returns the detections as a COCO result list."""
    rows = zip(
        det.image.tolist(),
        det.label.tolist(),
        _to_xywh(det.box).tolist(),
        det.score.astype(float).tolist(),
        strict=True,
    )
    return [
        {"image_id": image, "category_id": label + 1, "bbox": box, "score": score} for image, label, box, score in rows
    ]


def _precision(det: FlatDetections, gt: FlatGroundTruth, num_classes: int, max_detections: int) -> NDArray[np.float64]:
    """(10 IoUs, 101 recalls, K, 4 areas) float64; nan where undefined."""
    from faster_coco_eval import COCO, COCOeval_faster  # late: it takes a second to import

    images = np.unique(np.concatenate([gt.image, det.image]))
    truth = COCO(coco_data_set(gt, images, num_classes))
    evaluation = COCOeval_faster(truth, truth.loadRes(coco_results(det)), iouType="bbox")
    evaluation.params.maxDets = [max_detections]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"], dtype=np.float64)[..., -1]
    return np.where(precision < 0, np.nan, precision)


def _figures(precision: NDArray[np.float64]) -> CocoAveragePrecision:
    per_iou = precision.mean(axis=1)  # (10, K, 4): a class is nan throughout or not at all
    return {
        "ap": per_iou[:, :, _ALL_AREAS].mean(axis=0),
        "map": mean_defined(per_iou[:, :, _ALL_AREAS]),
        "map_50": mean_defined(per_iou[0, :, _ALL_AREAS]),
        "map_75": mean_defined(per_iou[5, :, _ALL_AREAS]),
        "map_small": mean_defined(per_iou[:, :, _SMALL]),
        "map_medium": mean_defined(per_iou[:, :, _MEDIUM]),
        "map_large": mean_defined(per_iou[:, :, _LARGE]),
    }


def _to_xywh(box: FloatArray) -> NDArray[np.float64]:
    box = box.astype(np.float64)
    return np.column_stack([continuous_from_voc(box)[:, :2], box[:, 2:] - box[:, :2] + 1])
