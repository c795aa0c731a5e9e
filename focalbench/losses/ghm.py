"""GHM-C: cross entropy harmonised by gradient density, the critique of focal loss (arXiv:1811.05181)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from focalbench.losses.base import ClassificationLoss, Counts, check_number
from focalbench.losses.elementwise import fused_sum, row_slices, write_softplus
from focalbench.ranks import sum_over_ranks


@dataclass(frozen=True)
class _GHMTerms:
    """Cross entropy times the weight of the bin in which the gradient norm |p - y| falls; the weight is a constant."""

    bin_weights: Tensor

    def negative(self, x: Tensor, loss: Tensor, grad: Tensor, scratch: Tensor) -> float:
        """See ``elementwise.Terms``."""
        torch.sigmoid(x, out=grad)
        write_softplus(x, loss)
        weight = self.bin_weights.to(x.dtype)[bin_of(grad, len(self.bin_weights))]
        loss.mul_(weight)
        grad.mul_(weight)
        return 1.0

    def positive(self, x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """See ``elementwise.Terms``."""
        norm = torch.sigmoid(-x)
        weight = self.bin_weights.to(x.dtype)[bin_of(norm.float(), len(self.bin_weights))]
        return -F.logsigmoid(x) * weight, -norm * weight


def bin_of(norm: Tensor, bins: int) -> Tensor:
    """Returns the int64 bin of each gradient norm in [0, 1]."""
    return (norm * bins).long().clamp_(0, bins - 1)


class GHM(ClassificationLoss):
    """GHM-C: sum of CE / GD(g), GD the density of the gradient norm g = |p - y| around each element's own.

    The density is a histogram with moving averages. As in the authors' code the sum over n bins in use is divided by
    n, and a bin's weight is one over its (averaged) count; unlike there a bin's average starts at its first count, not
    at 0. The published loss is a mean of its own kind, so it is multiplied by the number of positives here: what the
    caller gets after dividing by that number is GHM-C as published.

    Source: arXiv:1811.05181, eq. 4-10 and sec. 3.3 (unit regions, exponential moving average).

    Args:
        num_classes, counts: see ``ClassificationLoss``.
        bins: equal bins of g over [0, 1].
        momentum: share of the old counts, in [0, 1).
    """

    density: Tensor

    def __init__(
        self, num_classes: int, *, bins: int = 30, momentum: float = 0.75, counts: Counts | None = None
    ) -> None:
        super().__init__(num_classes, counts)
        check_number("bins", bins, low=1)
        check_number("momentum", momentum, high=1.0)
        if momentum == 1 or int(bins) != bins:
            raise ValueError(f"bins must be whole and momentum below 1, got {bins} and {momentum}")
        self.bins, self.momentum = int(bins), float(momentum)
        self.register_buffer("density", torch.zeros(self.bins, dtype=torch.float64))

    @torch.compiler.disable
    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        """See ``ClassificationLoss``. In training mode with a gradient the moving averages move."""
        learning = self.training and torch.is_grad_enabled() and logits.requires_grad
        counts = sum_over_ranks(self._count(logits.detach(), labels))
        seen = counts > 0
        known = self.density > 0
        mixed = self.momentum * self.density + (1 - self.momentum) * counts
        density = torch.where(seen, torch.where(known, mixed, counts), self.density)
        if learning:
            self.density.copy_(density)
        is_positive = (labels >= 0) & (labels < self.num_classes)
        num_positives = sum_over_ranks(is_positive.sum()).clamp(min=1)
        weights = torch.where(seen, num_positives / (density.clamp(min=1e-12) * seen.sum().clamp(min=1)), 0.0)
        return fused_sum(logits, labels, _GHMTerms(weights))

    def _count(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(bins,) float64 elements in each bin of the gradient norm; ignored anchors are left out."""
        counts = self.density.new_zeros(self.bins + 1)
        columns = torch.arange(self.num_classes, device=logits.device)
        for part in row_slices(logits):
            label = labels[part, None]
            p = torch.sigmoid(logits[part].float())
            norm = torch.where(label == columns, 1 - p, p)
            index = bin_of(norm, self.bins).masked_fill_(label < 0, self.bins).flatten()
            if index.is_cuda:  # bincount would wait for the device
                counts += torch.histc(index.float(), self.bins + 1, -0.5, self.bins + 0.5)
            else:
                counts += torch.bincount(index, minlength=self.bins + 1)
        return counts[: self.bins]
