"""`bench step`: a training step against torchvision's RetinaNet, and the whole training against the same step without
data.

Same ResNet-18, same pyramid, same subnets, anchors, canvas, batch and optimizer on both sides. torchvision takes part
twice: tuned, with the two lines that anyone types (channels-last memory, and bfloat16 autocast where the processor has
it), and plain, in float32 as its reference script has it. Contestants take turns, so that a busy machine slows all of
them alike; ratios are of medians. On a GPU all of them run with what a training sets: cuDNN searches for the fastest
algorithms and products may use TF32. torchvision's script sets neither, so that its plain form gains by it.
"""

from __future__ import annotations

import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import RetinaNet

from focalbench.benchmarks.torchvision_run import resnet18_pyramid
from focalbench.config.schema import ExperimentConfig, RunConfig
from focalbench.data.synthetic import CLASSES
from focalbench.devices import autocast, resolve_device, resolve_precision, set_determinism, use_device
from focalbench.experiment import build
from focalbench.experiment.build_loss import build_criterion
from focalbench.structures import Targets
from focalbench.training.graph import CudaRecorder, GraphedStep
from focalbench.training.loop import StepFunction, StepSettings, TrainState, train_step

OURS, STATIC = "focalbench", "focalbench, one static batch"
TUNED, PLAIN = "torchvision, tuned", "torchvision, plain"
CASES = {"128": (128, 8), "320": (320, 4)}
GPU_CASES = {"320": (320, 32)}
WANTED = {"cpu": {TUNED: 1.05}, "cuda": {TUNED: 1.5, PLAIN: 3.0}}
WANTED_END_TO_END = {"cpu": 0.90, "cuda": 0.95}
PRODUCT, PRODUCT_SIDES = "product of matrices", {"cpu": 1024, "cuda": 8192}
GRAPHED, GRAPHED_STATIC = "focalbench, CUDA graph", "focalbench, CUDA graph, one static batch"
WARM_UP, GPU_CALLS = {"cpu": 2, "cuda": 12}, 10
GROWTH = {"canvas": (64, 128, 256), "batch": (2, 4, 8, 16), "classes": (4, 20, 80)}
GROWTH_BASE = {"canvas": 128, "batch": 8, "classes": 20}
Key = TypeVar("Key")


def bench_step(
    *,
    device: str = "auto",
    backbone: str = "resnet18",
    repeats: int = 9,
    cases: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Any]:
    """Times training steps.

    Args:
        device: auto | cpu | cuda | cuda:N.
        backbone: of focalbench's own figures; torchvision takes part for ``resnet18`` alone.
        repeats: rounds, each running every contestant once.
        cases: canvas and batch by name; None for ``CASES``, or ``GPU_CASES`` on a GPU.

    Returns:
        ``{"device", "threads", "load_average", "precision", "cases": [{"size", "batch", "ms": {contestant: float},
        "images_per_s": {...}, "speedup": {torchvision's contestant: its time over ours}, "end_to_end": static time over
        whole, "graphed": both ratios with a CUDA graph, or None, "gflop": of a step, "of_product_rate": the static
        step's rate over that of a product of matrices, "wanted_speedup": {contestant: float}, "wanted_end_to_end"}]}``.
    """
    where = resolve_device(device)
    use_device(where)
    cases = cases or (GPU_CASES if where.type == "cuda" else CASES)
    with as_in_a_training():
        return {
            **circumstances(where, backbone),
            "cases": [_case(size, batch, where, backbone, repeats) for size, batch in cases.values()],
        }


