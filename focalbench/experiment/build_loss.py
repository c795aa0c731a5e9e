"""The training criterion of a configuration: the loss under test inside the criterion of the detector."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from focalbench.config.loss import LossConfig, PluginLoss
from focalbench.config.model import ModelConfig, PluginDetector
from focalbench.config.schema import ExperimentConfig
from focalbench.data.dataset import DetectionData
from focalbench.losses import CRITERIA, LOSSES
from focalbench.losses.base import ClassificationLoss, Counts
from focalbench.losses.criterion import Criterion
from focalbench.losses.detection import DetectionLoss
from focalbench.losses.function_loss import registered_loss
from focalbench.losses.softmax import REFERENCES
from focalbench.models.detector import Detector
from focalbench.plugins.loading import registered
from focalbench.plugins.registration import require_subclass

_COUNT_CHUNK = 64


def keywords_among(given: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Returns those entries of ``given`` that ``kind``, or a base that it passes keywords on to, takes by name."""
    taken: set[str] = set()
    for base in kind.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(base).parameters
            taken |= set(parameters)
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values()):
                break
    return {name: value for name, value in given.items() if name in taken}


def loss_class(config: LossConfig) -> type[ClassificationLoss]:
    """Returns the class of the configured loss.

    Raises:
        PluginError: for one of a plugin that this process has not executed, or that is no loss.
    """
    if not isinstance(config, PluginLoss):
        return LOSSES[config.name]
    return registered_loss(registered("loss", config.name, config.source))


def criterion_class(config: ModelConfig) -> type[Criterion]:
    """Returns the class of the configured detector's criterion.

    Raises:
        PluginError: for one of a plugin that this process has not executed, or that is no criterion.
    """
    if not isinstance(config, PluginDetector):
        return CRITERIA[config.name]
    entry = registered("detector", config.name, config.source)
    criterion = entry.options["criterion"] or DetectionLoss
    return require_subclass(entry, criterion, Criterion, "focalbench.losses.Criterion")  # type: ignore[type-abstract]


def build_criterion(config: ExperimentConfig, model: Detector, train: DetectionData | None = None) -> Criterion:
    """Returns the training criterion around the configured classification loss.

    Args:
        train: the training set, for a loss that counts its anchors; without it a checkpoint must bring the counts.

    Raises:
        ValueError: for parameters that the loss refuses, such as a list of the wrong length.
    """
    kind, loss = criterion_class(config.model), loss_class(config.loss)
    shared = {"weight": config.loss.weight, "apply_to": config.loss.apply_to}
    given = {**config.model.model_dump(), **shared, **model.criterion_arguments()}
    # Around cross entropy first: counting positives and negatives takes the criterion, the loss their numbers.
    criterion = kind.around(REFERENCES[loss.activation], num_classes=model.num_classes, **keywords_among(given, kind))
    parameters = config.loss.parameters()
    counts = _count(model, train, criterion) if loss.needs_counts(parameters) else {}
    for name, reference in criterion.losses().items():
        counted = keywords_among({"counts": counts.get(name)}, loss)
        setattr(criterion, name, loss(reference.num_classes, **counted, **parameters))
    return criterion


def _count(model: Detector, train: DetectionData | None, criterion: Criterion) -> dict[str, Counts]:
    """What ``criterion.count`` finds on the whole training set, without augmentation."""
    if train is None:
        return {name: Counts((1,) * loss.num_classes, 1) for name, loss in criterion.losses().items()}
    anchors = model.anchors_for(train.canvas)
    parts = [
        criterion.count(anchors, train.targets(range(start, min(start + _COUNT_CHUNK, len(train)))))
        for start in range(0, len(train), _COUNT_CHUNK)
    ]
    return {name: sum((part[name] for part in parts[1:]), parts[0][name]) for name in parts[0]}
