# mypy: disable-error-code="no-untyped-def"
"""The focal loss on CUDA: value and gradient of every element in one pass over the logits (Triton).

Reads the logits once and writes the gradient once. It has to be short as well: an element takes one exponential, one
reciprocal square root and a polynomial for the logarithm, and what belongs to a row is found once for neighbours in it.
Partial sums of a block are float32, their total is float64. gamma and alpha are read on the device, so CUDA graphs and
schedules need no host.

Let u = 2^-24, half a unit in float32's last place. Value and gradient of an element of float32 logits x, before they
are rounded to the logits' dtype, are right to (32 + 4 |x|) u relative to themselves where gamma is 0, 1 or 2, if
exponential and root are right to 4 u, and unless they come near float32's smallest number: the rounding of x log2(e)
costs e^-|x| some |x| u, and that may count three times. Another gamma adds gamma (8 + 4 |x|) u, because s^gamma is then
taken from the logarithm. Logits of 16 bits add 16 u.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from focalbench.losses.focal_terms import FocalTerms

_BLOCK = 2048
_WARPS = 8
_BYTES = 16
"""Widest access to memory of one thread."""

_LOG2_E = tl.constexpr(math.log2(math.e))
# Of the polynomial in e nearest to log(1 + e) / e on [0, 1], by Remez's exchange; a test computes them.
_LOG1P = tl.constexpr(
    (
        0.9999999698795629,
        -0.4999949314048224,
        0.3331909680754611,
        -0.2484298221355417,
        0.19106006760116967,
        -0.13663245793391562,
        0.07822595186124605,
        -0.02950523876707837,
        0.005232694261759792,
    )
)


@triton.jit
def _log1p_ratio(e):
    """log(1 + e) / e for 0 <= e <= 1 by Horner's scheme, right to 5 u: 1.1 u from the polynomial, the rest rounding."""
    ratio = _LOG1P[8] * e + _LOG1P[7]
    for power in tl.static_range(6, -1, -1):
        ratio = ratio * e + _LOG1P[power]
    return ratio


@triton.jit
def _focal(x, is_positive, factor, gamma, form: tl.constexpr, refine: tl.constexpr):
    """Value and derivative in x of elements with the weights ``factor``: see ``focal_terms`` for the formula.

    ``form`` 0 and 2 are for those gammas, which need no logarithm, and exact for them; 1 is for any.
    """
    z = tl.where(is_positive, x * -1.0, x)
    e = tl.exp2(tl.abs(x) * -_LOG2_E)
    root = tl.rsqrt(1.0 + e)  # a single instruction, which a division is not
    larger = root * root
    if refine:  # Newton's step for 1 / (1 + e), with the rounding of 1 + e divided out
        larger += larger * ((1.0 - larger) - larger * e)
    smaller = e * larger
    s = tl.where(z >= 0.0, larger, smaller)
    ratio = _log1p_ratio(e)
    softplus = tl.maximum(z, 0.0) + e * ratio
    if form == 0:
        slope = factor * s
    else:
        if form == 2:
            power = s * s
        else:
            power = tl.exp2(gamma * ((tl.minimum(z, 0.0) - e * ratio) * _LOG2_E))
            power = tl.where(gamma == 1.0, s, power)
        factor *= power
        q = tl.where(z >= 0.0, smaller, larger)
        slope = factor * (s + gamma * (q * softplus))
    return factor * softplus, tl.where(is_positive, slope * -1.0, slope)


