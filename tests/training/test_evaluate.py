"""An evaluation asks a GPU for its results once a batch, and gives it batches of one shape."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from focalbench.models import MODELS, postprocess
from focalbench.structures import Detections
from focalbench.training import evaluate
from focalbench.training.evaluate import DetectionSettings, detect, detect_batch, same_shape

GPU, CPU = torch.device("cuda"), torch.device("cpu")
SETTINGS = DetectionSettings(score_thresh=0.05, nms_thresh=0.5, max_detections=20, batch_size=4)


class _OnOneDevice(TorchDispatchMode):
    """Fails at an operation that copies between devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            devices = {value.device.type for value in (*args, found) if isinstance(value, Tensor)}
            assert len(devices) == 1, f"{func} between devices"
        return found


@pytest.mark.parametrize(("name", "batch_size"), [("retinanet", 2), ("yolov2", 9)])
def test_a_batch_of_any_size_waits_twice(monkeypatch: pytest.MonkeyPatch, name: str, batch_size: int) -> None:
    """On tensors that have a device and no content: whatever asks for a value elsewhere, or copies one, fails."""
    waits: list[tuple[int, ...]] = []

    def answer(tensor: Tensor) -> np.ndarray:
        assert tensor.device.type == "cuda"
        waits.append(tuple(tensor.shape))
        return np.full(tuple(tensor.shape), 7.0 if tensor.ndim == 0 else 1.0)

    monkeypatch.setattr(postprocess, "_wait_for", answer)
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)  # here anchors are on the device from the start
    with FakeTensorMode(allow_non_fake_inputs=True), GPU, torch.no_grad():
        network = MODELS[name](num_classes=4, backbone="tiny").eval()
        images = torch.empty(batch_size, 3, 64, 64)
        with _OnOneDevice():
            found = detect_batch(network, images, SETTINGS, torch.float32)
    assert waits == [(), (batch_size, 7, 8)]  # of 7 candidates: box, score, label, whether it stays, whether that is so
    assert [len(one.labels) for one in found] == [7] * batch_size


def test_that_check_finds_a_form_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postprocess, "_select_together", postprocess._select_one_by_one)
    options: Any = {"num_classes": 4, "canvas": (64, 64), "score_thresh": 0.1, "nms_thresh": 0.5, "max_detections": 9}
    with FakeTensorMode(), GPU:
        candidates = torch.empty(2, 5), torch.empty(2, 5, dtype=torch.int64), torch.empty(2, 5, 4)
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            postprocess.select_detections(*candidates, **options)


def test_a_gpu_gets_the_last_image_again_up_to_a_whole_batch() -> None:
    assert same_shape(range(8, 10), 4, GPU) == [8, 9, 9, 9]
    assert same_shape(range(8, 12), 4, GPU) == same_shape(range(8, 12), 4, CPU) == [8, 9, 10, 11]
    assert same_shape(range(8, 10), 4, CPU) == [8, 9]


class _Network(nn.Module):
    """A stand-in that finds one box in an image: its number."""

    def forward(self, images: Tensor) -> Tensor:
        return images

    def decode(self, outputs: Tensor, **settings: float) -> list[Detections]:
        return [Detections(x.expand(1, 4), x.view(1) / 100, x.view(1).long()) for x in outputs]


@pytest.mark.parametrize(("num_images", "batches"), [(10, [4, 4, 4]), (3, [3]), (8, [4, 4])])
def test_what_is_found_in_the_padding_is_dropped(
    monkeypatch: pytest.MonkeyPatch, num_images: int, batches: list[int]
) -> None:
    seen: list[int] = []

    def normalised(indices: Sequence[int], device: torch.device) -> Tensor:
        seen.append(len(indices))
        return torch.tensor(indices, dtype=torch.float32)

    class Data(SimpleNamespace):
        def __len__(self) -> int:
            return num_images

    data: Any = Data(normalised=normalised, to_original=lambda index, boxes: boxes)
    network: Any = _Network()
    options: Any = {"device": CPU, "precision": torch.float32}
    plain = detect(network, data, SETTINGS, **options)
    seen.clear()
    monkeypatch.setattr(evaluate, "same_shape", lambda indices, size, device: same_shape(indices, size, GPU))
    padded = detect(network, data, SETTINGS, **options)
    assert seen == batches
    assert padded["image"].tolist() == padded["label"].tolist() == list(range(num_images))
    for key, values in plain.items():
        np.testing.assert_array_equal(padded[key], values)
