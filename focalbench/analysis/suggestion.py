"""What a configuration should be for a data set: canvas, anchors, limits and length, from its objects and images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torchvision.models import get_model_weights

from focalbench.analysis.anchor_coverage import Alternative, Layout, helpful_change, try_alternatives
from focalbench.boxes.priors import Priors, fit_priors
from focalbench.config.schema import EvalConfig
from focalbench.data.dataset import DetectionData, FileImages
from focalbench.data.sizes import ObjectSizes
from focalbench.data.stats import canvas_sizes
from focalbench.data.voc import Record
from focalbench.experiment.limits import rounded_up
from focalbench.models.efficientnet import has_published_file
from focalbench.models.retinanet import head_settings

CPU_AREA = 240 * 320
"""Canvas pixels that two cores train on in minutes."""
GPU_AREA = 384 * 512
SMALL_SIDE = 16.0
"""Pixels of the canvas that the shorter side of all but a twentieth of the objects shall have."""
BATCH_SIZE = 16
MIN_STEPS, MAX_CPU_STEPS = 500, 6000
MAX_PRIORS = 5
"""Priors of the published YOLOv2."""
_LEAST_AREA = 128 * 160
_LEAST_SIDE = 32  # pixels: no side of a canvas is shorter


@dataclass(frozen=True)
class Recipe:
    """What goes together in how a network starts and learns, the same for every loss.

    Attributes:
        model: keys of RetinaNet's section beside the backbone, with why.
        optim: keys of the section ``optim``.
        epochs: passes over the training images.
    """

    model: dict[str, tuple[Any, str]]
    optim: dict[str, Any]
    epochs: int


_AT_HAND = "they are on this machine already"
# 500 steps of 16 for 300 images, as in experiments/bccd.yaml.
FROM_SCRATCH = Recipe({}, {"lr": 2e-3, "weight_decay": 0.02}, epochs=27)
# Found on train and val of voc2007-mini: docs/detectors.md.
PRETRAINED = Recipe(
    {
        "weights": ("imagenet", _AT_HAND),
        "norm": ("frozen", "batch norm as loaded, folded into the convolutions: faster"),
        "trainable_stages": (3, "all but the stem and the stage of stride 4"),
    },
    {"lr": 1e-3, "backbone_lr": 0.2, "weight_decay": 0.05},
    epochs=16,
)


@dataclass(frozen=True)
class Suggestion:
    """What suits the data.

    Attributes:
        canvas: (height, width) in pixels.
        small_side: shorter side in canvas pixels that nine of ten objects exceed.
        backbone: of RetinaNet; ``yolo_backbone`` that of YOLOv2.
        recipe: how it starts and learns.
        anchors: keys of the model's section that leave fewer objects without an anchor.
        unmatched: shares of the objects that are not matched, without ``anchors`` and with them.
        max_detections: that no image's objects exceed; ``fullest`` is the most objects of an image.
        steps: of the training.
        priors: of YOLOv2, for ``yolo_canvas``.
    """

    canvas: tuple[int, int]
    small_side: float
    backbone: str
    yolo_backbone: str
    recipe: Recipe
    anchors: dict[str, Any]
    unmatched: tuple[float, float]
    max_detections: int
    fullest: int
    steps: int
    priors: Priors
    yolo_canvas: tuple[int, int]


def suggest(
    train: Sequence[Record],
    val: Sequence[Record],
    classes: tuple[str, ...],
    *,
    on_gpu: bool,
    from_scratch: bool = False,
) -> Suggestion:
    """Fits a configuration to the objects of ``train``, which has at least one that counts, and to the machine.

    Args:
        from_scratch: no ImageNet weights, even where they are at hand.
    """
    sizes = sizes_of(train)
    canvas = choose_canvas(sizes, GPU_AREA if on_gpu else CPU_AREA)
    backbone, recipe = _choose_network(on_gpu, from_scratch)
    change, unmatched = _choose_anchors(train, classes, canvas, backbone)
    yolo_height, yolo_width = (math.ceil(side / 32) * 32 for side in canvas)
    fullest = int(max(sizes.counts.max(initial=0), sizes_of(val).counts.max(initial=0)))
    return Suggestion(
        canvas=canvas,
        small_side=float(np.quantile(sizes.short_sides(canvas), 0.1)),
        backbone=backbone,
        yolo_backbone="darknet19" if on_gpu else backbone,
        recipe=recipe,
        anchors=change,
        unmatched=unmatched,
        max_detections=max(EvalConfig().max_detections, rounded_up(2 * fullest)),
        fullest=fullest,
        steps=_choose_steps(len(train), recipe.epochs, on_gpu),
        priors=_choose_priors(train, (yolo_height, yolo_width)),
        yolo_canvas=(yolo_height, yolo_width),
    )


def sizes_of(records: Sequence[Record]) -> ObjectSizes:
    """Returns the sizes of the objects that count."""
    return ObjectSizes.of_boxes(((one.width, one.height), one.boxes[~one.difficult]) for one in records)


def choose_canvas(sizes: ObjectSizes, area: int) -> tuple[int, int]:
    """Returns the canvas (height, width) in multiples of 16, of the images' median aspect: large enough for the
    smallest objects, with at most about ``area`` pixels, and never larger than the images are.

    Args:
        sizes: of at least one object.
        area: most pixels that the machine trains on in good time.
    """
    widths, heights = sizes.images[:, 0].astype(np.float64), sizes.images[:, 1].astype(np.float64)
    aspect = float(np.clip(np.median(widths / heights), 1 / 3, 3))
    largest = _sides(area, aspect)
    typical = float(np.quantile(sizes.short_sides((round(largest[0]), round(largest[1]))), 0.05))
    needed = max(_LEAST_AREA, area * (SMALL_SIDE / typical) ** 2)
    height, width = _sides(min(area, needed), aspect)
    return _multiple_of_16(height, float(np.median(heights))), _multiple_of_16(width, float(np.median(widths)))


def _sides(area: float, aspect: float) -> tuple[float, float]:
    height = math.sqrt(area / aspect)
    return height, height * aspect


def _multiple_of_16(side: float, own: float) -> int:
    """The nearest one, below the image's ``own`` side."""
    return max(_LEAST_SIDE, min(round(side / 16), int(own // 16)) * 16)


def _choose_anchors(
    train: Sequence[Record], classes: tuple[str, ...], canvas: tuple[int, int], backbone: str
) -> tuple[dict[str, Any], tuple[float, float]]:
    data = DetectionData(FileImages(train, canvas, "warp"), tuple(train), classes, canvas, "warp", "")
    head = head_settings(backbone)
    tried = [one for one in try_alternatives(data, Layout(canvas, head)) if not one.setting.startswith("data.")]
    now = next(one for one in tried if not one.setting)
    best = helpful_change(tried)
    if best is None:
        return {}, (now.share_below, now.share_below)
    return _as_key(best), (now.share_below, best.share_below)


def _as_key(change: Alternative) -> dict[str, Any]:
    """``model.anchor_scale=4`` as a key of the model's section."""
    key, _, value = change.setting.removeprefix("model.").partition("=")
    return {key: yaml.safe_load(value)}


def _choose_steps(num_train: int, epochs: int, on_gpu: bool) -> int:
    steps = max(MIN_STEPS, int(round(epochs * num_train / BATCH_SIZE, -2)))
    return steps if on_gpu else min(steps, MAX_CPU_STEPS)


def _choose_priors(train: Sequence[Record], canvas: tuple[int, int]) -> Priors:
    cells = canvas_sizes(train, canvas) / 32
    return fit_priors(cells, min(MAX_PRIORS, len(np.unique(cells, axis=0))))


def _choose_network(on_gpu: bool, from_scratch: bool) -> tuple[str, Recipe]:
    """The backbone that suits the machine, with ImageNet weights where they are at hand: a configuration that asks for
    a download may not run.
    """
    if not on_gpu:
        has_weights = has_published_file() and not from_scratch
        return ("efficientnet_lite0", PRETRAINED) if has_weights else ("tiny", FROM_SCRATCH)
    name = Path(get_model_weights("resnet18")["IMAGENET1K_V1"].url).name
    if from_scratch or not (Path(torch.hub.get_dir()) / "checkpoints" / name).is_file():
        return "resnet18", FROM_SCRATCH
    return "resnet18", replace(FROM_SCRATCH, model={"weights": ("imagenet", _AT_HAND)})
