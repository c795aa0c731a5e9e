"""Depthwise convolution whose backward pass on a CPU does without oneDNN's two slow cases.

Those are the weight gradient of kernels above 3 x 3, and in bfloat16 the input gradient of strided ones: measured in
docs/detectors.md. The first is compiled here, and a strided convolution's input gradient is a plain convolution over
the gradient with zeros in between.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Does what ``torch.nn.functional.conv2d`` does with as many groups as channels.

    Args:
        x: (N, C, H, W).
        weight: (C, 1, k, k), k odd.
        bias: (C,) that takes no gradient, or None.
        stride, padding: the same in both directions, padding below k.

    Returns:
        (N, C, (H + 2 padding - k) // stride + 1, ...).
    """
    slow = weight.shape[2] > 3 or stride > 1
    if not slow or x.device.type != "cpu" or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))
    if torch.is_autocast_enabled("cpu"):
        x = x.to(torch.get_autocast_dtype("cpu"))
    return _Depthwise.apply(x, weight, bias, stride, padding)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        with torch.autocast("cpu", enabled=False):
            own = None if bias is None else bias.to(x.dtype)
            return F.conv2d(x, weight.to(x.dtype), own, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight = ctx.needs_input_grad[:2]
        (gradient,) = gradients
        with torch.autocast("cpu", enabled=False):
            for_x = _input_gradient(gradient, x, weight, ctx.stride, ctx.padding) if wants_x else None
            for_weight = _weight_gradient(gradient, x, weight, ctx.stride, ctx.padding) if wants_weight else None
        return for_x, for_weight, None, None, None


def _input_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    if stride == 1 or x.dtype == torch.float32:
        return _of_torch(gradient, x, weight, stride, padding, (True, False, False))[0]
    kernel = weight.shape[2]
    sides = [side + 2 * padding - kernel + 1 for side in x.shape[2:]]
    spread = torch.empty((*x.shape[:2], *sides), dtype=x.dtype, memory_format=torch.channels_last).zero_()
    spread[:, :, ::stride, ::stride][:, :, : gradient.shape[2], : gradient.shape[3]] = gradient
    return F.conv2d(spread, weight.to(x.dtype).flip(2, 3), None, 1, kernel - 1 - padding, groups=len(weight))


def _weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    kernel = weight.shape[2]
    if kernel <= 3:
        return _of_torch(gradient, x, weight, stride, padding, (False, True, False))[1].to(weight.dtype)
    from focalbench.models import depthwise_numba  # compiled code takes a while to load

    padded = F.pad(x, (padding,) * 4) if padding else x
    rows, seen = (one.permute(0, 2, 3, 1).float().contiguous() for one in (padded, gradient))
    out = torch.zeros(kernel, kernel, len(weight))
    depthwise_numba.weight_gradient(rows.numpy(), seen.numpy(), stride, out.numpy())
    return out.permute(2, 0, 1)[:, None].to(weight.dtype)


def _of_torch(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    own, sides = weight.to(x.dtype), ([stride] * 2, [padding] * 2)
    return torch.ops.aten.convolution_backward(
        gradient, x, own, None, *sides, [1, 1], False, [0, 0], len(weight), list(wanted)
    )
