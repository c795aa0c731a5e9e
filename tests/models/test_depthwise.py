"""Depthwise convolution: torch's own is the oracle of its values and of both gradients."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from focalbench.models.depthwise import depthwise_conv2d

CASES = [
    (kernel, stride, padding, size, channels)
    for kernel in (1, 3, 5)
    for stride in (1, 2)
    for padding in {0, kernel // 2}
    for size, channels in (((9, 12), 7), ((8, 5), 130))
]


def gradients(function, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = function(x, weight, bias, stride, padding)
    y.backward(torch.linspace(-1, 1, y.numel()).view_as(y).to(y.dtype))
    return y.detach(), x.grad, weight.grad


def torchs(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))


@pytest.mark.parametrize(("kernel", "stride", "padding", "size", "channels"), CASES)
def test_values_and_gradients_are_those_of_torch(
    kernel: int, stride: int, padding: int, size: tuple[int, int], channels: int
) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, channels, *size).bfloat16().float().contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(channels, 1, kernel, kernel), torch.randn(channels)
    expected = gradients(torchs, x, weight, bias, stride, padding)
    for found, wanted in zip(gradients(depthwise_conv2d, x, weight, bias, stride, padding), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)

    with torch.autocast("cpu", torch.bfloat16):
        half = gradients(depthwise_conv2d, x, weight, bias, stride, padding)
    assert half[0].dtype == torch.bfloat16
    for found, wanted in zip(half, expected, strict=True):  # bfloat16 has eight bits
        torch.testing.assert_close(found.float(), wanted, atol=0.01 * float(wanted.abs().max()), rtol=0.01)


def test_what_takes_no_gradient_gets_none() -> None:
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 1, 5, 5, requires_grad=True)
    depthwise_conv2d(x, weight, None, 2, 2).sum().backward()
    assert x.grad is None
    assert weight.grad is not None
    assert not depthwise_conv2d(x, weight.detach(), None, 2, 2).requires_grad
