"""`bench loss`: the focal loss, forward and backward, against the public implementations, in one run.

All contestants get the same logits and class ids and end with the gradient of the mean over the positives, gamma 2 and
alpha .25. Their runs are interleaved, so that a busy machine slows all of them alike; the ratios are of medians.

On a GPU the host would be timed with the device: there each contestant is recorded as a CUDA graph and replayed, on
several inputs in turn, so that none is still in the cache. As it is called, from Python, it is timed beside that.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from focalbench.losses import sigmoid_focal_loss
from focalbench.losses.criterion import ClassProblem
from focalbench.losses.focal import Focal
from focalbench.losses.focal_op import focal_sum
from focalbench.training.graph import CudaRecorder, Recorder, first_reason

GAMMA, ALPHA = 2.0, 0.25
NUM_CLASSES = 20
SIZES = {"small": 96_000, "large": 786_000}
GPU_SIZES = {"retinanet": 16 * 49_104}
WANTED = {"small": 4.5, "large": 12.0}  # times faster than the MMDetection-style operation, on a CPU
WANTED_MEMORY = 1.1  # units of the logits
# On a GPU: times faster than torchvision's operation, and at most so many copies.
WANTED_OF_TORCHVISION, WANTED_OF_COPY = 20.0, {torch.float32: 1.3, torch.bfloat16: 1.6}
GPU_INPUTS, GPU_REPLAYS = 3, 10
SPREADS = {"": (-4.6, 1.5), ", any logit": (0.0, 3.0)}
"""Mean and standard deviation of the logits: around a prior of .01, as a detector's are, and anywhere."""
OURS, IN_TRAINING, FLOOR = "focalbench", "focalbench, in a training", "copy"
MMDETECTION, TORCHVISION = "mmdetection style", "torchvision"
Problem = tuple[Tensor, Tensor]


