"""FL*, the alternate form of the focal loss (arXiv:1708.02002, appendix A)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from focalbench.losses.base import Counts, check_number
from focalbench.losses.cross_entropy import Alpha, SigmoidFamily
from focalbench.losses.elementwise import fused_sum, initial_loss_of_terms, write_softplus


@dataclass(frozen=True)
class _StarTerms:
    """L = a softplus(v) / gamma with v = gamma z - beta, z the logit of the wrong side; dL/dz = a sigmoid(v)."""

    gamma: Tensor
    beta: float
    alpha_pos: Tensor
    alpha_neg: Tensor

    def negative(self, x: Tensor, loss: Tensor, grad: Tensor, scratch: Tensor) -> float:
        """See ``elementwise.Terms``."""
        torch.mul(x, self.gamma.to(x.dtype), out=scratch).sub_(self.beta)
        torch.sigmoid(scratch, out=grad).mul_(self.alpha_neg.to(x.dtype))
        write_softplus(scratch, loss)
        loss.mul_((self.alpha_neg / self.gamma).to(x.dtype))
        return 1.0

    def positive(self, x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """See ``elementwise.Terms``."""
        gamma, alpha = self.gamma.to(x.dtype), self.alpha_pos.to(x.dtype)
        alpha = alpha[columns] if alpha.ndim else alpha
        correct = gamma * x + self.beta
        return -alpha * F.logsigmoid(correct) / gamma, -alpha * torch.sigmoid(-correct)


class FocalStar(SigmoidFamily):
    """FL*: -alpha_t log sigmoid(gamma x_t + beta) / gamma with x_t = x for positives, -x for negatives.

    Source: arXiv:1708.02002, appendix A, eq. 9-10 and table 3, whose pairs (gamma, beta) are (2, 1) and (4, 0).

    Args:
        num_classes, counts: see ``ClassificationLoss``.
        gamma: scale of the logit, > 0, a number or a schedule.
        beta: shift.
        alpha: as in ``SigmoidFamily``.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        gamma: Any = 2.0,
        beta: float = 1.0,
        alpha: Alpha = 0.25,
        counts: Counts | None = None,
    ) -> None:
        super().__init__(num_classes, gamma=gamma, alpha=alpha, counts=counts, gamma_above_zero=True)
        check_number("beta", beta, low=-float("inf"))
        self.beta = float(beta)

    def focusing_exponents(self) -> tuple[float, float]:
        """See ``ClassificationLoss``: gamma scales the logit here."""
        return 0.0, 0.0

    def side_weights(self) -> tuple[float, float] | None:
        """See ``ClassificationLoss``."""
        return None

    def _weighed_sum(self, logits: Tensor, labels: Tensor, alpha_pos: Tensor, alpha_neg: Tensor) -> Tensor:
        return fused_sum(logits, labels, _StarTerms(self.gamma.clone(), self.beta, alpha_pos, alpha_neg))

    def initial_loss(self, num_anchors: float, num_positives: float, prior_prob: float | None) -> float | None:
        """See ``ClassificationLoss.initial_loss``."""
        terms = _StarTerms(self.gamma, self.beta, *self.weights())
        return initial_loss_of_terms(
            terms, num_anchors, num_positives, prior_prob, num_classes=self.num_classes, device=self.gamma.device
        )
