"""Asymmetric loss: own exponents for positives and negatives, easy negatives cut off (arXiv:2009.14119)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from focalbench.losses.base import ClassificationLoss, Counts, check_number
from focalbench.losses.elementwise import fused_sum, initial_loss_of_terms
from focalbench.losses.focal_terms import FocalTerms, wrong_side


@dataclass(frozen=True)
class _AsymmetricTerms:
    """Positives: focal with gamma_pos. Negatives: m^gamma_neg (-log(1 - m)) with m = max(p - margin, 0)."""

    gamma_pos: Tensor
    gamma_neg: Tensor
    margin: float

    def negative(self, x: Tensor, loss: Tensor, grad: Tensor, scratch: Tensor) -> float:
        """See ``elementwise.Terms``."""
        one = torch.ones((), device=x.device)
        if self.margin == 0:
            return FocalTerms(self.gamma_neg, one, one).negative(x, loss, grad, scratch)
        gamma = self.gamma_neg.to(x.dtype)
        p = torch.sigmoid(x, out=scratch)
        shifted = (p - self.margin).clamp_(min=0)
        rest = torch.neg(x, out=loss).sigmoid_()  # 1 - p, exact near p = 1
        slope = p.mul_(rest)  # dp/dx
        rest.add_(self.margin).clamp_(max=1)
        penalty = -torch.log(rest)
        modulator = shifted.pow(gamma)
        inside = shifted > 0
        # gamma m^(gamma - 1) penalty: penalty is about m for small m, so their quotient is bounded
        bend = gamma * modulator * (penalty / torch.where(inside, shifted, 1.0))
        torch.mul(bend.add_(modulator / rest), slope, out=grad).masked_fill_(~inside, 0)
        torch.mul(modulator, penalty, out=loss).masked_fill_(~inside, 0)
        return 1.0

    def positive(self, x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """See ``elementwise.Terms``."""
        value, slope = wrong_side(-x, self.gamma_pos.to(x.dtype), x.new_ones(()))
        return value, -slope


class Asymmetric(ClassificationLoss):
    """ASL: -(1 - p)^gamma_pos log p for positives, -m^gamma_neg log(1 - m), m = max(p - margin, 0), for negatives.

    Source: arXiv:2009.14119, eq. 4-7 (gamma 0 and 4, margin .05 there). The gradient is that of the formula; the
    authors' code can also hold the focusing weights constant, which is not done here.

    Args:
        num_classes, counts: see ``ClassificationLoss``.
        gamma_pos: focusing exponent of positives, >= 0.
        gamma_neg: focusing exponent of negatives, >= 0.
        margin: probability below which a negative costs nothing, in [0, 1).
    """

    gamma_pos: Tensor
    gamma_neg: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        gamma_pos: float = 0.0,
        gamma_neg: float = 4.0,
        margin: float = 0.05,
        counts: Counts | None = None,
    ) -> None:
        super().__init__(num_classes, counts)
        check_number("margin", margin, high=1.0)
        if margin == 1:
            raise ValueError("margin must be below 1, got 1")
        self.margin = float(margin)
        self.keep("gamma_pos", gamma_pos)
        self.keep("gamma_neg", gamma_neg)
        self._logged.clear()

    def focusing_exponents(self) -> tuple[float, float]:
        """See ``ClassificationLoss.focusing_exponents``."""
        return float(self.gamma_pos), float(self.gamma_neg)

    def side_weights(self) -> tuple[float, float] | None:
        """See ``ClassificationLoss``: a margin takes loss from every negative."""
        return (1.0, 1.0) if self.margin == 0 else None

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        return fused_sum(logits, labels, self._terms())

    def initial_loss(self, num_anchors: float, num_positives: float, prior_prob: float | None) -> float | None:
        """See ``ClassificationLoss.initial_loss``."""
        return initial_loss_of_terms(
            self._terms(),
            num_anchors,
            num_positives,
            prior_prob,
            num_classes=self.num_classes,
            device=self.gamma_neg.device,
        )

    def _terms(self) -> _AsymmetricTerms:
        # copies: gamma may be moved before backward
        return _AsymmetricTerms(self.gamma_pos.clone(), self.gamma_neg.clone(), self.margin)