def bench_loss(*, sizes: dict[str, int] | None = None, repeats: int = 9, device: str = "cpu") -> dict[str, Any]:
    """Times forward and backward of the focal loss on ``sizes`` anchors and measures the memory each contestant takes.

    Args:
        sizes: names and numbers of anchors; None for the sizes of the device.
        repeats: rounds, each running every contestant once.
        device: ``cpu`` or ``cuda``.

    Returns:
        ``{"device", "threads", "cases": [{"name", "anchors", "classes", "dtype", "ms": {contestant: float}, "ratios":
        {contestant: its time over ours}, "of_copy": ours over the plain copy, "extra_memory": {contestant: in units of
        the logits}, "max_difference": of the gradients, ours and the MMDetection style, "wanted": {...}}]}``. On a GPU
        ``ms`` is of replays, and a case has also ``"eager_ms": {contestant: float}, "not_recorded": {contestant:
        reason}``: those whose ``ms`` had to be the eager ones.
    """
    on_gpu = device.startswith("cuda")
    sizes = sizes or (GPU_SIZES if on_gpu else SIZES)
    dtypes = (torch.float32, torch.bfloat16) if on_gpu else (torch.float32,)
    cases = [
        _case(
            name + suffix,
            [
                random_case(anchors, NUM_CLASSES, dtype, device, spread=spread, seed=seed)
                for seed in range(GPU_INPUTS if on_gpu else 1)
            ],
            repeats,
            partial(CudaRecorder, torch.device(device)) if on_gpu else None,
        )
        | {"wanted": _wanted(name, dtype, on_gpu=on_gpu)}
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


def _case(
    name: str, problems: Sequence[Problem], repeats: int, make_recorder: Callable[[], Recorder] | None = None
) -> dict[str, Any]:
    """Figures on the first problem, contestants as they are called; with recorders ``ms`` is of replays on all."""
    logits = problems[0][0]
    device = logits.device.type
    contestants = _contestants(*problems[0])
    for run in contestants.values():  # warm caches, compile kernels
        run()
    medians = _medians({key: partial(_seconds, run, device) for key, run in contestants.items()}, repeats)
    of_a_gpu: dict[str, Any] = {}
    if make_recorder is not None:
        of_a_gpu["eager_ms"] = _milliseconds(medians)
        recordable = [_recordable(*problem) for problem in problems]
        # One each: after a recording that failed, a recorder may refuse the next one.
        replays = {key: _record([runs[key] for runs in recordable], make_recorder()) for key in recordable[0]}
        of_a_gpu["not_recorded"] = {key: replay for key, replay in replays.items() if isinstance(replay, str)}
        clocks = {
            key: partial(_replay_seconds, replay, device)
            for key, replay in replays.items()
            if not isinstance(replay, str)
        }
        medians |= {key: median / len(problems) for key, median in _medians(clocks, repeats).items()}
        contestants = recordable[0] | contestants
    size = logits.numel() * logits.element_size()
    return {
        "name": name,
        "anchors": logits.shape[0],
        "classes": logits.shape[1],
        "dtype": str(logits.dtype).removeprefix("torch."),
        "ms": _milliseconds(medians),
        "ratios": {key: median / medians[OURS] for key, median in medians.items() if key not in (OURS, FLOOR)},
        "of_copy": medians[OURS] / medians[FLOOR],
        "extra_memory": {key: peak_bytes(run, device) / size for key, run in contestants.items()},
        "max_difference": float((contestants[OURS]().float() - contestants[MMDETECTION]().float()).abs().max()),
        **of_a_gpu,
    }


def _medians(clocks: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """The median of what each clock says, in seconds; they take turns."""
    seconds: dict[str, list[float]] = {key: [] for key in clocks}
    for _ in range(repeats):
        for key, clock in clocks.items():
            seconds[key].append(clock())
    return {key: statistics.median(values) for key, values in seconds.items()}


def _milliseconds(seconds: Mapping[str, float]) -> dict[str, float]:
    return {key: 1e3 * value for key, value in seconds.items()}


def _wanted(name: str, dtype: torch.dtype, *, on_gpu: bool) -> dict[str, float | None]:
    if on_gpu:
        return {TORCHVISION: WANTED_OF_TORCHVISION, "of_copy": WANTED_OF_COPY[dtype]}
    return {MMDETECTION: WANTED.get(name), "extra_memory": WANTED_MEMORY}


def random_case(
    anchors: int,
    num_classes: int,
    dtype: torch.dtype,
    device: str,
    *,
    spread: tuple[float, float] = SPREADS[""],
    seed: int = 0,
) -> Problem:
    """Returns logits (A, K), of mean and standard deviation ``spread``, and labels (A,) with one positive in a
    thousand, always the same for a seed.
    """
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(anchors, num_classes, generator=generator).mul_(spread[1]).add_(spread[0])
    labels = torch.full((anchors,), num_classes)
    labels[::1000] = torch.randint(num_classes, (len(labels[::1000]),), generator=generator)
    return logits.to(device, dtype), labels.to(device)


def _contestants(logits: Tensor, labels: Tensor) -> dict[str, Callable[[], Tensor]]:
    """Functions that return the gradient (the copy returns the copy)."""
    from torchvision.ops import sigmoid_focal_loss as torchvision_loss

    avg_factor = _num_positives(logits, labels)

    def ours(x: Tensor) -> Tensor:
        return sigmoid_focal_loss(x, labels, gamma=GAMMA, alpha=ALPHA, reduction="mean", avg_factor=avg_factor)

    def torchvision_style(x: Tensor) -> Tensor:
        return torchvision_loss(x, dense_targets(labels, x), ALPHA, GAMMA, reduction="sum") / avg_factor

    contestants = {
        FLOOR: lambda: torch.empty_like(logits).copy_(logits),
        OURS: _gradient(ours, logits),
        MMDETECTION: _gradient(lambda x: mmdetection_style_loss(x, labels, avg_factor), logits),
        TORCHVISION: _gradient(torchvision_style, logits),
    }
    if logits.is_cuda:
        try:
            from mmcv.ops import sigmoid_focal_loss as mmcv_loss
        except ImportError:
            return contestants
        # mmcv divides by the number of anchors when asked for a mean: take its sum
        contestants["mmcv"] = _gradient(lambda x: mmcv_loss(x, labels, GAMMA, ALPHA, None, "sum") / avg_factor, logits)
    return contestants


def _recordable(logits: Tensor, labels: Tensor) -> dict[str, Callable[[], Tensor]]:
    """As :func:`_contestants`, by ways on which the host looks at no value: ours is the operation that the library
    function ends in, torchvision's gets its targets ready made, and a detector's loss is there as well.
    """
    from torchvision.ops import sigmoid_focal_loss as torchvision_loss

    avg_factor = _num_positives(logits, labels)
    device, num_classes = logits.device, logits.shape[1]
    gamma, on_positives, on_negatives = torch.tensor(
        [GAMMA, ALPHA / avg_factor, (1 - ALPHA) / avg_factor], device=device
    ).unbind()
    targets = dense_targets(labels, logits)
    of_a_detector = Focal(num_classes, gamma=GAMMA, alpha=ALPHA).to(device)
    divisor = torch.tensor(avg_factor, device=device)

    def in_training(x: Tensor) -> Tensor:
        return ClassProblem(x[None], labels[None], None, None, divisor).loss(of_a_detector)

    return _contestants(logits, labels) | {
        OURS: _gradient(lambda x: focal_sum(x, labels, gamma, on_positives, on_negatives), logits),
        IN_TRAINING: _gradient(in_training, logits),
        TORCHVISION: _gradient(
            lambda x: torchvision_loss(x, targets, ALPHA, GAMMA, reduction="sum") / avg_factor, logits
        ),
    }


def _num_positives(logits: Tensor, labels: Tensor) -> float:
    return float((labels < logits.shape[1]).sum())


def _gradient(loss: Callable[[Tensor], Tensor], logits: Tensor) -> Callable[[], Tensor]:
    """A function that returns the gradient of ``loss`` at ``logits``."""

    def run() -> Tensor:
        leaf = logits.detach().requires_grad_()
        return torch.autograd.grad(loss(leaf), leaf)[0]

    return run


def _record(runs: Sequence[Callable[[], Tensor]], recorder: Recorder) -> Callable[[], None] | str:
    """A function that repeats ``runs``, one after the other; the reason where something in them cannot be recorded."""

    def work() -> dict[str, Tensor]:
        return {str(number): run() for number, run in enumerate(runs)}

    recorder.run(work)  # kernels are chosen and compiled
    try:
        return recorder.record(work)[0]
    except RuntimeError as fault:
        return first_reason(fault)


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


def _replay_seconds(replay: Callable[[], None], device: str) -> float:
    """The mean time of one of several replays that follow each other without waiting."""

    def replays() -> None:
        for _ in range(GPU_REPLAYS):
            replay()

    return _seconds(replays, device) / GPU_REPLAYS


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
    activities = [torch.profiler.ProfilerActivity.CPU]
    # Without acc_events some versions of torch warn that a second cycle, which there is not, would clear the first.
    with torch.profiler.profile(activities=activities, profile_memory=True, acc_events=True) as profiler:
        run()
    held = peak = 0
    events = profiler.profiler.kineto_results.events()  # the only place with a time line
    for _, size in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        held += size
        peak = max(peak, held)
    return peak
