"""From a network and images to flat detections in original pixels, and from those to the numbers that are logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from focalbench.metrics.coco import coco_average_precision
from focalbench.metrics.voc import voc_average_precision
from focalbench.runtime import StopFlag
from focalbench.structures import Detections

FlatArrays = dict[str, NDArray]


class EvaluationImages(Protocol):
    """Images to evaluate on and what is known about them."""

    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Number of images."""
        ...

    def images(self, indices: Sequence[int], device: torch.device) -> Tensor:
        """(B, 3, H, W) float, normalised, on ``device``."""
        ...

    def to_original(self, image: int, boxes: NDArray) -> NDArray:
        """Canvas boxes (D, 4) of one image as VOC pixels (1-based, inclusive) of the original."""
        ...

    def ground_truth(self) -> FlatArrays:
        """Flat arrays image, label, box, difficult."""
        ...


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
    model: nn.Module,
    data: EvaluationImages,
    settings: DetectionSettings,
    *,
    device: torch.device,
    precision: torch.dtype,
    stop: StopFlag | None = None,
) -> FlatArrays:
    """All detections of ``model`` on ``data``, image by image, best first; memory grows with the detections only.

    Raises:
        InterruptedTrial: when ``stop`` is set, between two batches.
    """
    was_training = model.training
    model.eval()
    parts: list[FlatArrays] = []
    for start in range(0, len(data), settings.batch_size):
        if stop is not None:
            stop.raise_if_set("during an evaluation")
        indices = range(start, min(start + settings.batch_size, len(data)))
        found = detect_batch(model, data.images(indices, device), settings, precision)
        for index, detections in zip(indices, found, strict=True):
            parts.append(
                {
                    "image": np.full(len(detections.labels), index, dtype=np.int64),
                    "label": detections.labels.cpu().numpy(),
                    "score": detections.scores.cpu().numpy(),
                    "box": data.to_original(index, detections.boxes.cpu().numpy()).astype(np.float32),
                }
            )
    model.train(was_training)
    return {key: np.concatenate([part[key] for part in parts]) for key in ("image", "label", "score", "box")}


def detect_batch(
    model: nn.Module, images: Tensor, settings: DetectionSettings, precision: torch.dtype
) -> list[Detections]:
    """Detections on the canvas of one batch of normalised images; ``model`` should be in eval mode."""
    with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
        outputs = model(images)
    return model.decode(  # type: ignore[operator]
        outputs,
        score_thresh=settings.score_thresh,
        nms_thresh=settings.nms_thresh,
        max_detections=settings.max_detections,
    )


def score(detections: FlatArrays, ground_truth: FlatArrays, classes: tuple[str, ...], protocol: str) -> Evaluation:
    """mAP and AP per class by ``protocol`` (voc07 | voc12 | coco)."""
    num_classes = len(classes)
    result: Mapping[str, Any]
    if protocol == "coco":
        result = coco_average_precision(detections, ground_truth, num_classes=num_classes)
    elif protocol == "voc07":
        result = voc_average_precision(detections, ground_truth, num_classes=num_classes, interpolation="11point")
    else:
        result = voc_average_precision(detections, ground_truth, num_classes=num_classes, interpolation="area")
    ap = {name: float(value) for name, value in zip(classes, result["ap"], strict=True)}
    return Evaluation(float(result["map"]), ap, detections)
