"""The focal loss on independent sigmoids (arXiv:1708.02002, sec. 3): the detector's loss and the library function."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from focalbench.losses.arguments import as_parameters, check_labels, compute_dtype, is_soft
from focalbench.losses.base import Counts
from focalbench.losses.cross_entropy import Alpha, SigmoidFamily
from focalbench.losses.focal_op import focal_sum
from focalbench.losses.focal_terms import soft_target, soft_target_slope, wrong_side
from focalbench.losses.reduction import Reduction, check_reduction, divisor, fit_weight, reduce_loss


class Focal(SigmoidFamily):
    """Focal loss: -alpha_t (1 - p_t)^gamma log p_t. Source: arXiv:1708.02002, eq. 4-5; alpha is on positives."""

    def __init__(
        self, num_classes: int, *, gamma: Any = 2.0, alpha: Alpha = 0.25, counts: Counts | None = None
    ) -> None:
        super().__init__(num_classes, gamma=gamma, alpha=alpha, counts=counts)


def sigmoid_focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float | Tensor = 2.0,
    alpha: float | Sequence[float] | Tensor | None = 0.25,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Returns -alpha_t (1 - p_t)^gamma log p_t with p = sigmoid(logits). Source: arXiv:1708.02002, eq. 4-5.

    With class ids and a reduction, nothing of the logits' size is made beside the gradient. The result is float32
    (float64 for float64 logits) whatever the logits are.

    Args:
        logits: any floating dtype; (N, K) with class ids, any shape with targets.
        labels: (N,) integers: class 0..K-1, K background, -1 ignored (loss 0). Or targets t in [0, 1] of the logits'
            shape, for which the loss is ``focal_terms.soft_target``'s; they get a gradient where they require one.
        gamma: focusing exponent, >= 0; 0 is cross entropy. A () tensor keeps torch.compile from recompiling; like alpha
            it gets no gradient.
        alpha: weight of positives in [0, 1], negatives get 1 - alpha; None for no weights. For logits (N, K) also K
            numbers, one per class.
        weight: of the logits' shape; for logits (N, K) also (N,) per anchor or (N * K,) per element. It never changes
            what the sum is divided by. It and ``avg_factor`` get a gradient where they require one.
        reduction: ``none``; ``mean``, over all elements, or the sum over ``avg_factor``; ``sum``.
        avg_factor: divisor of ``mean``, usually the number of positives; no effect on ``none``.

    Returns:
        The logits' shape for ``none``, else ().

    Raises:
        ValueError: shapes that do not fit, a parameter or target out of range, a label outside -1..K (tensors on CUDA
            are checked by a device-side assertion, which surfaces at the next synchronisation; gamma and alpha as
            tensors are not checked in compiled code), a parameter that requires a gradient, sum with avg_factor.
    """
    check_reduction(reduction, avg_factor)
    soft = is_soft(logits, labels)
    gamma, alpha = as_parameters(gamma, alpha, logits, high=1.0)
    one = torch.ones_like(gamma)
    on_positives, on_negatives = (one, one) if alpha is None else (alpha.to(gamma.dtype), (1 - alpha).to(gamma.dtype))
    fitted = None if weight is None else fit_weight(weight, logits.shape)
    if reduction == "none" or soft or (fitted is not None and fitted.requires_grad):
        loss = _ElementwiseFocal.apply(logits, labels, gamma, on_positives, on_negatives)
        return reduce_loss(loss, fitted, reduction, avg_factor)
    by = divisor(reduction, avg_factor, logits.numel())
    if isinstance(by, Tensor) and by.requires_grad:
        return focal_sum(logits, labels, gamma, on_positives, on_negatives, fitted) / by
    # dividing the weights instead of the sum spares backward a pass over the gradient
    scale = 1.0 / by
    return focal_sum(logits, labels, gamma, on_positives * scale, on_negatives * scale, fitted)


class _ElementwiseFocal(torch.autograd.Function):
    """Losses of the logits' shape. The derivative in the logits is computed with them, that in targets in backward."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, gamma: Tensor, alpha_pos: Tensor, alpha_neg: Tensor
    ) -> Tensor:
        if labels.shape != logits.shape:
            check_labels(labels, logits.shape[1])
        value, derivative = _elementwise(logits, labels, gamma, alpha_pos, alpha_neg)
        ctx.save_for_backward(derivative, logits, labels, gamma, alpha_pos, alpha_neg)
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        derivative, logits, labels, *parameters = ctx.saved_tensors
        of_logits = of_labels = None
        if ctx.needs_input_grad[0]:
            if torch.is_grad_enabled() and any(x.requires_grad for x in (logits, labels, grad_output)):  # create_graph
                derivative = _elementwise(logits, labels, *parameters, differentiable=True)[1]
            of_logits = (derivative * grad_output).to(logits.dtype)
        if ctx.needs_input_grad[1]:
            dtype = compute_dtype(logits.dtype)
            slope = soft_target_slope(logits.to(dtype), labels.to(dtype), *parameters)
            of_labels = (slope * grad_output).to(labels.dtype)
        return of_logits, of_labels, None, None, None


def _elementwise(
    logits: Tensor,
    labels: Tensor,
    gamma: Tensor,
    alpha_pos: Tensor,
    alpha_neg: Tensor,
    *,
    differentiable: bool = False,
) -> tuple[Tensor, Tensor]:
    """Losses and derivatives in the logits, of their shape, for class ids or targets."""
    x = logits.to(compute_dtype(logits.dtype))
    if labels.shape == logits.shape:
        return soft_target(x, labels.to(x.dtype), gamma, alpha_pos, alpha_neg, differentiable=differentiable)
    is_positive = labels[:, None] == torch.arange(x.shape[1], device=x.device)
    ignored = (labels < 0)[:, None]
    alpha = torch.where(is_positive, alpha_pos, alpha_neg)
    z = torch.where(is_positive, -x, x)
    value, slope = wrong_side(z, gamma, alpha, differentiable=differentiable)
    slope = torch.where(is_positive, -slope, slope)
    return torch.where(ignored, 0.0, value), torch.where(ignored, 0.0, slope)
