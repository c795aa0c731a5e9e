"""Losses whose target for a positive is the quality of its box: quality focal and varifocal loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from focalbench.losses.base import ClassificationLoss, Counts, check_number
from focalbench.losses.elementwise import Terms, fused_sum
from focalbench.losses.focal_terms import FocalTerms, cross_entropy_to


@dataclass(frozen=True)
class _QualityFocalTerms:
    """Positives: |q - p|^beta CE(p, q). Negatives: the same with q = 0, a focal loss of gamma beta."""

    beta: float
    quality: Tensor

    def negative(self, x: Tensor, loss: Tensor, grad: Tensor, scratch: Tensor) -> float:
        """See ``elementwise.Terms``."""
        beta, one = torch.full((), self.beta, device=x.device), torch.ones((), device=x.device)
        return FocalTerms(beta, one, one).negative(x, loss, grad, scratch)

    def positive(self, x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """See ``elementwise.Terms``."""
        q = self.quality[rows].to(x.dtype)
        p = torch.sigmoid(x)
        difference = p - q
        distance = difference.abs()
        cross_entropy = cross_entropy_to(x, q)
        # for beta below 1 the slope is infinite at p = q, the minimum over beta: take 0 there
        pull = torch.where(distance > 0, distance.clamp(min=1e-300 if x.dtype == torch.float64 else 1e-38), 1.0)
        slope = self.beta * pull.pow(self.beta - 1) * difference.sign() * p * torch.sigmoid(-x) * cross_entropy
        return distance.pow(self.beta) * cross_entropy, distance.pow(self.beta) * difference + slope


class _QualityLoss(ClassificationLoss):
    """A sum of terms that take the (A,) qualities of the anchors' boxes."""

    needs_quality = True

    def forward(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None, boxes: Tensor | None = None
    ) -> Tensor:
        """See ``ClassificationLoss.forward``; ``quality`` is needed."""
        if quality is None or quality.shape != labels.shape:
            wanted, found = tuple(labels.shape), None if quality is None else tuple(quality.shape)
            raise ValueError(f"this loss needs quality (N, R) {wanted}: the predicted boxes' IoU; got {found}")
        terms = self._terms(quality.detach().reshape(-1).clamp(0, 1))  # a constant for the gradient
        return fused_sum(*self.flat(logits, labels), terms)

    def _terms(self, quality: Tensor) -> Terms:
        raise NotImplementedError


class QualityFocal(_QualityLoss):
    """Quality focal loss: |y - p|^beta CE(p, y), y the predicted box's IoU in a positive's class and 0 elsewhere.

    Source: arXiv:2006.04388, eq. 3 (beta 2 there).

    Args:
        num_classes, counts: see ``ClassificationLoss``.
        beta: exponent, >= 0.
    """

    def __init__(self, num_classes: int, *, beta: float = 2.0, counts: Counts | None = None) -> None:
        super().__init__(num_classes, counts)
        check_number("beta", beta)
        self.beta = float(beta)

    def focusing_exponents(self) -> tuple[float, float]:
        """See ``ClassificationLoss``; a positive of quality 1 has the exponent too."""
        return self.beta, self.beta

    def _terms(self, quality: Tensor) -> _QualityFocalTerms:
        return _QualityFocalTerms(self.beta, quality)


@dataclass(frozen=True)
class _VarifocalTerms:
    """Positives: q CE(p, q), but a positive of quality 0 counts as a negative. Negatives: alpha p^gamma softplus(x)."""

    gamma: Tensor
    alpha: Tensor
    quality: Tensor

    def negative(self, x: Tensor, loss: Tensor, grad: Tensor, scratch: Tensor) -> float:
        """See ``elementwise.Terms``."""
        return FocalTerms(self.gamma, self.alpha, self.alpha).negative(x, loss, grad, scratch)

    def positive(self, x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """See ``elementwise.Terms``."""
        q = self.quality[rows].to(x.dtype)
        missed, missed_slope = FocalTerms(self.gamma, self.alpha, self.alpha).positive(-x, rows, columns)
        value = torch.where(q > 0, q * cross_entropy_to(x, q), missed)
        return value, torch.where(q > 0, q * (torch.sigmoid(x) - q), -missed_slope)


class Varifocal(_QualityLoss):
    """Varifocal loss: q CE(p, q) for positives of quality q, alpha p^gamma (-log(1 - p)) for negatives.

    Source: arXiv:2008.13367, eq. 2 (alpha .75, gamma 2 there).

    Args:
        num_classes, counts: see ``ClassificationLoss``.
        gamma: focusing exponent of negatives, >= 0, a number or a schedule.
        alpha: weight of NEGATIVES, in [0, 1], a number or a schedule.
    """

    gamma: Tensor
    alpha: Tensor

    def __init__(self, num_classes: int, *, gamma: Any = 2.0, alpha: Any = 0.75, counts: Counts | None = None) -> None:
        super().__init__(num_classes, counts)
        self.keep("gamma", gamma)
        self.keep("alpha", alpha, high=1.0)

    def focusing_exponents(self) -> tuple[float, float]:
        """See ``ClassificationLoss``: negatives alone have one."""
        return 0.0, float(self.gamma)

    def _terms(self, quality: Tensor) -> _VarifocalTerms:
        # copies: a schedule may move the buffers before backward
        return _VarifocalTerms(self.gamma.clone(), self.alpha.clone(), quality)
