"""Class-balanced focal loss: classes weighted by their effective number of samples (arXiv:1901.05555)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from focalbench.losses.base import Counts, check_number
from focalbench.losses.cross_entropy import Alpha, SigmoidFamily
from focalbench.losses.focal_op import focal_sum


class ClassBalanced(SigmoidFamily):
    """w_y -alpha_t (1 - p_t)^gamma log p_t with w_c ~ (1 - beta) / (1 - beta^n_c), n_c the positives of class c.

    As in the paper an anchor's weight holds for all its K sigmoids, and the weights are scaled to a mean of 1. The
    paper has no background; here background anchors have weight 1, so that only the balance among classes changes. A
    class without any positive counts as if it had one.

    Source: arXiv:1901.05555, sec. 4, eq. 10 and 12.

    Args:
        num_classes, counts: see ``ClassificationLoss``.
        beta: in [0, 1); 0 gives no weights, towards 1 inverse frequency.
        gamma: focusing exponent >= 0, a number or a schedule.
        alpha: as in ``SigmoidFamily``; the paper has none.

    Raises:
        ValueError: a parameter outside its range, or no counts.
    """

    row_weights: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        beta: float = 0.9999,
        gamma: Any = 2.0,
        alpha: Alpha = None,
        counts: Counts | None = None,
    ) -> None:
        super().__init__(num_classes, gamma=gamma, alpha=alpha, counts=counts)
        check_number("beta", beta, high=1.0)
        if beta == 1:
            raise ValueError("beta must be below 1, got 1")
        if counts is None:
            raise ValueError("class_balanced needs the anchors counted after matching (counts)")
        weights = effective_number_weights(counts.positives_per_class, beta)
        self.register_buffer("row_weights", torch.tensor([*weights, 1.0], dtype=torch.float32))

    @classmethod
    def needs_counts(cls, parameters: Mapping[str, Any]) -> bool:
        """See ``ClassificationLoss``: always."""
        return True

    def side_weights(self) -> tuple[float, float] | None:
        """See ``ClassificationLoss``: a positive's weight depends on its class."""
        return None

    def _weighed_sum(self, logits: Tensor, labels: Tensor, alpha_pos: Tensor, alpha_neg: Tensor) -> Tensor:
        # labels out of range are reported by the sum
        row_weight = self.row_weights[labels.long().clamp(0, self.num_classes)]
        return focal_sum(logits, labels, self.gamma, alpha_pos, alpha_neg, row_weight[:, None])

    def initial_loss(self, num_anchors: float, num_positives: float, prior_prob: float | None) -> float | None:
        """Returns None: the weight of the first batch depends on which classes are in it."""
        return None


def effective_number_weights(counts: tuple[int, ...], beta: float) -> list[float]:
    """Returns (1 - beta) / (1 - beta^n) for each n, scaled to a mean of 1; n = 0 counts as 1."""
    if beta == 0:
        return [1.0] * len(counts)
    raw = [(1 - beta) / -math.expm1(max(count, 1) * math.log(beta)) for count in counts]
    return [weight * len(raw) / sum(raw) for weight in raw]
