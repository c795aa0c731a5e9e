"""What a configuration asks of a data set that cannot be had: said before hours are spent on it."""

from __future__ import annotations

import math

import numpy as np

from focalbench.config.schema import ExperimentConfig
from focalbench.data.sizes import ObjectSizes
from focalbench.experiment.locations import canvas_size

LEAST_SIDE = 4.0
"""Pixels of the canvas that the shorter side of an object should have: half a cell of the finest level, stride 8."""
_TOLERATED = 0.1  # share of the objects that may be smaller
_LARGEST_CANVAS = 4096


def limits(config: ExperimentConfig, train: ObjectSizes, val: ObjectSizes) -> list[str]:
    """Returns a sentence for each limit that the configuration sets and the data go beyond.

    Args:
        config: of one trial.
        train: the training objects.
        val: those to evaluate on.
    """
    found = (
        too_few_detections(config.eval.max_detections, val),
        _too_small_objects(config, train, val),
        _too_short(config, train),
    )
    return [sentence for sentence in found if sentence is not None]


def too_few_detections(allowed: int, val: ObjectSizes) -> str | None:
    """Returns a sentence where ``eval.max_detections``, here ``allowed``, keeps recall on ``val`` down; else None."""
    limit = val.recall_limit(allowed)
    if limit == 1:
        return None
    crowded, most = int((val.counts > allowed).sum()), int(val.counts.max())
    images = "1 image of val holds" if crowded == 1 else f"{crowded} images of val hold"
    return (
        f"eval.max_detections: {allowed}: {images} more objects, up to {most}: recall, and with it mAP, cannot "
        f"exceed about {100 * limit:.1f} %; set it to {rounded_up(2 * most)}"
    )


def rounded_up(count: int) -> int:
    """Returns ``count`` with two leading digits at most, not less."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return math.ceil(count / unit) * unit


def _too_small_objects(config: ExperimentConfig, train: ObjectSizes, val: ObjectSizes) -> str | None:
    canvas = canvas_size(config)
    for side, sizes in (("train", train), ("val", val)):
        shorter = sizes.short_sides(canvas)
        small = int((shorter < LEAST_SIDE).sum())
        if small > _TOLERATED * len(shorter):
            return (
                f"data.image_size: {list(canvas)}: {small} of {len(shorter)} objects of {side} are less than "
                f"{LEAST_SIDE:g} px wide or high on it, too small to be found; {_canvas_advice(canvas, sizes)}"
            )
    return None


def _canvas_advice(canvas: tuple[int, int], sizes: ObjectSizes) -> str:
    enough = sufficient_canvas(canvas, sizes)
    if enough is None:
        return "even at full size most are too small: cut the images into tiles"
    return f"{list(enough)} would do"


def sufficient_canvas(canvas: tuple[int, int], sizes: ObjectSizes) -> tuple[int, int] | None:
    """Returns the (height, width) in multiples of 32, of the aspect of ``canvas``, on which at most a tenth of the
    objects is too small; None where that were more pixels than the images have, or than a canvas may.
    """
    typical = float(np.quantile(sizes.short_sides(canvas), _TOLERATED))
    factor = LEAST_SIDE / typical
    height, width = (math.ceil(side * factor / 32) * 32 for side in canvas)
    image_width, image_height = np.median(sizes.images[:, :2], axis=0)
    if max(height, width) > _LARGEST_CANVAS or height > image_height + 31 or width > image_width + 31:
        return None
    return height, width


def _too_short(config: ExperimentConfig, train: ObjectSizes) -> str | None:
    """Epochs are passes over the images, of which each step takes a batch: few images leave few steps."""
    optim, num_images = config.optim, len(train.images)
    if optim.epochs is None or not num_images:
        return None
    steps = max(1, round(optim.epochs * num_images / optim.batch_size))
    if steps >= optim.epochs:
        return None
    return (
        f"optim.epochs: {optim.epochs} with {num_images} training images and optim.batch_size {optim.batch_size} "
        f"make only {steps} step{'s'[: steps > 1]} in all, too few to learn anything; set optim.steps to a few "
        "hundred"
    )