@triton.jit
def _focal_kernel(
    logits,
    labels,
    weight,
    grad,
    partials,
    fits,
    gamma,
    alpha_pos,
    alpha_neg,
    num_groups,
    weight_row_stride,
    weight_column_stride,
    num_columns: tl.constexpr,
    width: tl.constexpr,
    alpha_per_class: tl.constexpr,
    weights: tl.constexpr,
    want_grad: tl.constexpr,
    groups: tl.constexpr,
):
    """A block of ``groups`` groups of ``width`` neighbours in a row each; ``weights`` is 0, 1 a row or 1 an element."""
    groups_per_row: tl.constexpr = num_columns // width
    program = tl.program_id(0)
    start = program.to(tl.int64) * groups
    offset = tl.arange(0, groups)
    inside = offset < tl.minimum(num_groups - start, groups).to(tl.int32)
    # groups_per_row blocks begin at the start of a row: from there, divisions are in 32 bits
    whole = program // groups_per_row
    since = (program - whole * groups_per_row) * groups + offset
    row = since // groups_per_row
    column = (since - row * groups_per_row) * width
    first_row = whole.to(tl.int64) * groups
    lane = tl.arange(0, width)[None, :]
    at = (offset * width)[:, None] + lane
    every = tl.broadcast_to(inside[:, None], (groups, width))

    x = tl.load(logits + start * width + at, mask=every, other=0.0).to(tl.float32)
    label = tl.load(labels + first_row + row, mask=inside, other=0)
    short = tl.where(inside, label.to(tl.int32), -1)
    is_positive = (short - column)[:, None] == lane
    counts = (short >= 0)[:, None]
    x = tl.where(counts, x, 0.0)  # infinity and NaN in an ignored row count for nothing
    if alpha_per_class:
        at_class = column[:, None] + lane
        on_positive = tl.load(alpha_pos + at_class).to(tl.float32)
        on_negative = tl.load(alpha_neg + at_class).to(tl.float32)
    else:
        on_positive = tl.load(alpha_pos).to(tl.float32)
        on_negative = tl.load(alpha_neg).to(tl.float32)
    factor = tl.where(is_positive, on_positive, tl.where(counts, on_negative, 0.0))
    if weights == 1:
        of_row = tl.load(weight + (first_row + row) * weight_row_stride, mask=inside, other=0.0)
        factor *= of_row.to(tl.float32)[:, None]
    elif weights == 2:
        place = ((first_row + row) * weight_row_stride)[:, None] + (column[:, None] + lane) * weight_column_stride
        factor *= tl.load(weight + place, mask=every, other=0.0).to(tl.float32)

    g = tl.load(gamma).to(tl.float32)
    refine: tl.constexpr = logits.dtype.element_ty == tl.float32
    if g == 2.0:
        value, slope = _focal(x, is_positive, factor, g, 2, refine)
    elif g == 0.0:
        value, slope = _focal(x, is_positive, factor, g, 0, refine)
    else:
        value, slope = _focal(x, is_positive, factor, g, 1, refine)
    if want_grad:
        tl.store(grad + start * width + at, slope.to(grad.dtype.element_ty), mask=every)
    tl.store(partials + program, tl.sum(value))
    short = label.to(tl.int32)
    is_fault = (short.to(label.dtype) != label) | ((short + 1).to(tl.uint32, bitcast=True) > num_columns + 1)
    tl.store(fits + tl.zeros_like(row), tl.zeros_like(row).to(tl.int8), mask=is_fault)


@triton.jit
def _total_kernel(partials, total, num_partials, block: tl.constexpr):
    """One program: the float64 total of the partial sums."""
    amount = tl.zeros((block,), dtype=tl.float64)
    start = 0
    while start < num_partials:
        index = start + tl.arange(0, block)
        amount += tl.load(partials + index, mask=index < num_partials, other=0.0).to(tl.float64)
        start += block
    tl.store(total, tl.sum(amount, axis=0).to(tl.float32))


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
    grad = torch.empty_like(logits) if want_grad else None
    if not logits.numel():
        return torch.zeros((), device=logits.device), grad
    num_columns = logits.shape[1]
    width = math.gcd(num_columns, _BYTES // logits.element_size())
    num_blocks = triton.cdiv(logits.numel(), _BLOCK)
    total = torch.empty((), device=logits.device)
    partials = torch.empty(num_blocks, device=logits.device)
    fits = torch.ones((), device=logits.device, dtype=torch.bool)
    alpha_pos, alpha_neg = terms.alpha_pos, terms.alpha_neg
    per_class = alpha_pos.ndim > 0 or alpha_neg.ndim > 0
    if per_class:
        alpha_pos = alpha_pos.expand(num_columns).contiguous()
        alpha_neg = alpha_neg.expand(num_columns).contiguous()
    spread = weight.expand_as(logits) if weight is not None else logits
    with torch.cuda.device_of(logits):  # a kernel is launched on the current device, whatever its arguments are on
        _focal_kernel[(num_blocks,)](
            logits,
            labels,
            spread,
            grad if grad is not None else logits,
            partials,
            fits.view(torch.int8),
            terms.gamma,
            alpha_pos,
            alpha_neg,
            logits.numel() // width,
            spread.stride(0),
            spread.stride(1),
            num_columns=num_columns,
            width=width,
            alpha_per_class=per_class,
            weights=0 if weight is None else 1 if spread.stride(1) == 0 else 2,
            want_grad=want_grad,
            groups=_BLOCK // width,
            num_warps=_WARPS,
        )
        _total_kernel[(1,)](partials, total, num_blocks, block=2 * _BLOCK, num_warps=_WARPS)
        fault = f"focalbench: a label is outside -1..{num_columns} (K = {num_columns} is background)"
        torch._assert_async(fits, fault)
    return total, grad


def scale_in_place(grad: Tensor, scale: Tensor) -> Tensor:
    """Returns ``grad`` times the 0-d ``scale``; where that is 1 the kernel returns before it touches memory."""
    blocks = triton.cdiv(grad.numel(), _BLOCK)
    if blocks:
        with torch.cuda.device_of(grad):
            _scale_kernel[(blocks,)](grad, scale, grad.numel(), block=_BLOCK, num_warps=_WARPS)
    return grad
