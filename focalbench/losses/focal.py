"""The focal loss on independent sigmoids (arXiv:1708.02002, sec. 3)."""

from __future__ import annotations

from typing import Any

from focalbench.losses.base import Counts
from focalbench.losses.cross_entropy import Alpha, SigmoidFamily


class Focal(SigmoidFamily):
    """Focal loss: -alpha_t (1 - p_t)^gamma log p_t. Source: arXiv:1708.02002, eq. 4-5; alpha is on positives."""

    def __init__(
        self, num_classes: int, *, gamma: Any = 2.0, alpha: Alpha = 0.25, counts: Counts | None = None
    ) -> None:
        super().__init__(num_classes, gamma=gamma, alpha=alpha, counts=counts)
