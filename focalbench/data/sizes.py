"""How large the objects of a split are and how many an image holds: what a canvas is chosen by, and limits judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ObjectSizes:
    """The objects of a split that count, without where they lie.

    Attributes:
        images: (N, 3) int64 width, height and number of objects of each image.
        objects: (G, 2) float32 widths and heights in original pixels, image by image.
    """

    images: np.ndarray
    objects: np.ndarray

    @classmethod
    def of_boxes(cls, images: Iterable[tuple[tuple[int, int], np.ndarray]]) -> ObjectSizes:
        """Collects them from each image's (width, height) and its (M, 4) VOC boxes, both ends included."""
        found = [(size, np.asarray(boxes, np.float32).reshape(-1, 4)) for size, boxes in images]
        rows = [(*size, len(boxes)) for size, boxes in found]
        extents = [boxes[:, 2:] - boxes[:, :2] + 1 for _, boxes in found]
        return cls(np.array(rows, np.int64).reshape(-1, 3), np.concatenate([np.zeros((0, 2), np.float32), *extents]))

    @property
    def counts(self) -> np.ndarray:
        """(N,) objects of each image."""
        return self.images[:, 2]

    def short_sides(self, canvas: tuple[int, int]) -> np.ndarray:
        """Returns (G,) the shorter side of each object in pixels of a (height, width) canvas that images are warped
        to.
        """
        scales = np.array(canvas[::-1], np.float64) / self.images[:, :2]
        return (self.objects * np.repeat(scales, self.counts, axis=0)).min(1, initial=np.inf)

    def recall_limit(self, max_detections: int) -> float:
        """Returns the share of the objects that ``max_detections`` an image can find at most; 1 without objects."""
        total = int(self.counts.sum())
        return float(np.minimum(self.counts, max_detections).sum() / total) if total else 1.0

    def to_json(self) -> dict[str, Any]:
        """Returns plain lists, object sizes to a tenth of a pixel."""
        return {"images": self.images.tolist(), "objects": self.objects.round(1).tolist()}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> ObjectSizes:
        """Inverts :meth:`to_json`; raises KeyError, TypeError or ValueError where the document is another."""
        images = np.array(document["images"], np.int64).reshape(-1, 3)
        objects = np.array(document["objects"], np.float32).reshape(-1, 2)
        if images[:, 2].sum() != len(objects):
            raise ValueError("object sizes do not add up")
        return cls(images, objects)
