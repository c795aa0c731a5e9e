"""The first loss of an untrained network: sound starts are left alone, whatever the data, and mistakes are named."""

from typing import Any

import pytest
import torch
from torch import Tensor

from focalbench.experiment.selfcheck import initial_class_loss
from focalbench.losses import LOSSES
from focalbench.losses.base import ClassificationLoss
from focalbench.losses.criterion import ClassProblem
from focalbench.losses.detection import DetectionLoss
from focalbench.models.retinanet import RetinaNet
from focalbench.structures import Targets

# One object of one class in an image, nearly as large as that: a handful of anchors are positive.
LARGE = Targets(torch.tensor([[[4.0, 6, 90, 92]], [[2.0, 2, 80, 94]]]), torch.zeros(2, 1, dtype=torch.long))


def _images(step: int) -> tuple[Tensor, Targets]:
    return torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(step)) + 0.5, LARGE


def _check(
    loss: str = "ce",
    *,
    seed: int = 0,
    times: float = 1,
    prior: float | None = 0.01,
    told: float | None = 0.01,
    knows_prior: bool = True,
) -> dict[str, Any]:
    torch.manual_seed(seed)
    classification = LOSSES[loss](num_classes=1)
    model = RetinaNet(1, "tiny", activation=classification.activation, prior_prob=prior)
    with torch.no_grad():  # features of other backbones are larger
        model.class_subnet.predict.weight.mul_(times)
    criterion = DetectionLoss(classification, num_classes=1)
    return initial_class_loss(model, criterion, _images, prior_prob=told, knows_prior=knows_prior)


@pytest.mark.parametrize("loss", ["ce", "focal", "softmax_ce", "softmax_focal"])
@pytest.mark.parametrize("seed", [0, 4])
def test_a_sound_start_is_left_alone_where_few_anchors_are_positive(loss: str, seed: int) -> None:
    found = _check(loss, seed=seed)
    assert found["diagnosis"] is None
    assert found["observed"] == pytest.approx(found["at_outputs"], rel=0.02)


def test_what_the_first_weights_make_of_the_loss_by_chance_is_no_fault() -> None:
    found = _check(times=5)
    assert found["observed"] > 1.4 * found["expected"]
    assert found["diagnosis"] is None
    assert "standard deviation" in _check(times=20)["diagnosis"]


@pytest.mark.parametrize("loss", ["ce", "focal", "softmax_focal"])
def test_a_head_without_its_prior_is_told(loss: str) -> None:
    assert "not at its prior of 0.01" in _check(loss, prior=None)["diagnosis"]
    assert _check(loss, prior=None, knows_prior=False)["diagnosis"] is None
    assert _check(loss, prior=None, told=None)["diagnosis"] is None


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (2.0, "counted twice"),
        (0.5, "left out"),
        (20.0, "not divided"),
        (1 / 3000, "divided by more than the number"),
        (torch.nan, "not finite"),
    ],
)
@pytest.mark.parametrize("loss", ["ce", "softmax_focal"])
def test_a_loss_with_another_divisor_is_told(
    monkeypatch: pytest.MonkeyPatch, loss: str, factor: float, words: str
) -> None:
    def spoilt(problem: ClassProblem, classification: ClassificationLoss) -> Tensor:
        return factor * real(problem, classification)

    real = ClassProblem.loss
    monkeypatch.setattr(ClassProblem, "loss", spoilt)
    assert words in _check(loss)["diagnosis"]


@pytest.mark.parametrize("factor", [40, 2, 0.4])
@pytest.mark.parametrize("loss", ["ce", "focal"])
def test_a_divisor_that_is_not_the_number_of_positives_is_told(
    monkeypatch: pytest.MonkeyPatch, loss: str, factor: float
) -> None:
    monkeypatch.setattr("focalbench.losses.detection.normaliser", lambda positives: positives.float() * factor)
    assert "the first loss is" in _check(loss)["diagnosis"]


def test_without_a_positive_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Targets(LARGE.boxes, torch.full_like(LARGE.labels, -1))
    monkeypatch.setitem(globals(), "LARGE", nothing)
    assert _check()["diagnosis"] is None
