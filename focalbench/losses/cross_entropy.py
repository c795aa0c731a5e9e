"""Cross entropy and balanced cross entropy on independent sigmoids, the focal loss paper's starting points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from focalbench.losses.base import ClassificationLoss, Counts
from focalbench.losses.focal_op import focal_sum
from focalbench.losses.oracle import initial_sigmoid_loss

Alpha = float | str | Sequence[float] | dict[str, Any] | None


class SigmoidFamily(ClassificationLoss):
    """-alpha_t (1 - p_t)^gamma log p_t on K independent sigmoids; the losses of the family fix gamma or alpha.

    One with another formula overrides ``_weighed_sum``, which both ``forward`` and ``normalised`` end in.

    Args:
        num_classes: K.
        gamma: focusing exponent >= 0, a number or a schedule.
        alpha: weight of positives in [0, 1], negatives get 1 - alpha: a number, a schedule, K numbers, ``auto`` (from
            ``counts``: alpha / (1 - alpha) = negatives / positives over all elements), or None for weights of 1.
        counts: anchors counted after matching; for ``auto``.

    Raises:
        ValueError: a parameter outside its range, or ``auto`` without counts.
    """

    gamma: Tensor
    alpha: Tensor | None

    def __init__(
        self,
        num_classes: int,
        *,
        gamma: Any,
        alpha: Alpha,
        counts: Counts | None = None,
        gamma_above_zero: bool = False,
    ) -> None:
        super().__init__(num_classes, counts)
        self.keep("gamma", gamma, open_low=gamma_above_zero)
        self.keep_alpha(alpha, length=num_classes, high=1.0)

    def weights(self) -> tuple[Tensor, Tensor]:
        """Returns alpha of positives and of negatives in force, () or (K,) float32 each."""
        if self.alpha is None:
            one = torch.ones((), device=self.gamma.device)
            return one, one
        return self.alpha.float(), (1 - self.alpha).float()

    def side_weights(self) -> tuple[float, float] | None:
        """See ``ClassificationLoss.side_weights``."""
        if self.alpha is None:
            return 1.0, 1.0
        return None if self.alpha.ndim else (float(self.alpha), 1 - float(self.alpha))

    def normalised(
        self, logits: Tensor, labels: Tensor, *, weight: Tensor | float, avg_factor: Tensor, **others: Tensor | None
    ) -> Tensor:
        """See ``ClassificationLoss``. On a GPU the factor goes into the weights: the gradient is final at once."""
        if not logits.is_cuda:
            return super().normalised(logits, labels, weight=weight, avg_factor=avg_factor, **others)
        scale = weight / avg_factor
        return self._weighed_sum(*self.flat(logits, labels), *(scale * side for side in self.weights()))

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        return self._weighed_sum(logits, labels, *self.weights())

    def _weighed_sum(self, logits: Tensor, labels: Tensor, alpha_pos: Tensor, alpha_neg: Tensor) -> Tensor:
        """The loss of (A, C) ``logits`` and (A,) ``labels`` with these weights of positives and negatives."""
        return focal_sum(logits, labels, self.gamma, alpha_pos, alpha_neg)

    def initial_loss(self, num_anchors: float, num_positives: float, prior_prob: float | None) -> float | None:
        """See ``ClassificationLoss.initial_loss``."""
        alpha = None if self.alpha is None else float(self.alpha.mean())
        return initial_sigmoid_loss(
            num_anchors,
            num_positives,
            prior_prob,
            num_classes=self.num_classes,
            gamma=float(self.gamma),
            alpha=alpha,
        )


class CrossEntropy(SigmoidFamily):
    """Cross entropy: -log p_t per class. Source: arXiv:1708.02002, eq. 1-2."""

    def __init__(self, num_classes: int, *, counts: Counts | None = None) -> None:
        super().__init__(num_classes, gamma=0.0, alpha=None, counts=counts)
        self._logged.clear()


class BalancedCrossEntropy(SigmoidFamily):
    """Balanced cross entropy: -alpha_t log p_t. Source: arXiv:1708.02002, eq. 3; see ``SigmoidFamily`` for alpha."""

    def __init__(self, num_classes: int, *, alpha: Alpha = 0.75, counts: Counts | None = None) -> None:
        super().__init__(num_classes, gamma=0.0, alpha=alpha, counts=counts)
        self._logged.remove("gamma")
