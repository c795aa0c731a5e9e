"""Losses on a softmax over the classes and the background, which is the LAST output.

With d = log sum_{j != y} exp(x_j) - x_y the softmax's p_y is sigmoid(-d), so every one of them is the sigmoid form in
d: 1 - p_y = sigmoid(d) and -log p_y = softplus(d), both exact where p_y rounds to 1, and with r the softmax over the
other outputs dd/dx_j = r_j, dd/dx_y = -1. The largest of the others is taken out first: no exponential overflows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from focalbench.losses.arguments import as_parameters, check_labels, compute_dtype, is_soft
from focalbench.losses.base import ClassificationLoss, Counts
from focalbench.losses.cross_entropy import CrossEntropy
from focalbench.losses.elementwise import row_slices, scale_in_place
from focalbench.losses.focal_terms import wrong_side
from focalbench.losses.oracle import initial_softmax_loss
from focalbench.losses.reduction import Reduction, check_reduction, divisor, reduce_loss

AlphaOn = Literal["positives", "background"]


class SoftmaxFamily(ClassificationLoss):
    """-alpha[y] (1 - p_y)^gamma log p_y on a softmax over K + 1 outputs; the losses of the family fix gamma or alpha.

    Args:
        num_classes: K; the head has K + 1 outputs.
        gamma: focusing exponent >= 0, a number or a schedule.
        alpha: None (1 everywhere); K + 1 weights >= 0, background last; a number or schedule in [0, 1] for the side
            that ``alpha_on`` names, the other gets 1 - alpha; ``auto`` gives both sides the same total weight.
        alpha_on: ``positives`` (as in the focal loss paper) or ``background`` (its reverse, met in public code).
        counts: anchors counted after matching; for ``auto``.

    Raises:
        ValueError: a parameter outside its range, a list of another length, or ``auto`` without counts.
    """

    activation = "softmax"
    gamma: Tensor
    alpha: Tensor | None

    def __init__(
        self,
        num_classes: int,
        *,
        gamma: Any,
        alpha: Any,
        alpha_on: AlphaOn = "positives",
        counts: Counts | None = None,
    ) -> None:
        super().__init__(num_classes, counts)
        if alpha_on not in ("positives", "background"):
            raise ValueError(f"alpha_on must be 'positives' or 'background', got {alpha_on!r}")
        self.alpha_on = alpha_on
        self.keep("gamma", gamma)
        self.keep_alpha(alpha, length=num_classes + 1, high=math.inf)

    def balanced_alpha(self) -> float:
        """See ``ClassificationLoss``; of the side that ``alpha_on`` names."""
        on_positives = super().balanced_alpha()
        return on_positives if self.alpha_on == "positives" else 1 - on_positives

    def class_weights(self) -> Tensor:
        """Returns the (K + 1,) float32 weights in force, background last."""
        if self.alpha is None:
            return torch.ones(self.num_classes + 1, device=self.gamma.device)
        weights = self.alpha if self.alpha.ndim else spread_alpha(self.alpha, self.alpha_on, self.num_classes + 1)
        return weights.float()

    def side_weights(self) -> tuple[float, float] | None:
        """See ``ClassificationLoss.side_weights``."""
        if self.alpha is None:
            return 1.0, 1.0
        if self.alpha.ndim:
            return None
        alpha = float(self.alpha)
        return (alpha, 1 - alpha) if self.alpha_on == "positives" else (1 - alpha, alpha)

    def total(self, logits: Tensor, labels: Tensor) -> Tensor:
        return softmax_sum(logits, labels, self.gamma, self.class_weights())

    def initial_loss(self, num_anchors: float, num_positives: float, prior_prob: float | None) -> float | None:
        """See ``ClassificationLoss.initial_loss``."""
        weights = self.class_weights()
        return initial_softmax_loss(
            num_anchors,
            num_positives,
            prior_prob,
            num_classes=self.num_classes,
            gamma=float(self.gamma),
            weights=(float(weights[:-1].mean()), float(weights[-1])),
        )


class SoftmaxCrossEntropy(SoftmaxFamily):
    """Softmax cross entropy: -log softmax(x)_y over K + 1 outputs."""

    def __init__(self, num_classes: int, *, counts: Counts | None = None) -> None:
        super().__init__(num_classes, gamma=0.0, alpha=None, counts=counts)
        self._logged.clear()


REFERENCES: dict[str, type[CrossEntropy] | type[SoftmaxCrossEntropy]] = {
    "sigmoid": CrossEntropy,
    "softmax": SoftmaxCrossEntropy,
}
"""Cross entropy by the activation of the outputs: what other losses are matched to."""


class SoftmaxBalancedCrossEntropy(SoftmaxFamily):
    """Weighted softmax cross entropy: -alpha[y] log softmax(x)_y; see ``SoftmaxFamily`` for alpha."""

    def __init__(
        self, num_classes: int, *, alpha: Any = 0.75, alpha_on: AlphaOn = "positives", counts: Counts | None = None
    ) -> None:
        super().__init__(num_classes, gamma=0.0, alpha=alpha, alpha_on=alpha_on, counts=counts)
        self._logged.remove("gamma")


class SoftmaxFocal(SoftmaxFamily):
    """Softmax focal loss: -alpha[y] (1 - p_y)^gamma log p_y; arXiv:1708.02002, eq. 5, with the softmax's p_y as p_t."""

    def __init__(
        self,
        num_classes: int,
        *,
        gamma: Any = 2.0,
        alpha: Any = None,
        alpha_on: AlphaOn = "positives",
        counts: Counts | None = None,
    ) -> None:
        super().__init__(num_classes, gamma=gamma, alpha=alpha, alpha_on=alpha_on, counts=counts)


