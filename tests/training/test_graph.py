"""A recorded step does what the plain one does, whatever changes between steps.

A tape stands in for a CUDA graph where there is no GPU: it repeats the recorded operations in the memory that they were
recorded with, and knows nothing of what Python computed in between.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from focalbench import kernels
from focalbench.benchmarks.step import as_in_a_training
from focalbench.devices import set_determinism
from focalbench.losses.base import ClassificationLoss
from focalbench.losses.detection import DetectionLoss
from focalbench.losses.region import ApplyTo, RegionLoss
from focalbench.models import MODELS
from focalbench.structures import Targets
from focalbench.training import graph
from focalbench.training.average import MovingAverage
from focalbench.training.graph import CudaRecorder, GraphedStep, Values, pad_targets
from focalbench.training.loop import StepSettings, TrainState, train_step
from focalbench.training.optim import build_optimizer, set_learning_rate

CPU = torch.device("cpu")


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        aliases = [value.alias_info for value in func._schema.returns]
        if not any(alias is not None and not alias.is_write for alias in aliases):  # a view follows its base by itself
            kept = [leaf.detach() for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
            self._calls.append((func, args, kwargs or {}, kept))
        return found

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, kept in self._calls:
            fresh = [leaf for leaf in tree_leaves(func(*args, **kwargs)) if isinstance(leaf, Tensor)]
            for old, new in zip(kept, fresh, strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class _TapeRecorder:
    """As a GPU's: recording does not do the work, so what it did to the state is taken back."""

    def __init__(self, state: TrainState) -> None:
        self._state, self.num_plain, self.num_recorded = state, 0, 0

    def run(self, work: Callable[[], Values]) -> Values:
        self.num_plain += 1
        return work()

    def record(self, work: Callable[[], Values]) -> tuple[Callable[[], None], Values]:
        self.num_recorded += 1
        memory = _memory(self._state)
        before = [value.clone() for value in memory]
        with _Tape() as tape:
            values = work()
        with torch.no_grad():
            for value, old in zip(memory, before, strict=True):
                value.copy_(old)
        return tape.replay, values


def _memory(state: TrainState) -> list[Tensor]:
    moments = [value for slots in state.optimizer.state.values() for value in slots.values()]
    scaler = [] if state.scaler is None else [state.scaler._scale, state.scaler._growth_tracker]
    parts = [state.model, state.criterion, *([state.ema] if state.ema else [])]
    return [*moments, *scaler, *(value.detach() for part in parts for value in (*part.parameters(), *part.buffers()))]


class _MaskedFocal(ClassificationLoss):
    """Focal loss as a GPU computes it: every operation goes through torch, and none depends on a value."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__(num_classes)
        self.keep("gamma", {"schedule": "linear", "values": [0.0, 2.0]})

    def forward(
        self, logits: Tensor, labels: Tensor, *, quality: Tensor | None = None, boxes: Tensor | None = None
    ) -> Tensor:
        target = (labels[..., None] == torch.arange(self.num_classes, device=labels.device)).float()
        loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        loss = loss * (target - logits.sigmoid()).abs().pow(self.gamma)
        return torch.where(labels[..., None] < 0, 0.0, loss).sum()


@pytest.fixture(autouse=True)
def masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU, but by a GPU's way: with masks in the place of indices."""
    monkeypatch.setattr(Tensor, "is_cuda", property(lambda tensor: True), raising=False)
    monkeypatch.setattr(kernels, "triton_kernels", lambda module: None)


def _state(optimizer: str = "adamw", device: torch.device = CPU) -> TrainState:
    torch.manual_seed(0)
    model = MODELS["retinanet"](num_classes=3, backbone="tiny", fpn_channels=8, head_convs=1).to(device)
    options = {"momentum": 0.9} if optimizer == "sgd" else {}
    return TrainState(
        model,
        DetectionLoss(_MaskedFocal(), num_classes=3).to(device),
        build_optimizer(model, optimizer, lr=1.0, weight_decay=0.01, **options),
        ema=MovingAverage(model, 0.9),
    )


