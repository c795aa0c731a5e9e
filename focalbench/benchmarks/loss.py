"""`bench loss`: the focal loss, forward and backward, against the public implementations, in one run.

All contestants get the same logits and class ids and end with the gradient of the mean over the positives, gamma 2 and
alpha .25. Their runs are interleaved, so that a busy machine slows all of them alike; the ratios are of medians.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from focalbench.losses import sigmoid_focal_loss

GAMMA, ALPHA = 2.0, 0.25
NUM_CLASSES = 20
SIZES = {"small": 96_000, "large": 786_000}
GPU_SIZES = {"retinanet": 16 * 49_104}
WANTED = {"small": 4.5, "large": 12.0}  # times faster than the MMDetection-style operation, on a CPU
WANTED_MEMORY = 1.1  # units of the logits
SPREADS = {"": (-4.6, 1.5), ", any logit": (0.0, 3.0)}
"""Mean and standard deviation of the logits: around a prior of .01, as a detector's are, and anywhere."""
OURS, FLOOR = "focalbench", "copy"


def bench_loss(*, sizes: dict[str, int] | None = None, repeats: int = 9, device: str = "cpu") -> dict[str, Any]:
    """Times forward and backward of the focal loss on ``sizes`` anchors and measures the memory each contestant takes.

    Args:
        sizes: names and numbers of anchors; None for the sizes of the device.
        repeats: rounds, each running every contestant once.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``{"device", "threads", "cases": [{"name", "anchors", "classes", "dtype", "ms": {contestant: float}, "ratios":
        {contestant: its time over ours}, "of_copy": ours over the plain copy, "extra_memory": {contestant: in units of
        the logits}, "max_difference": of the gradients, ours and the MMDetection style, "wanted": {...}}]}``.
    """
    sizes = sizes or (GPU_SIZES if device.startswith("cuda") else SIZES)
    dtypes = (torch.float32, torch.bfloat16) if device.startswith("cuda") else (torch.float32,)
    cases = [
        _case(name + suffix, random_case(anchors, NUM_CLASSES, dtype, device, spread=spread), repeats)
        | {"wanted": {"mmdetection style": WANTED.get(name), "extra_memory": WANTED_MEMORY} if device == "cpu" else {}}
        for name, anchors in sizes.items()
        for suffix, spread in SPREADS.items()
        for dtype in dtypes
    ]
    return {
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "cases": cases,
    }


def _case(name: str, problem: tuple[Tensor, Tensor], repeats: int) -> dict[str, Any]:
    logits, labels = problem
    device = logits.device.type
    contestants = _contestants(logits, labels)
    for run in contestants.values():  # warm caches, compile kernels
        run()
    seconds: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for _ in range(repeats):
        for contestant, run in contestants.items():
            seconds[contestant].append(_seconds(run, device))
    medians = {contestant: statistics.median(values) for contestant, values in seconds.items()}
    size = logits.numel() * logits.element_size()
    difference = (contestants[OURS]().float() - contestants["mmdetection style"]().float()).abs().max()
    return {
        "name": name,
        "anchors": logits.shape[0],
        "classes": logits.shape[1],
        "dtype": str(logits.dtype).removeprefix("torch."),
        "ms": {contestant: 1e3 * median for contestant, median in medians.items()},
        "ratios": {
            contestant: median / medians[OURS]
            for contestant, median in medians.items()
            if contestant not in (OURS, FLOOR)
        },
        "of_copy": medians[OURS] / medians[FLOOR],
        "extra_memory": {contestant: peak_bytes(run, device) / size for contestant, run in contestants.items()},
        "max_difference": float(difference),
    }


def random_case(
    anchors: int, num_classes: int, dtype: torch.dtype, device: str, *, spread: tuple[float, float] = SPREADS[""]
) -> tuple[Tensor, Tensor]:
    """Returns logits (A, K), of mean and standard deviation ``spread``, and labels (A,) with one positive in a
    thousand, always the same.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(anchors, num_classes, generator=generator).mul_(spread[1]).add_(spread[0])
    labels = torch.full((anchors,), num_classes)
    labels[::1000] = torch.randint(num_classes, (len(labels[::1000]),), generator=generator)
    return logits.to(device, dtype), labels.to(device)


def _contestants(logits: Tensor, labels: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Functions that return the gradient (the copy returns the copy)."""
    from torchvision.ops import sigmoid_focal_loss as torchvision_loss

    num_classes = logits.shape[1]
    avg_factor = float((labels < num_classes).sum())

    def gradient_of(loss: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
        def run() -> Tensor:
            leaf = logits.detach().requires_grad_()
            return torch.autograd.grad(loss(leaf), leaf)[0]

        return run

    def ours(x: Tensor) -> Tensor:
        return sigmoid_focal_loss(x, labels, gamma=GAMMA, alpha=ALPHA, reduction="mean", avg_factor=avg_factor)

    def torchvision_style(x: Tensor) -> Tensor:
        return torchvision_loss(x, dense_targets(labels, x), ALPHA, GAMMA, reduction="sum") / avg_factor

    contestants = {
        FLOOR: lambda: torch.empty_like(logits).copy_(logits),
        OURS: gradient_of(ours),
        "mmdetection style": gradient_of(lambda x: mmdetection_style_loss(x, labels, avg_factor)),
        "torchvision": gradient_of(torchvision_style),
    }
    if logits.is_cuda:
        try:
            from mmcv.ops import sigmoid_focal_loss as mmcv_loss
        except ImportError:
            return contestants
        # mmcv divides by the number of anchors when asked for a mean: take its sum
        contestants["mmcv"] = gradient_of(lambda x: mmcv_loss(x, labels, GAMMA, ALPHA, None, "sum") / avg_factor)
    return contestants


def dense_targets(labels: Tensor, logits: Tensor) -> Tensor:
    """Returns the (A, K) targets of 0 and 1 that torchvision's operation takes, built as its RetinaNet builds them."""
    targets = torch.zeros_like(logits, requires_grad=False)
    rows = torch.where(labels < logits.shape[1])[0]
    targets[rows, labels[rows]] = 1.0
    return targets


def mmdetection_style_loss(logits: Tensor, labels: Tensor, avg_factor: float) -> Tensor:
    """Returns the focal loss as a chain of operations on one-hot targets, as MMDetection's Python version does."""
    num_classes = logits.shape[1]
    targets = F.one_hot(labels, num_classes + 1)[:, :num_classes].type_as(logits)
    p = logits.sigmoid()
    distance = (1 - p) * targets + p * (1 - targets)
    modulator = (ALPHA * targets + (1 - ALPHA) * (1 - targets)) * distance.pow(GAMMA)
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * modulator
    return loss.sum() / (avg_factor + torch.finfo(torch.float32).eps)


def _seconds(run: Callable[[], object], device: str) -> float:
    """The time of one run: the device's own clock on a GPU."""
    if not device.startswith("cuda"):
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    before.record()
    run()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / 1e3


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """Returns the most memory that tensors made by ``run`` hold at one time, as its allocator counts it."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # without a GPU the profiler complains of that on stderr
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    held = peak = 0
    events = profiler.profiler.kineto_results.events()  # the only place with a time line
    for _, size in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        held += size
        peak = max(peak, held)
    return peak
