"""The factor that gives a loss cross entropy's gradient norm, against the norm of the criterion's own gradient."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from focalbench.boxes.yolo import place_priors
from focalbench.experiment.scale import matched_factor
from focalbench.losses import LOSSES
from focalbench.losses.detection import DetectionLoss
from focalbench.losses.region import RegionLoss
from focalbench.structures import HeadOutputs, Targets
from focalbench.training.loop import StepSettings

NUM_CLASSES, CANVAS = 3, (96, 64)


class FixedOutputs(nn.Module):
    """A network that says the same of every batch."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, images):
        return self.outputs


@pytest.fixture
def outputs():
    generator = torch.Generator().manual_seed(0)
    anchors = place_priors(((0.6, 0.8), (1.5, 1.2)), CANVAS, 32)
    raw = torch.randn(2, len(anchors), 5 + NUM_CLASSES, generator=generator)
    return HeadOutputs(raw[..., 5:], 0.1 * raw[..., :4], anchors, CANVAS, (len(anchors),), raw[..., 4])


TARGETS = Targets(torch.tensor([[[6.0, 8, 28, 30], [20, 34, 60, 70]]] * 2), torch.tensor([[2, 0]] * 2))


def criterion_of(name, apply_to, weight=1.0, **options):
    num_classes = 1 if apply_to == "objectness" else NUM_CLASSES
    binary = LOSSES[name](num_classes=1, **options) if apply_to == "both" else None
    classification = LOSSES[name](num_classes=num_classes, **options)
    return RegionLoss(
        classification,
        num_classes=NUM_CLASSES,
        apply_to=apply_to,
        objectness=binary,
        weight=weight,
        class_scale=3.0,
    )


def norm_of(criterion, outputs, apply_to):
    """Of the gradient on the class logits and objectness of the terms that the loss under test is in."""
    leaves = [values.clone().requires_grad_() for values in (outputs.cls_logits, outputs.objectness)]
    losses = criterion(replace(outputs, cls_logits=leaves[0], objectness=leaves[1]), TARGETS)
    terms = {"class": ("cls",), "objectness": ("obj",), "both": ("cls", "obj")}[apply_to]
    sum(losses[term] for term in terms).backward()
    return torch.cat([leaf.grad.flatten() for leaf in leaves if leaf.grad is not None]).norm().item()


def factor_of(criterion, outputs):
    return matched_factor(
        FixedOutputs(outputs),
        criterion,
        lambda step: (torch.zeros(2, 3, 96, 64), TARGETS),
        num_batches=2,
        settings=StepSettings(torch.device("cpu"), torch.float32, clip_norm=None),
    )


@pytest.mark.parametrize("apply_to", ["class", "objectness", "both"])
@pytest.mark.parametrize(("name", "plain"), [("focal", "ce"), ("softmax_focal", "softmax_ce")])
def test_the_factor_gives_all_of_the_criterions_terms_cross_entropys_norm(outputs, name, plain, apply_to):
    reference = criterion_of(plain, apply_to)
    factor = factor_of(criterion_of(name, apply_to, gamma=2.0), outputs)
    assert abs(factor - 1) > 0.02
    found = norm_of(criterion_of(name, apply_to, gamma=2.0, weight=factor), outputs, apply_to)
    assert found == pytest.approx(norm_of(reference, outputs, apply_to), rel=1e-5)


def test_nothing_is_left_behind_in_loss_or_criterion(outputs):
    criterion = criterion_of("ghm", "both")
    before = {name: value.clone() for name, value in criterion.state_dict().items()}
    factor_of(criterion, outputs)
    for name, value in criterion.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_retinanets_outputs_have_no_objectness(outputs):
    criterion = DetectionLoss(LOSSES["focal"](num_classes=NUM_CLASSES), num_classes=NUM_CLASSES)
    reference = LOSSES["ce"](num_classes=NUM_CLASSES)
    flat = replace(outputs, objectness=None)
    factor = factor_of(criterion, flat)
    norms = []
    for loss in (reference, criterion.classification):
        leaf = flat.cls_logits.clone().requires_grad_()
        problem = criterion.class_problem(replace(flat, cls_logits=leaf), TARGETS)
        problem.loss(loss).backward()
        norms.append(leaf.grad.norm().item())
    assert factor == pytest.approx(norms[0] / norms[1], rel=1e-5)