@contextmanager
def as_in_a_training() -> Iterator[None]:
    """Within the block torch chooses kernels as a training lets it by default; its settings come back after it."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    search, tf32 = torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32
    set_determinism(RunConfig().deterministic)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.backends.cudnn.benchmark, torch.backends.cuda.matmul.allow_tf32 = search, tf32


def _case(size: int, batch: int, device: torch.device, backbone: str, repeats: int) -> dict[str, Any]:
    contestants = {**_contestants(size, batch, device, backbone), PRODUCT: _product(device)}
    operations = count_operations(contestants[STATIC])
    medians = median_seconds(contestants, device, repeats)
    product = medians.pop(PRODUCT)
    return {
        "size": size,
        "batch": batch,
        "ms": {key: 1e3 * value for key, value in medians.items()},
        "images_per_s": {key: batch / value for key, value in medians.items()},
        "speedup": _speedup(medians, STATIC),
        "end_to_end": medians[STATIC] / medians[OURS],
        "graphed": _graphed(medians),
        "gflop": operations / 1e9,
        "of_product_rate": operations / medians[STATIC] / (2 * PRODUCT_SIDES[device.type] ** 3 / product),
        "wanted_speedup": WANTED[device.type],
        "wanted_end_to_end": WANTED_END_TO_END[device.type],
    }


def _speedup(medians: Mapping[str, float], ours: str) -> dict[str, float]:
    """The time of each of torchvision's contestants over ours; empty where none takes part."""
    return {name: medians[name] / medians[ours] for name in (TUNED, PLAIN) if name in medians}


def _graphed(medians: Mapping[str, float]) -> dict[str, Any] | None:
    """The same ratios with the step as a CUDA graph; None on a CPU."""
    if GRAPHED not in medians:
        return None
    return {
        "speedup": _speedup(medians, GRAPHED_STATIC),
        "end_to_end": medians[GRAPHED_STATIC] / medians[GRAPHED],
    }


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one call; on a GPU the mean of several that follow each other without waiting, as in a training."""
    calls = GPU_CALLS if device.type == "cuda" else 1
    started = time.perf_counter()
    for _ in range(calls):
        run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / calls


@dataclass(frozen=True)
class TrainingStep:
    """A training step of focalbench as something to call.

    Attributes:
        whole: the step with the next batch.
        static: the step on ``batch``.
        state: what is trained.
    """

    whole: Callable[[], dict[str, Tensor]]
    static: Callable[[], dict[str, Tensor]]
    batch: tuple[Tensor, Targets]
    state: TrainState


def training_step(
    config: ExperimentConfig, device: torch.device, num_classes: int | None = None, step: StepFunction = train_step
) -> TrainingStep:
    """Builds the training of ``config`` up to its first step.

    Args:
        num_classes: in the place of the data set's; labels stay as they are.
        step: carries out a step.
    """
    data = build.build_data(config)
    classes = data.train.classes if num_classes is None else tuple(map(str, range(num_classes)))
    model = build.build_model(config, len(classes), data.train)
    settings = StepSettings(device, resolve_precision(config.optim.precision, device), config.optim.clip_norm)
    state = build.build_state(config, model, build_criterion(config, model), settings)
    state.criterion.set_progress(0.0)
    state.model.train()
    batches = build.build_batches(config, data.train, device)
    fixed, steps = batches(0), count()
    return TrainingStep(
        lambda: step(state, *batches(next(steps)), settings),
        lambda: step(state, *fixed, settings),
        fixed,
        state,
    )


def _contestants(size: int, batch: int, device: torch.device, backbone: str) -> dict[str, Callable[[], object]]:
    """One training step of each."""
    ours = training_step(bench_config(size, batch, backbone), device)
    contestants: dict[str, Callable[[], object]] = {OURS: ours.whole, STATIC: ours.static}
    if device.type == "cuda":
        graphed = GraphedStep(CudaRecorder(device), warnings.warn)
        ours_graphed = training_step(bench_config(size, batch, backbone), device, step=graphed)
        contestants |= {GRAPHED: ours_graphed.whole, GRAPHED_STATIC: ours_graphed.static}
    if backbone == "resnet18":
        given = *ours.batch, len(CLASSES), size, device
        contestants[TUNED] = torchvision_step(*given, tuned=True)
        contestants[PLAIN] = torchvision_step(*given, tuned=False)
    return contestants


def median_seconds(
    contestants: Mapping[Key, Callable[[], object]], device: torch.device, repeats: int
) -> dict[Key, float]:
    """Returns the median seconds of each contestant; they take turns, ``repeats`` times."""
    seconds: dict[Key, list[float]] = {key: [] for key in contestants}
    for run in contestants.values():  # primitives are compiled, caches filled, graphs recorded
        for _ in range(WARM_UP[device.type]):
            run()
    for _ in range(repeats):
        for key, run in contestants.items():
            seconds[key].append(_seconds(run, device))
    return {key: statistics.median(values) for key, values in seconds.items()}


def bench_growth(*, device: str = "auto", backbone: str = "tiny", repeats: int = 5) -> dict[str, Any]:
    """Measures how a step on one batch grows with the canvas, the batch and the number of classes, each alone.

    Returns:
        ``{"device", ..., "growth": {axis: {"ms": {value: float}, "exponent": of the time from the first value to the
        last; 1 is proportional, to the pixels for the canvas}}}``.
    """
    where = resolve_device(device)
    use_device(where)
    growth = {}
    for axis, values in GROWTH.items():
        steps = {}
        for value in values:
            case = {**GROWTH_BASE, axis: value}
            config = bench_config(case["canvas"], case["batch"], backbone)
            steps[value] = training_step(config, where, case["classes"]).static
        with as_in_a_training():
            medians = median_seconds(steps, where, repeats)
        first, last = values[0], values[-1]
        times = (last / first) ** (2 if axis == "canvas" else 1)
        growth[axis] = {
            "ms": {value: 1e3 * median for value, median in medians.items()},
            "exponent": math.log(medians[last] / medians[first]) / math.log(times),
        }
    return {**circumstances(where, backbone), "base": dict(GROWTH_BASE), "growth": growth}


def circumstances(device: torch.device, backbone: str) -> dict[str, Any]:
    """Returns what a figure depends on besides the code: device, threads, load, backbone and precision."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "backbone": backbone,
        "precision": str(resolve_precision("auto", device)).removeprefix("torch."),
    }


