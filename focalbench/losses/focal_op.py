"""The summed sigmoid focal loss as one operation, carried out by the fastest means that the device offers.

CPU: chunks (``elementwise``). CUDA: one Triton kernel for value and gradient (``focal_triton``), or, where Triton is
missing, the same formula in torch with masks. gamma and alpha are tensors on the device, so a schedule neither
recompiles nor waits for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from focalbench import kernels
from focalbench.losses.arguments import compute_dtype
from focalbench.losses.elementwise import scale_in_place, sum_on_cpu, sum_with_masks
from focalbench.losses.focal_terms import FocalTerms, soft_target

_KERNELS = "focalbench.losses.focal_triton"


def focal_sum(
    logits: Tensor,
    labels: Tensor,
    gamma: Tensor,
    alpha_pos: Tensor,
    alpha_neg: Tensor,
    weight: Tensor | None = None,
) -> Tensor:
    """Returns the sum of -alpha_t (1 - p_t)^gamma log p_t over all classes of all anchors that are not ignored.

    The gradient is computed with the value, in the logits' dtype; nothing else of the logits' size is made. It can be
    differentiated again. Only ``logits`` gets a gradient.

    Args:
        logits: (A, C), any floating dtype; computed in float32, or float64 for float64.
        labels: (A,) integers: class 0..C-1, C background, -1 ignored.
        gamma: () float.
        alpha_pos: () or (C,) float, weight of positives.
        alpha_neg: () or (C,) float, weight of negatives.
        weight: (A, 1) or (A, C) float, or None.

    Returns:
        () float32, or float64 for float64 logits.

    Raises:
        ValueError: a label outside -1..C. On CUDA the check is a device-side assertion (RuntimeError at the next
            synchronisation), because looking at the labels would stall every step.
    """
    if torch.compiler.is_compiling():
        want_grad = torch.is_grad_enabled() and logits.requires_grad
        return _focal_op(logits, labels, gamma, alpha_pos, alpha_neg, weight, want_grad)[0]
    return _FocalSum.apply(logits, labels, FocalTerms(gamma, alpha_pos, alpha_neg), weight)


def _compute(
    logits: Tensor, labels: Tensor, terms: FocalTerms, weight: Tensor | None, *, want_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """The sum and, if wanted, its gradient."""
    if logits.device.type == "cpu":
        return sum_on_cpu(logits, labels, terms, weight, want_grad=want_grad)
    compiled = kernels.triton_kernels(_KERNELS) if logits.is_cuda and logits.dtype != torch.float64 else None
    compute = sum_with_masks if compiled is None else compiled.focal_sum
    return compute(logits, labels, terms, weight, want_grad=want_grad)


def _gradient_waits(logits: Tensor) -> bool:
    """Whether the gradient is only computed in backward, scale included: an unscaled one would underflow in float16."""
    return logits.dtype == torch.float16


class _FocalSum(torch.autograd.Function):
    """``focal_sum`` in eager mode."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, terms: FocalTerms, weight: Tensor | None) -> Tensor:
        now = ctx.needs_input_grad[0] and not _gradient_waits(logits)
        total, ctx.grad = _compute(logits, labels, terms, weight, want_grad=now)
        # gamma and alpha are buffers that a schedule may move before backward: keep what was in force
        ctx.terms = FocalTerms(terms.gamma.clone(), terms.alpha_pos.clone(), terms.alpha_neg.clone())
        ctx.save_for_backward(logits, labels, weight)
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, None, None]:
        logits, labels, weight = ctx.saved_tensors
        if torch.is_grad_enabled() and (logits.requires_grad or grad_output.requires_grad):  # create_graph
            gradient = _differentiable_gradient(logits, labels, ctx.terms, weight)
            return (gradient * grad_output).to(logits.dtype), None, None, None
        grad, ctx.grad = ctx.grad, None
        if grad is None:  # float16, or a second backward through a retained graph
            terms = ctx.terms
            scaled = FocalTerms(terms.gamma, terms.alpha_pos * grad_output, terms.alpha_neg * grad_output)
            return _compute(logits, labels, scaled, weight, want_grad=True)[1], None, None, None
        compiled = kernels.triton_kernels(_KERNELS) if grad.is_cuda else None
        scale = scale_in_place if compiled is None else compiled.scale_in_place
        return scale(grad, grad_output), None, None, None


def _differentiable_gradient(logits: Tensor, labels: Tensor, terms: FocalTerms, weight: Tensor | None) -> Tensor:
    """(A, C) gradient of the sum as a differentiable function of the logits."""
    dtype = compute_dtype(logits.dtype)
    target = one_hot(labels, logits.shape[1], dtype)
    parameters = (terms.gamma.to(dtype), terms.alpha_pos.to(dtype), terms.alpha_neg.to(dtype))
    gradient = soft_target(logits.to(dtype), target, *parameters, differentiable=True)[1]
    gradient = gradient if weight is None else gradient * weight
    return torch.where((labels < 0)[:, None], 0.0, gradient)


def one_hot(labels: Tensor, num_columns: int, dtype: torch.dtype) -> Tensor:
    """Returns (A, C) of 0 and 1; background and ignored rows are all 0."""
    columns = torch.arange(num_columns, device=labels.device)
    return (labels[:, None] == columns).to(dtype)


@torch.library.custom_op("focalbench::focal_sum", mutates_args=())
def _focal_op(
    logits: Tensor,
    labels: Tensor,
    gamma: Tensor,
    alpha_pos: Tensor,
    alpha_neg: Tensor,
    weight: Tensor | None,
    want_grad: bool,
) -> tuple[Tensor, Tensor]:
    """``focal_sum`` as torch.compile sees it: one opaque operation with the value and the gradient as its results."""
    terms = FocalTerms(gamma, alpha_pos, alpha_neg)
    total, grad = _compute(logits, labels, terms, weight, want_grad=want_grad)
    return total, logits.new_empty(0) if grad is None else grad


@_focal_op.register_fake
def _(logits: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    total = logits.new_empty((), dtype=compute_dtype(logits.dtype))
    want_grad = others[-1]
    return total, torch.empty_like(logits, memory_format=torch.contiguous_format) if want_grad else logits.new_empty(0)


def _keep_for_compiled_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    logits, labels, gamma, alpha_pos, alpha_neg, weight, _ = inputs
    ctx.waits = _gradient_waits(logits)
    if ctx.waits:
        ctx.save_for_backward(logits, labels, gamma, alpha_pos, alpha_neg, weight)
    else:
        ctx.save_for_backward(output[1])


def _compiled_backward(ctx: Any, grad_output: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.waits:
        logits, labels, gamma, alpha_pos, alpha_neg, weight = ctx.saved_tensors
        scaled = (alpha_pos * grad_output, alpha_neg * grad_output)
        grad = _focal_op(logits, labels, gamma, *scaled, weight, True)[1]
    else:
        grad = ctx.saved_tensors[0] * grad_output.to(ctx.saved_tensors[0].dtype)
    return grad, None, None, None, None, None, None


_focal_op.register_autograd(_compiled_backward, setup_context=_keep_for_compiled_backward)
