"""The sigmoid focal loss of one element, as value and derivative, in the form that cannot overflow.

Let z be the logit seen from the wrong side: x for a negative, -x for a positive. Then s = sigmoid(z) = 1 - p_t and

    L = a s^gamma softplus(z),    dL/dz = a s^gamma (s + gamma (1 - s) softplus(z)),

with a the element's alpha_t. Nothing is divided and no power of 1 - p_t has a negative exponent, so the gradient is
finite for every gamma >= 0 and every logit, where the textbook form gives inf * 0 for 0 < gamma < 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class FocalTerms:
    """Terms of ``elementwise.fused_sum`` for cross entropy (gamma 0) and the focal loss.

    Attributes:
        gamma: () float tensor, >= 0.
        alpha_pos: weight of positives, () or (C,) float.
        alpha_neg: weight of negatives, () or (C,) float.
    """

    gamma: Tensor
    alpha_pos: Tensor
    alpha_neg: Tensor

    def negative(self, x: Tensor, loss: Tensor, grad: Tensor, scratch: Tensor) -> float:
        """See ``elementwise.Terms``."""
        if x.device.type != "cpu" or x.dtype != torch.float32:
            value, derivative = wrong_side(x, self.gamma.to(x.dtype), self.alpha_neg.to(x.dtype))
            loss.copy_(value)
            grad.copy_(derivative)
            return 1.0
        alpha = float(self.alpha_neg) if self.alpha_neg.ndim == 0 else 1.0
        flat = [tensor.view(-1).numpy() for tensor in (x, loss, grad)]
        _kernels().negatives(*flat, float(self.gamma), alpha)
        if self.alpha_neg.ndim == 0:
            return alpha
        loss.mul_(self.alpha_neg)
        grad.mul_(self.alpha_neg)
        return 1.0

    def chunk_sums(
        self, logits: Tensor, labels: Tensor, grad: Tensor, rows: int
    ) -> Callable[[range], list[float]] | None:
        """See ``elementwise.CompiledTerms``."""
        if logits.dtype != torch.float32 or self.alpha_neg.ndim:
            return None
        kernels = _kernels()
        gamma, alpha = float(self.gamma), float(self.alpha_neg)
        arrays = logits.numpy(), labels.numpy(), grad.numpy()

        def sums(chunks: range) -> list[float]:
            found = np.empty(len(chunks))
            kernels.sums_of_negatives(*arrays, gamma, alpha, rows, chunks.start, chunks.stop, found)
            return [alpha * value for value in found.tolist()]

        return sums

    def positive(self, x: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """See ``elementwise.Terms``."""
        alpha = self.alpha_pos.to(x.dtype)
        value, derivative = wrong_side(-x, self.gamma.to(x.dtype), alpha[columns] if alpha.ndim else alpha)
        return value, -derivative


def wrong_side(z: Tensor, gamma: Tensor, alpha: Tensor, *, differentiable: bool = False) -> tuple[Tensor, Tensor]:
    """Returns L and dL/dz of the module's formula, on any device and without looking at values.

    Args:
        z: any shape, the logit of the wrong side.
        gamma: () tensor.
        alpha: broadcasts against ``z``.
        differentiable: whether to take s^gamma as exp(gamma log s), whose own gradient is finite everywhere but which
            is a few bits less exact far from z = 0.
    """
    s = torch.sigmoid(z)
    softplus = -F.logsigmoid(-z)
    modulator = torch.exp(gamma * F.logsigmoid(z)) if differentiable else torch.pow(s, gamma)
    weight = alpha * modulator
    return weight * softplus, weight * (s + gamma * torch.sigmoid(-z) * softplus)


def soft_target(
    x: Tensor, target: Tensor, gamma: Tensor, alpha_pos: Tensor, alpha_neg: Tensor, *, differentiable: bool = False
) -> tuple[Tensor, Tensor]:
    """Returns L and dL/dx for targets in [0, 1]; 0 and 1 give the focal loss of a negative and of a positive.

    L = (a t + b (1 - t)) u^gamma (t softplus(-x) + (1 - t) softplus(x)) with u = p (1 - t) + (1 - p) t, the form that
    MMDetection and torchvision share; a weighs positives, b negatives.

    Args:
        x: (..., C) logits.
        target: broadcasts against ``x``, in [0, 1].
        gamma: () tensor.
        alpha_pos: () or (C,).
        alpha_neg: () or (C,).
        differentiable: as in ``wrong_side``; also in the targets.
    """
    p, q = torch.sigmoid(x), torch.sigmoid(-x)
    u = _Distance.between(x, target)
    modulator = torch.exp(gamma * u.log()) if differentiable else torch.pow(u.value, gamma)
    cross_entropy = cross_entropy_to(x, target)
    weight = (alpha_pos * target + alpha_neg * (1 - target)) * modulator
    error = (1 - target) * p - target * q  # p - target, without the rounding of 1 - p where p is near 1
    return weight * cross_entropy, weight * (error + gamma * (1 - 2 * target) * u.divide(p * q) * cross_entropy)


def soft_target_slope(x: Tensor, target: Tensor, gamma: Tensor, alpha_pos: Tensor, alpha_neg: Tensor) -> Tensor:
    """Returns dL/dt of the loss of ``soft_target``, by the same arguments; finite at targets of 0 and 1 too.

    With c the cross entropy and w = a t + b (1 - t),

        dL/dt = u^gamma ((a - b) c + w (gamma (1 - 2 p) c / u - x)).

    It can be differentiated in ``x`` and in ``target``. Its derivative in the target takes u as a constant where u
    underflows: at targets of exactly 0 and 1 whose logit is right by more than 87 (708 in float64).
    """
    u = _Distance.between(x, target)
    cross_entropy = cross_entropy_to(x, target)
    weight = alpha_pos * target + alpha_neg * (1 - target)
    pull = gamma * (torch.sigmoid(-x) - torch.sigmoid(x)) * u.divide(cross_entropy)
    return torch.exp(gamma * u.log()) * ((alpha_pos - alpha_neg) * cross_entropy + weight * (pull - x))


@dataclass(frozen=True)
class _Distance:
    """u = p (1 - t) + (1 - p) t, with a logarithm and quotients that stay right and differentiable where u underflows.

    It does only at targets of 0 and 1 with a logit far on the right side: there u, p (1 - p) and the cross entropy are
    all exp(-|x|).
    """

    x: Tensor
    value: Tensor
    safe: Tensor
    vanishes: Tensor

    @classmethod
    def between(cls, x: Tensor, target: Tensor) -> _Distance:
        value = torch.sigmoid(x) * (1 - target) + torch.sigmoid(-x) * target
        tiny = torch.finfo(x.dtype).tiny
        return cls(x, value, value.clamp(min=tiny), value < tiny)

    def log(self) -> Tensor:
        return torch.where(self.vanishes, -self.x.abs(), torch.log(self.safe))

    def divide(self, numerator: Tensor) -> Tensor:
        """``numerator`` / u, for p (1 - p) or the cross entropy."""
        return torch.where(self.vanishes, 1.0, numerator / self.safe)


def cross_entropy_to(x: Tensor, target: Tensor) -> Tensor:
    """Returns -(t log p + (1 - t) log(1 - p)), elementwise, the cross entropy to the targets t."""
    return -(target * F.logsigmoid(x) + (1 - target) * F.logsigmoid(-x))


def _kernels() -> ModuleType:
    """Returns the compiled kernels. Their first import on a machine compiles, for seconds: only who needs them pays."""
    from focalbench.losses import focal_numba

    return focal_numba
