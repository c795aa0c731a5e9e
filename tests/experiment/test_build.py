"""What a configuration becomes: the parts that no whole trial on a CPU shows."""

import gc
import weakref
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from focalbench.config.schema import ExperimentConfig
from focalbench.data.transforms import Augment
from focalbench.errors import ConfigError
from focalbench.experiment import build
from focalbench.experiment.batches import AugmentedBatches
from focalbench.experiment.build_loss import keywords_among
from focalbench.losses import CRITERIA, LOSSES
from focalbench.models.detector import Detector
from focalbench.models.retinanet import RetinaNet
from focalbench.models.yolov2 import YoloV2
from focalbench.training.graph import GraphedStep
from focalbench.training.loop import TrainState
from focalbench.training.optim import set_learning_rate, start_at_rest

GPU = torch.device("cuda:0")


def _state(config: ExperimentConfig) -> TrainState:
    model: Any = nn.Linear(1, 1)
    kind, loss = CRITERIA[config.model.name], LOSSES[config.loss.name]
    make_loss = partial(loss, **keywords_among(config.loss.model_dump(), loss))
    given = keywords_among({"apply_to": config.loss.apply_to}, kind)
    criterion = kind.around(make_loss, num_classes=2, **given)
    return TrainState(model, criterion, torch.optim.SGD(model.parameters()))


def _step(device: torch.device, *, scaler: Any = None, **sections: Any) -> tuple[Any, list[str]]:
    config = ExperimentConfig.model_validate({"run": {"cuda_graph": True}, **sections})
    warnings: list[str] = []
    return build.build_step(config, replace(_state(config), scaler=scaler), device, warnings.append), warnings


def test_steps_are_plain_unless_asked_for() -> None:
    assert _step(GPU, run={}) == (None, [])


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"model": {"name": "yolov2"}, "data": {"name": "voc", "image_size": 416}},
        {"loss": {"name": "quality_focal"}},
        {"loss": {"name": "ohem", "nms_thresh": None}},
    ],
)
@pytest.mark.parametrize("scaler", [None, torch.amp.GradScaler("cpu")])
def test_a_step_is_recorded_on_a_gpu(sections: dict[str, Any], scaler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "CudaRecorder", lambda device: device)
    step, warnings = _step(GPU, scaler=scaler, **sections)
    assert isinstance(step, GraphedStep)
    assert warnings == []


@pytest.mark.parametrize(
    ("device", "sections", "reason"),
    [
        (torch.device("cpu"), {}, "no CUDA graphs on cpu"),
        (GPU, {"loss": {"name": "ohem"}}, "retinanet with loss ohem"),
        (
            GPU,
            {
                "model": {"name": "yolov2"},
                "data": {"name": "voc", "image_size": 416},
                "loss": {"name": "ohem", "apply_to": "objectness"},
            },
            "yolov2 with loss ohem",
        ),
    ],
)
def test_what_cannot_be_recorded_is_plain_and_says_why(
    device: torch.device, sections: dict[str, Any], reason: str
) -> None:
    step, warnings = _step(device, **sections)
    assert step is None
    assert len(warnings) == 1
    assert reason in warnings[0]


def test_batches_let_go_of_their_images_at_once() -> None:
    """The garbage collector may take its time, while the next trial wants the memory of the GPU."""
    images: Any = type("Images", (list,), {})([0, 0, 0, 0])
    batches = AugmentedBatches(images, Augment(), batch_size=2, seed=0, device=GPU, channels_last=True)
    held = weakref.ref(images)
    gc.disable()
    try:
        del batches, images
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_momentum_starts_at_rest_where_a_loss_scaler_may_skip_the_first_step(momentum: float) -> None:
    """torch's fused SGD would go on from memory that nobody has written."""
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=momentum, fused=True)
    start_at_rest(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for slope in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale((parameter * slope).sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    torch.testing.assert_close(parameter.detach(), torch.full((3,), 0.9))


@pytest.mark.parametrize(("asked", "total", "used"), [(100, 101, 100), (100, 100, 0.5), (0.15, 1, 0.15), (0, 6, 0)])
def test_a_warm_up_ends_before_the_training_does(asked: float, total: int, used: float) -> None:
    config = ExperimentConfig.model_validate({"optim": {"name": "sgd", "warmup_steps": asked}})
    assert build.warmup_steps(config, total) == used


def _build(model: Any, **sections: Any) -> TrainState:
    config = ExperimentConfig.model_validate(sections)
    step: Any = SimpleNamespace(device=torch.device("cpu"), precision=torch.float32)
    return build.build_state(config, model, _state(config).criterion, step)


@pytest.mark.parametrize("model", [RetinaNet(2, "tiny"), YoloV2(2, "tiny")], ids=["RetinaNet", "YOLOv2"])
def test_the_backbone_may_learn_at_a_rate_of_its_own(model: Detector) -> None:
    optimizer = _build(model, optim={"name": "sgd", "backbone_lr": 0.1}).optimizer
    set_learning_rate(optimizer, 1.0)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    slow = {name for name, p in model.named_parameters() if rates[id(p)] == pytest.approx(0.1)}
    assert slow == {name for name, _ in model.named_parameters() if name.startswith(("backbone.", "trunk."))}
    assert len(rates) == len(list(model.parameters()))


def test_a_detector_that_names_no_backbone_has_no_rate_for_it() -> None:
    model = RetinaNet(2, "tiny")
    model.backbone_parameters = lambda: ()  # type: ignore[method-assign]  # as of a plugin
    with pytest.raises(ConfigError, match=r"optim\.backbone_lr: the detector retinanet does not say .*: use null, or"):
        _build(model, optim={"name": "sgd", "backbone_lr": 0.1})


PUBLISHED = {"backbone": "efficientnet_lite0", "weights": "imagenet", "norm": "frozen", "trainable_stages": 3}


@pytest.mark.parametrize(
    "model",
    [
        {"name": "retinanet", "backbone": "tiny"},
        {"name": "retinanet", **PUBLISHED},
        {"name": "yolov2", **PUBLISHED, "priors": "auto", "num_priors": 2},
    ],
    ids=["random", "published", "published, YOLOv2"],
)
def test_arms_of_one_seed_start_from_the_same_weights_and_see_the_same_batches(model: dict[str, Any]) -> None:
    def start(loss: dict[str, Any], seed: int) -> list[torch.Tensor]:
        data = {"name": "synthetic", "image_size": 64, "num_train": 6, "num_val": 1, "cache": "ram"}
        config = ExperimentConfig.model_validate(
            {"seed": seed, "data": data, "model": model, "loss": loss, "optim": {"name": "sgd", "batch_size": 2}}
        )
        train = build.build_data(config).train
        weights = build.build_model(config, len(train.classes), train).state_dict().values()
        batches = build.build_batches(config, train, torch.device("cpu"))
        seen = [batches(step) for step in (0, 1, 5)]
        return [*weights, *(part for images, objects in seen for part in (images, objects.boxes, objects.labels))]

    alike = [start({"name": name}, 1) for name in ("ce", "balanced_ce", "focal")]
    for others in alike[1:]:
        assert all(map(torch.equal, others, alike[0]))
    assert not all(map(torch.equal, start({"name": "ce"}, 2), alike[0]))
