"""Which objects a RetinaNet's anchors can answer for, before anything is trained.

An object whose anchors all stay below the positive threshold is left with its best ones, by force, and is learnt from
few examples; one whose best anchors overlap a neighbour more is left with none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from focalbench.boxes.matching import match_anchors
from focalbench.data.dataset import DetectionData
from focalbench.losses.detection import aligned_iou
from focalbench.models.backbones import HeadDefaults
from focalbench.models.retinanet import anchor_pyramid
from focalbench.structures import Targets

SIZE_BOUNDS = (16, 32, 64, 128)
"""Between the groups of sizes: the root of an object's area, in canvas pixels."""
GOOD_SHARE = 0.02
"""Up to this share of objects below the threshold there is nothing to mend."""
SAMPLE = 500
"""Images that other layouts are tried on."""
_IMAGES_AT_ONCE = 16


@dataclass(frozen=True)
class Layout:
    """What decides where a RetinaNet's anchors lie and when one is positive.

    Attributes:
        canvas: (height, width) in pixels.
        head: number of levels, scale and octaves of the anchors.
        ratios: height / width.
        pos_iou: from which an anchor is positive.
        neg_iou: below which it is background.
    """

    canvas: tuple[int, int]
    head: HeadDefaults
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    pos_iou: float = 0.5
    neg_iou: float = 0.4


