"""From a network and images to flat detections in original pixels, and from those to the numbers that are logged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from focalbench.data.dataset import DetectionData
from focalbench.devices import autocast
from focalbench.metrics.protocols import PROTOCOLS
from focalbench.models.detector import Detector
from focalbench.ranks import any_rank, gather, rank, world_size
from focalbench.runtime import StopFlag
from focalbench.structures import Detections, HeadOutputs

FlatArrays = dict[str, NDArray]


@dataclass(frozen=True)
class DetectionSettings:
    """Which boxes count as detections: see ``eval`` in the configuration."""

    score_thresh: float
    nms_thresh: float
    max_detections: int
    batch_size: int


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one network.

    Attributes:
        mean_ap: the protocol's mAP in [0, 1]; nan when no class has an object.
        ap: AP by class name; nan where undefined.
        detections: flat arrays image, label, score, box (VOC pixels of the original images).
    """

    mean_ap: float
    ap: dict[str, float]
    detections: FlatArrays


@torch.no_grad()
def detect(
    model: Detector,
    data: DetectionData,
    settings: DetectionSettings,
    *,
    device: torch.device,
    precision: torch.dtype,
    stop: StopFlag | None = None,
) -> FlatArrays:
    """Returns all detections of ``model`` on ``data``, image by image, best first.

    Several ranks take turns at the batches; the first one gets all detections, the others only their own.

    Raises:
        InterruptedTrial: when ``stop`` is set, between two batches.
    """
    was_training = model.training
    model.eval()
    parts = [_flat(data, (), [])]
    for start in range(0, len(data), settings.batch_size * world_size()):
        if stop is not None and any_rank(stop.signum is not None)[0]:
            raise stop.interruption("during an evaluation")
        first = start + rank() * settings.batch_size
        indices = range(first, min(first + settings.batch_size, len(data)))
        if indices:
            images = data.normalised(same_shape(indices, min(settings.batch_size, len(data)), device), device)
            found = detect_batch(model, images, settings, precision)
            parts.append(_flat(data, indices, found[: len(indices)]))
    model.train(was_training)
    together = _joined(gather(_joined(parts)))
    order = together["image"].argsort(kind="stable")
    return {key: values[order] for key, values in together.items()}


def same_shape(indices: Sequence[int], batch_size: int, device: torch.device) -> list[int]:
    """Returns the images to run for ``indices``, not empty: on a GPU the last one again up to ``batch_size``, since for
    another shape cuDNN searches its algorithms and a compiled network is compiled once more; on a CPU no others.
    """
    missing = batch_size - len(indices) if device.type == "cuda" else 0
    return [*indices, *[indices[-1]] * missing]


def _flat(data: DetectionData, indices: Sequence[int], found: Sequence[Detections]) -> FlatArrays:
    """The detections on some images as flat arrays, boxes in pixels of the original images."""
    boxes = [data.to_original(i, one.boxes.numpy()) for i, one in zip(indices, found, strict=True)]
    return {
        "image": np.repeat(np.asarray(indices, np.int64), np.array([len(one.labels) for one in found], np.int64)),
        "label": np.concatenate([np.zeros(0, np.int64), *(one.labels.numpy() for one in found)]),
        "score": np.concatenate([np.zeros(0, np.float32), *(one.scores.numpy() for one in found)]),
        "box": np.concatenate([np.zeros((0, 4), np.float32), *boxes]).astype(np.float32),
    }


def _joined(parts: Sequence[FlatArrays]) -> FlatArrays:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def detect_batch(
    model: Detector, images: Tensor, settings: DetectionSettings, precision: torch.dtype
) -> list[Detections]:
    """Returns the detections on the canvas of one batch of normalised images, on the CPU; ``model`` should be in eval
    mode.
    """
    return decode(model, run_batch(model, images, precision), settings)


def run_batch(model: Detector, images: Tensor, precision: torch.dtype) -> HeadOutputs:
    """Returns what the network says of one batch of normalised images."""
    with autocast(images.device, precision):
        return model(images)


def decode(model: Detector, outputs: HeadOutputs, settings: DetectionSettings) -> list[Detections]:
    """Returns the detections on the canvas of each image, on the CPU."""
    return model.decode(
        outputs,
        score_thresh=settings.score_thresh,
        nms_thresh=settings.nms_thresh,
        max_detections=settings.max_detections,
    )


def score(detections: FlatArrays, ground_truth: FlatArrays, classes: tuple[str, ...], protocol: str) -> Evaluation:
    """Returns mAP and AP per class by ``protocol``, a key of ``PROTOCOLS``."""
    result = PROTOCOLS[protocol].score(detections, ground_truth, num_classes=len(classes))
    ap = {name: float(value) for name, value in zip(classes, result["ap"], strict=True)}
    return Evaluation(float(result["map"]), ap, detections)
