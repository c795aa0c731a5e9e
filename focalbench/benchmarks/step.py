"""`bench step`: a training step against torchvision's RetinaNet, and the whole training against the same step without
data.

Same ResNet-18, same pyramid, same subnets, anchors, canvas, batch and optimizer on both sides. Contestants take turns,
so that a busy machine slows all of them alike; ratios are of medians.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from focalbench.config.schema import ExperimentConfig
from focalbench.experiment import build
from focalbench.experiment.build_loss import build_criterion
from focalbench.runtime import resolve_device, resolve_precision
from focalbench.structures import Targets
from focalbench.training.loop import StepSettings, train_step

OURS, STATIC, REFERENCE = "focalbench", "focalbench, one static batch", "torchvision"
CASES = {"128": (128, 8), "320": (320, 4)}
GPU_CASES = {"320": (320, 32)}
WANTED = {"cpu": {"128": 1.9, "320": 3.2}, "cuda": {"320": 3.0}}
WANTED_END_TO_END = {"cpu": 0.90, "cuda": 0.95}


def bench_step(*, device: str = "auto", backbone: str = "resnet18", repeats: int = 9) -> dict[str, Any]:
    """Times training steps at the sizes of ``CASES`` (``GPU_CASES`` on a GPU).

    Args:
        device: auto | cpu | cuda | cuda:N.
        backbone: of focalbench's own figures; torchvision takes part for ``resnet18`` alone.
        repeats: rounds, each running every contestant once.

    Returns:
        ``{"device", "threads", "load_average", "precision", "cases": [{"size", "batch", "ms": {contestant: float},
        "images_per_s": {...}, "speedup": torchvision's time over ours, "end_to_end": static time over whole,
        "wanted_speedup", "wanted_end_to_end"}]}``.
    """
    where = resolve_device(device)
    cases = GPU_CASES if where.type == "cuda" else CASES
    return {
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "backbone": backbone,
        "precision": str(resolve_precision("auto", where)).removeprefix("torch."),
        "cases": [_case(name, size, batch, where, backbone, repeats) for name, (size, batch) in cases.items()],
    }


def _case(name: str, size: int, batch: int, device: torch.device, backbone: str, repeats: int) -> dict[str, Any]:
    contestants = {key: run for key, run in _contestants(size, batch, device, backbone).items() if run is not None}
    seconds: dict[str, list[float]] = {key: [] for key in contestants}
    for run in contestants.values():  # primitives are compiled, caches filled
        run()
        run()
    for _ in range(repeats):
        for key, run in contestants.items():
            seconds[key].append(_seconds(run, device))
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    return {
        "size": size,
        "batch": batch,
        "ms": {key: 1e3 * value for key, value in medians.items()},
        "images_per_s": {key: batch / value for key, value in medians.items()},
        "speedup": medians[REFERENCE] / medians[STATIC] if REFERENCE in medians else None,
        "end_to_end": medians[STATIC] / medians[OURS],
        "wanted_speedup": WANTED[device.type].get(name) if REFERENCE in medians else None,
        "wanted_end_to_end": WANTED_END_TO_END[device.type],
    }


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _contestants(size: int, batch: int, device: torch.device, backbone: str) -> dict[str, Callable[[], object] | None]:
    """One training step of each."""
    config = bench_config(size, batch, backbone)
    data = build.build_data(config)
    model = build.build_model(config, len(data.train.classes), data.train)
    settings = StepSettings(device, resolve_precision("auto", device), config.optim.clip_norm)
    state = build.build_state(config, model, build_criterion(config, model, data.train), settings)
    state.criterion.classification.set_progress(0.0)  # type: ignore[union-attr, operator]
    batches = build.build_batches(config, data.train, device)
    fixed = batches(0)
    steps = iter(range(1_000_000))
    return {
        OURS: lambda: train_step(state, *batches(next(steps)), settings)["loss"].item(),
        STATIC: lambda: train_step(state, *fixed, settings)["loss"].item(),
        REFERENCE: torchvision_step(*fixed, len(data.train.classes), size, device) if backbone == "resnet18" else None,
    }


def bench_config(size: int, batch: int, backbone: str) -> ExperimentConfig:
    """RetinaNet on the synthetic set with the defaults of both sides where they agree."""
    return ExperimentConfig.model_validate(
        {
            "name": "bench",
            "data": {"name": "synthetic", "num_train": 64, "num_val": 8, "image_size": size},
            "model": {"name": "retinanet", "backbone": backbone},
            "optim": {"name": "sgd", "lr": 1e-4, "steps": 1000, "batch_size": batch},
        }
    )


def torchvision_step(
    images: Tensor, targets: Targets, num_classes: int, size: int, device: torch.device
) -> Callable[[], object]:
    """torchvision's RetinaNet as its reference script trains it: float32, eager, SGD with momentum."""
    trunk = _resnet_fpn_extractor(
        resnet18(weights=None), 5, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
    )
    model: nn.Module = RetinaNet(
        trunk, num_classes, min_size=size, max_size=size, image_mean=[0.0] * 3, image_std=[1.0] * 3
    ).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    inputs = list(images.float().contiguous())
    truth = [
        {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0]}
        for boxes, labels in zip(targets.boxes, targets.labels, strict=True)
    ]

    def step() -> float:
        loss = sum(model(inputs, truth).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
