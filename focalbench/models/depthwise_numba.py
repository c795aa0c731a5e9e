# mypy: disable-error-code="no-untyped-def"
"""The weight gradient of a depthwise convolution on a CPU, compiled by Numba."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numba import njit
from numpy import float32

# Compiled code is kept beside the module, as Python's own is; where that is not writable nothing is kept.
_kept = os.access(os.path.dirname(__file__), os.W_OK)
_BLOCK = 128  # channels: a block of the sums stays in the first cache


def _kernel(signature: str) -> Any:
    return njit(signature, nogil=True, error_model="numpy", fastmath={"contract"}, cache=_kept)


@_kernel("void(float32[::1], float32[::1], float32[::1])")
def _add_product(total, x, y):
    for c in range(total.shape[0]):
        total[c] += x[c] * y[c]


@_kernel("void(float32[:,:,:,::1], float32[:,:,:,::1], int64, float32[:,:,::1])")
def weight_gradient(padded, gradient, stride, out):
    """Adds to ``out`` (k, k, C) what ``gradient`` (N, h, w, C) at the output says of the kernel.

    Args:
        padded: (N, H, W, C) input with its padding; H and W are at least (h - 1) stride + k.
    """
    num, height, width, channels = gradient.shape
    for first in range(0, channels, _BLOCK):
        block = slice(first, min(first + _BLOCK, channels))
        for n in range(num):
            sums = np.zeros((out.shape[0], out.shape[1], block.stop - block.start), float32)
            for y in range(height):
                for x in range(width):
                    seen = gradient[n, y, x, block]
                    for i in range(out.shape[0]):
                        for j in range(out.shape[1]):
                            _add_product(sums[i, j], padded[n, y * stride + i, x * stride + j, block], seen)
            for i in range(out.shape[0]):
                for j in range(out.shape[1]):
                    for c in range(sums.shape[2]):
                        out[i, j, first + c] += sums[i, j, c]
