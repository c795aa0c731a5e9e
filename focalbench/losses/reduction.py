"""Weights, reductions and normalisers, with MMDetection's conventions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["none", "mean", "sum"]
_SMALLEST = torch.finfo(torch.float32).eps


def check_reduction(reduction: str, avg_factor: float | Tensor | None) -> None:
    """Raises ValueError for an unknown reduction, or for ``sum`` with an ``avg_factor``: a sum is not averaged."""
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"reduction must be 'none', 'mean' or 'sum', got {reduction!r}")
    if reduction == "sum" and avg_factor is not None:
        raise ValueError("avg_factor can not be used with reduction='sum': use 'mean', which divides by it")


def divisor(reduction: str, avg_factor: float | Tensor | None, num_elements: int) -> float | Tensor:
    """Returns what the sum is divided by: ``avg_factor`` if given, the number of elements for a plain mean, else 1.

    Weights never change it. An ``avg_factor`` of 0 counts as the smallest step above 0, so that an empty batch gives 0.

    Raises:
        ValueError: an ``avg_factor`` of several numbers.
    """
    if reduction == "sum":
        return 1.0
    if avg_factor is None:
        return float(max(num_elements, 1))
    if isinstance(avg_factor, Tensor):
        if avg_factor.numel() != 1:
            raise ValueError(f"avg_factor must be one number, got a tensor of shape {tuple(avg_factor.shape)}")
        return avg_factor.reshape(()).clamp(min=_SMALLEST)
    return max(float(avg_factor), _SMALLEST)


def fit_weight(weight: Tensor, shape: torch.Size) -> Tensor:
    """Returns ``weight`` as something that broadcasts against a loss of ``shape``.

    Args:
        weight: per element, of ``shape``; for (N, K) also (N,) per anchor or (N * K,) per element in rows.
        shape: any.

    Raises:
        ValueError: any other shape.
    """
    if weight.shape == shape:
        return weight
    if len(shape) != 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; expected that of the logits, {tuple(shape)}")
    if weight.ndim == 1 and len(weight) == shape[0]:
        return weight[:, None]
    if weight.ndim == 1 and weight.numel() == shape.numel():
        return weight.view(shape)
    rows, columns = shape
    raise ValueError(
        f"weight has shape {tuple(weight.shape)}; expected ({rows},) per anchor, ({rows}, {columns}) or "
        f"({rows * columns},) per element"
    )


def reduce_loss(loss: Tensor, weight: Tensor | None, reduction: str, avg_factor: float | Tensor | None) -> Tensor:
    """Returns ``loss`` weighted and reduced; with ``none`` its shape is kept and ``avg_factor`` has no effect."""
    if weight is not None:
        loss = loss * weight
    if reduction == "none":
        return loss
    return loss.sum() / divisor(reduction, avg_factor, loss.numel())
