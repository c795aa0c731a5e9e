# mypy: disable-error-code="no-untyped-def"
"""The focal loss on CUDA: value and gradient of every element in one pass over the logits (Triton).

Bound by memory: reads the logits once, writes the gradient once. Partial sums of a block are float32, their total is
float64. gamma, alpha and the scale of backward are read on the device, so CUDA graphs and schedules need no host.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from focalbench.losses.focal_terms import FocalTerms

_BLOCK = 2048
_WARPS = 8


@triton.jit
def _log1p(e):
    """log(1 + e) for 0 <= e <= 1 to full precision: the rounding of 1 + e is divided out again."""
    rounded = 1.0 + e
    return tl.where(rounded == 1.0, e, tl.log(rounded) * (e / tl.where(rounded == 1.0, 1.0, rounded - 1.0)))


@triton.jit
def _focal_kernel(
    logits,
    labels,
    weight,
    grad,
    partials,
    faults,
    gamma,
    alpha_pos,
    alpha_neg,
    num_elements,
    weight_row_stride,
    weight_column_stride,
    num_columns: tl.constexpr,
    alpha_per_class: tl.constexpr,
    has_weight: tl.constexpr,
    want_grad: tl.constexpr,
    block: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    start = program * block
    offset = tl.arange(0, block)
    index = start + offset
    inside = index < num_elements
    first_row = start // num_columns
    offset += (start - first_row * num_columns).to(tl.int32)  # from the start of that row: divisions in 32 bits
    row = first_row + offset // num_columns
    column = offset % num_columns
    x = tl.load(logits + index, mask=inside, other=0.0).to(tl.float32)
    label = tl.load(labels + row, mask=inside, other=-1).to(tl.int64)
    is_positive = label == column
    z = tl.where(is_positive, -x, x)

    e = tl.exp(-tl.abs(z))
    log1p = _log1p(e)
    s = tl.where(z >= 0, 1.0, e) / (1.0 + e)
    q = tl.where(z >= 0, e, 1.0) / (1.0 + e)
    softplus = tl.maximum(z, 0.0) + log1p
    g = tl.load(gamma).to(tl.float32)
    modulator = tl.exp(g * (tl.minimum(z, 0.0) - log1p))
    modulator = tl.where(g == 2.0, s * s, tl.where(g == 1.0, s, modulator))  # exact, and free: memory is the limit
    if alpha_per_class:
        on_positive = tl.load(alpha_pos + column, mask=inside, other=0.0).to(tl.float32)
        on_negative = tl.load(alpha_neg + column, mask=inside, other=0.0).to(tl.float32)
    else:
        on_positive = tl.load(alpha_pos).to(tl.float32)
        on_negative = tl.load(alpha_neg).to(tl.float32)
    factor = tl.where(is_positive, on_positive, on_negative) * modulator
    if has_weight:
        at = row * weight_row_stride + column * weight_column_stride
        factor = factor * tl.load(weight + at, mask=inside, other=0.0).to(tl.float32)
    counts = inside & (label >= 0)
    if want_grad:
        slope = factor * (s + g * q * softplus)
        slope = tl.where(counts, tl.where(is_positive, -slope, slope), 0.0)
        tl.store(grad + index, slope.to(grad.dtype.element_ty), mask=inside)
    tl.store(partials + program, tl.sum(tl.where(counts, factor * softplus, 0.0), axis=0))
    is_fault = inside & ((label < -1) | (label > num_columns))
    tl.store(faults + program, tl.max(is_fault.to(tl.int32), axis=0))


@triton.jit
def _total_kernel(partials, faults, total, fits, num_partials, block: tl.constexpr):
    """One program: the float64 total of the partial sums, and whether no block met a label out of range."""
    amount = tl.zeros((block,), dtype=tl.float64)
    fault = tl.zeros((block,), dtype=tl.int32)
    for start in range(0, num_partials, block):
        index = start + tl.arange(0, block)
        inside = index < num_partials
        amount += tl.load(partials + index, mask=inside, other=0.0).to(tl.float64)
        fault = tl.maximum(fault, tl.load(faults + index, mask=inside, other=0))
    tl.store(total, tl.sum(amount, axis=0).to(tl.float32))
    tl.store(fits, (tl.max(fault, axis=0) == 0).to(tl.int8))


@triton.jit
def _scale_kernel(values, scale, num_elements, block: tl.constexpr):
    factor = tl.load(scale).to(tl.float32)
    if factor != 1.0:
        index = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
        inside = index < num_elements
        scaled = tl.load(values + index, mask=inside).to(tl.float32) * factor
        tl.store(values + index, scaled.to(values.dtype.element_ty), mask=inside)


def focal_sum(
    logits: Tensor, labels: Tensor, terms: FocalTerms, weight: Tensor | None, *, want_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Computes what ``focal_op.focal_sum`` does, with the gradient in the logits' dtype if wanted.

    Labels out of range are found on the way; the assertion is queued on the device and costs no synchronisation.
    """
    logits, labels = logits.contiguous(), labels.contiguous()
    num_blocks = triton.cdiv(logits.numel(), _BLOCK)
    grad = torch.empty_like(logits) if want_grad else None
    total = torch.zeros((), device=logits.device)
    if not num_blocks:
        return total, grad
    partials = torch.empty(num_blocks, device=logits.device)
    faults = torch.empty(num_blocks, device=logits.device, dtype=torch.int32)
    fits = torch.empty((), device=logits.device, dtype=torch.bool)
    alpha_pos, alpha_neg = terms.alpha_pos, terms.alpha_neg
    per_class = alpha_pos.ndim > 0 or alpha_neg.ndim > 0
    if per_class:
        alpha_pos = alpha_pos.expand(logits.shape[1]).contiguous()
        alpha_neg = alpha_neg.expand(logits.shape[1]).contiguous()
    spread = weight.expand_as(logits) if weight is not None else logits
    _focal_kernel[(num_blocks,)](
        logits,
        labels,
        spread,
        grad if grad is not None else logits,
        partials,
        faults,
        terms.gamma,
        alpha_pos,
        alpha_neg,
        logits.numel(),
        spread.stride(0),
        spread.stride(1),
        num_columns=logits.shape[1],
        alpha_per_class=per_class,
        has_weight=weight is not None,
        want_grad=want_grad,
        block=_BLOCK,
        num_warps=_WARPS,
    )
    _total_kernel[(1,)](partials, faults, total, fits.view(torch.int8), num_blocks, block=1024)
    fault = f"focalbench: a label is outside -1..{logits.shape[1]} (K = {logits.shape[1]} is background)"
    torch._assert_async(fits, fault)
    return total, grad


def scale_in_place(grad: Tensor, scale: Tensor) -> Tensor:
    """Returns ``grad`` times the 0-d ``scale``; where that is 1 the kernel returns before it touches memory."""
    blocks = triton.cdiv(grad.numel(), _BLOCK)
    if blocks:
        _scale_kernel[(blocks,)](grad, scale, grad.numel(), block=_BLOCK, num_warps=_WARPS)
    return grad
