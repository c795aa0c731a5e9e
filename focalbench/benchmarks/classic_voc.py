"""VOC average precision the plain way, class by class and detection by detection: the yardstick of `bench evaluate`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]


def classic_average_precision(detections: Columns, ground_truth: Columns, *, num_classes: int) -> NDArray[np.float64]:
    """Returns (K,) 11-point AP by the algorithm of the VOC devkit, as most Python evaluators write it."""
    return np.array([_class_ap(k, detections, ground_truth) for k in range(num_classes)])


def _class_ap(k: int, detections: Columns, ground_truth: Columns) -> float:
    objects, num_objects = _objects_by_image(k, ground_truth)
    if num_objects == 0:
        return float("nan")
    rows = np.flatnonzero(detections["label"] == k)
    rows = rows[np.argsort(-detections["score"][rows], kind="stable")]
    images, boxes = detections["image"][rows], detections["box"][rows].astype(np.float64)
    tp, fp = np.zeros(len(rows)), np.zeros(len(rows))
    for d in range(len(rows)):
        truth = objects.get(int(images[d]))
        best, winner = -np.inf, -1
        if truth is not None:
            overlaps = _overlaps(boxes[d], truth["box"])
            best, winner = overlaps.max(), int(overlaps.argmax())
        if truth is None or not best > 0.5:
            fp[d] = 1.0
        elif not truth["difficult"][winner]:
            (fp if truth["taken"][winner] else tp)[d] = 1.0
            truth["taken"][winner] = True
    num_tp, num_fp = np.cumsum(tp), np.cumsum(fp)
    recall = num_tp / float(num_objects)
    precision = num_tp / np.maximum(num_tp + num_fp, np.finfo(np.float64).eps)
    ap = 0.0
    for step in np.arange(0.0, 1.1, 0.1):
        reached = precision[recall >= step]
        ap += (float(reached.max()) if len(reached) else 0.0) / 11.0
    return ap


def _objects_by_image(k: int, ground_truth: Columns) -> tuple[dict[int, dict[str, Any]], int]:
    rows = np.flatnonzero(ground_truth["label"] == k)
    objects: dict[int, dict[str, Any]] = {}
    for image in np.unique(ground_truth["image"][rows]):
        here = rows[ground_truth["image"][rows] == image]
        objects[int(image)] = {
            "box": ground_truth["box"][here].astype(np.float64),
            "difficult": ground_truth["difficult"][here],
            "taken": np.zeros(len(here), dtype=bool),
        }
    return objects, int((~ground_truth["difficult"][rows]).sum())


def _overlaps(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    width = np.maximum(np.minimum(others[:, 2], box[2]) - np.maximum(others[:, 0], box[0]) + 1.0, 0.0)
    height = np.maximum(np.minimum(others[:, 3], box[3]) - np.maximum(others[:, 1], box[1]) + 1.0, 0.0)
    intersection = width * height
    area = (box[2] - box[0] + 1.0) * (box[3] - box[1] + 1.0)
    areas = (others[:, 2] - others[:, 0] + 1.0) * (others[:, 3] - others[:, 1] + 1.0)
    return intersection / (area + areas - intersection)
