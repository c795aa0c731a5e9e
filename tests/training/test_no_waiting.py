"""A step on a GPU never makes the host wait: no value is read back, no shape depends on data, nothing is copied over.

Shown without a GPU, on tensors that have a device and a shape but no content: whoever asks them for a value fails.
Their backward pass cannot run; gradients are set in its place.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from focalbench.losses import LOSSES, focal_op
from focalbench.losses.base import Counts
from focalbench.losses.detection import DetectionLoss
from focalbench.models import MODELS
from focalbench.structures import Targets
from focalbench.training.loop import Meter, StepSettings, TrainState, train_step
from focalbench.training.optim import build_optimizer

GPU = torch.device("cuda")
# One picks the hardest negatives by index, one makes a tensor of a number in each step.
WAITS = {name for name, loss in LOSSES.items() if loss.waits_for_device}


class _NoCopies(TorchDispatchMode):
    """Fails at an operation between devices: from the host it would wait for the device unless memory is pinned."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        tensors = [value for value in (*args, found) if isinstance(value, Tensor)]
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            assert len({tensor.device.type for tensor in tensors}) == 1, f"{func} between devices"
        return found


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(focal_op, "_triton_kernels", lambda: None)  # its kernels want memory; these read no value
    with FakeTensorMode(), GPU:
        yield


def _step(loss: str) -> dict[str, Tensor]:
    kind = LOSSES[loss]
    counts = Counts((5, 6, 7, 8), 100)
    network = MODELS["retinanet"](num_classes=4, backbone="tiny", activation=kind.activation)
    criterion = DetectionLoss(kind(num_classes=4, counts=counts), num_classes=4)
    state = TrainState(
        network,
        criterion,
        build_optimizer(network, "adamw", lr=1e-3, weight_decay=0.02),
    )

    def backward(total: Tensor) -> None:
        assert total.requires_grad
        for parameter in network.parameters():
            parameter.grad = torch.empty_like(parameter)

    images = torch.empty(2, 3, 64, 64)
    targets = Targets(torch.empty(2, 3, 4), torch.empty(2, 3, dtype=torch.int64))
    criterion.set_progress(0.5)
    settings = StepSettings(GPU, torch.float32, clip_norm=10.0)
    meter = Meter()
    with _NoCopies(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "backward", backward)
        values = train_step(state, images, targets, settings)
        meter.add(values)
    return values


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("loss", sorted(set(LOSSES) - WAITS))
def test_a_step_waits_for_nothing(loss: str) -> None:
    values = _step(loss)
    assert {value.device.type for value in values.values()} == {"cuda"}


@pytest.mark.usefixtures("fake_gpu")
@pytest.mark.parametrize("loss", sorted(WAITS))
def test_the_check_finds_what_waits(loss: str) -> None:
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException, AssertionError)):
        _step(loss)


@pytest.mark.usefixtures("fake_gpu")
def test_the_check_finds_copies() -> None:
    with _NoCopies(), pytest.raises(AssertionError, match="between devices"):
        torch.empty(3, device="cpu").to(GPU)
