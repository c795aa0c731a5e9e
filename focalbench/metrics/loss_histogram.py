"""Computes how a detector's classification loss is spread over its anchors, for any gamma, from one histogram.

The histogram counts margins: the logit z of p_t, log(p_t / (1 - p_t)), of every classified element. Focal loss is a
falling function of z alone, for every gamma, so one pass over the data answers for all gammas at once: which share of
the loss the hardest elements hold (arXiv:1708.02002, fig. 4), where the anchors lie on figure 1, and how their gradient
norms are spread (GHM, arXiv:1811.05181, fig. 2). Bins are so fine that sums over bin centres equal sums over elements
to five digits; memory does not grow with the data.

An element is a pair of anchor and class with a sigmoid, an anchor with a softmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LIMIT = 24.0
"""Margins beyond are counted in the last bin: a loss above 24 nats, or below 4e-11."""
NUM_BINS = 9600
BIN_WIDTH = 2 * LIMIT / NUM_BINS

FIGURE_4_GAMMAS = (0.0, 0.5, 1.0, 2.0)
"""The lines of the paper's figure 4."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class MarginHistogram:
    """Counts elements by margin.

    Attributes:
        positives: (B,) int64, elements whose class is there: from the hardest (p_t near 0) to the easiest.
        negatives: (B,) int64, elements whose class is not there.
    """

    positives: Counts
    negatives: Counts

    @classmethod
    def empty(cls) -> MarginHistogram:
        """Returns a histogram of no elements."""
        return cls(np.zeros(NUM_BINS, np.int64), np.zeros(NUM_BINS, np.int64))

    def __add__(self, other: MarginHistogram) -> MarginHistogram:
        """Returns the counts of both together."""
        return MarginHistogram(self.positives + other.positives, self.negatives + other.negatives)


def bin_margins() -> NDArray[np.float64]:
    """Returns the (B,) centres of the bins, rising."""
    return np.arange(NUM_BINS, dtype=np.float64) * BIN_WIDTH + (BIN_WIDTH / 2 - LIMIT)


def focal_loss_of_margin(margin: NDArray[np.float64], gamma: float) -> NDArray[np.float64]:
    """Returns (1 - p_t)^gamma (-log p_t) of elements with these margins, nats; gamma 0 is cross entropy."""
    return np.exp(-gamma * np.logaddexp(0.0, margin)) * np.logaddexp(0.0, -margin)


def total_loss(counts: Counts, gamma: float) -> float:
    """Returns the sum of the loss over a group, without alpha."""
    return float(counts @ focal_loss_of_margin(bin_margins(), gamma))


@dataclass(frozen=True)
class CumulativeLoss:
    """Holds one line of the paper's figure 4, from the easiest element to the hardest.

    Attributes:
        fraction: (P,) float64 rising from 0 to 1, share of the group's elements.
        share: (P,) float64 rising from 0 to 1, share of the group's loss that these elements hold.
    """

    fraction: NDArray[np.float64]
    share: NDArray[np.float64]

    def of_hardest(self, fraction: float) -> float:
        """Returns the share of the loss in the hardest ``fraction`` of the elements, both in [0, 1]; nan for an empty
        group.
        """
        if len(self.fraction) == 0:
            return float("nan")
        return 1.0 - float(np.interp(1.0 - fraction, self.fraction, self.share))


def cumulative_loss(counts: Counts, gamma: float) -> CumulativeLoss:
    """Returns the normalised cumulative loss of one group (arXiv:1708.02002, fig. 4); no points for an empty group."""
    filled = np.flatnonzero(counts)[::-1]  # easiest first
    if len(filled) == 0:
        return CumulativeLoss(np.zeros(0), np.zeros(0))
    number = np.concatenate([[0.0], np.cumsum(counts[filled], dtype=np.float64)])
    per_bin = counts[filled] * focal_loss_of_margin(bin_margins()[filled], gamma)
    loss = np.concatenate([[0.0], np.cumsum(per_bin)])
    return CumulativeLoss(number / number[-1], loss / loss[-1])


def figure_4_curves(counts: Counts) -> dict[float, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Returns the lines of the paper's figure 4 for one group: gamma -> fraction and share, see ``CumulativeLoss``."""
    curves = {gamma: cumulative_loss(counts, gamma) for gamma in FIGURE_4_GAMMAS}
    return {gamma: (curve.fraction, curve.share) for gamma, curve in curves.items()}


def gradient_norm_counts(counts: Counts, num_bins: int = 30) -> Counts:
    """Counts elements by gradient norm g = 1 - p_t, in ``num_bins`` bins of equal width over [0, 1].

    g is the size of cross entropy's gradient on the logit: GHM's measure of hardness, 30 bins in its paper.
    """
    norm = np.exp(-np.logaddexp(0.0, bin_margins()))
    index = np.minimum((norm * num_bins).astype(np.int64), num_bins - 1)
    found = np.zeros(num_bins, np.int64)
    np.add.at(found, index, counts)
    return found


def probability_counts(counts: Counts, num_bins: int = 50) -> Counts:
    """Counts elements by p_t, in ``num_bins`` bins of equal width over [0, 1]."""
    return gradient_norm_counts(counts, num_bins)[::-1]
