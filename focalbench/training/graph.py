"""The training step as a CUDA graph: recorded once for each shape, then one launch instead of hundreds.

What is recorded is :func:`focalbench.training.loop.train_step` itself. What changes from step to step reaches it
through memory: images and targets are copied into the tensors that it was recorded with, the learning rate is a tensor
on the device, and gamma and alpha are buffers of the loss already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from focalbench.structures import Targets
from focalbench.training.loop import StepSettings, TrainState, train_step

Values = dict[str, Tensor]
# Plain steps before a shape is recorded: kernels are chosen and compiled, the optimizer makes its state.
_WARM_UP = 3
# Objects a batch are padded to a multiple of this: a graph for each number of them would be one for every step.
_OBJECTS = 8
_MAX_GRAPHS = 24


class Recorder(Protocol):
    """How a device runs and records work."""

    def run(self, work: Callable[[], Values]) -> Values:
        """Does ``work`` now, where it would be recorded."""

    def record(self, work: Callable[[], Values]) -> tuple[Callable[[], None], Values]:
        """Returns a function that repeats ``work`` in the same memory, and the tensors that hold its values afterwards.

        ``work`` is not done now.

        Raises:
            RuntimeError: when something in it cannot be recorded.
        """


class CudaRecorder:
    """Records CUDA graphs on a stream of its own, as torch asks; all share one pool of memory.

    Memory that one stream made and the other one uses needs no ``record_stream``: each waits for the other whenever
    they take turns, so that memory given back is used again only after what used it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, work: Callable[[], Values]) -> Values:
        """See ``Recorder``."""
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                values = work()
            current.wait_stream(self._stream)
        return values

    def record(self, work: Callable[[], Values]) -> tuple[Callable[[], None], Values]:
        """See ``Recorder``."""
        with torch.cuda.device(self._device), torch.cuda.stream(torch.cuda.current_stream(self._device)):
            # After a fault torch leaves its stream current: the block around gives the one before back. Another thread
            # may pin memory meanwhile, which ends a recording in the usual mode.
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                    values = work()
            except BaseException:
                self._end_allocation()
                raise
        return graph.replay, values

    def _end_allocation(self) -> None:
        """Ends the use of the pool that a recording which the driver gave up leaves on: while it lasts, torch's
        allocator gives no memory back to the device, not even to stave off an out-of-memory error.
        """
        with suppress(AttributeError, RuntimeError):  # not torch's public interface; and mostly nothing is left on
            torch._C._cuda_endAllocateToPool(self._stream.device_index, self._pool)
            torch._C._cuda_releasePool(self._stream.device_index, self._pool)


@dataclass(frozen=True)
class _Recording:
    """A recorded step and the memory it reads and writes."""

    images: Tensor
    targets: Targets
    replay: Callable[[], None]
    values: Values


class GraphedStep:
    """In the place of ``train_step``, for one training: plain steps first, then the recorded ones.

    The scalars that it returns hold until the next call. A shape that cannot be recorded, or one too many, is trained
    with plain steps.

    Args:
        recorder: of the device.
        warn: told, once, why steps stay plain.
    """

    def __init__(self, recorder: Recorder, warn: Callable[[str], None]) -> None:
        self._recorder, self._warn = recorder, warn
        self._seen: dict[tuple[object, ...], int] = {}
        self._recordings: dict[tuple[object, ...], _Recording] = {}
        self._rates: list[Tensor] = []
        self._gave_up = False

    def __call__(self, state: TrainState, images: Tensor, targets: Targets, settings: StepSettings) -> Values:
        """Does what ``train_step`` does."""
        targets = pad_targets(targets, _OBJECTS)
        key = (images.shape, images.stride(), images.dtype, targets.labels.shape)
        recording = self._recordings.get(key)
        if recording is None and self._may_record(key):
            recording = self._record(state, images, targets, settings)
            if recording is not None:
                self._recordings[key] = recording
        if recording is None:
            return self._recorder.run(lambda: train_step(state, images, targets, settings))
        recording.images.copy_(images)
        recording.targets.boxes.copy_(targets.boxes)
        recording.targets.labels.copy_(targets.labels)
        for rate, group in zip(self._rates, state.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        recording.replay()
        return recording.values

    def _may_record(self, key: tuple[object, ...]) -> bool:
        self._seen[key] = self._seen.get(key, 0) + 1
        return not self._gave_up and self._seen[key] > _WARM_UP and len(self._recordings) < _MAX_GRAPHS

    def _record(self, state: TrainState, images: Tensor, targets: Targets, settings: StepSettings) -> _Recording | None:
        own_images, own = images.clone(), Targets(targets.boxes.clone(), targets.labels.clone())
        if not self._rates:
            self._rates = [torch.zeros((), device=images.device) for _ in state.optimizer.param_groups]
        state.optimizer.zero_grad(set_to_none=True)  # the gradients are to lie in the graph's own memory
        try:
            with _recordable(state.optimizer, self._rates):
                replay, values = self._recorder.record(lambda: train_step(state, own_images, own, settings))
        except RuntimeError as fault:
            self._gave_up = True
            state.optimizer.zero_grad(set_to_none=True)
            if state.scaler is not None:
                state.scaler = _between_steps(state.scaler, images.device.type)
            self._warn(f"run.cuda_graph: the step cannot be recorded and runs normally: {first_reason(fault)}")
            return None
        return _Recording(own_images, own, replay, values)


def _between_steps(scaler: torch.amp.GradScaler, device_type: str) -> torch.amp.GradScaler:
    """Returns the same loss scaler as it is before a step, whatever step it was left in."""
    fresh = torch.amp.GradScaler(device_type)
    fresh.load_state_dict(scaler.state_dict())
    return fresh


def first_reason(fault: BaseException) -> str:
    """Returns one line on what ended a recording; the fault that follows from it only says that it was ended."""
    while isinstance(fault.__context__, RuntimeError):
        fault = fault.__context__
    return (str(fault).strip() or type(fault).__name__).splitlines()[0]


def pad_targets(targets: Targets, multiple: int) -> Targets:
    """Returns the same objects, with padding up to a multiple of ``multiple`` an image."""
    missing = -targets.labels.shape[1] % multiple
    if missing == 0:
        return targets
    return Targets(F.pad(targets.boxes, (0, 0, 0, missing)), F.pad(targets.labels, (0, missing), value=-1))


@contextmanager
def _recordable(optimizer: torch.optim.Optimizer, rates: list[Tensor]) -> Iterator[None]:
    """Within the block the learning rates are tensors, and Adam knows that its step is being recorded."""
    before = [dict(group) for group in optimizer.param_groups]
    try:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True
        yield
    finally:
        for group, old in zip(optimizer.param_groups, before, strict=True):
            group.update(lr=old["lr"], **({"capturable": old["capturable"]} if "capturable" in old else {}))
