# mypy: disable-error-code="no-untyped-def"
"""The matching of one batch on a CPU, compiled by Numba: every operation is rounded as torchvision's ``box_iou`` rounds
it, so that the result is that of the tensor form in :mod:`focalbench.boxes.matching`, bit for bit.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numba import njit
from numpy import float32

_ZERO, _ABSENT = float32(0), float32(-1)

# Compiled code is kept beside the module, as Python's own is; where that is not writable nothing is kept.
_kept = os.access(os.path.dirname(__file__), os.W_OK)


def _kernel(signature: str) -> Any:
    return njit(signature, nogil=True, error_model="numpy", cache=_kept)


@_kernel("void(float32[:,::1], float32[::1], float32[::1], float32[::1])")
def _overlaps(anchors, area, box, iou):
    """Writes the IoU of ``box`` with each of the (4, R) anchors into ``iou`` (R,)."""
    x1, y1, x2, y2 = box
    own = (x2 - x1) * (y2 - y1)
    for r in range(iou.shape[0]):
        width = max(min(anchors[2, r], x2) - max(anchors[0, r], x1), _ZERO)
        height = max(min(anchors[3, r], y2) - max(anchors[1, r], y1), _ZERO)
        inter = width * height
        iou[r] = inter / (own + area[r] - inter)


@_kernel("void(float32[::1], float32[::1], int64[::1], int64)")
def _keep_best(iou, best, matched, index):
    """Where ``iou`` exceeds ``best``, object ``index`` takes its place."""
    for r in range(iou.shape[0]):
        better = iou[r] > best[r]
        best[r] = iou[r] if better else best[r]
        matched[r] = index if better else matched[r]


@_kernel("float32(float32[::1])")
def _largest(iou):
    top = _ZERO
    for r in range(iou.shape[0]):
        top = max(top, iou[r])
    return top


@_kernel("void(float32[::1], float32, boolean[::1])")
def _mark(iou, value, marks):
    """Marks where ``iou`` is ``value``."""
    for r in range(iou.shape[0]):
        marks[r] |= iou[r] == value


@_kernel("void(float32[:,::1], float32[:,:,::1], int64[:,::1], float32, float32, boolean, int64[:,::1])")
def match(anchors, boxes, labels, pos_iou, neg_iou, force_best, matched):
    """Writes the (N, R) assignment into ``matched``: see ``matching.match_anchors``; here anchors are (4, R)."""
    num_anchors = anchors.shape[1]
    area = (anchors[2] - anchors[0]) * (anchors[3] - anchors[1])
    iou = np.empty(num_anchors, float32)
    best = np.empty(num_anchors, float32)
    forced = np.empty(num_anchors, np.bool_)
    for image in range(boxes.shape[0]):
        best[:] = _ABSENT
        forced[:] = False
        own = matched[image]
        for index in range(boxes.shape[1]):
            if labels[image, index] < 0:
                continue
            _overlaps(anchors, area, boxes[image, index], iou)
            _keep_best(iou, best, own, index)
            if force_best:
                top = _largest(iou)
                if top > _ZERO:
                    _mark(iou, top, forced)
        for r in range(num_anchors):
            if best[r] < pos_iou and not forced[r]:
                own[r] = -1 if best[r] < neg_iou else -2
