"""Turns detections and ground truth into numbers: VOC and COCO average precision, calibration, errors by cause.

Legend: D detections, M ground-truth objects, K classes. Everything is numpy; no device state, no torch. Detections are
a dict of flat arrays ``image`` (D,) int, ``label`` (D,) int 0..K-1, ``score`` (D,) float, ``box`` (D, 4) float; ground
truth is ``image``, ``label``, ``box`` and ``difficult`` (M,) bool. Boxes are xyxy in original 1-based inclusive VOC
pixels.
"""

from focalbench.metrics.voc import voc_average_precision

__all__ = ["voc_average_precision"]