def _product(device: torch.device) -> Callable[[], object]:
    """A product of two square matrices in the step's precision: the rate that no network exceeds."""
    side = PRODUCT_SIDES[device.type]  # on a GPU as large that it takes far longer than its launch
    left, right = torch.randn(2, side, side, device=device, dtype=resolve_precision("auto", device))
    return lambda: left @ right


def count_operations(step: Callable[[], object]) -> int:
    """Counts the floating-point operations of the convolutions and products in ``step``."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def bench_config(size: int, batch: int, backbone: str) -> ExperimentConfig:
    """Returns the configuration of RetinaNet on the synthetic set with the defaults of both sides where they agree."""
    return ExperimentConfig.model_validate(
        {
            "name": "bench",
            "data": {"name": "synthetic", "num_train": 64, "num_val": 8, "image_size": size},
            "model": {"name": "retinanet", "backbone": backbone},
            "optim": {"name": "sgd", "lr": 1e-4, "steps": 1000, "batch_size": batch},
        }
    )


def torchvision_step(
    images: Tensor, targets: Targets, num_classes: int, size: int, device: torch.device, *, tuned: bool
) -> Callable[[], object]:
    """Returns a step of torchvision's RetinaNet as its reference script has it: eager, SGD with momentum.

    Args:
        tuned: in channels-last memory and under autocast to what ``precision: auto`` is there, else in float32.
    """
    model: nn.Module = RetinaNet(
        resnet18_pyramid(), num_classes, min_size=size, max_size=size, image_mean=[0.0] * 3, image_std=[1.0] * 3
    ).to(device)
    precision = resolve_precision("auto", device) if tuned else torch.float32
    if tuned:  # its transform makes the batch anew of single images: only the network can ask for the format
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    inputs = list(images.float().contiguous())
    truth = [
        {"boxes": boxes[labels >= 0], "labels": labels[labels >= 0]}
        for boxes, labels in zip(targets.boxes, targets.labels, strict=True)
    ]

    def step() -> Tensor:
        with autocast(device, precision):
            loss = sum(model(inputs, truth).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
