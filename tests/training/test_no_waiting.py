"""A training step on a GPU never makes the host wait, from the images' indices to the sums of a log line.

Shown without a GPU, on tensors that have a device and a shape but no content: whoever asks them for a value, or for a
shape that depends on one, fails, and so does an operation that mixes devices.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.nn import functional as F
from torch.optim import swa_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from focalbench import kernels
from focalbench.boxes.anchors import AnchorPyramid
from focalbench.boxes.yolo import place_priors
from focalbench.data.dataset import CacheMode, DetectionData
from focalbench.data.multiscale import resize_batch
from focalbench.data.transforms import Augment, normalise
from focalbench.data.voc import Record
from focalbench.devices import autocast
from focalbench.experiment import batches as batches_module
from focalbench.experiment import selfcheck
from focalbench.experiment.batches import AugmentedBatches
from focalbench.losses import CRITERIA, LOSSES
from focalbench.losses.base import ClassificationLoss, Counts
from focalbench.losses.criterion import Criterion
from focalbench.losses.detection import DetectionLoss
from focalbench.losses.function_loss import registered_loss
from focalbench.models import MODELS
from focalbench.models.detector import Detector
from focalbench.plugins.registration import loss as register
from focalbench.plugins.registration import registration_of
from focalbench.structures import HeadOutputs, Targets
from focalbench.training import graph
from focalbench.training.average import MovingAverage
from focalbench.training.graph import GraphedStep, Values
from focalbench.training.loop import Plan, StepSettings, TrainState, check_finite, run_step, train_step
from focalbench.training.optim import build_optimizer

GPU = torch.device("cuda")
FAULTS = (DataDependentOutputException, DynamicOutputShapeException, AssertionError)
# The loss under test in each place that a criterion has for it.
PLACES = {"retinanet": ({},), "yolov2": tuple({"apply_to": place} for place in ("class", "objectness", "both"))}
CASES = [(name, place) for name, places in PLACES.items() for place in places]
# NMS has to count what survives.
WITHOUT_NMS = [
    {"nms_thresh": None, "num_hardest": 4},
    {"nms_thresh": None, "num_hardest": 4, "negatives_per_positive": 3.0},
]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "ohem": WITHOUT_NMS,
    "focal": [{"gamma": {"schedule": "linear", "values": [0.0, 2.0]}, "alpha": 0.25}],
}


@register("of_a_plugin")
def of_a_plugin(logits: Tensor, targets: Tensor, *, gamma: float = 1.0) -> Tensor:
    """A loss that is a function."""
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (1 - torch.exp(-ce)) ** gamma * ce


OF_A_PLUGIN = registration_of(of_a_plugin)
assert OF_A_PLUGIN is not None
KINDS = {**LOSSES, "of_a_plugin": registered_loss(OF_A_PLUGIN)}
VARIANTS = [(name, options) for name in sorted(KINDS) for options in OPTIONS.get(name, [{}])]


class _NoWaiting(TorchDispatchMode):
    """Fails at an operation that mixes devices: it waits, or puts into a CUDA graph what the host knew once.

    Args:
        may_send: whether to let copies from pinned memory pass that are told not to wait: no graph holds them.
    """

    def __init__(self, *, may_send: bool = False) -> None:
        super().__init__()
        self._may_send, self.sent = may_send, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor)]
        if len({tensor.device.type for tensor in tensors}) > 1:
            may_pass = self._may_send and _sends(func, args, kwargs or {})
            assert may_pass, f"{func} between devices"
            self.sent += 1
        return found


class _NoUpdate(TorchDispatchMode):
    """Leaves the optimizers' kernels out, for torch cannot do without content in all of them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return None if func.__name__.startswith("_fused_") else func(*args, **(kwargs or {}))


