"""Reads what trials found on the test set, from their detections.npz, and the test images where they can be read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalbench.analysis.box_kinds import what_is_annotated
from focalbench.data.images import decode, open_image
from focalbench.data.scanning import list_samples, scan_sample
from focalbench.data.sixteen_bit import MAX_SAMPLE, SampleRange
from focalbench.data.synthetic import generate_image
from focalbench.errors import DataError, FocalbenchError
from focalbench.metrics.assignment import Assignment, MatchRules, assign_detections, pair_iou
from focalbench.metrics.confusion import confusion_matrix
from focalbench.metrics.flat import FlatDetections, FlatGroundTruth, check_detections, check_ground_truth
from focalbench.metrics.voc import precision_recall
from focalbench.records.detections import UnusableDetectionsError, read_detections
from focalbench.records.reader import TrialRecord

RECALL_GRID = np.linspace(0, 1, 101)
SCORE_GRID = np.linspace(0, 1, 101)
_HIT_IOU = 0.5
_MAX_DIGITS = 9  # of an image's number


class UnavailableImagesError(DataError):
    """The test images cannot be shown; the text says why."""


@dataclass(frozen=True)
class FalsePositive:
    """Holds a detection that is wrong.

    Attributes:
        image: index of the image.
        label: the class claimed.
        score: how surely.
        box: (4,) VOC pixels.
        kind: what is annotated there, in words.
    """

    image: int
    label: int
    score: float
    box: NDArray[np.floating]
    kind: str


@dataclass(frozen=True)
class FoundObjects:
    """Holds one trial's detections on its test set and the annotated objects.

    Attributes:
        detections, truth: checked flat arrays, VOC pixels.
        image_ids: name of each image.
        classes: name of each label.
    """

    detections: FlatDetections
    truth: FlatGroundTruth
    image_ids: tuple[str, ...]
    classes: tuple[str, ...]

    @cached_property
    def assignment(self) -> Assignment:
        """Which detections are true and which are false positives by VOC's rules, at IoU .5."""
        return assign_detections(
            self.detections, self.truth, num_classes=len(self.classes), iou_thresh=_HIT_IOU, rules=MatchRules()
        )

    @cached_property
    def precision(self) -> NDArray[np.float64]:
        """Returns the (K, 101) best precision at or beyond each recall of ``RECALL_GRID``; nan rows for classes without
        objects.
        """
        curves = precision_recall(vars(self.detections), vars(self.truth), num_classes=len(self.classes))
        table = np.zeros((len(curves), len(RECALL_GRID)))
        for row, curve in zip(table, curves, strict=True):
            if curve.num_objects == 0:
                row[:] = np.nan
            elif len(curve.precision):
                envelope = np.append(np.maximum.accumulate(curve.precision[::-1])[::-1], 0.0)
                row[:] = envelope[np.searchsorted(curve.recall, RECALL_GRID - 1e-9, side="left")]
        return table

    @cached_property
    def f1(self) -> NDArray[np.float64]:
        """Returns (101,) the F1 of the detections from each score of ``SCORE_GRID`` on, mean over the classes that have
        objects; nan without any.
        """
        curves = []
        for label in np.flatnonzero(self.assignment.num_objects):
            counts = (self.detections.label == label) & ~self.assignment.is_ignored
            order = np.argsort(-self.detections.score[counts], kind="stable")
            hits = np.concatenate([[0], np.cumsum(self.assignment.is_tp[counts][order])])
            shown = np.searchsorted(-self.detections.score[counts][order], -SCORE_GRID, side="right")
            curves.append(2 * hits[shown] / (shown + self.assignment.num_objects[label]))
        return np.mean(curves, axis=0) if curves else np.full(len(SCORE_GRID), np.nan)

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Returns (K + 1, K + 1) who is taken for whom, of as many detections as there are objects."""
        return confusion_matrix(
            self.detections, self.truth, num_classes=len(self.classes), score_thresh=self.equal_share_score()
        )

    def equal_share_score(self) -> float:
        """Returns the score from which on there are as many detections as the test set holds objects; 0 where there are
        fewer.

        Losses differ in the scale of their scores; at one threshold for all, one arm would show nothing and another
        everything.
        """
        wanted = int((~self.truth.difficult).sum())
        if len(self.detections.score) <= wanted or wanted == 0:
            return 0.0
        return float(np.sort(self.detections.score)[-wanted])

    def worst_false_positives(self, count: int) -> list[FalsePositive]:
        """Returns the ``count`` false detections with the highest scores, highest first."""
        false = np.flatnonzero(~self.assignment.is_tp & ~self.assignment.is_ignored)
        rows = false[np.argsort(-self.detections.score[false], kind="stable")[:count]]
        found = self.detections
        return [
            FalsePositive(
                int(found.image[row]),
                int(found.label[row]),
                float(found.score[row]),
                found.box[row],
                self._what_is_there(int(row)),
            )
            for row in rows
        ]

    def _what_is_there(self, row: int) -> str:
        """What the annotation has at a false detection, in words."""
        objects, iou = self._objects_of_image(row)
        label, labels = int(self.detections.label[row]), self.truth.label[objects]
        kind, there = what_is_annotated(label, iou, labels, self.truth.difficult[objects])
        if kind == "nothing":
            return "nothing is annotated there"
        if kind == "object":
            return "second detection of an object"
        if kind == "near" and labels[there] == label:
            return f"badly placed, IoU {iou[there]:.2f}"
        place = {"near": "beside an object", "difficult": "on an object marked difficult"}.get(kind, "on an object")
        return f"{place} of class {self.classes[int(labels[there])]}, IoU {iou[there]:.2f}"

    def _objects_of_image(self, row: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        objects = np.flatnonzero(self.truth.image == self.detections.image[row])
        boxes = np.broadcast_to(self.detections.box[row], (len(objects), 4))
        return objects, pair_iou(boxes, self.truth.box[objects], 1.0)


def read_found_objects(folder: Path) -> FoundObjects:
    """Reads and checks a trial's detections and its test set's objects.

    Raises:
        UnusableDetectionsError: a file that is missing, damaged or contradicts itself.
    """
    stored = read_detections(folder)
    classes = tuple(str(name) for name in stored.classes.tolist())
    try:
        detections = check_detections(stored.detections, len(classes))
        truth = check_ground_truth(stored.truth, len(classes))
    except ValueError as fault:
        raise UnusableDetectionsError(f"{folder.name}: its detections: {fault}") from fault
    image_ids = tuple(str(name) for name in stored.image_ids.tolist())
    images = np.concatenate([detections.image, truth.image])
    if len(images) and not 0 <= images.min() <= images.max() < len(image_ids):
        raise UnusableDetectionsError(f"{folder.name}: its detections: image numbers beyond its list of images")
    return FoundObjects(detections, truth, image_ids, classes)


class EvaluationImages:
    """Reads the pixels of test images, by their number in detections.npz."""

    def __init__(self, trial: TrialRecord, found: FoundObjects) -> None:
        """Finds the files of the test set that ``trial`` was evaluated on, opening its lists only.

        Args:
            trial: says where the data are.
            found: its detections; their annotated objects tell whether an image is still the same.

        Raises:
            UnavailableImagesError: the data set is not here, or is another one.
        """
        data = trial.config.get("data")
        self._data: Mapping[str, Any] = data if isinstance(data, dict) else {}
        self._found = found
        if self._data.get("name") == "synthetic":
            return
        root, splits = _data_root(self._data), trial.result.split
        if root is None or splits is None:
            raise UnavailableImagesError("config.yaml names no data.root, and FOCALBENCH_DATA is not set")
        try:
            self._samples = list_samples(root, splits).samples
        except (FocalbenchError, OSError, ValueError) as fault:
            raise UnavailableImagesError(str(fault).splitlines()[0]) from fault
        if tuple(sample.image_id for sample in self._samples) != found.image_ids:
            raise UnavailableImagesError(f"{root}: its {', '.join(splits)} now holds other images")

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Returns the (H, W, 3) uint8 pixels of an image, upright, at its own size.

        Raises:
            UnavailableImagesError: an image that is gone, broken, or annotated otherwise than when it was evaluated.
        """
        if self._data.get("name") == "synthetic":
            return self._generate(index)
        sample = self._samples[index]
        scan, image = scan_sample(
            sample,
            lambda content, orientation: np.asarray(
                decode(open_image(content), orientation, sample_range=_sample_range(self._data))
            ),
        )
        if image is None:
            raise UnavailableImagesError("; ".join(f"{fault.file}: {fault.reason}" for fault in scan.errors))
        left_out = self._data.get("other_classes") == "ignore"
        used = [item.box for item in scan.objects if not left_out or item.name in self._found.classes]
        self._require_same(index, used)
        return image

    def _generate(self, index: int) -> NDArray[np.uint8]:
        """Generated sets need no files: number and seed give the same pixels again, from the same generator."""
        image_id = self._found.image_ids[index]
        split, _, number = image_id.partition("_")
        seed = self._data.get("seed", 0)
        is_number = number.isdecimal() and len(number) <= _MAX_DIGITS
        if split != "val" or not is_number or not isinstance(seed, int) or seed < 0:
            raise UnavailableImagesError(f"'{image_id}' is not an image of the generated set")
        generated = generate_image(seed, split, int(number))
        self._require_same(index, generated.boxes)
        return generated.pixels

    def _require_same(self, index: int, boxes: Sequence[Sequence[float]] | NDArray[np.integer]) -> None:
        annotated = self._found.truth.box[self._found.truth.image == index]
        now = np.asarray(boxes, np.float64).reshape(-1, 4)
        if annotated.shape != now.shape or not np.allclose(np.sort(annotated, axis=0), np.sort(now, axis=0), atol=0.01):
            raise UnavailableImagesError(
                f"image {self._found.image_ids[index]} has different objects than when it was evaluated: the "
                "data, or the "
                "generator of a synthetic set, have changed since"
            )


def _sample_range(data: Mapping[str, Any]) -> SampleRange | None:
    """``data.sample_range`` of a configuration that another version may have written."""
    match data.get("sample_range"):
        case [int(low), int(high)] if 0 <= low < high <= MAX_SAMPLE:
            return low, high
    return None


def _data_root(data: Mapping[str, Any]) -> Path | None:
    """``data.root``; where it is not given or no longer there, $FOCALBENCH_DATA, as `evaluate` has it."""
    named, in_environment = data.get("root"), os.environ.get("FOCALBENCH_DATA")
    root = Path(os.path.expanduser(named)) if isinstance(named, str) and named else None
    if in_environment and (root is None or not root.is_dir()):
        return Path(os.path.expanduser(in_environment))
    return root
