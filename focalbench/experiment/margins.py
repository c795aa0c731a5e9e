"""From logits and labels to margins, the logits of p_t, and to their histogram."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from focalbench.losses.criterion import ClassProblem
from focalbench.metrics.loss_histogram import BIN_WIDTH, LIMIT, NUM_BINS, MarginHistogram


def element_margins(logits: Tensor, labels: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Returns the logit of p_t of every element, and which elements are negatives.

    Args:
        logits: (..., C) of any floating dtype; C is K with sigmoid, K + 1 (background last) with softmax.
        labels: (...) int64: 0..K-1, K for background, -1 for ignored.
        activation: sigmoid | softmax.

    Returns:
        margins (..., E) float32 and negatives (..., E) bool; E is K with sigmoid, 1 with softmax. Ignored elements are
        no negatives; whether one is positive follows from the labels.
    """
    logits = logits.float()
    if activation == "sigmoid":
        positive = labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)
        return torch.where(positive, logits, -logits), ~positive & (labels >= 0)[..., None]
    own = labels.clamp(min=0)[..., None]
    others = logits.scatter(-1, own, -torch.inf).logsumexp(dim=-1, keepdim=True)
    negative = labels == logits.shape[-1] - 1
    return logits.gather(-1, own) - others, negative[..., None]


def count_margins(problem: ClassProblem, activation: str) -> MarginHistogram:
    """Returns the histogram of one batch; waits for the device once."""
    margin, is_negative = element_margins(problem.logits, problem.labels, activation)
    is_counted = (problem.labels >= 0)[..., None].expand_as(margin)
    if activation == "sigmoid":
        is_positive = is_counted & ~is_negative
    else:
        is_positive = is_counted & (problem.labels < problem.logits.shape[-1] - 1)[..., None]
    # A network that has just diverged is described too, as wrong as can be.
    margin = margin.nan_to_num(nan=-LIMIT)
    index = ((margin + LIMIT) / BIN_WIDTH).clamp_(0, NUM_BINS - 1).long()
    # Positives, negatives and what is ignored lie one after the other: one count, one transfer.
    index += torch.where(is_positive, 0, torch.where(is_negative, NUM_BINS, 2 * NUM_BINS))
    counts = torch.bincount(index.flatten(), minlength=3 * NUM_BINS).cpu().numpy().astype(np.int64)
    return MarginHistogram(counts[:NUM_BINS], counts[NUM_BINS : 2 * NUM_BINS])