def _sends(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether this is a copy from pinned memory that is told not to wait."""
    told = kwargs.get("non_blocking", False)
    return func is torch.ops.aten._to_copy.default and told and getattr(args[0], "pinned", False)


def _pin(tensor: Tensor) -> Tensor:
    pinned = tensor.clone()
    pinned.pinned = True  # type: ignore[attr-defined]
    return pinned


@torch.no_grad()
def _backward(loss: Tensor) -> None:
    """Carries out the backward pass on this thread, node by node: torch's engine has a thread for each real GPU."""
    arrived: dict[Any, list[Tensor | None]] = {loss.grad_fn: [torch.ones_like(loss)]}
    for node in _from_the_end(loss.grad_fn):
        gradients = arrived.pop(node)
        if hasattr(node, "variable"):
            node.variable.grad = gradients[0]
            continue
        passed_on = node.apply(*gradients) if hasattr(node, "apply") else node(*gradients)
        passed_on = passed_on if isinstance(passed_on, tuple) else (passed_on,)
        # A function of Python's passes on None too for what is no tensor.
        for (following, index), gradient in zip(node.next_functions, passed_on, strict=False):
            if following is None:
                continue
            wanted = following._input_metadata
            slots = arrived.setdefault(following, [None] * len(wanted))
            if gradient is not None:
                fitting = gradient.sum_to_size(wanted[index].shape).to(wanted[index].dtype)
                before = slots[index]
                slots[index] = fitting if before is None else before + fitting


def _from_the_end(root: Any) -> list[Any]:
    """The nodes of a graph, each before those that it passes gradients on to."""
    found: dict[Any, None] = {}
    waiting = [(root, False)]
    while waiting:
        node, is_finished = waiting.pop()
        if is_finished:
            found[node] = None
        elif node not in found:
            waiting.append((node, True))
            waiting += [(following, False) for following, _ in node.next_functions if following is not None]
    return [*reversed(found)]


def test_the_backward_pass_of_these_checks_is_torchs() -> None:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 4, 3))
    images, labels = torch.randn(2, 3, 7, 7), torch.randint(-1, 5, (2, 9))
    found = []
    for backward in (Tensor.backward, _backward):
        network.zero_grad()
        logits = network(images).flatten(2).mT
        backward(LOSSES["focal"](4)(logits, labels) + logits.square().mean())
        found.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*found, strict=True))


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kernels, "triton_kernels", lambda module: None)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**40, 2**40))
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(Tensor, "pin_memory", _pin)
    monkeypatch.setattr(Tensor, "backward", _backward)
    # A copy of a network: another one, for torch cannot copy tensors without content.
    monkeypatch.setattr(
        swa_utils, "deepcopy", lambda network: _network("retinanet" if network.skips_boxes else "yolov2")
    )
    monkeypatch.setattr(batches_module, "Prefetcher", lambda load: load)  # on this thread, where the checks are
    with FakeTensorMode(allow_non_fake_inputs=True), _NoUpdate():
        yield


def _network(detector: str, activation: str = "sigmoid") -> Detector:
    with GPU:
        return MODELS[detector](num_classes=4, backbone="tiny", activation=activation)


def _criterion(detector: str, place: dict[str, str], loss: str, options: dict[str, Any]) -> Criterion:
    def make_loss(num_classes: int) -> ClassificationLoss:
        counts = Counts(tuple(range(5, 5 + num_classes)), 100)
        return KINDS[loss](num_classes, counts=counts, **options)

    with GPU:
        return CRITERIA[detector].around(make_loss, num_classes=4, **place)


def _compare(criterion: Criterion) -> Values:
    """The criterion, on outputs as a head has them, under the check."""
    with GPU:
        anchors, targets = place_priors([(1.0, 1.0), (2.0, 3.0)], (64, 96), 32), _batch()[1]
        num_logits = 4 + (criterion.classification.activation == "softmax" and isinstance(criterion, DetectionLoss))
        logits = torch.empty(2, len(anchors), num_logits, requires_grad=True)
        deltas, objectness = torch.empty(2, len(anchors), 4), torch.empty(2, len(anchors), requires_grad=True)
    outputs = HeadOutputs(logits, deltas, anchors, (64, 96), (len(anchors),), objectness)
    with _NoWaiting():
        criterion.set_progress(0.5)
        return criterion(outputs, targets)


def _state(detector: str, optimizer: str = "adamw", *, ema: bool = False, scaler: bool = False) -> TrainState:
    network = _network(detector)
    options = {"momentum": 0.9} if optimizer == "sgd" else {}
    return TrainState(
        network,
        _criterion(detector, {}, "focal", OPTIONS["focal"][0]),
        build_optimizer(network, optimizer, lr=1e-3, weight_decay=0.02, **options),
        ema=MovingAverage(network, 0.9) if ema else None,
        scaler=torch.amp.GradScaler("cuda") if scaler else None,
    )


def _batch(canvas: int = 64) -> tuple[Tensor, Targets]:
    with GPU:
        return torch.empty(2, 3, canvas, canvas), Targets(torch.empty(2, 3, 4), torch.empty(2, 3, dtype=torch.int64))


