"""The audit of the hard tail: which negatives cost most, what is really there, and what the loss is without them.

A negative element with a high loss claims an object where the annotation has none. That may be the network's fault or
the annotation's; focal loss weights both alike, and the hardest most ("the assumption that hard examples matter most is
questionable", GHM's objection). So the hardest elements are gathered into regions of the image, each told by what is
annotated there, and shown as crops for a person to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalbench.analysis.box_kinds import FITTING_IOU, KINDS, what_is_annotated
from focalbench.boxes.voc import continuous_from_voc
from focalbench.data.dataset import DetectionData
from focalbench.data.images import BrokenImage, decode, open_image, quiet_decoding
from focalbench.figures.detections import crop_around
from focalbench.metrics.assignment import pair_iou
from focalbench.metrics.loss_histogram import focal_loss_of_margin


@dataclass(frozen=True)
class Candidates:
    """The hardest negative elements of one image, hardest first.

    Attributes:
        margin: (T,) float64, logit of p_t; low is hard.
        label: (T,) int64, the class that is claimed.
        boxes: (T, 4) float32, where: the predicted box, xyxy canvas pixels.
    """

    margin: NDArray[np.float64]
    label: NDArray[np.int64]
    boxes: NDArray[np.float32]


@dataclass(frozen=True)
class Region:
    """Elements of one image that claim the same class in about the same place.

    Attributes:
        image: index of the image.
        label: the class claimed.
        score: the hardest element's probability of that class.
        box: (4,) its box, VOC pixels of the original image.
        num_elements: how many.
        loss: their loss together, nats, at the audit's gamma and without alpha.
        kind: a key of ``KINDS``.
        overlap: IoU with the annotated object that ``kind`` speaks of, 0 where there is none.
        overlapped: that object's label, -1 where there is none.
    """

    image: int
    label: int
    score: float
    box: NDArray[np.float32]
    num_elements: int
    loss: float
    kind: str
    overlap: float
    overlapped: int


@dataclass
class HardTail:
    """The hardest regions of all images, and sums over every region met, in constant memory.

    Attributes:
        num_regions: how many of the regions with the highest loss are kept.
        gamma: whose loss is summed.
        regions: those kept, highest loss first.
        totals: by kind: regions, elements and loss of every region met.
    """

    num_regions: int
    gamma: float
    regions: list[Region] = field(default_factory=list)
    totals: dict[str, dict[str, float]] = field(
        default_factory=lambda: {kind: {"regions": 0, "elements": 0, "loss": 0.0} for kind in KINDS}
    )

    def add(
        self, image: int, hardest: Candidates, boxes: NDArray[np.float32], objects: Mapping[str, NDArray[Any]]
    ) -> None:
        """Takes in one image.

        Args:
            hardest: its hardest elements.
            boxes: (T, 4) their boxes in VOC pixels.
            objects: its annotated objects: label, box (VOC pixels) and difficult.
        """
        if len(boxes) == 0:
            return
        found = _regions(image, hardest, boxes, objects, self.gamma)
        for region in found:
            total = self.totals[region.kind]
            total["regions"] += 1
            total["elements"] += region.num_elements
            total["loss"] += region.loss
        self.regions = sorted([*self.regions, *found], key=lambda region: -region.loss)[: self.num_regions]

    def document(
        self, *, negative_loss: float, class_loss: float | None, image_ids: Sequence[str], classes: Sequence[str]
    ) -> dict[str, Any]:
        """Returns the audit as plain data.

        Args:
            negative_loss: loss of all negatives at ``gamma``, without alpha.
            class_loss: of all elements, in units of which one nat of a negative is one; None where it is not known.
        """

        def effect(loss: float) -> dict[str, float | None]:
            return {
                "share_of_negative_loss": loss / negative_loss if negative_loss else 0.0,
                "share_of_class_loss": None if class_loss is None else loss / class_loss if class_loss else 0.0,
            }

        return {
            "gamma": self.gamma,
            "by_kind": {kind: {**total, **effect(total["loss"])} for kind, total in self.totals.items()},
            "shown": {"regions": len(self.regions), **effect(sum(region.loss for region in self.regions))},
            "regions": [
                {
                    "image": image_ids[region.image],
                    "class": classes[region.label],
                    "score": region.score,
                    "box": [round(float(value), 1) for value in region.box],
                    "elements": region.num_elements,
                    "loss": region.loss,
                    "kind": region.kind,
                    "overlap": region.overlap,
                    "overlapped": classes[region.overlapped] if region.overlapped >= 0 else None,
                }
                for region in self.regions
            ],
        }


def _regions(
    image: int, hardest: Candidates, boxes: NDArray[np.float32], objects: Mapping[str, NDArray[Any]], gamma: float
) -> list[Region]:
    """Each element joins the hardest element of its class that it overlaps by half, or starts a region."""
    overlaps = _iou(boxes, boxes)
    loss = focal_loss_of_margin(hardest.margin, gamma)
    free = np.ones(len(boxes), bool)
    to_objects = _iou(boxes, objects["box"])
    regions = []
    for first in range(len(boxes)):
        if not free[first]:
            continue
        members = free & (hardest.label == hardest.label[first]) & (overlaps[first] >= FITTING_IOU)
        members[first] = True
        free &= ~members
        label = int(hardest.label[first])
        kind, there = what_is_annotated(label, to_objects[first], objects["label"], objects["difficult"].astype(bool))
        regions.append(
            Region(
                image=image,
                label=label,
                score=float(1 / (1 + np.exp(hardest.margin[first]))),
                box=boxes[first],
                num_elements=int(members.sum()),
                loss=float(loss[members].sum()),
                kind=kind,
                overlap=float(to_objects[first, there]) if there >= 0 else 0.0,
                overlapped=int(objects["label"][there]) if there >= 0 else -1,
            )
        )
    return regions


def _iou(boxes: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """(T, G) IoU of VOC boxes."""
    shape = (len(boxes), len(others))
    if 0 in shape:
        return np.zeros(shape)
    pairs = np.repeat(boxes, shape[1], axis=0), np.tile(others, (shape[0], 1))
    return pair_iou(*pairs, 1.0).reshape(shape)


@dataclass(frozen=True)
class Crop:
    """A region as a picture.

    Attributes:
        pixels: (H, W, 3) uint8, the region's box with its surroundings.
        box: (4,) the region's box, xyxy pixels of ``pixels``, 0-based and continuous.
        truth_boxes: (G, 4) annotated objects in view, likewise.
        region: what it shows.
    """

    pixels: NDArray[np.uint8]
    box: NDArray[np.float64]
    truth_boxes: NDArray[np.float64]
    region: Region


def crop_regions(data: DetectionData, regions: Sequence[Region]) -> list[Crop]:
    """Returns each region cut from its original file."""
    truth = data.ground_truth()
    return [_crop(data, region, truth["box"][truth["image"] == region.image]) for region in regions]


def _crop(data: DetectionData, region: Region, objects: NDArray[np.float32]) -> Crop:
    record = data.records[region.image]
    pixels = _original(data, region.image)
    # Boxes are in the annotation's pixels; the file may have another size.
    factor = np.array([pixels.shape[1] / record.width, pixels.shape[0] / record.height] * 2)
    box, truth = continuous_from_voc(region.box) * factor, continuous_from_voc(objects) * factor
    return Crop(*crop_around(box, truth, pixels), region)


def _original(data: DetectionData, index: int) -> NDArray[np.uint8]:
    """(H, W, 3) pixels of the file; gray where it can no longer be read."""
    record = data.records[index]
    try:
        with quiet_decoding():
            opened = open_image(record.image_path.read_bytes())
            return np.asarray(decode(opened, record.orientation, sample_range=data.sample_range))
    except (OSError, BrokenImage):
        return np.full((record.height, record.width, 3), 128, np.uint8)