@dataclass(frozen=True)
class Coverage:
    """How the objects of a set are matched, one entry for each that counts.

    Attributes:
        labels: (G,) int64 classes.
        sides: (G,) float64 roots of the objects' areas, canvas pixels.
        num_anchors: (G,) int64, anchors that answer for the object in training.
        best_iou: (G,) float64, IoU of the best of these; 0 where there is none.
        pos_iou: from which an anchor is positive without force.
        anchors_per_image: R.
    """

    labels: np.ndarray
    sides: np.ndarray
    num_anchors: np.ndarray
    best_iou: np.ndarray
    pos_iou: float
    anchors_per_image: int

    @property
    def share_below(self) -> float:
        """Share of the objects without an anchor above the threshold."""
        return float((self.best_iou < self.pos_iou).mean())

    def counts(self, chosen: np.ndarray | None = None) -> dict[str, Any]:
        """Counts the ``chosen`` (G,) bool objects: how many there are, matched, matched only by force, and without."""
        best_iou = self.best_iou if chosen is None else self.best_iou[chosen]
        num_anchors = self.num_anchors if chosen is None else self.num_anchors[chosen]
        matched, without = best_iou >= self.pos_iou, num_anchors == 0
        return {
            "objects": len(best_iou),
            "matched": int(matched.sum()),
            "forced": int((~matched & ~without).sum()),
            "without": int(without.sum()),
            "anchors_an_object": float(num_anchors.mean()) if len(num_anchors) else None,
        }

    def by_class(self, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Returns ``counts`` of each class."""
        return {name: self.counts(self.labels == label) for label, name in enumerate(classes)}

    def by_size(self) -> dict[str, dict[str, Any]]:
        """Returns ``counts`` of each group of sizes."""
        group = np.digitize(self.sides, SIZE_BOUNDS)
        between = [f"{low} to {high} px" for low, high in pairwise(SIZE_BOUNDS)]
        names = [f"below {SIZE_BOUNDS[0]} px", *between, f"from {SIZE_BOUNDS[-1]} px"]
        return {name: self.counts(group == index) for index, name in enumerate(names)}


@dataclass(frozen=True)
class Alternative:
    """A change of the configuration, and what it would leave.

    Attributes:
        setting: ``KEY=VALUE`` as ``-s`` takes it; "" for no change.
        share_below: share of objects without an anchor above the threshold.
        anchors_per_image: R.
    """

    setting: str
    share_below: float
    anchors_per_image: int


def measure_coverage(data: DetectionData, layout: Layout, images: Sequence[int] | None = None) -> Coverage:
    """Matches the objects of ``data`` as a training on the layout's canvas does, without augmentation.

    Args:
        data: at least one object that counts; its images are not looked at.
        images: which; None for all.
    """
    if layout.canvas != data.canvas:
        data = dataclasses.replace(data, canvas=layout.canvas)
    anchors = anchor_pyramid(layout.head, layout.ratios).on_canvas(layout.canvas)
    chosen = np.arange(len(data)) if images is None else np.asarray(images)
    starts = range(0, len(chosen), _IMAGES_AT_ONCE)
    parts = [_match(anchors, data.targets(chosen[start : start + _IMAGES_AT_ONCE]), layout) for start in starts]
    labels, sides, num_anchors, best_iou = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Coverage(labels, sides, num_anchors, best_iou, layout.pos_iou, len(anchors))


def _match(anchors: Tensor, targets: Targets, layout: Layout) -> tuple[np.ndarray, ...]:
    """Class, side, number of anchors and best IoU of each object of a batch."""
    boxes, labels = targets.boxes.flatten(0, 1), targets.labels.flatten()
    matched = match_anchors(anchors, targets.boxes, targets.labels, pos_iou=layout.pos_iou, neg_iou=layout.neg_iou)
    image, anchor = (matched >= 0).nonzero(as_tuple=True)
    owner = image * targets.labels.shape[1] + matched[image, anchor]  # objects numbered through the batch
    iou = aligned_iou(anchors[anchor], boxes[owner]).double()
    best_iou = torch.zeros(len(boxes), dtype=torch.float64).scatter_reduce(0, owner, iou, "amax")
    num_anchors = torch.bincount(owner, minlength=len(boxes))
    sides = (boxes[:, 2:] - boxes[:, :2]).double().prod(1).sqrt()
    return tuple(column[labels >= 0].numpy() for column in (labels, sides, num_anchors, best_iou))


def try_alternatives(data: DetectionData, layout: Layout) -> list[Alternative]:
    """Tries the layout as it is, and with one change, on ``SAMPLE`` images at most; fewest objects below first."""
    images = np.unique(np.linspace(0, len(data) - 1, min(len(data), SAMPLE)).astype(np.int64)).tolist()
    found = []
    for setting, changed in _changes(layout).items():
        coverage = measure_coverage(data, changed, images)
        found.append(Alternative(setting, coverage.share_below, coverage.anchors_per_image))
    return sorted(found, key=lambda one: one.share_below)


def _changes(layout: Layout) -> dict[str, Layout]:
    """Settings, and the layout that each gives."""
    head, ratios = layout.head, layout.ratios
    changes = {"": layout}
    for scale in (head.anchor_scale / 2, head.anchor_scale * 2):
        changed = dataclasses.replace(head, anchor_scale=scale)
        changes[f"model.anchor_scale={scale:g}"] = dataclasses.replace(layout, head=changed)
    finer = dataclasses.replace(head, anchor_octaves=head.anchor_octaves + 1)
    changes[f"model.anchor_octaves={finer.anchor_octaves}"] = dataclasses.replace(layout, head=finer)
    wider = (min(ratios) / 2, *ratios, max(ratios) * 2)
    text = ",".join(f"{ratio:g}" for ratio in wider)
    changes[f"model.anchor_ratios=[{text}]"] = dataclasses.replace(layout, ratios=wider)
    height, width = (round(side * 1.5 / 32) * 32 for side in layout.canvas)
    changes[f"data.image_size=[{height},{width}]"] = dataclasses.replace(layout, canvas=(height, width))
    return changes


def helpful_change(alternatives: Sequence[Alternative]) -> Alternative | None:
    """Returns the change that matches the most objects, where it is worth its price: more anchors, or more pixels."""
    now = next(one for one in alternatives if not one.setting)
    best = min(alternatives, key=lambda one: one.share_below)
    helps = now.share_below > GOOD_SHARE and best.share_below <= 0.75 * now.share_below
    return best if helps else None


def advise(alternatives: Sequence[Alternative]) -> str:
    """One line: what to change, or why nothing."""
    now = next(one for one in alternatives if not one.setting)
    best = helpful_change(alternatives)
    if now.share_below <= GOOD_SHARE:
        return f"nothing to fix: {100 * now.share_below:.1f} % of the objects are not matched"
    if best is None:
        return "no single change helps much: combine several, or lower model.pos_iou"
    return f"{best.setting}: {100 * best.share_below:.1f} % not matched, now {100 * now.share_below:.1f} %"
