"""The pass over a trained network agrees with the training's own loss, and finds what was left out of the labels."""

import copy
import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from focalbench.analysis.hard_tail import crop_regions
from focalbench.analysis.loss_distribution import (
    LossDistribution,
    class_loss,
    figures,
    hardest_negatives,
    measure,
    own_gamma,
)
from focalbench.experiment.margins import count_margins
from focalbench.losses import LOSSES
from focalbench.losses.base import ClassificationLoss, Counts
from focalbench.losses.criterion import ClassProblem
from focalbench.metrics.loss_histogram import MarginHistogram, total_loss
from focalbench.models import MODELS
from focalbench.trained.trial import TrainedTrial, load_trained


@pytest.fixture(scope="module")
def loaded(trained: Any) -> TrainedTrial:
    return dataclasses.replace(load_trained(trained.folder, device="cpu"), precision=torch.float32)


@pytest.fixture(scope="module")
def found(loaded: TrainedTrial) -> LossDistribution:
    return measure(loaded, loaded.data(), num_regions=5)


def _problem(loaded: TrainedTrial) -> ClassProblem:
    data = loaded.data()
    indices = range(len(data))
    with torch.no_grad():
        outputs = loaded.model(data.normalised(indices, torch.device("cpu")))
    return loaded.criterion.class_problem(outputs, data.targets(indices))


@pytest.mark.parametrize("name", ["focal", "ce"])
def test_the_histogram_holds_the_training_loss(loaded: TrainedTrial, found: LossDistribution, name: str) -> None:
    problem = _problem(loaded)
    loss = LOSSES[name](num_classes=4)
    expected = float(loss(problem.logits, problem.labels))
    histogram = found.histogram
    if name == "ce":
        own = total_loss(histogram.positives, 0.0) + total_loss(histogram.negatives, 0.0)
    else:
        own = 0.25 * total_loss(histogram.positives, 2.0) + 0.75 * total_loss(histogram.negatives, 2.0)
    assert own == pytest.approx(expected, rel=1e-4)
    assert own_gamma(loaded) == 2.0
    if name == "focal":
        assert class_loss(loaded, histogram) == pytest.approx(expected / 0.75, rel=1e-4)


def _ended_with(name: str, **parameters: Any) -> Any:
    """As much of a trained trial as tells how its loss weighs."""
    loss = LOSSES[name](num_classes=4, counts=Counts((5, 9, 3, 2), 400), **parameters)
    return SimpleNamespace(criterion=SimpleNamespace(classification=loss))


@pytest.mark.parametrize(
    ("name", "parameters", "on_negatives"),
    [
        ("ce", {}, 1.0),
        ("balanced_ce", {"alpha": 0.9}, 0.1),
        ("balanced_ce", {"alpha": None}, 1.0),
        ("focal", {"gamma": 0.5, "alpha": 0.25}, 0.75),
        ("softmax_ce", {}, 1.0),
        ("softmax_balanced_ce", {"alpha": 0.9}, 0.1),
        ("softmax_balanced_ce", {"alpha": 0.9, "alpha_on": "background"}, 0.9),
        ("softmax_focal", {"gamma": 2.0}, 1.0),
        ("softmax_focal", {"gamma": 2.0, "alpha": 0.8}, 0.2),
        ("asymmetric", {"gamma_pos": 1.0, "gamma_neg": 3.0, "margin": 0.0}, 1.0),
    ],
)
def test_the_class_loss_is_that_of_the_training(name: str, parameters: dict[str, Any], on_negatives: float) -> None:
    trained = _ended_with(name, **parameters)
    loss = trained.criterion.classification
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 300, 5 if loss.activation == "softmax" else 4, generator=generator)
    labels = torch.randint(-1, 5, (2, 300), generator=generator)
    histogram = count_margins(ClassProblem(logits, labels, None, None, torch.tensor(1.0)), loss.activation)
    assert class_loss(trained, histogram) == pytest.approx(float(loss(logits, labels)) / on_negatives, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "parameters", "gamma"),
    [
        ("focal", {"alpha": [0.1, 0.2, 0.3, 0.4]}, 2.0),
        ("softmax_balanced_ce", {"alpha": [1.0, 2.0, 1.0, 1.0, 0.5]}, 0.0),
        ("focal_star", {}, 0.0),
        ("ohem", {}, 0.0),
        ("ghm", {}, 0.0),
        ("class_balanced", {"gamma": 1.5}, 1.5),
        ("quality_focal", {"beta": 3.0}, 3.0),
        ("varifocal", {"gamma": 1.0}, 1.0),
        ("asymmetric", {}, 4.0),
    ],
)
def test_a_loss_that_weighs_otherwise_has_no_class_loss(name: str, parameters: dict[str, Any], gamma: float) -> None:
    trained = _ended_with(name, **parameters)
    assert class_loss(trained, MarginHistogram.empty()) is None
    assert own_gamma(trained) == gamma


