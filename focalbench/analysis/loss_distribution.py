"""One pass of a trained network over images: where its classification loss comes from. Opens the network, needs torch.

Images are taken without augmentation, and the elements are those that the training's criterion asks its loss about
(for YOLOv2 what ``loss.apply_to`` names), in histograms of a fixed size: memory does not grow with the set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from focalbench.analysis.hard_tail import Candidates, HardTail
from focalbench.data.dataset import DetectionData
from focalbench.devices import autocast
from focalbench.experiment.margins import count_margins, element_margins
from focalbench.losses.criterion import ClassProblem
from focalbench.metrics.loss_histogram import (
    FIGURE_4_GAMMAS,
    MarginHistogram,
    cumulative_loss,
    gradient_norm_counts,
    total_loss,
)
from focalbench.models.detector import Detector
from focalbench.structures import HeadOutputs
from focalbench.trained.trial import TrainedTrial

HARDEST = (0.001, 0.01, 0.2)
_CURVE = np.concatenate([np.linspace(0, 0.9, 91), np.linspace(0.9, 1, 101)[1:]])


@dataclass(frozen=True)
class LossDistribution:
    """What the pass found.

    Attributes:
        histogram: all elements by margin.
        tail: the hardest negatives, as regions of images.
        detections: flat arrays image, label, score, box, as an evaluation would find them.
    """

    histogram: MarginHistogram
    tail: HardTail
    detections: dict[str, np.ndarray]


@torch.no_grad()
def measure(
    trained: TrainedTrial,
    data: DetectionData,
    *,
    num_regions: int = 36,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LossDistribution:
    """Runs the network over ``data`` once.

    Args:
        num_regions: hardest negative regions kept for the audit.
        progress: told (images done, images).
    """
    truth = data.ground_truth()
    gamma, activation = own_gamma(trained), trained.criterion.classification.activation
    histogram, tail = MarginHistogram.empty(), HardTail(num_regions=num_regions, gamma=gamma)
    parts: list[dict[str, np.ndarray]] = []
    size = trained.settings.batch_size
    for start in range(0, len(data), size):
        indices = range(start, min(start + size, len(data)))
        outputs, problem = _run(trained, data, indices)
        histogram += count_margins(problem, activation)
        for row, index in enumerate(indices):
            hardest = hardest_negatives(trained.model, outputs, problem, activation, row)
            objects = {name: values[truth["image"] == index] for name, values in truth.items()}
            tail.add(index, hardest, data.to_original(index, hardest.boxes), objects)
        parts += _detections(trained, outputs, data, indices)
        progress(indices.stop, len(data))
    detections = {name: np.concatenate([part[name] for part in parts]) for name in ("image", "label", "score", "box")}
    return LossDistribution(histogram, tail, detections)


def _run(trained: TrainedTrial, data: DetectionData, indices: range) -> tuple[HeadOutputs, ClassProblem]:
    """Outputs of one batch, and what the training would ask its loss about them."""
    batch = data.normalised(indices, trained.device)
    with autocast(trained.device, trained.precision):
        outputs = trained.model(batch)
    targets = data.targets(indices).to(trained.device)
    return outputs, trained.criterion.class_problem(outputs, targets)


def _detections(
    trained: TrainedTrial, outputs: HeadOutputs, data: DetectionData, indices: range
) -> list[dict[str, np.ndarray]]:
    """Flat arrays of each image of the batch."""
    settings = trained.settings
    found = trained.model.decode(
        outputs,
        score_thresh=settings.score_thresh,
        nms_thresh=settings.nms_thresh,
        max_detections=settings.max_detections,
    )
    return [
        {
            "image": np.full(len(detections.labels), index, dtype=np.int64),
            "label": detections.labels.cpu().numpy(),
            "score": detections.scores.cpu().numpy(),
            "box": data.to_original(index, detections.boxes),
        }
        for index, detections in zip(indices, found, strict=True)
    ]


def own_gamma(trained: TrainedTrial) -> float:
    """Returns the focusing exponent on negatives that the training ended with; 0 for a loss without one."""
    return trained.criterion.classification.focusing_exponents()[1]


def class_loss(trained: TrainedTrial, histogram: MarginHistogram) -> float | None:
    """Returns the loss of all elements as the training weighs them, in units of which one nat of a negative is one.

    None for a loss whose weights are more than one number for each side: by box, class, rank or density.
    """
    loss = trained.criterion.classification
    sides = loss.side_weights()
    if sides is None:
        return None
    on_positives, on_negatives = sides
    of_positives, of_negatives = loss.focusing_exponents()
    positive, negative = total_loss(histogram.positives, of_positives), total_loss(histogram.negatives, of_negatives)
    # Where negatives have no weight, they have no share in the loss either.
    return negative + positive * on_positives / on_negatives if on_negatives else math.inf


def hardest_negatives(
    model: Detector, outputs: HeadOutputs, problem: ClassProblem, activation: str, row: int, limit: int = 200
) -> Candidates:
    """Returns the negative elements of one image with the highest loss: what they claim, and where.

    Args:
        row: which image of the batch.
        limit: elements kept at most.
    """
    margin, is_negative = element_margins(problem.logits[row], problem.labels[row], activation)
    hardness = torch.where(is_negative, -margin, -torch.inf).flatten()
    value, index = hardness.topk(min(limit, hardness.numel()))
    value, index = value[value > -torch.inf], index[value > -torch.inf]
    anchor = index // margin.shape[1]
    row_of = HeadOutputs(
        outputs.cls_logits[row : row + 1],
        outputs.box_deltas[row : row + 1],
        outputs.anchors,
        outputs.canvas,
        outputs.level_sizes,
        None if outputs.objectness is None else outputs.objectness[row : row + 1],
    )
    scores, boxes = model.dense(row_of)
    per_class = margin.shape[1] == scores.shape[2] > 1
    labels = index % margin.shape[1] if per_class else scores[0, anchor].argmax(dim=1)
    return Candidates(
        margin=(-value).double().cpu().numpy(),
        label=labels.cpu().numpy(),
        boxes=_within(boxes[0, anchor], outputs.canvas).cpu().numpy(),
    )


def _within(boxes: Tensor, canvas: tuple[int, int]) -> Tensor:
    """``boxes`` cut at the canvas."""
    limit = torch.tensor([canvas[1], canvas[0]] * 2, dtype=boxes.dtype, device=boxes.device)
    return torch.minimum(boxes.clamp(min=0), limit)


def figures(histogram: MarginHistogram, gamma: float) -> dict[str, Any]:
    """Returns the numbers behind the pictures, ready for JSON.

    Args:
        gamma: the training's own, reported beside the paper's.
    """
    groups = {"positives": histogram.positives, "negatives": histogram.negatives}
    gammas = sorted({*FIGURE_4_GAMMAS, gamma})
    document: dict[str, Any] = {"gamma": gamma}
    for name, counts in groups.items():
        curves = {value: cumulative_loss(counts, value) for value in gammas}
        document[name] = {
            "elements": int(counts.sum()),
            "loss_by_gamma": {f"{value:g}": total_loss(counts, value) for value in gammas},
            "share_of_hardest": {
                f"{value:g}": {f"{fraction:g}": curve.of_hardest(fraction) for fraction in HARDEST}
                for value, curve in curves.items()
            },
            "cumulative": {
                f"{value:g}": np.interp(_CURVE, curve.fraction, curve.share).tolist() if len(curve.share) else []
                for value, curve in curves.items()
            },
            "gradient_norm_counts": gradient_norm_counts(counts).tolist(),
        }
    document["cumulative_fraction"] = _CURVE.tolist()
    return document
