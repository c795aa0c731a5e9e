# mypy: disable-error-code="no-untyped-def"
"""The matching of one batch on a GPU in two kernels (Triton), with every IoU rounded as in the other forms of it.

The first finds each object's best IoU over the anchors, the second assigns: it computes the IoU again instead of
keeping it. Of main memory they read 16 R bytes of anchors, which later blocks find in the cache, and 24 N M of boxes
and labels, and write 8 N R of results: for 32 images of 20 objects and 19,206 anchors 0.3 MB and 4.9 MB, where each
pass over the tensor (N, M, R) of the other form on a GPU takes 49 MB. Nothing is read back, no shape depends on a
value.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ANCHORS = 1024
"""Anchors of a block."""
_BLOCKS, _OBJECTS = 4, 4
"""Blocks of anchors and objects that one program of the first kernel compares."""
_WARPS = 8
_SIZES = ["num_anchors", "num_objects"]
"""They change from batch to batch, and one compilation serves them all."""


@triton.jit
def _corners(boxes, index, mask):
    """x1, y1, x2 and y2 of the boxes with these numbers; 0 where masked."""
    at = boxes + index * 4
    x1 = tl.load(at, mask=mask, other=0.0)
    y1 = tl.load(at + 1, mask=mask, other=0.0)
    x2 = tl.load(at + 2, mask=mask, other=0.0)
    y2 = tl.load(at + 3, mask=mask, other=0.0)
    return x1, y1, x2, y2


@triton.jit
def _iou(x1, y1, x2, y2, a1, b1, a2, b2):
    """IoU of boxes and anchors, each operation rounded by itself, in the order of torchvision's ``box_iou``."""
    width = tl.maximum(tl.minimum(a2, x2) - tl.maximum(a1, x1), 0.0)
    height = tl.maximum(tl.minimum(b2, y2) - tl.maximum(b1, y1), 0.0)
    inter = width * height
    union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - inter
    return tl.div_rn(inter, union)


@triton.jit(do_not_specialize=_SIZES)
def _best_kernel(
    anchors,
    boxes,
    labels,
    best,
    num_anchors,
    num_objects,
    block: tl.constexpr,
    blocks: tl.constexpr,
    objects: tl.constexpr,
):
    """Raises ``best`` (N, M) to the largest IoU of some objects of one image over some anchors, as float32's bits: for
    numbers from 0 they are in the numbers' order, and the largest is the same whoever comes first.
    """
    index = tl.program_id(1) * objects + tl.arange(0, objects)
    place = tl.program_id(0).to(tl.int64) * num_objects + index
    is_real = tl.load(labels + place, mask=index < num_objects, other=-1) >= 0
    x1, y1, x2, y2 = _corners(boxes, place[:, None], is_real[:, None])
    largest = tl.zeros((objects, block), dtype=tl.float32)
    start = tl.program_id(2) * blocks * block
    stop = tl.where(tl.max(is_real.to(tl.int32), axis=0) > 0, tl.minimum(start + blocks * block, num_anchors), start)
    while start < stop:
        offset = (start + tl.arange(0, block))[None, :]
        inside = offset < num_anchors
        a1, b1, a2, b2 = _corners(anchors, offset, inside)
        largest = tl.maximum(largest, _iou(x1, y1, x2, y2, a1, b1, a2, b2))
        start += block
    tl.atomic_max(best + place, tl.max(largest, axis=1).to(tl.int32, bitcast=True), mask=is_real, sem="relaxed")


@triton.jit(do_not_specialize=_SIZES)
def _assign_kernel(
    anchors,
    boxes,
    labels,
    best,
    matched,
    num_anchors,
    num_objects,
    pos_iou,
    neg_iou,
    background: tl.constexpr,
    ignore: tl.constexpr,
    force_best: tl.constexpr,
    block: tl.constexpr,
):
    """Writes the object of each anchor of a block in one image; the first of equal objects wins."""
    image = tl.program_id(0).to(tl.int64)
    offset = tl.program_id(1) * block + tl.arange(0, block)
    inside = offset < num_anchors
    a1, b1, a2, b2 = _corners(anchors, offset, inside)
    largest = tl.full((block,), -1.0, dtype=tl.float32)
    choice = tl.zeros((block,), dtype=tl.int32)
    is_forced = offset < 0
    index = 0
    while index < num_objects:
        place = image * num_objects + index
        if tl.load(labels + place) >= 0:
            corner = boxes + place * 4
            x1, y1, x2, y2 = tl.load(corner), tl.load(corner + 1), tl.load(corner + 2), tl.load(corner + 3)
            iou = _iou(x1, y1, x2, y2, a1, b1, a2, b2)
            choice = tl.where(iou > largest, index, choice)
            largest = tl.where(iou > largest, iou, largest)
            if force_best:
                own = tl.load(best + place)
                is_forced = is_forced | (iou == tl.where(own > 0.0, own, 2.0))  # an IoU of 0 forces nothing
        index += 1
    otherwise = tl.where(largest < neg_iou, background, ignore)
    found = tl.where((largest >= pos_iou) | is_forced, choice, otherwise)
    tl.store(matched + image * num_anchors + offset, found.to(tl.int64), mask=inside)


def match(
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    pos_iou: float,
    neg_iou: float,
    force_best: bool,
    background: int,
    ignore: int,
) -> Tensor:
    """Returns what ``matching.match_anchors`` does, for at least one object; never waits for the device."""
    anchors, boxes, labels = anchors.float().contiguous(), boxes.float().contiguous(), labels.contiguous()
    num_images, num_objects = labels.shape
    matched = torch.empty((num_images, len(anchors)), dtype=torch.int64, device=anchors.device)
    if not matched.numel():
        return matched
    best = torch.zeros((num_images, num_objects), dtype=torch.int32, device=anchors.device)
    num_blocks = triton.cdiv(len(anchors), _ANCHORS)
    # a product contracted into the sum that follows it would not be rounded as elsewhere
    options = {"num_warps": _WARPS, "enable_fp_fusion": False}
    with torch.cuda.device_of(anchors):  # a kernel is launched on the current device, whatever its arguments are on
        if force_best:
            _best_kernel[(num_images, triton.cdiv(num_objects, _OBJECTS), triton.cdiv(num_blocks, _BLOCKS))](
                anchors,
                boxes,
                labels,
                best,
                len(anchors),
                num_objects,
                block=_ANCHORS,
                blocks=_BLOCKS,
                objects=_OBJECTS,
                **options,
            )
        _assign_kernel[(num_images, num_blocks)](
            anchors,
            boxes,
            labels,
            best.view(torch.float32),
            matched,
            len(anchors),
            num_objects,
            pos_iou,
            neg_iou,
            background=background,
            ignore=ignore,
            force_best=force_best,
            block=_ANCHORS,
            **options,
        )
    return matched