def spread_alpha(alpha: Tensor, alpha_on: AlphaOn, num_outputs: int) -> Tensor:
    """Returns (C,) weights, background last: the () ``alpha`` on the side that ``alpha_on`` names, 1 - alpha else."""
    classes, background = (alpha, 1 - alpha) if alpha_on == "positives" else (1 - alpha, alpha)
    return torch.cat([classes.expand(num_outputs - 1), background.reshape(1)])


def softmax_focal_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    gamma: float | Tensor = 2.0,
    alpha: float | Sequence[float] | Tensor | None = None,
    alpha_on: AlphaOn = "positives",
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    avg_factor: float | Tensor | None = None,
) -> Tensor:
    """Returns -alpha[y] (1 - p_y)^gamma log p_y with p = softmax(logits); one loss per row.

    Args:
        logits: (N, C), any floating dtype; in detection C = K + 1 with the background LAST.
        labels: (N,) integers 0..C-1, so that K is the background, -1 ignored (loss 0); or (N, C) targets t in [0, 1],
            for which the loss is the sum of -t_j alpha_j (1 - p_j)^gamma log p_j over j; they get a gradient where
            they require one, as do ``weight`` and ``avg_factor``.
        gamma: focusing exponent, >= 0; 0 is cross entropy.
        alpha: None; C weights >= 0; or one number in [0, 1] for the side that ``alpha_on`` names.
        alpha_on: where a single alpha goes; ``background`` is the reverse of the paper.
        weight: (N,) per row.
        reduction: ``none``; ``mean``, over N rows, or the sum over ``avg_factor``; ``sum``.
        avg_factor: divisor of ``mean``; no effect on ``none``.

    Returns:
        (N,) for ``none``, else (); float32, or float64 for float64 logits.

    Raises:
        ValueError: shapes that do not fit, a parameter or target out of range, a label outside -1..C-1 (tensors on
            CUDA by a device-side assertion; gamma and alpha as tensors are not checked in compiled code), a parameter
            that requires a gradient, sum with avg_factor.
    """
    check_reduction(reduction, avg_factor)
    soft = is_soft(logits, labels)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"a softmax needs (N, C) logits with at least 2 outputs, the background among them, "
            f"got {tuple(logits.shape)}"
        )
    if weight is not None and weight.shape != logits.shape[:1]:
        raise ValueError(f"weight has shape {tuple(weight.shape)}; expected ({len(logits)},), one per row")
    gamma, alpha = as_parameters(gamma, alpha, logits, high=math.inf)
    if alpha is None:
        weights = gamma.new_ones(logits.shape[1])
    else:
        weights = (alpha if alpha.ndim else spread_alpha(alpha, alpha_on, logits.shape[1])).to(gamma.dtype)
    if soft:
        return reduce_loss(_soft_rows(logits, labels, gamma, weights), weight, reduction, avg_factor)
    if reduction == "none" or (weight is not None and weight.requires_grad):
        return reduce_loss(_SoftmaxRows.apply(logits, labels, gamma, weights), weight, reduction, avg_factor)
    by = divisor(reduction, avg_factor, len(logits))
    if isinstance(by, Tensor) and by.requires_grad:
        total = softmax_sum(logits, labels, gamma, weights, weight if weight is None else weight.to(weights.dtype))
        return total / by
    scale = 1.0 / by
    row_weight = weight.to(weights.dtype) * scale if weight is not None else None
    return softmax_sum(logits, labels, gamma, weights if weight is not None else weights * scale, row_weight)


