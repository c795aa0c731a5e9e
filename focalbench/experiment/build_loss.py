"""The training criterion of a configuration: the loss under test, inside RetinaNet's criterion or YOLOv2's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from focalbench.config.model import YoloV2Config
from focalbench.config.schema import ExperimentConfig
from focalbench.data.dataset import DetectionData
from focalbench.losses import LOSSES
from focalbench.losses.base import ClassificationLoss, Counts
from focalbench.losses.detection import DetectionLoss
from focalbench.losses.region import RegionLoss
from focalbench.structures import Targets

# Cross entropy on the same outputs: what other losses are matched to, and what counts positives and negatives.
REFERENCE = {"sigmoid": "ce", "softmax": "softmax_ce"}
# Keys of the loss's section that the criterion or the trial acts on; all others are arguments of the loss.
_NOT_LOSS_ARGUMENTS = {"name", "weight", "match_scale", "apply_to"}
_COUNT_CHUNK = 64


@dataclass(frozen=True)
class Uncounted:
    """In the place of a training set that is not at hand: a checkpoint brings what would have been counted on it."""

    classes: tuple[str, ...]


def class_activation(config: ExperimentConfig) -> str:
    """How class logits become scores: as in the loss under test, or YOLOv2's softmax where that is not on classes."""
    return "softmax" if config.loss.apply_to == "objectness" else LOSSES[config.loss.name].activation


def reference_loss(config: ExperimentConfig, num_classes: int) -> ClassificationLoss:
    """Cross entropy on the outputs that ``criterion.class_problem`` asks the configured loss about."""
    reference = LOSSES[REFERENCE[LOSSES[config.loss.name].activation]]
    return reference(num_classes=1 if config.loss.apply_to == "objectness" else num_classes, counts=None)


def build_criterion(config: ExperimentConfig, model: nn.Module, train: DetectionData | Uncounted) -> nn.Module:
    """The training criterion around the configured classification loss.

    Raises:
        ValueError: for parameters that the loss refuses, such as a list of the wrong length.
    """
    num_classes = len(train.classes)
    if isinstance(config.model, YoloV2Config):
        return _region_loss(config, config.model, model, train)
    criterion = DetectionLoss(
        reference_loss(config, num_classes),
        num_classes=num_classes,
        weight=config.loss.weight,
        pos_iou=config.model.pos_iou,
        neg_iou=config.model.neg_iou,
        box_weight=config.model.box_weight,
        box_beta=config.model.box_beta,
    )
    counts = (
        _count(model, train, criterion.count, criterion.classification.num_classes) if needs_counts(config) else None
    )
    criterion.classification = _loss(config, num_classes, counts)
    return criterion


def _region_loss(
    config: ExperimentConfig, yolo: YoloV2Config, model: nn.Module, train: DetectionData | Uncounted
) -> RegionLoss:
    """YOLOv2's criterion; with ``apply_to: both`` the loss under test is in it twice, over K classes and over one."""
    num_classes, apply_to = len(train.classes), config.loss.apply_to
    reference = LOSSES[REFERENCE[LOSSES[config.loss.name].activation]]
    criterion = RegionLoss(
        reference_loss(config, num_classes),
        num_classes=num_classes,
        stride=model.stride,  # type: ignore[arg-type]
        apply_to=apply_to,
        objectness=reference(num_classes=1) if apply_to == "both" else None,
        weight=config.loss.weight,
        object_scale=yolo.object_scale,
        noobject_scale=yolo.noobject_scale,
        coord_scale=yolo.coord_scale,
        class_scale=yolo.class_scale,
        ignore_iou=yolo.ignore_iou,
        rescore=yolo.rescore,
        coord_area_scale=yolo.coord_area_scale,
        anneal_images=yolo.anneal_images,
    )
    counts = (
        _count(model, train, criterion.count, criterion.classification.num_classes) if needs_counts(config) else None
    )
    criterion.classification = _loss(config, 1 if apply_to == "objectness" else num_classes, counts)
    if apply_to == "both":
        counts = _count(model, train, criterion.count_objectness, 1) if needs_counts(config) else None
        criterion.objectness = _loss(config, 1, counts)
    return criterion


def needs_counts(config: ExperimentConfig) -> bool:
    """Whether the loss depends on how many anchors are positive and negative in the training set."""
    return getattr(config.loss, "alpha", None) == "auto" or config.loss.name == "class_balanced"


def _loss(config: ExperimentConfig, num_classes: int, counts: Counts | None) -> ClassificationLoss:
    arguments = config.loss.model_dump(exclude=_NOT_LOSS_ARGUMENTS)
    return LOSSES[config.loss.name](num_classes=num_classes, counts=counts, **arguments)


def _count(
    model: nn.Module, train: DetectionData | Uncounted, count: Callable[[Tensor, Targets], Counts], num_classes: int
) -> Counts:
    """What ``count`` finds on the whole training set, without augmentation."""
    if isinstance(train, Uncounted):
        return Counts((1,) * num_classes, 1)
    anchors = model.anchors_for(train.canvas)  # type: ignore[operator]
    parts = [
        count(anchors, train.targets(range(start, min(start + _COUNT_CHUNK, len(train)))))
        for start in range(0, len(train), _COUNT_CHUNK)
    ]
    positives = zip(*(part.positives_per_class for part in parts), strict=True)
    return Counts(tuple(map(sum, positives)), sum(part.negatives for part in parts))
