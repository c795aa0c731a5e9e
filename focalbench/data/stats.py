"""What a data set holds: counts, balance, and sizes of objects and images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from focalbench.data.voc import Record, join_objects

_PERCENTILES = (5, 25, 50, 75, 95)
# COCO's bounds of small, medium and large objects, in pixels of the original image.
_SMALL_AREA, _LARGE_AREA = 32**2, 96**2


@dataclass(frozen=True)
class ClassStats:
    """One class: objects that count, difficult ones beside them, and images that show it."""

    name: str
    num_objects: int
    num_difficult: int
    num_images: int
    share: float
    median_side: float


@dataclass(frozen=True)
class SplitStats:
    """A split at a glance.

    Attributes:
        num_images: images; ``num_empty`` of them without an object.
        classes: in label order.
        imbalance: objects of the most frequent class over those of the rarest; NaN where one has none.
        objects_per_image: mean, median and maximum.
        side: percentiles 5, 25, 50, 75, 95 of the root of the objects' area, in original pixels.
        relative_side: the same as a share of the root of the image's area.
        aspect: the same percentiles of width / height.
        num_small, num_medium, num_large: objects by COCO's areas (below 32^2, between, from 96^2 px).
        image_sizes: (width, height) and how many images have it, the most frequent first.
    """

    num_images: int
    num_empty: int
    classes: tuple[ClassStats, ...]
    imbalance: float
    objects_per_image: tuple[float, float, int]
    side: tuple[float, ...]
    relative_side: tuple[float, ...]
    aspect: tuple[float, ...]
    num_small: int
    num_medium: int
    num_large: int
    image_sizes: tuple[tuple[tuple[int, int], int], ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the figures as a JSON document."""
        return {
            "images": self.num_images,
            "images_without_objects": self.num_empty,
            "objects": sum(entry.num_objects for entry in self.classes),
            "difficult": sum(entry.num_difficult for entry in self.classes),
            "imbalance": self.imbalance,
            "classes": {
                entry.name: {
                    "objects": entry.num_objects,
                    "difficult": entry.num_difficult,
                    "images": entry.num_images,
                    "share": entry.share,
                    "median_side": entry.median_side,
                }
                for entry in self.classes
            },
            "objects_per_image": dict(zip(("mean", "median", "max"), self.objects_per_image, strict=True)),
            "percentiles": list(_PERCENTILES),
            "side_px": list(self.side),
            "relative_side": list(self.relative_side),
            "aspect": list(self.aspect),
            "areas": {"small": self.num_small, "medium": self.num_medium, "large": self.num_large},
            "image_sizes": [{"width": w, "height": h, "images": count} for (w, h), count in self.image_sizes],
        }


def measure_records(records: Sequence[Record], classes: Sequence[str]) -> SplitStats:
    """Measures counts and sizes over ``records``; difficult objects are counted apart and left out of the rest."""
    objects = join_objects(records)
    counted = ~objects["difficult"]
    image, labels, sizes = objects["image"][counted], objects["label"][counted], box_sizes(objects["box"][counted])
    per_image = np.bincount(image, minlength=len(records))
    sides = np.sqrt(sizes.prod(1))
    image_sides = np.sqrt([float(record.width * record.height) for record in records])
    totals = np.bincount(labels, minlength=len(classes))
    areas = sides**2
    return SplitStats(
        num_images=len(records),
        num_empty=int((per_image == 0).sum()),
        classes=_measure_classes(objects, classes, sides),
        imbalance=float(totals.max() / totals.min()) if len(totals) and totals.min() > 0 else float("nan"),
        objects_per_image=(float(per_image.mean()), float(np.median(per_image)), int(per_image.max())),
        side=_percentiles(sides),
        relative_side=_percentiles(sides / image_sides[image]),
        aspect=_percentiles(sizes[:, 0] / sizes[:, 1]),
        num_small=int((areas < _SMALL_AREA).sum()),
        num_medium=int(((areas >= _SMALL_AREA) & (areas < _LARGE_AREA)).sum()),
        num_large=int((areas >= _LARGE_AREA).sum()),
        image_sizes=tuple(Counter((record.width, record.height) for record in records).most_common()),
    )


def box_sizes(boxes: np.ndarray) -> np.ndarray:
    """Returns (M, 2) float64 widths and heights in pixels of (M, 4) VOC boxes, both ends included."""
    return (boxes[:, 2:] - boxes[:, :2] + 1).astype(np.float64)


def canvas_sizes(records: Sequence[Record], canvas: tuple[int, int]) -> np.ndarray:
    """Returns (M, 2) float64 widths and heights of all objects that count, on a (height, width) canvas, warped."""
    height, width = canvas
    objects = join_objects(records)
    counted = ~objects["difficult"]
    scales = np.array([(width / record.width, height / record.height) for record in records]).reshape(-1, 2)
    return box_sizes(objects["box"][counted]) * scales[objects["image"][counted]]


def _percentiles(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in np.percentile(values, _PERCENTILES)) if len(values) else ()


def _measure_classes(
    objects: dict[str, np.ndarray], classes: Sequence[str], sides: np.ndarray
) -> tuple[ClassStats, ...]:
    counted = ~objects["difficult"]
    labels, images = objects["label"][counted], objects["image"][counted]
    all_totals = np.bincount(objects["label"], minlength=len(classes))
    entries = []
    for label, name in enumerate(classes):
        mine = labels == label
        total = int(mine.sum())
        entries.append(
            ClassStats(
                name=name,
                num_objects=total,
                num_difficult=int(all_totals[label]) - total,
                num_images=len(np.unique(images[mine])),
                share=total / max(1, len(labels)),
                median_side=float(np.median(sides[mine])) if total else float("nan"),
            )
        )
    return tuple(entries)