def _yolo_state(apply_to: ApplyTo) -> TrainState:
    """The pull towards the priors ends after ten of the batches below."""
    torch.manual_seed(0)
    model = MODELS["yolov2"](num_classes=3, backbone="tiny", activation="sigmoid")
    criterion = RegionLoss.around(
        _MaskedFocal, num_classes=3, apply_to=apply_to, stride=model.stride, anneal_images=20, coord_area_scale=True
    )
    return TrainState(model, criterion, build_optimizer(model, "sgd", lr=1.0, weight_decay=0.01, momentum=0.9))


def _batch(step: int, canvas: int = 64) -> tuple[Tensor, Targets]:
    """One to nine objects an image."""
    generator = torch.Generator().manual_seed(step)
    num_objects = 1 + step % 9
    corner = torch.rand(2, num_objects, 2, generator=generator) * canvas / 2
    boxes = torch.cat([corner, corner + 8 + torch.rand(2, num_objects, 2, generator=generator) * canvas / 3], -1)
    labels = torch.randint(3, (2, num_objects), generator=generator)
    labels[0, num_objects // 2 + 1 :] = -1
    return torch.randn(2, 3, canvas, canvas, generator=generator), Targets(boxes, labels)


def _train(
    state: TrainState,
    step_function: Callable[..., Values],
    steps: range,
    canvas: Callable[[int], int] = lambda step: 64,
    device: torch.device = CPU,
) -> list[dict[str, float]]:
    settings = StepSettings(device, torch.float32, clip_norm=5.0)
    state.model.train()
    losses = []
    for step in steps:
        set_learning_rate(state.optimizer, 0.1 / (6 + step % 5))
        state.criterion.set_progress(step / 20)
        images, targets = _batch(step, canvas(step))
        values = step_function(state, images.to(device), targets.to(device), settings)
        losses.append({name: value.item() for name, value in values.items()})
    return losses


def _same(one: TrainState, other: TrainState) -> bool:
    return all(torch.equal(a, b) for a, b in zip(_memory(one), _memory(other), strict=True))


@pytest.mark.parametrize("apply_to", ["class", "both"])
def test_a_yolov2_is_recorded_too_with_its_count_of_images(apply_to: ApplyTo) -> None:
    plain, graphed = _yolo_state(apply_to), _yolo_state(apply_to)
    recorder = _TapeRecorder(graphed)
    expected = _train(plain, train_step, range(14), _two_sizes)
    assert _train(graphed, GraphedStep(recorder, pytest.fail), range(14), _two_sizes) == expected
    assert (recorder.num_plain, recorder.num_recorded) == (2 * 3 + 1, 2)
    assert graphed.criterion.get_buffer("images_seen") == 28
    assert _same(plain, graphed)


def test_a_loss_scaler_goes_its_way_in_a_recording() -> None:
    def state() -> TrainState:
        """It doubles its factor after each step that did not overflow."""
        made = replace(_state(), scaler=torch.amp.GradScaler("cpu", init_scale=2.0**126, growth_interval=1))
        made.criterion.weight.fill_(16)
        return made

    plain, graphed = state(), state()
    recorder = _TapeRecorder(graphed)
    expected = _train(plain, train_step, range(8))
    assert str(_train(graphed, GraphedStep(recorder, pytest.fail), range(8))) == str(expected)  # NaN is not itself
    assert recorder.num_recorded == 1
    overflowed = [not math.isfinite(values["grad_norm"]) for values in expected]
    assert any(overflowed[4:])
    assert not all(overflowed[4:])
    assert plain.state_dict()["scaler"] == graphed.state_dict()["scaler"]
    assert _same(plain, graphed)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_recorded_steps_equal_plain_ones_bit_by_bit(optimizer: str) -> None:
    plain, graphed = _state(optimizer), _state(optimizer)
    recorder = _TapeRecorder(graphed)
    warnings: list[str] = []
    expected = _train(plain, train_step, range(14))
    found = _train(graphed, GraphedStep(recorder, warnings.append), range(14))
    assert warnings == []
    assert (recorder.num_plain, recorder.num_recorded) == (3 + 1, 1)  # the ninth step has more than eight objects
    assert found == expected
    assert _same(plain, graphed)


def test_what_a_checkpoint_holds_is_what_a_plain_training_saves() -> None:
    state = _state()
    _train(state, GraphedStep(_TapeRecorder(state), pytest.fail), range(6))
    content = copy.deepcopy(state.state_dict())
    for group in content["optimizer"]["param_groups"]:
        assert isinstance(group["lr"], float)
        assert not group["capturable"]
    resumed = _state()
    resumed.load_state_dict(content)
    _train(resumed, train_step, range(6, 8))
    _train(state, GraphedStep(_TapeRecorder(state), pytest.fail), range(6, 8))
    assert _same(resumed, state)


def _two_sizes(step: int) -> int:
    return 96 if step % 2 else 64


def test_each_canvas_is_recorded_by_itself() -> None:
    plain, graphed = _state(), _state()
    recorder = _TapeRecorder(graphed)
    expected = _train(plain, train_step, range(8), _two_sizes)
    assert _train(graphed, GraphedStep(recorder, pytest.fail), range(8), _two_sizes) == expected
    assert recorder.num_recorded == 2
    assert _same(plain, graphed)


def test_a_step_that_cannot_be_recorded_stays_plain_and_is_told_once() -> None:
    class Broken(_TapeRecorder):
        def record(self, work: Callable[[], Values]) -> tuple[Callable[[], None], Values]:
            optimizer, scaler = self._state.optimizer, self._state.scaler
            assert isinstance(optimizer.param_groups[0]["lr"], Tensor)
            assert scaler is not None
            scaler.unscale_(optimizer)  # in the middle of a step
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    plain, graphed = (replace(_state(), scaler=torch.amp.GradScaler("cpu")) for _ in range(2))
    warnings: list[str] = []
    expected = _train(plain, train_step, range(6))
    assert _train(graphed, GraphedStep(Broken(graphed), warnings.append), range(6)) == expected
    assert len(warnings) == 1
    assert warnings[0].endswith("operation not permitted when stream is capturing")
    assert _same(plain, graphed)


def test_padding_adds_no_objects() -> None:
    _, targets = _batch(2)
    padded = pad_targets(targets, 8)
    assert padded.labels.shape == (2, 8)
    assert padded.boxes.shape == (2, 8, 4)
    assert torch.equal(padded.labels[:, :3], targets.labels)
    assert (padded.labels[:, 3:] == -1).all()
    assert pad_targets(padded, 8) is padded


class _FakeCuda:
    """Follows which device and which stream are current, as torch does, and writes down what is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device, self.streams = 0, {0: "main 0", 1: "main 1"}
        self.calls: list[Any] = []
        monkeypatch.setattr(torch.cuda, "Stream", lambda where: _FakeStream(self, f"side {where.index}", where.index))
        monkeypatch.setattr(torch.cuda, "current_stream", self._current_stream)
        monkeypatch.setattr(torch.cuda, "device", self._on_device)
        monkeypatch.setattr(torch.cuda, "stream", self._on_stream)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: _FakeGraph(self))
        monkeypatch.setattr(torch.cuda, "graph", self._capture)
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            monkeypatch.setattr(torch._C, name, lambda *asked, name=name: self.calls.append((name, *asked)))

    def where(self) -> tuple[int, str]:
        return self.device, self.streams[self.device]

    def _current_stream(self, device: torch.device | None = None) -> "_FakeStream":
        index = self.device if device is None else device.index
        return _FakeStream(self, self.streams[index], index)

    @contextmanager
    def _on_device(self, device: torch.device) -> Iterator[None]:
        before, self.device = self.device, device.index
        try:
            yield
        finally:
            self.device = before

    @contextmanager
    def _on_stream(self, stream: "_FakeStream") -> Iterator[None]:
        device, before = self.device, dict(self.streams)
        self.device, self.streams[stream.device_index] = stream.device_index, stream.name
        try:
            yield
        finally:
            self.device, self.streams = device, before

    @contextmanager
    def _capture(self, graph: "_FakeGraph", pool: Any, stream: "_FakeStream", **options: Any) -> Iterator[None]:
        """Leaves its stream current after a fault, and tells of another one."""
        self.calls.append(("capture", graph.made, pool, stream.name, options, self.where()))
        self.device, self.streams[stream.device_index], before = stream.device_index, stream.name, dict(self.streams)
        try:
            yield
        except BaseException:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904
        self.streams = before


class _FakeStream:
    def __init__(self, cuda: _FakeCuda, name: str, device_index: int) -> None:
        self._cuda, self.name, self.device_index = cuda, name, device_index

    def wait_stream(self, other: "_FakeStream") -> None:
        self._cuda.calls.append((self.name, "waits for", other.name))


class _FakeGraph:
    def __init__(self, cuda: _FakeCuda) -> None:
        self.made = cuda.where()

    def replay(self) -> None:
        pass


def test_a_second_gpus_steps_run_and_are_recorded_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = _FakeCuda(monkeypatch)
    recorder = CudaRecorder(torch.device("cuda:1"))

    def work() -> Values:
        cuda.calls.append(cuda.where())
        return {}

    recorder.run(work)
    assert cuda.calls == [("side 1", "waits for", "main 1"), (1, "side 1"), ("main 1", "waits for", "side 1")]
    cuda.calls.clear()
    recorder.record(work)
    mode = {"capture_error_mode": "thread_local"}  # a thread that reads ahead may pin memory meanwhile
    assert cuda.calls == [("capture", (1, "main 1"), (0, 7), "side 1", mode, (1, "main 1")), (1, "side 1")]
    assert cuda.where() == (0, "main 0")


def test_a_failed_recording_gives_the_stream_back_and_tells_what_ended_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Values:
        raise RuntimeError("Cannot copy between CPU and CUDA tensors during CUDA graph capture\nmore")

    cuda = _FakeCuda(monkeypatch)
    monkeypatch.setattr(graph, "train_step", fail)
    monkeypatch.setattr(graph, "_WARM_UP", 0)
    monkeypatch.setattr(CudaRecorder, "run", lambda recorder, work: {})
    warnings: list[str] = []
    step = GraphedStep(CudaRecorder(torch.device("cuda:1")), warnings.append)
    step(_state(), *_batch(0), StepSettings(CPU, torch.float32, clip_norm=None))
    assert (cuda.where(), cuda.streams[1]) == ((0, "main 0"), "main 1")
    assert cuda.calls[1:] == [("_cuda_endAllocateToPool", 1, (0, 7)), ("_cuda_releasePool", 1, (0, 7))]
    assert warnings == [
        "run.cuda_graph: the step cannot be recorded and runs normally: "
        "Cannot copy between CPU and CUDA tensors during CUDA graph capture"
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="records a real CUDA graph")
def test_a_cuda_graph_trains_as_plain_steps_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    gpu = torch.device("cuda:0")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with as_in_a_training():
        set_determinism(True)  # AdamW's first steps follow the signs of gradients: noise would turn whole updates
        plain, graphed = _state(device=gpu), _state(device=gpu)
        expected = _train(plain, train_step, range(12), device=gpu)
        found = _train(graphed, GraphedStep(CudaRecorder(gpu), pytest.fail), range(12), device=gpu)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
