"""``FocalLoss``: a stand-in for MMDetection's class of that name, argument by argument."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from focalbench.losses.arguments import check_interval, check_labels, compute_dtype, is_soft
from focalbench.losses.base import check_number
from focalbench.losses.focal import sigmoid_focal_loss
from focalbench.losses.focal_op import one_hot
from focalbench.losses.reduction import Reduction, check_reduction, fit_weight, reduce_loss


class FocalLossError(ValueError, AssertionError):
    """A wrong argument; also an AssertionError, as in MMDetection, so that code which expects one goes on working."""


class FocalLoss(nn.Module):
    """Sigmoid focal loss with MMDetection's arguments and conventions.

    Unlike there, labels out of range are an error on every device, -1 is ignored, and the gradient is finite for every
    gamma and logit. Dense targets of any shape are taken as there; class ids go with (N, K) predictions only.

    Args:
        use_sigmoid: must be true, as in MMDetection; the softmax form is ``softmax_focal_loss``.
        gamma: focusing exponent, >= 0.
        alpha: weight of positives in [0, 1], negatives get 1 - alpha.
        reduction: ``none``, ``mean`` (over all elements, or over ``avg_factor``) or ``sum``.
        loss_weight: factor on the result.
        activated: whether the input is a probability instead of a logit.

    Raises:
        FocalLossError: use_sigmoid false, or a parameter outside its range.
    """

    def __init__(
        self,
        use_sigmoid: bool = True,
        gamma: float = 2.0,
        alpha: float = 0.25,
        reduction: Reduction = "mean",
        loss_weight: float = 1.0,
        activated: bool = False,
    ) -> None:
        super().__init__()
        if use_sigmoid is not True:
            raise FocalLossError("use_sigmoid must be True: this is the sigmoid focal loss; see softmax_focal_loss")
        try:
            check_number("gamma", gamma)
            check_number("alpha", alpha, high=1.0)
            check_reduction(reduction, None)
        except ValueError as fault:
            raise FocalLossError(str(fault)) from None
        self.use_sigmoid = use_sigmoid
        self.gamma = gamma
        self.alpha = alpha
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.activated = activated

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | Tensor | None = None,
        reduction_override: Reduction | None = None,
    ) -> Tensor:
        """Returns the loss.

        Args:
            pred: logits, or probabilities if ``activated``; (N, K) with class ids, any shape with targets.
            target: (N,) class ids 0..K-1, K background, -1 ignored; or targets in [0, 1] of the prediction's shape.
            weight: of the prediction's shape, for (N, K) also (N,) or (N * K,); never changes the divisor.
            avg_factor: divisor of ``mean``. It, ``weight`` and targets get a gradient where they require one.
            reduction_override: instead of ``reduction``.

        Returns:
            The prediction's shape for ``none``, else ().

        Raises:
            FocalLossError: a fault in the arguments, among them ``sum`` with ``avg_factor``.
        """
        reduction = self.reduction if reduction_override is None else reduction_override
        try:
            if self.activated:
                loss = self._from_probabilities(pred, target, weight, avg_factor, reduction)
            else:
                loss = sigmoid_focal_loss(
                    pred,
                    target,
                    gamma=self.gamma,
                    alpha=self.alpha,
                    weight=weight,
                    reduction=reduction,
                    avg_factor=avg_factor,
                )
        except ValueError as fault:
            raise FocalLossError(str(fault)) from None
        return self.loss_weight * loss

    def _from_probabilities(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None,
        avg_factor: float | Tensor | None,
        reduction: Reduction,
    ) -> Tensor:
        check_reduction(reduction, avg_factor)
        soft = is_soft(pred, target)
        check_interval("activated input", pred)
        if soft:
            dense = target
        else:
            check_labels(target, pred.shape[1])
            dense = one_hot(target, pred.shape[1], compute_dtype(pred.dtype))
        loss = focal_loss_of_probabilities(pred, dense, gamma=self.gamma, alpha=self.alpha)
        if not soft:
            loss = torch.where((target < 0)[:, None], 0.0, loss)
        return reduce_loss(loss, None if weight is None else fit_weight(weight, pred.shape), reduction, avg_factor)


def focal_loss_of_probabilities(p: Tensor, target: Tensor, *, gamma: float, alpha: float | None) -> Tensor:
    """Returns the elementwise sigmoid focal loss of probabilities, finite in value and gradient at 0 and 1.

    As in torch's binary cross entropy a logarithm is at least -100; there, and where 1 / p overflows, its gradient
    is taken as 0.

    Args:
        p: any shape, in [0, 1].
        target: the same shape, in [0, 1].
        gamma: focusing exponent, >= 0.
        alpha: weight of positives in [0, 1], or None.
    """
    p = p.to(compute_dtype(p.dtype))
    target = target.to(p.dtype)
    distance = p * (1 - target) + (1 - p) * target
    # where the distance is 0 the loss is 0, and a power below 1 would have an infinite gradient
    tiny = torch.finfo(p.dtype).tiny
    modulator = torch.where(distance < tiny, 0.0**gamma, distance.clamp(min=tiny).pow(gamma))
    loss = -modulator * (target * _bounded_log(p) + (1 - target) * _bounded_log_of_rest(p))
    return loss if alpha is None else loss * (alpha * target + (1 - alpha) * (1 - target))


def _bounded_log(p: Tensor) -> Tensor:
    """log p, but at least -100, and with gradient 0 there and where 1 / p overflows."""
    inside = p >= torch.finfo(p.dtype).tiny
    return torch.where(inside, torch.log(torch.where(inside, p, 1.0)), torch.log(p.detach())).clamp(min=-100.0)


def _bounded_log_of_rest(p: Tensor) -> Tensor:
    """log(1 - p), exact for small p, but -100 with gradient 0 where p is 1."""
    inside = p < 1
    return torch.where(inside, torch.log1p(-torch.where(inside, p, 0.0)).clamp(min=-100.0), -100.0)
