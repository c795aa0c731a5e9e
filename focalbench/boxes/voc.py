"""Pascal VOC's pixels, 1-based with both ends included, and the 0-based continuous ones of everything that computes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# VOC's pixel i covers [i - 1, i): the low edges move, the high ones do not.
_SHIFT = np.array([1.0, 1.0, 0.0, 0.0])


def continuous_from_voc(boxes: ArrayLike) -> NDArray[np.float64]:
    """Turns (..., 4) xyxy boxes in VOC's 1-based inclusive pixels into 0-based continuous edges, in float64."""
    return np.asarray(boxes, np.float64) - _SHIFT


def voc_from_continuous(boxes: ArrayLike) -> NDArray[np.float64]:
    """Turns (..., 4) xyxy boxes with 0-based continuous edges into VOC's 1-based inclusive pixels, in float64."""
    return np.asarray(boxes, np.float64) + _SHIFT