class _Invented(ClassificationLoss):
    """A focal-like loss of somebody who read nothing about analyses."""

    def __init__(self, num_classes: int, *, gamma: Any) -> None:
        super().__init__(num_classes)
        self.keep("gamma", gamma)


def test_a_loss_that_is_in_no_list_is_analysed_with_its_own_gamma(loaded: TrainedTrial) -> None:
    criterion = copy.deepcopy(loaded.criterion)
    criterion.classification = _Invented(4, gamma={"schedule": "linear", "values": [0, 3]})
    criterion.set_progress(1.0)
    invented = dataclasses.replace(loaded, own_criterion=criterion)
    assert own_gamma(invented) == 3.0
    assert measure(invented, loaded.data(), num_regions=1).tail.gamma == 3.0
    assert class_loss(invented, MarginHistogram.empty()) is None  # its weights are not known


def test_detections_are_those_of_the_evaluation(loaded: TrainedTrial, found: LossDistribution) -> None:
    expected = loaded.detect(loaded.data())
    assert found.detections.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found.detections[name], values)


def test_the_tail_holds_the_hardest_negatives_of_each_image(loaded: TrainedTrial, found: LossDistribution) -> None:
    problem = _problem(loaded)
    positive = problem.labels[..., None] == torch.arange(4)
    negative = ~positive & (problem.labels >= 0)[..., None]
    hardest = torch.where(negative, problem.logits, -torch.inf).flatten(1).topk(200).values.flatten()
    loss = -torch.nn.functional.logsigmoid(-hardest.double()) * hardest.double().sigmoid() ** 2
    total = sum(kind["loss"] for kind in found.tail.totals.values())
    assert total == pytest.approx(float(loss.sum()), rel=1e-4)
    assert sum(kind["elements"] for kind in found.tail.totals.values()) == len(hardest)
    assert len(found.tail.regions) == 5


def test_an_object_without_a_label_is_found_as_nothing_annotated(loaded: TrainedTrial) -> None:
    """A network that is sure of one anchor of an image whose annotation is empty."""
    data = loaded.data()
    record = data.records[0]
    empty = dataclasses.replace(
        record, boxes=record.boxes[:0], labels=record.labels[:0], difficult=record.difficult[:0]
    )
    data = dataclasses.replace(data, records=(empty, *data.records[1:]))
    with torch.no_grad():
        outputs = loaded.model(data.normalised([0], torch.device("cpu")))
        outputs.cls_logits[0, 17, 2] = 9.0
    problem = loaded.criterion.class_problem(outputs, data.targets([0]))
    hardest = hardest_negatives(loaded.model, outputs, problem, "sigmoid", 0)
    assert hardest.margin[0] == pytest.approx(-9.0)
    assert hardest.label[0] == 2
    _, boxes = loaded.model.dense(outputs)
    np.testing.assert_allclose(hardest.boxes[0], boxes[0, 17].clamp(0, 64).numpy())
    assert (np.diff(hardest.margin) >= 0).all()


def test_softmax_tells_the_class_that_is_claimed(loaded: TrainedTrial) -> None:
    model = MODELS["retinanet"](num_classes=4, backbone="tiny", activation="softmax").eval()
    with torch.no_grad():
        outputs = model(torch.zeros(1, 3, 64, 64))
        outputs.cls_logits[0, 5] = torch.tensor([0.0, 8.0, 0.0, 0.0, 0.0])
    labels = torch.full((1, outputs.cls_logits.shape[1]), 4)
    labels[0, 6] = 1
    problem = ClassProblem(outputs.cls_logits, labels, None, None, torch.tensor(1.0))
    hardest = hardest_negatives(model, outputs, problem, "softmax", 0, limit=10)
    assert hardest.label[0] == 1
    assert hardest.margin[0] == pytest.approx(-np.log(np.exp(8) + 3))
    assert len(hardest.margin) == 10


def test_numbers_are_ready_for_json(found: LossDistribution) -> None:
    document = figures(found.histogram, 3.0)
    assert list(document["negatives"]["share_of_hardest"]) == ["0", "0.5", "1", "2", "3"]
    for group in ("positives", "negatives"):
        part = document[group]
        assert part["elements"] == sum(part["gradient_norm_counts"]) > 0
        assert len(part["cumulative"]["2"]) == len(document["cumulative_fraction"])
        assert all(type(value) is float for value in part["cumulative"]["2"])


def test_crops_hold_the_region_and_the_annotated_boxes_in_view(loaded: TrainedTrial, found: LossDistribution) -> None:
    data = loaded.data()
    crops = crop_regions(data, found.tail.regions)
    assert len(crops) == 5
    for crop in crops:
        height, width = crop.pixels.shape[:2]
        assert 0 < width <= 64
        assert 0 < height <= 64
        assert (crop.box >= -1e-3).all()
        assert (crop.box <= np.array([width, height] * 2) + 1e-3).all()
        size = crop.region.box[2:] - crop.region.box[:2] + 1
        np.testing.assert_allclose(crop.box[2:] - crop.box[:2], size, atol=1e-3)
