"""What every training criterion of a detector shares, and the question that it puts to the loss under test."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from focalbench.losses.base import ClassificationLoss, Counts
from focalbench.ranks import sum_over_ranks, world_size
from focalbench.structures import HeadOutputs, Targets


@dataclass(frozen=True)
class ClassProblem:
    """What a classification loss is asked on one batch.

    Attributes:
        logits: (N, R, C).
        labels: (N, R) int64: 0..K-1, K for background, -1 for ignored.
        quality: (N, R) IoU of predicted box and object in [0, 1], 0 off the positives; None unless the loss needs it.
        boxes: (N, R, 4) decoded predictions; None unless the loss needs them.
        avg_factor: float32 scalar, the normaliser: see :func:`normaliser`.
        factor: how much this problem's loss counts beside those of the criterion's other problems.
    """

    logits: Tensor
    labels: Tensor
    quality: Tensor | None
    boxes: Tensor | None
    avg_factor: Tensor
    factor: float = 1.0

    def loss(self, classification: ClassificationLoss, weight: Tensor | float = 1.0) -> Tensor:
        """Returns ``classification`` on this batch, normalised and times ``weight``."""
        return classification.normalised(
            self.logits,
            self.labels,
            weight=weight,
            avg_factor=self.avg_factor,
            quality=self.quality,
            boxes=self.boxes,
        )


class Criterion(nn.Module, ABC):
    """Compares what a detector's head says with the ground truth: one scalar for each term to be minimised.

    The loss under test is a part of it, so that all losses compared see the same anchors, box loss and normaliser.
    The section of a detector in the configuration names its criterion; keywords of a criterion beyond those below are
    keys of that section, ``loss.apply_to``, or come from ``Detector.criterion_arguments``. Every submodule that is a
    ``ClassificationLoss`` is a loss under test: it is built with the parameters of the configuration.

    Args:
        classification: the loss under test; its state goes into checkpoints with this module's.
        num_classes: K, the label of background.
        weight: factor of the loss under test (``loss.weight``, times the matched scale where asked for).
    """

    classification: ClassificationLoss
    weight: Tensor

    def __init__(self, classification: ClassificationLoss, *, num_classes: int, weight: float = 1.0) -> None:
        super().__init__()
        self.classification = classification
        self.num_classes = num_classes
        self.register_buffer("weight", torch.tensor(weight, dtype=torch.float32))

    @classmethod
    def around(cls, make_loss: Callable[[int], ClassificationLoss], *, num_classes: int, **options: Any) -> Self:
        """Returns the criterion with its losses under test made by ``make_loss``, which takes a number of classes."""
        return cls(make_loss(num_classes), num_classes=num_classes, **options)

    def match(self, anchors: Tensor, targets: Targets) -> Tensor | None:
        """Returns the (N, R) object of each anchor, where the network's outputs have no part in it, to be known before
        they are: ``forward`` then takes it as a third argument. None, as here, where they have.
        """
        return None

    def boxes_at(self, matched: Tensor) -> Tensor | None:
        """Returns the (N, R) anchors whose box a step looks at, by what :meth:`match` said; None, as here, for all."""
        return None

    @abstractmethod
    def forward(self, outputs: HeadOutputs, targets: Targets) -> dict[str, Tensor]:
        """Returns scalars: ``cls``, ``box`` and any others, whose sum is minimised, and ``num_pos``, the positives."""

    @abstractmethod
    def class_problem(self, outputs: HeadOutputs, targets: Targets) -> ClassProblem:
        """Returns the question put to ``classification``, for the check of the first loss, figures and ``analyze``."""

    def problems(self, outputs: HeadOutputs, targets: Targets) -> dict[str, ClassProblem]:
        """Returns the question put to each loss under test, by its name in :meth:`losses`, for ``match_scale``."""
        return {"classification": self.class_problem(outputs, targets)}

    @abstractmethod
    def count(self, anchors: Tensor, targets: Targets) -> dict[str, Counts]:
        """Returns positives and negatives over a batch for each loss under test by its name, for ``alpha: auto``.

        Args:
            anchors: (R, 4), of ``Detector.anchors_for``.
            targets: of the batch.
        """

    def losses(self) -> dict[str, ClassificationLoss]:
        """Returns the losses under test, by the attribute that holds each."""
        return {name: part for name, part in self.named_children() if isinstance(part, ClassificationLoss)}

    def set_progress(self, fraction: float) -> None:
        """Moves scheduled parameters of the losses under test; ``fraction`` of the training, in [0, 1]."""
        for loss in self.losses().values():
            loss.set_progress(fraction)

    @property
    def waits_for_device(self) -> bool:
        """Whether a step makes the host look at a value or a shape, so that no CUDA graph can record it."""
        return any(loss.waits_for_device for loss in self.losses().values())


def normaliser(num_positives: Tensor) -> Tensor:
    """Returns the number of positives of the whole batch, at least 1, per rank: float32 scalar.

    Several ranks average their gradients; divided by this number, the mean is the gradient of the whole batch's loss.
    """
    return sum_over_ranks(num_positives).clamp(min=1).float() / world_size()
