"""What every criterion has to keep to around any loss, so that training and analysis need not know which one it is."""

from typing import Any

import pytest
import torch
from torch import nn

from focalbench.config.schema import ExperimentConfig
from focalbench.experiment.build import build_model
from focalbench.experiment.build_loss import build_criterion, keywords_among
from focalbench.losses import CRITERIA
from focalbench.losses.base import ClassificationLoss, Counts
from focalbench.losses.criterion import Criterion
from focalbench.structures import HeadOutputs, Targets

CLASSES = ("a", "b", "c")
TARGETS = Targets(torch.tensor([[[4.0, 8, 40, 44], [30, 20, 60, 62]]] * 2), torch.tensor([[2, 0], [1, -1]]))
PLACES = [(name, "class") for name in sorted(CRITERIA)] + [("yolov2", "objectness"), ("yolov2", "both")]


def _built(detector: str, apply_to: str = "class", **loss: Any) -> tuple[Any, Criterion]:
    section = {"name": "focal", "weight": 3.0, "apply_to": apply_to, **loss}
    config = ExperimentConfig.model_validate({"model": {"name": detector, "backbone": "tiny"}, "loss": section})
    model = build_model(config, len(CLASSES))
    return model, build_criterion(config, model)


def _outputs(model: nn.Module) -> HeadOutputs:
    torch.manual_seed(0)
    return model(torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize(("name", "apply_to"), PLACES)
@pytest.mark.parametrize("loss", ["focal", "softmax_focal", "varifocal", "ohem", "class_balanced"])
def test_terms_are_finite_scalars_that_reach_the_network(name: str, apply_to: str, loss: str) -> None:
    model, criterion = _built(name, apply_to, name=loss)
    nothing = Targets(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    for targets in (TARGETS, Targets(TARGETS.boxes, torch.full((2, 2), -1)), nothing):
        terms = criterion(_outputs(model), targets)
        assert {"cls", "box", "num_pos"} <= terms.keys()
        assert all(value.shape == () and value.isfinite() for value in terms.values())
        assert (terms["num_pos"] > 0) == bool((targets.labels >= 0).any())
    terms = criterion(_outputs(model), TARGETS)
    torch.stack([value for term, value in terms.items() if term != "num_pos"]).sum().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("name", "apply_to"), PLACES)
def test_every_loss_under_test_is_the_configured_one_and_is_asked(name: str, apply_to: str) -> None:
    model, criterion = _built(name, apply_to, gamma=1.5, alpha=0.4)
    losses = criterion.losses()
    assert losses["classification"] is criterion.classification
    assert all(loss.scheduled() == pytest.approx({"gamma": 1.5, "alpha": 0.4}) for loss in losses.values())
    problems = criterion.problems(_outputs(model), TARGETS)
    counts = criterion.count(model.anchors_for((64, 64)), TARGETS)
    assert losses.keys() == problems.keys() == counts.keys()
    for part, loss in losses.items():
        assert problems[part].loss(loss).isfinite()
        assert len(counts[part].positives_per_class) == loss.num_classes
        assert counts[part].positives > 0


@pytest.mark.parametrize(("name", "apply_to"), PLACES)
def test_schedules_of_every_loss_under_test_move(name: str, apply_to: str) -> None:
    _, criterion = _built(name, apply_to, gamma={"schedule": "linear", "values": [0, 4]})
    criterion.set_progress(0.5)
    assert [loss.scheduled()["gamma"] for loss in criterion.losses().values()] == [2.0] * len(criterion.losses())


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_the_class_term_is_the_problem_of_the_loss_times_its_weight(name: str) -> None:
    model, criterion = _built(name)
    outputs = _outputs(model)
    asked = criterion.class_problem(outputs, TARGETS).loss(criterion.classification)
    torch.testing.assert_close(criterion(outputs, TARGETS)["cls"], 3.0 * asked)
    assert criterion.weight.item() == 3.0


def test_counts_of_two_parts_add_up() -> None:
    assert Counts((1, 2), 3) + Counts((10, 20), 30) == Counts((11, 22), 33)


def test_keywords_are_looked_for_in_bases_that_get_the_rest() -> None:
    class Base:
        def __init__(self, *, a: int, b: int) -> None: ...

    class Passing(Base):
        def __init__(self, *, c: int, **rest: int) -> None: ...

    class Closed(Base):
        def __init__(self, *, c: int) -> None: ...

    given = {"a": 1, "c": 3, "d": 4}
    assert keywords_among(given, Passing) == {"a": 1, "c": 3}
    assert keywords_among(given, Closed) == {"c": 3}
    assert keywords_among(given, ClassificationLoss) == {}
