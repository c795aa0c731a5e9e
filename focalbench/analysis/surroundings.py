"""What lies around a box that a network claims: the annotated objects that it meets, and the photograph there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KINDS = {
    "object": "on an object of its class: a fitting box whose anchor the matching called background",
    "difficult": "on an object marked difficult, which the training leaves out",
    "other class": "on an object of another class",
    "near": "overlaps an object, but not enough",
    "nothing": "nothing is annotated there: an unlabelled object, or background mistaken for one",
}
"""What the annotation says about a box of a claimed class, tested in this order."""
FITTING_IOU, NEAR_IOU = 0.5, 0.1
"""A box lies on an object above the first, and is near one above the second."""
_CONTEXT = 0.5  # of the box's longer side, shown around it on each side
_MIN_SIDE = 8.0  # pixels


def what_is_annotated(
    label: int, iou: NDArray[np.float64], labels: NDArray[np.integer], difficult: NDArray[np.bool_]
) -> tuple[str, int]:
    """A key of ``KINDS`` for a box, and the object that it is owed to, -1 for ``nothing``.

    Args:
        label: the class that is claimed.
        iou: (G,) of the box with each annotated object of its image.
        labels, difficult: (G,) of these objects.
    """
    fits, near, same = iou > FITTING_IOU, iou > NEAR_IOU, labels == label
    tests = (
        ("object", fits & same & ~difficult),
        ("difficult", fits & difficult),
        ("other class", fits),
        ("near", near & same),
        ("near", near),
    )
    for kind, objects in tests:
        if objects.any():
            return kind, int(np.where(objects, iou, -1).argmax())
    return "nothing", -1


def crop_around(
    box: NDArray[np.float64], truth_boxes: NDArray[np.float64], pixels: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """The part of a photograph around a box, and the box and the annotated boxes in view, in pixels of that part.

    Args:
        box: (4,) xyxy pixels of the photograph, 0-based and continuous.
        truth_boxes: (G, 4) likewise.
        pixels: (H, W, 3), the photograph.
    """
    size = np.array(pixels.shape[1::-1])
    margin = _CONTEXT * max(float((box[2:] - box[:2]).max()), _MIN_SIDE)
    low = np.clip(np.floor(box[:2] - margin), 0, size - 1).astype(int)
    high = np.clip(np.ceil(box[2:] + margin), low + 1, size).astype(int)
    in_view = (truth_boxes[:, :2] < high).all(axis=1) & (truth_boxes[:, 2:] > low).all(axis=1)
    origin = np.tile(low, 2)
    view = pixels[low[1] : high[1], low[0] : high[0]].copy()
    return view, box - origin, truth_boxes[in_view] - origin
