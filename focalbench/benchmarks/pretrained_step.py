"""`bench step --backbone efficientnet_lite0`: what makes a step quick that starts from ImageNet weights on a CPU.

One means of speed after the other: each contestant has what those before it have. All train on the same batch and take
turns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch

from focalbench.benchmarks.depthwise import torchs_convolution
from focalbench.benchmarks.step import as_in_a_training, circumstances, median_seconds, training_step
from focalbench.config.schema import ExperimentConfig
from focalbench.devices import use_device
from focalbench.models import efficientnet

BACKBONE = "efficientnet_lite0"
CANVAS, BATCH = 224, 16
MEANS: dict[str, tuple[dict[str, Any], bool]] = {
    "batch norm over the batch, all stages trained": ({"norm": "batch"}, False),
    "frozen batch norm": ({"norm": "frozen"}, False),
    "and focalbench's depthwise gradients": ({"norm": "frozen"}, True),
    "and three of four stages trained": ({"norm": "frozen", "trainable_stages": 3}, True),
    "and two of four stages trained": ({"norm": "frozen", "trainable_stages": 2}, True),
}
"""Contestant -> keys of ``model``, and whether the gradients are those of ``models/depthwise.py`` or torch's."""


def bench_pretrained_step(*, canvas: int = CANVAS, batch: int = BATCH, repeats: int = 9) -> dict[str, Any]:
    """Times training steps of RetinaNet with EfficientNet-Lite0 on the CPU.

    Args:
        canvas: side of the images in pixels.
        batch: images.
        repeats: rounds, each running every contestant once.

    Returns:
        ``{"device", "threads", "load_average", "backbone", "precision", "canvas", "batch", "ms": {contestant: float},
        "images_per_s": {contestant: float}}``.

    Raises:
        ConfigError: the weights are not installed.
    """
    device = torch.device("cpu")
    use_device(device)
    with as_in_a_training():
        steps = {name: _step(canvas, batch, *means) for name, means in MEANS.items()}
        seconds = median_seconds(steps, device, repeats)
    return {
        **circumstances(device, BACKBONE),
        "canvas": canvas,
        "batch": batch,
        "ms": {name: 1e3 * value for name, value in seconds.items()},
        "images_per_s": {name: batch / value for name, value in seconds.items()},
    }


def _step(canvas: int, batch: int, model: dict[str, Any], own_gradients: bool) -> Callable[[], object]:
    step = training_step(
        ExperimentConfig.model_validate(
            {
                "name": "bench",
                "data": {"name": "synthetic", "num_train": 2 * batch, "num_val": 1, "image_size": canvas},
                "model": {"name": "retinanet", "backbone": BACKBONE, "weights": "imagenet", **model},
                "optim": {"name": "adamw", "lr": 1e-4, "steps": 1000, "batch_size": batch},
            }
        ),
        torch.device("cpu"),
    ).static
    if own_gradients:
        return step

    def with_torchs_gradients() -> object:
        with mock.patch.object(efficientnet, "depthwise_conv2d", torchs_convolution):
            return step()

    return with_torchs_gradients