def _settings(precision: torch.dtype = torch.float32) -> StepSettings:
    return StepSettings(GPU, precision, clip_norm=10.0)


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize(("detector", "place"), CASES)
@pytest.mark.parametrize(("loss", "options"), VARIANTS)
def test_no_loss_waits(detector: str, place: dict[str, str], loss: str, options: dict[str, Any]) -> None:
    criterion = _criterion(detector, place, loss, options)
    assert not criterion.waits_for_device
    terms = _compare(criterion)
    assert {value.device.type for value in terms.values()} == {"cuda"}
    with _NoWaiting():
        terms["cls"].backward()


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize(("detector", "place"), CASES)
def test_what_is_said_to_wait_does(detector: str, place: dict[str, str]) -> None:
    criterion = _criterion(detector, place, "ohem", {"nms_thresh": 0.5})
    assert criterion.waits_for_device
    with pytest.raises(FAULTS):
        _compare(criterion)


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize(("detector", "optimizer"), [("retinanet", "adamw"), ("yolov2", "sgd")])
def test_no_step_waits_with_a_loss_scaler(detector: str, optimizer: str) -> None:
    """The fused optimizers are told on the device whether to skip a step."""
    state, settings = _state(detector, optimizer, ema=True, scaler=True), _settings(torch.float16)
    assert state.scaler is not None
    assert state.scaler.is_enabled()
    train_step(state, *_batch(), settings)  # places anchors on this canvas, makes the optimizer's state
    with _NoWaiting():
        values = train_step(state, *_batch(), settings)
        state.meter.add(values)
        state.meter.add(values)
    assert {value.device.type for value in values.values()} == {"cuda"}


@pytest.mark.usefixtures("fake_gpu")
def test_half_precision_is_on_in_these_checks() -> None:
    with autocast(GPU, torch.float16):
        product = torch.empty(2, 2, device=GPU) @ torch.empty(2, 2, device=GPU)
    assert product.dtype == torch.float16


def _data(cache: CacheMode) -> DetectionData:
    boxes = np.array([[5, 6, 30, 40]], np.float32)
    record = Record("a", "2007", Path("a.jpg"), 64, 64, boxes, np.array([1]), np.array([False]))
    images = np.zeros((4, 64, 64, 3), np.uint8)
    return DetectionData(images, (record,) * 4, ("a", "b"), (64, 64), "warp", "0", cache)


