"""Draws photographs for the page: the same test images with what each arm found, and the worst false positives."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focalbench.boxes.voc import continuous_from_voc
from focalbench.figures.detections import LONG_SIDE, crop_around, draw_detections, draw_tile
from focalbench.report.curves import Picture
from focalbench.report.evaluation_set import EvaluationImages, FalsePositive, FoundObjects, UnavailableImagesError

NUM_IMAGES = 4
NUM_FALSE_POSITIVES = 6
_SHORT_SIDE = 384  # pixels of every drawn photograph: names and scores have one size across images


@dataclass(frozen=True)
class ImageAcrossArms:
    """Holds one test image with the detections of each arm.

    Attributes:
        image_id: its name.
        by_arm: label -> picture.
    """

    image_id: str
    by_arm: dict[str, Picture]


def images_across_arms(found: Mapping[str, FoundObjects], images: EvaluationImages) -> list[ImageAcrossArms]:
    """Draws the first images of the test set that hold an object, for every arm; not chosen by any result.

    Raises:
        UnavailableImagesError: an image that is gone or broken.
    """
    first = next(iter(found.values()))
    rows = []
    for number in np.unique(first.truth.image)[:NUM_IMAGES].tolist():
        photograph = images.pixels(number)
        by_arm = {label: _drawn(photograph, number, one, label) for label, one in found.items()}
        rows.append(ImageAcrossArms(first.image_ids[number], by_arm))
    return rows


def embed_photograph(pixels: NDArray[np.uint8], alt: str) -> Picture:
    """Returns the pixels as a JPEG in a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=82)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(uri, alt, pixels.shape[1], pixels.shape[0])


def _drawn(photograph: NDArray[np.uint8], number: int, found: FoundObjects, label: str) -> Picture:
    shown, factor = _resized(photograph)
    here, objects = found.detections.image == number, found.truth.image == number
    # Cut, not rounded: the least sure of the equal share must stay above it.
    threshold = np.floor(found.equal_share_score() * 1000) / 1000
    scores = found.detections.score[here]
    pixels = draw_detections(
        shown,
        classes=found.classes,
        boxes=continuous_from_voc(found.detections.box[here]) * factor,
        labels=found.detections.label[here],
        scores=scores,
        truth_boxes=continuous_from_voc(found.truth.box[objects]) * factor,
        truth_labels=found.truth.label[objects],
        truth_difficult=found.truth.difficult[objects],
        score_thresh=float(threshold),
    )
    num_shown, num_objects = int((scores >= threshold).sum()), int(objects.sum())
    alt = f"{found.image_ids[number]}: {num_objects} annotated objects and {num_shown} detections of {label}"
    return embed_photograph(pixels, alt)


def crop_false_positive(one: FalsePositive, found: FoundObjects, images: EvaluationImages) -> Picture | None:
    """Returns a crop around a false positive; None where its image cannot be read."""
    try:
        photograph = images.pixels(one.image)
    except UnavailableImagesError:
        return None
    truth = found.truth.box[found.truth.image == one.image]
    view, box, truth_boxes = crop_around(continuous_from_voc(one.box), continuous_from_voc(truth), photograph)
    tile = np.array(draw_tile(view, box, truth_boxes))
    alt = f"Crop of {found.image_ids[one.image]} around a detection as {found.classes[one.label]}: {one.kind}"
    return embed_photograph(tile, alt)


def _resized(photograph: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], float]:
    """The photograph with a short side of ``_SHORT_SIDE``, or less where it is a strip, and the factor."""
    height, width = photograph.shape[:2]
    factor = min(_SHORT_SIDE / min(height, width), LONG_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.array(Image.fromarray(photograph).resize(size, Image.Resampling.BICUBIC)), factor
