"""`bench depthwise`: forward and backward of the depthwise convolutions of EfficientNet-Lite0, ours against torch's.

Each layer of the stages that learn when the detector starts from ImageNet weights, with the maps it has in a training.
Both sides get the same maps in channels-last memory and the precision of a training; they take turns, so that a busy
machine slows both alike, and ratios are of medians.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from focalbench.devices import autocast, resolve_precision
from focalbench.models.backbones import build_backbone
from focalbench.models.depthwise import depthwise_conv2d
from focalbench.models.efficientnet import ConvNorm

CANVAS, BATCH, TRAINABLE_STAGES = 224, 16, 3
OURS, TORCHS = "focalbench", "torch"
Convolution = Callable[[Tensor, Tensor, Tensor, int, int], Tensor]


class Layer(NamedTuple):
    """A depthwise convolution of a square map, padded already where it is strided."""

    channels: int
    side: int
    kernel: int
    stride: int
    padding: int


def bench_depthwise(*, canvas: int = CANVAS, batch: int = BATCH, repeats: int = 9) -> dict[str, Any]:
    """Times both passes of each kind of layer on the CPU.

    Args:
        canvas: side of the images in pixels.
        batch: images.
        repeats: rounds, each running both sides once on every layer.

    Returns:
        ``{"device", "threads", "load_average", "precision", "canvas", "batch", "layers": [{"channels", "side",
        "kernel", "stride", "times": how often the network has it, "ms": {side: float}, "ratio": torch's time over ours,
        "max_difference": of the gradients, in units of their largest}], "ms": {side: of all layers}, "ratio"}``.
    """
    device = torch.device("cpu")
    precision = resolve_precision("auto", device)
    found = depthwise_layers(canvas)
    passes = {layer: _passes(layer, batch, precision) for layer in found}
    difference = {layer: _max_difference(*(run() for run in both.values())) for layer, both in passes.items()}
    seconds: dict[tuple[Layer, str], list[float]] = {(layer, side): [] for layer in found for side in (OURS, TORCHS)}
    turns = list(seconds)
    for _ in range(repeats):
        for layer, side in turns:
            seconds[layer, side].append(_seconds(passes[layer][side]))
        turns.reverse()  # who comes second finds the maps in the cache
    ms = {key: 1e3 * statistics.median(times) for key, times in seconds.items()}
    total = {side: sum(times * ms[layer, side] for layer, times in found.items()) for side in (OURS, TORCHS)}
    return {
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "precision": str(precision).removeprefix("torch."),
        "canvas": canvas,
        "batch": batch,
        "layers": [
            {
                "channels": layer.channels,
                "side": layer.side,
                "kernel": layer.kernel,
                "stride": layer.stride,
                "times": times,
                "ms": {side: ms[layer, side] for side in (OURS, TORCHS)},
                "ratio": ms[layer, TORCHS] / ms[layer, OURS],
                "max_difference": difference[layer],
            }
            for layer, times in found.items()
        ],
        "ms": total,
        "ratio": total[TORCHS] / total[OURS],
    }


def depthwise_layers(canvas: int) -> dict[Layer, int]:
    """Returns the layers of the stages that learn, for square images of ``canvas`` pixels, and how often each is."""
    seen: Counter[Layer] = Counter()

    def note(convolution: ConvNorm, inputs: tuple[Tensor], _: Tensor) -> None:
        conv, side = convolution.conv, inputs[0].shape[2]
        if conv.groups > 1:
            kernel, stride = conv.kernel_size[0], conv.stride[0]
            padded = side if stride == 1 else (-(-side // stride) - 1) * stride + kernel
            seen[Layer(conv.groups, padded, kernel, stride, kernel // 2 if stride == 1 else 0)] += 1

    with torch.device("meta"):
        backbone = build_backbone("efficientnet_lite0", "batch").eval()
        stages: Any = backbone.stages
        for stage in stages[-TRAINABLE_STAGES:]:
            for part in stage.modules():
                if isinstance(part, ConvNorm):
                    part.register_forward_hook(note)
        backbone(torch.empty(1, 3, canvas, canvas))
    return dict(seen)


def _passes(layer: Layer, batch: int, precision: torch.dtype) -> dict[str, Callable[[], tuple[Tensor, Tensor]]]:
    """For each side a function that does both passes and gives the gradients of the map and of the weight."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, layer.channels, layer.side, layer.side)
    maps = torch.randn(shape, generator=generator).to(precision).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(layer.channels, 1, layer.kernel, layer.kernel, generator=generator)
    bias = torch.randn(layer.channels, generator=generator)

    def run(convolution: Convolution) -> tuple[Tensor, Tensor]:
        x, w = maps.detach().requires_grad_(), weight.detach().requires_grad_()
        with autocast(maps.device, precision):
            y = convolution(x, w, bias, layer.stride, layer.padding)
        y.backward(maps[:, :, : y.shape[2], : y.shape[3]])
        assert x.grad is not None
        assert w.grad is not None
        return x.grad, w.grad

    return {OURS: lambda: run(depthwise_conv2d), TORCHS: lambda: run(torchs_convolution)}


def torchs_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """Does what ``models.depthwise.depthwise_conv2d`` does, with torch's own gradients."""
    return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))


def _max_difference(ours: tuple[Tensor, Tensor], torchs: tuple[Tensor, Tensor]) -> float:
    return max(
        float((one.float() - other.float()).abs().max() / other.float().abs().max())
        for one, other in zip(ours, torchs, strict=True)
    )


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