def _batches(cache: CacheMode, canvas: int = 64) -> AugmentedBatches:
    def resize(images: Tensor, targets: Targets, step: int) -> tuple[Tensor, Targets]:
        return resize_batch(images, targets, canvas)

    return AugmentedBatches(
        _data(cache), Augment(), batch_size=2, seed=0, device=GPU, channels_last=True, resize=resize
    )


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("cache", ["disk", "device"])
@pytest.mark.parametrize("canvas", [32, 64, 96])
def test_a_batch_is_sent_from_pinned_memory_and_changed_without_waiting(cache: CacheMode, canvas: int) -> None:
    batches = _batches(cache, canvas)
    batches(0)  # the first one puts the images on the device where they are to stay
    with _NoWaiting(may_send=True) as check:
        images, targets = batches(1)
    assert check.sent == 4  # images or their indices, boxes, labels, and what was drawn
    assert images.shape == (2, 3, canvas, canvas)
    assert {part.device.type for part in (images, targets.boxes, targets.labels)} == {"cuda"}


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("detector", sorted(PLACES))
def test_a_whole_step_waits_for_nothing(detector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain one, and one that is recorded and replayed."""
    monkeypatch.setattr(graph, "_WARM_UP", 1)
    state, batches = _state(detector, ema=True), _batches("device", canvas=96)
    plan = Plan(100, frozenset(), lambda step: 0.5, log_every=50, checkpoint_every=60.0)
    events: Any = None
    recorder = _Recorder()
    train = GraphedStep(recorder, pytest.fail)
    train_step(state, *batches(0), _settings())  # places anchors on this canvas, makes the optimizer's state
    with _NoWaiting(may_send=True) as check:
        for _ in range(2):
            run_step(state, batches, plan, _settings(), events, train)
    assert check.sent == 2 * 4
    assert recorder.done == ["run", "record", "replay"]


class _Recorder:
    """Does at once what it is to do or to record, under the check."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def run(self, work: Callable[[], Values]) -> Values:
        self.done.append("run")
        with _NoWaiting():
            return work()

    def record(self, work: Callable[[], Values]) -> tuple[Callable[[], None], Values]:
        self.done.append("record")
        with _NoWaiting():
            values = work()
        return lambda: self.done.append("replay"), values


@pytest.mark.usefixtures("fake_gpu")
def test_anchors_are_sent_once_and_without_waiting() -> None:
    pyramid = AnchorPyramid(3, scale=4, octaves=1, ratios=(1.0,))
    with _NoWaiting(may_send=True) as check:
        for _ in range(2):
            anchors, _ = pyramid.place(((8, 12), (4, 6), (2, 3)), GPU)
    assert check.sent == 1
    assert anchors.device.type == "cuda"


@pytest.mark.usefixtures("fake_gpu")
def test_images_are_normalised_without_a_copy() -> None:
    images = torch.empty(2, 3, 4, 4, dtype=torch.uint8, device=GPU)
    with _NoWaiting():
        assert normalise(images).device.type == "cuda"


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("detector", sorted(PLACES))
@pytest.mark.parametrize(("loss", "options"), [one for one in VARIANTS if one[0] != "of_a_plugin"])
def test_the_check_of_the_first_loss_runs_on_a_gpu(
    detector: str, loss: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits, once before a training, but mixes no devices; for a loss that is a function it runs on the CPU."""
    monkeypatch.setattr(selfcheck.copy, "deepcopy", lambda part: part)  # torch cannot copy tensors without content
    monkeypatch.setattr(selfcheck, "sum_at_outputs", lambda *_: 1.0)  # sorts by values
    for kind in (Tensor, FakeTensor):
        monkeypatch.setattr(kind, "item", lambda value: 0.5, raising=False)
        monkeypatch.setattr(kind, "__float__", lambda value: 0.5, raising=False)
    criterion = _criterion(detector, {}, loss, options)
    network = _network(detector, criterion.classification.activation)
    found = selfcheck.initial_class_loss(network, criterion, lambda step: _batch(), prior_prob=0.01)
    assert found["observed"] == 0.5


def _reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Lets numbers be read from then on, as 1, and returns the list of who does."""
    reads: list[str] = []

    def item(value: Tensor) -> float:
        reads.append("item")
        return 1.0

    def tolist(value: Tensor) -> list[float]:
        reads.append("tolist")
        return [1.0] * len(value)

    for name, read in {"item": item, "tolist": tolist}.items():
        monkeypatch.setattr(Tensor, name, read)
        monkeypatch.setattr(FakeTensor, name, read, raising=False)
    return reads


@pytest.mark.usefixtures("fake_gpu")
def test_a_log_line_waits_once_for_its_check_and_once_for_its_means(monkeypatch: pytest.MonkeyPatch) -> None:
    state = _state("retinanet")
    values = train_step(state, *_batch(), _settings())
    state.meter.add(values)
    reads = _reads(monkeypatch)
    check_finite(state, values, 0.1)
    assert len(reads) == 1
    assert state.meter.means().keys() == values.keys()
    assert len(reads) == 2


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize(
    "wait",
    [
        lambda there, here: there.to("cpu"),
        lambda there, here: here.to(GPU),
        lambda there, here: here.to(GPU, non_blocking=True),  # from memory that is not pinned
        lambda there, here: here.pin_memory().to(GPU),
        lambda there, here: there.copy_(here),
        lambda there, here: there.__setitem__(0, 7.0),
        lambda there, here: there.new_tensor([1.0, 2.0]),
        lambda there, here: torch.tensor(2.0, device=GPU),
        lambda there, here: torch.where(there > 0, there, here[0]),
        lambda there, here: there + torch.tensor(2.0),  # the number would stay as it was when recorded
        lambda there, here: there.sum().item(),
        lambda there, here: bool(there.sum() > 0),
        lambda there, here: there.tolist(),
        lambda there, here: there.nonzero(),
        lambda there, here: there[there > 0],
        lambda there, here: torch.bincount(there.long()),
    ],
)
def test_the_check_finds_what_waits(wait: Callable[[Tensor, Tensor], object]) -> None:
    there, here = torch.empty(3, device=GPU), torch.empty(3)
    with _NoWaiting(may_send=True), pytest.raises(FAULTS):
        wait(there, here)


@pytest.mark.usefixtures("fake_gpu")
def test_what_is_pinned_may_be_sent_by_the_data_alone() -> None:
    send = partial(torch.empty(3).pin_memory().to, GPU, non_blocking=True)
    with _NoWaiting(may_send=True) as check:
        send()
    assert check.sent == 1
    with _NoWaiting(), pytest.raises(AssertionError, match="between devices"):
        send()
