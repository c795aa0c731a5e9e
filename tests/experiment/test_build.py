"""What a configuration becomes: the parts that no whole trial on a CPU shows."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from focalbench.config.schema import ExperimentConfig
from focalbench.experiment import build
from focalbench.losses import CRITERIA, LOSSES
from focalbench.training.graph import GraphedStep
from focalbench.training.loop import TrainState

GPU = torch.device("cuda:0")


def _state(config: ExperimentConfig) -> TrainState:
    model: Any = nn.Linear(1, 1)
    criterion = CRITERIA[config.model.name].around(LOSSES[config.loss.name], num_classes=2)
    return TrainState(model, criterion, torch.optim.SGD(model.parameters()))


def _step(device: torch.device, *, scaler: Any = None, **sections: Any) -> tuple[Any, list[str]]:
    config = ExperimentConfig.model_validate({"run": {"cuda_graph": True}, **sections})
    warnings: list[str] = []
    return build.build_step(config, replace(_state(config), scaler=scaler), device, warnings.append), warnings


def test_steps_are_plain_unless_asked_for() -> None:
    assert _step(GPU, run={}) == (None, [])


def test_a_step_is_recorded_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "CudaRecorder", lambda device: device)
    step, warnings = _step(GPU)
    assert isinstance(step, GraphedStep)
    assert warnings == []


@pytest.mark.parametrize(
    ("device", "sections", "reason"),
    [
        (torch.device("cpu"), {}, "no CUDA graphs on cpu"),
        (GPU, {"loss": {"name": "ohem"}}, "retinanet with loss ohem"),
        (GPU, {"model": {"name": "yolov2"}, "data": {"name": "voc", "image_size": 416}}, "yolov2 with loss focal"),
    ],
)
def test_what_cannot_be_recorded_is_plain_and_says_why(
    device: torch.device, sections: dict[str, Any], reason: str
) -> None:
    step, warnings = _step(device, **sections)
    assert step is None
    assert len(warnings) == 1
    assert reason in warnings[0]


@pytest.mark.parametrize(("asked", "total", "used"), [(100, 101, 100), (100, 100, 0.5), (0.15, 1, 0.15), (0, 6, 0)])
def test_a_warm_up_ends_before_the_training_does(asked: float, total: int, used: float) -> None:
    config = ExperimentConfig.model_validate({"optim": {"name": "sgd", "warmup_steps": asked}})
    assert build.warmup_steps(config, total) == used


def test_a_loss_scaler_keeps_steps_plain() -> None:
    step, warnings = _step(GPU, scaler=torch.amp.GradScaler("cpu"))
    assert step is None
    assert "fp16" in warnings[0]
