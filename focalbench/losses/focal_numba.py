# mypy: disable-error-code="no-untyped-def"
"""The focal loss's negatives on a CPU in one pass over memory, compiled by Numba.

The formula is that of ``focal_terms``, all of it from e = exp(-|x|) with two divisions and no branch, so that the
compiler turns the loops into vector instructions. exp and log1p are written out for the same reason: calls into a
mathematical library would stay scalar. NaN in a logit comes out as NaN: comparisons with it are false.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numba import njit
from numpy import float32, float64, int32

_LOWEST = float32(-80)  # exp(-80) is far from float32's denormals, which are several times slower
_LOG2_E = float32(1.4426950408889634)
# ln 2 in two parts, the first with so few bits that its product with a small whole number is exact
_LN2_HIGH, _LN2_LOW = float32(0.693359375), float32(-2.12194440e-4)
# adding it leaves the nearest whole number in the lowest bits of the sum
_ROUNDER = float32(1.5 * 2**23)
_ZERO, _ONE, _TWO = float32(0), float32(1), float32(2)
_TAYLOR = tuple(float32(1 / factorial) for factorial in (720, 120, 24, 6, 2, 1, 1))
_ATANH = tuple(float32(1 / odd) for odd in (13, 11, 9, 7, 5, 3, 1))

# Compiled code is kept beside the module, as Python's own is; where that is not writable nothing is kept.
_kept = os.access(os.path.dirname(__file__), os.W_OK)
_inline: Any = njit(inline="always")


def _kernel(signature: str, *flags: str) -> Any:
    return njit(signature, nogil=True, error_model="numpy", fastmath={"contract", *flags}, cache=_kept)


@_inline
def _polynomial(x, coefficients):
    """Horner's scheme, unrolled by the compiler."""
    a, b, c, d, e, f, g = coefficients
    return (((((a * x + b) * x + c) * x + d) * x + e) * x + f) * x + g


@_inline
def _times_power_of_two(x, exponent):
    """x 2^exponent, by its bits; only the lowest eight of ``exponent`` count."""
    return int32(float32(x).view(int32) + int32(exponent << 23)).view(float32)


@_inline
def _exp(t):
    """exp of a float32 in [-87, 0], to a unit or two in the last place."""
    rounded = t * _LOG2_E + _ROUNDER
    whole = rounded - _ROUNDER
    rest = t - whole * _LN2_HIGH - whole * _LN2_LOW
    return _times_power_of_two(_polynomial(rest, _TAYLOR), float32(rounded).view(int32))


@_inline
def _exp_of_double(t):
    """exp of a float64 in [-87, 0] as float32: gamma log s in float32 would lose the digits before its point."""
    whole = np.floor(t * 1.4426950408889634 + 0.5)
    rest = float32(t - whole * 0.6931471805599453)
    return _times_power_of_two(_polynomial(rest, _TAYLOR), int32(whole))


@_inline
def _log1p(e):
    """log(1 + e) for e in [0, 1] as 2 artanh(e / (2 + e)), whose series needs seven terms."""
    t = e / (_TWO + e)
    return _TWO * t * _polynomial(t * t, _ATANH)


@_inline
def _parts(x, lowest):
    """x raised to ``lowest``, sigmoid(x), sigmoid(-x), and log1p(exp(-|x|)) that softplus and log sigmoid share."""
    x = lowest if x < lowest else x
    t = -abs(x)
    e = _exp(_LOWEST if t < _LOWEST else t)
    e = _ZERO if t < _LOWEST else e
    larger = _ONE / (_ONE + e)
    smaller = e * larger
    s, q = (larger, smaller) if x >= _ZERO else (smaller, larger)
    return x, s, q, _log1p(e)


@_kernel("void(float32[::1], float32[::1], float32[::1], float64, float32)")
def negatives(x, loss, grad, gamma, alpha):
    """Writes L / alpha into ``loss`` and dL/dx into ``grad`` for negatives with the logits ``x``, all of them (n,)."""
    lowest = float32(-80.0 / (gamma + 1.0))  # keeps the powers of s off denormals, at ordinary gamma
    slope = float32(gamma)
    if gamma == 0.0:
        for i in range(x.size):
            z, s, _, log1p = _parts(x[i], lowest)
            loss[i] = (_ZERO if z < _ZERO else z) + log1p
            grad[i] = alpha * s
    elif gamma == 2.0:
        for i in range(x.size):
            z, s, q, log1p = _parts(x[i], lowest)
            softplus = (_ZERO if z < _ZERO else z) + log1p
            power = s * s
            loss[i] = power * softplus
            grad[i] = alpha * power * (s + slope * q * softplus)
    else:
        for i in range(x.size):
            z, s, q, log1p = _parts(x[i], lowest)
            softplus = (_ZERO if z < _ZERO else z) + log1p
            exponent = gamma * (float64(_ZERO if z > _ZERO else z) - float64(log1p))
            power = _exp_of_double(-80.0 if exponent < -80.0 else exponent)
            power = _ZERO if exponent < -80.0 else power  # a large gamma gets there at z = 0 already
            loss[i] = power * softplus
            grad[i] = alpha * power * (s + slope * q * softplus)


@_kernel("float64(float32[::1])", "reassoc", "nsz")
def _sum(values):
    """The sum in float64; its terms may be added in any order, for vector instructions, but always in the same."""
    total = 0.0
    for i in range(values.size):
        total += float64(values[i])
    return total


@_kernel("void(float32[:, ::1], int64[::1], float32[:, ::1], float64, float32, int64, int64, int64, float64[::1])")
def sums_of_negatives(logits, labels, grad, gamma, alpha, rows, first, last, sums):
    """Writes the sum of L / alpha over background rows and the other columns of positive rows, chunk by chunk.

    A whole thread's share in one call: between two calls Python's lock changes hands, which takes longer than a chunk.

    Args:
        logits, labels: (A, C) and (A,); C is background, -1 ignored; not checked.
        grad: (A, C), dL/dx is written as if every element were a negative.
        rows: rows of a chunk.
        first, last: the first chunk and the one after the last.
        sums: (last - first,), written.
    """
    num_anchors, num_columns = logits.shape
    scratch = np.empty(rows * num_columns, float32)
    for chunk in range(first, last):
        begin, end = chunk * rows, min((chunk + 1) * rows, num_anchors)
        loss = scratch[: (end - begin) * num_columns]
        negatives(logits[begin:end].reshape(-1), loss, grad[begin:end].reshape(-1), gamma, alpha)
        for row in range(begin, end):
            label = labels[row]
            if label != num_columns:
                start = (row - begin) * num_columns
                if label < 0:
                    loss[start : start + num_columns] = _ZERO
                else:
                    loss[start + label] = _ZERO
        sums[chunk - first] = _sum(loss)