@torch.compiler.disable
def softmax_sum(
    logits: Tensor, labels: Tensor, gamma: Tensor, weights: Tensor, row_weight: Tensor | None = None
) -> Tensor:
    """Returns the sum of -weights[y] (1 - p_y)^gamma log p_y over all rows that are not ignored; twice differentiable.

    Args:
        logits: (A, C), any floating dtype.
        labels: (A,) integers 0..C-1, -1 ignored.
        gamma: () float.
        weights: (C,) float.
        row_weight: (A,) float, or None.

    Returns:
        () float32, or float64 for float64 logits.

    Raises:
        ValueError: a label outside -1..C-1 (on CUDA a device-side assertion).
    """
    return _SoftmaxSum.apply(logits, labels, gamma, weights, row_weight)


def _rows(
    logits: Tensor, labels: Tensor, gamma: Tensor, weights: Tensor, *, differentiable: bool = False
) -> tuple[Tensor, Tensor]:
    """(B,) losses and their (B, C) derivatives, in the compute dtype."""
    x = logits.to(compute_dtype(logits.dtype))
    target = labels.long().clamp(min=0)[:, None]
    others = x.scatter(1, target, -torch.inf)
    top = others.amax(1, keepdim=True).detach()
    powers = torch.exp(others - top)
    total = powers.sum(1, keepdim=True)
    # a few numbers per row: in float64, because the rounding of d = -30 would cost 1 - p_y its sixth digit
    d = (top.double() - x.gather(1, target).double() + torch.log(total.double())).squeeze(1)
    weight = weights.double()[target.squeeze(1)]
    value, slope = wrong_side(d, gamma.double(), weight, differentiable=differentiable)
    ignored = labels < 0
    value = torch.where(ignored, 0.0, value).to(x.dtype)
    slope = torch.where(ignored, 0.0, slope).to(x.dtype)[:, None]
    derivative = torch.where(ignored[:, None], 0.0, powers / total * slope).scatter(1, target, -slope)
    return value, derivative


class _SoftmaxRows(torch.autograd.Function):
    """(A,) losses; the derivative is computed with them."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, gamma: Tensor, weights: Tensor) -> Tensor:
        check_labels(labels, logits.shape[1] - 1)
        value, derivative = _rows(logits, labels, gamma, weights)
        ctx.save_for_backward(derivative, logits, labels, gamma, weights)
        return value

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        derivative, logits, *others = ctx.saved_tensors
        if torch.is_grad_enabled() and (logits.requires_grad or grad_output.requires_grad):  # create_graph
            derivative = _rows(logits, *others, differentiable=True)[1]
        return (derivative * grad_output[:, None]).to(logits.dtype), None, None, None


class _SoftmaxSum(torch.autograd.Function):
    """The sum in chunks of rows, the gradient written as they pass; float16 waits for its scale in backward."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, gamma: Tensor, weights: Tensor, row_weight: Tensor | None
    ) -> Tensor:
        check_labels(labels, logits.shape[1] - 1)
        now = ctx.needs_input_grad[0] and logits.dtype != torch.float16
        total, ctx.grad = _sum_in_chunks(logits, labels, gamma, weights, row_weight, want_grad=now)
        ctx.save_for_backward(logits, labels, gamma.clone(), weights, row_weight)
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        logits, labels, gamma, weights, row_weight = ctx.saved_tensors
        nothing = (None,) * 4
        if torch.is_grad_enabled() and (logits.requires_grad or grad_output.requires_grad):  # create_graph
            derivative = _rows(logits, labels, gamma, weights, differentiable=True)[1]
            derivative = derivative if row_weight is None else derivative * row_weight[:, None]
            return (derivative * grad_output).to(logits.dtype), *nothing
        grad, ctx.grad = ctx.grad, None
        if grad is None:
            return _sum_in_chunks(logits, labels, gamma, weights * grad_output, row_weight, want_grad=True)[1], *nothing
        return scale_in_place(grad, grad_output), *nothing


def _sum_in_chunks(
    logits: Tensor, labels: Tensor, gamma: Tensor, weights: Tensor, row_weight: Tensor | None, *, want_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """The sum and, if wanted, its gradient."""
    dtype = compute_dtype(logits.dtype)
    grad = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device) if want_grad else None
    total = torch.zeros((), dtype=torch.float64, device=logits.device)
    for part in row_slices(logits):
        value, derivative = _rows(logits[part], labels[part], gamma, weights)
        if row_weight is not None:
            value, derivative = value * row_weight[part], derivative * row_weight[part, None]
        total += value.sum(dtype=torch.float64)
        if grad is not None:
            grad[part] = derivative
    return total.to(dtype), grad


def _soft_rows(logits: Tensor, target: Tensor, gamma: Tensor, weights: Tensor) -> Tensor:
    """(N,) losses for targets in [0, 1], by autograd."""
    x = logits.to(compute_dtype(logits.dtype))
    log_p = F.log_softmax(x, dim=1)
    rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(x.dtype).tiny)
    return -(target.to(x.dtype) * weights * torch.exp(gamma * torch.log(rest)) * log_p).sum(1)
