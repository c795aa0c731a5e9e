"""A plugin of two losses that focalbench has too: what is trained with them is known beforehand."""

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

import focalbench as fb


@fb.loss("copied")
class CopyOfFocal(fb.losses.ClassificationLoss):
    """The built-in focal loss as a class: the same bits."""

    activation = "sigmoid"

    def __init__(
        self,
        num_classes: int,
        *,
        gamma: fb.losses.Schedulable = 2.0,
        alpha: float | str = 0.25,
        counts: fb.losses.Counts | None = None,
    ) -> None:
        super().__init__(num_classes, counts)
        self.keep("gamma", gamma)
        self.keep_alpha(alpha, length=num_classes, high=1.0)

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        return fb.losses.sigmoid_focal_loss(logits, labels, gamma=self.gamma, alpha=self.alpha, reduction="sum")


@fb.loss("written")
def written(
    logits: Tensor, targets: Tensor, *, gamma: Annotated[float, Field(ge=0)] = 2.0, alpha: float = 0.25
) -> Tensor:
    """The focal loss as one writes it down (arXiv:1708.02002, eq. 5): equal within rounding."""
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (alpha * targets + (1 - alpha) * (1 - targets)) * (1 - torch.exp(-ce)) ** gamma * ce
