"""Checks flat arrays of detections and ground truth before a metric uses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.integer[Any]]
FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class FlatDetections:
    """Holds the boxes that a detector claims, over all images.

    Attributes:
        image: (D,) integer image ids; ids without ground truth are images without objects.
        label: (D,) integer, 0..K-1.
        score: (D,) float, finite; only the order matters, higher is surer.
        box: (D, 4) float, xyxy, 1-based inclusive pixels.
    """

    image: IntArray
    label: IntArray
    score: FloatArray
    box: FloatArray


@dataclass(frozen=True)
class FlatGroundTruth:
    """Holds the annotated objects of all images.

    Attributes:
        image: (M,) integer image ids.
        label: (M,) integer, 0..K-1.
        box: (M, 4) float, xyxy, 1-based inclusive pixels.
        difficult: (M,) bool.
    """

    image: IntArray
    label: IntArray
    box: FloatArray
    difficult: BoolArray


def check_detections(detections: Mapping[str, Any], num_classes: int) -> FlatDetections:
    """Returns the detections as arrays of one length.

    Raises:
        ValueError: a missing key, lengths that differ, labels outside 0..K-1, non-finite scores or boxes.
    """
    name = "detections"
    image, label, box = _check_common(detections, num_classes, name)
    score = _column(detections, "score", name)
    if score.size == 0:
        score = score.astype(np.float32)
    elif score.dtype.kind not in "fiu":
        raise ValueError(f"{name}['score'] must hold numbers, got dtype {score.dtype}")
    elif score.dtype != np.float32:
        score = score.astype(np.float64)
    _check_finite(score, "score", name)
    _check_lengths({"image": image, "label": label, "score": score, "box": box}, name)
    return FlatDetections(image, label, score, box)


def check_ground_truth(ground_truth: Mapping[str, Any], num_classes: int) -> FlatGroundTruth:
    """Returns the ground truth as arrays of one length.

    Raises:
        ValueError: a missing key, lengths that differ, labels outside 0..K-1, non-finite boxes, flags not 0 or 1.
    """
    name = "ground_truth"
    image, label, box = _check_common(ground_truth, num_classes, name)
    difficult = _column(ground_truth, "difficult", name)
    if difficult.dtype != np.bool_:
        if not np.isin(difficult, (0, 1)).all():
            raise ValueError(
                f"{name}['difficult'] must hold true or false for each object, got {difficult.dtype} values"
            )
        difficult = difficult.astype(np.bool_)
    _check_lengths({"image": image, "label": label, "box": box, "difficult": difficult}, name)
    return FlatGroundTruth(image, label, box, difficult)


def _check_common(columns: Mapping[str, Any], num_classes: int, name: str) -> tuple[IntArray, IntArray, FloatArray]:
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    image = _integers(columns, "image", name)
    label = _integers(columns, "label", name)
    if label.size and (label.min() < 0 or label.max() >= num_classes):
        wrong = label[(label < 0) | (label >= num_classes)][0]
        raise ValueError(f"{name}['label'] holds {wrong}, outside 0..{num_classes - 1} (num_classes={num_classes})")
    box = _column(columns, "box", name, ndim=2)
    if box.shape[1:] != (4,):
        raise ValueError(f"{name}['box'] must have shape (n, 4), xyxy, got {box.shape}")
    if box.dtype.kind not in "fiu" and box.size:
        raise ValueError(f"{name}['box'] must hold numbers, got dtype {box.dtype}")
    if box.dtype not in (np.float32, np.float64):
        box = box.astype(np.float64)
    _check_finite(box, "box", name)
    return image, label, box


def _column(columns: Mapping[str, Any], key: str, name: str, *, ndim: int = 1) -> NDArray[Any]:
    if key not in columns:
        raise ValueError(f"{name} lacks '{key}' (it has: {', '.join(sorted(columns)) or 'nothing'})")
    values = np.asarray(columns[key])
    if ndim == 2 and values.size == 0 and values.ndim == 1:  # an empty list has no second axis to tell
        values = values.reshape(0, 4)
    if values.ndim != ndim:
        raise ValueError(f"{name}['{key}'] must have {ndim} dimension(s), got shape {values.shape}")
    return values


def _integers(columns: Mapping[str, Any], key: str, name: str) -> IntArray:
    values = _column(columns, key, name)
    if values.size == 0:
        return values.astype(np.int64)
    if values.dtype.kind not in "iu":
        raise ValueError(f"{name}['{key}'] must hold integers, got dtype {values.dtype}")
    return values.astype(np.int64, copy=False)


def _check_finite(values: FloatArray, key: str, name: str) -> None:
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argwhere(~finite)[0][0])
        raise ValueError(f"{name}['{key}'] is not finite at row {row}: {values[row]}")


def _check_lengths(columns: Mapping[str, NDArray[Any]], name: str) -> None:
    lengths = {key: len(values) for key, values in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{key} {length}" for key, length in lengths.items())
        raise ValueError(f"{name}: the columns differ in length: {listed}")
