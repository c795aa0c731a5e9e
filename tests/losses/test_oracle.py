"""The loss before the first step, and the names of what goes wrong."""

import math

import pytest
import torch

from focalbench.losses import LOSSES
from focalbench.losses.base import Counts
from focalbench.losses.oracle import diagnose_initial_loss, diagnose_stuck, initial_sigmoid_loss


def test_the_figures_of_the_semantics_page():
    focal = initial_sigmoid_loss(100_000, 50, 0.01, num_classes=20, gamma=2, alpha=0.25)
    assert 0.25 * 0.99**2 * -math.log(0.01) == pytest.approx(1.13, abs=0.005)
    assert focal == pytest.approx(1.13 + 0.75 * 0.01**2 * 0.01005 * (2e6 - 50) / 50, abs=0.01)
    balanced = initial_sigmoid_loss(100_000, 50, 0.01, num_classes=20, gamma=0, alpha=0.5)
    assert balanced == pytest.approx(200, rel=0.03)


@pytest.mark.parametrize(
    "name",
    ["ce", "balanced_ce", "focal", "focal_star", "asymmetric", "softmax_ce", "softmax_balanced_ce", "softmax_focal"],
)
@pytest.mark.parametrize("prior", [0.01, 0.2, None])
def test_the_expectation_is_the_loss_of_an_untrained_head(name, prior):
    num_classes, anchors, positives = 4, 300, 6
    loss = LOSSES[name](num_classes=num_classes)
    if loss.activation == "sigmoid":
        logits = torch.full((1, anchors, num_classes), 0.0 if prior is None else math.log(prior / (1 - prior)))
    else:
        row = [0.0] * num_classes + [0.0 if prior is None else math.log(num_classes * (1 - prior) / prior)]
        logits = torch.tensor(row).expand(1, anchors, num_classes + 1)
    labels = torch.full((1, anchors), num_classes)
    labels[0, :positives] = torch.arange(positives) % num_classes
    observed = float(loss(logits, labels)) / positives
    assert observed == pytest.approx(loss.initial_loss(anchors, positives, prior), rel=1e-5)


@pytest.mark.parametrize("name", ["ohem", "ghm", "quality_focal", "varifocal", "class_balanced"])
def test_losses_without_a_closed_form_say_so(name):
    loss = LOSSES[name](num_classes=2, counts=Counts((1, 1), 10))
    assert loss.initial_loss(100, 5, 0.01) is None


def test_without_positives_there_is_no_expectation():
    assert LOSSES["focal"](num_classes=2).initial_loss(100, 0, 0.01) is None


@pytest.mark.parametrize(
    ("observed", "words"),
    [
        (1.0, None),
        (1.19, None),
        (0.81, None),
        (1.5, "vary"),
        (60.0, "prior"),
        (0.5, "more anchors"),
        (0.001, "divided by more"),
        (math.nan, "not finite"),
    ],
)
def test_a_start_that_is_off_is_explained(observed, words):
    message = diagnose_initial_loss(observed, 1.0)
    assert message is None if words is None else words in message


def test_nothing_is_said_without_an_expectation():
    assert diagnose_initial_loss(5.0, None) is None


def test_a_missing_prior_is_what_the_warning_says():
    """The mistake as it happens: the head starts at 1/2, the configuration says .01."""
    loss = LOSSES["ce"](num_classes=20)
    without, with_prior = loss.initial_loss(5000, 10, None), loss.initial_loss(5000, 10, 0.01)
    assert "prior" in diagnose_initial_loss(without, with_prior)


def test_background_collapse_has_its_value_and_its_name():
    value = 0.25 * (1 - 1e-4) ** 2 * -math.log(1e-4)
    assert value == pytest.approx(2.302, abs=1e-3)
    assert "collapse" in diagnose_stuck([5.0, 3.0] + [value] * 50)
    assert "collapse" in diagnose_stuck([-math.log(1e-4)] * 50)


def test_a_stuck_loss_is_named_and_a_falling_one_is_not():
    assert "not moved" in diagnose_stuck([0.7] * 60)
    assert diagnose_stuck([0.7] * 10) is None
    assert diagnose_stuck([1 / (step + 1) for step in range(100)]) is None
    assert diagnose_stuck([math.nan] * 60) is None
