"""Says what is annotated where a network claims an object."""

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


def what_is_annotated(
    label: int, iou: NDArray[np.float64], labels: NDArray[np.integer], difficult: NDArray[np.bool_]
) -> tuple[str, int]:
    """Returns a key of ``KINDS`` for a box, and the object that it is owed to, -1 for ``nothing``.

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
