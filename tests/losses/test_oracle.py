"""The loss before the first step, and the names of what goes wrong."""

import math

import pytest
import torch

from focalbench.losses import LOSSES
from focalbench.losses.base import Counts
from focalbench.losses.oracle import (
    diagnose_initial_loss,
    diagnose_start,
    diagnose_stuck,
    initial_sigmoid_loss,
    sum_at_outputs,
)


def test_the_figures_of_the_semantics_page():
    focal = initial_sigmoid_loss(100_000, 50, 0.01, num_classes=20, gamma=2, alpha=0.25)
    assert 0.25 * 0.99**2 * -math.log(0.01) == pytest.approx(1.13, abs=0.005)
    assert focal == pytest.approx(1.13 + 0.75 * 0.01**2 * 0.01005 * (2e6 - 50) / 50, abs=0.01)
    balanced = initial_sigmoid_loss(100_000, 50, 0.01, num_classes=20, gamma=0, alpha=0.5)
    assert balanced == pytest.approx(200, rel=0.03)


SOFTMAX = ["softmax_ce", "softmax_balanced_ce", "softmax_focal"]
CLOSED = ["ce", "balanced_ce", "focal", "focal_star", "asymmetric", *SOFTMAX]


@pytest.mark.parametrize("name", CLOSED)
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


def _untrained(loss, *, spread, prior=0.01, positives=40):
    """Outputs and labels of an untrained head whose log-odds vary around the prior; some anchors are ignored."""
    generator = torch.Generator().manual_seed(3)
    outputs = loss.num_classes + (loss.activation == "softmax")
    logits = spread * torch.randn(2, 2000, outputs, generator=generator)
    if loss.activation == "sigmoid":
        logits += math.log(prior / (1 - prior))
    else:
        logits[..., -1] += math.log(loss.num_classes * (1 - prior) / prior)
    labels = torch.full((2, 2000), loss.num_classes)
    labels[:, :positives] = torch.arange(positives) % loss.num_classes
    labels[:, 1900:] = -1
    return logits, labels


@pytest.mark.parametrize("name", CLOSED)
@pytest.mark.parametrize("num_classes", [1, 5])
@pytest.mark.parametrize("spread", [0.0, 0.4, 1.5])
def test_the_closed_form_says_what_the_loss_is_at_any_outputs(name, num_classes, spread):
    loss = LOSSES[name](num_classes=num_classes)
    logits, labels = _untrained(loss, spread=spread)
    assert sum_at_outputs(loss, logits, labels) == pytest.approx(float(loss(logits, labels)), rel=5e-3)


def test_outputs_beyond_all_bounds_have_a_value_too():
    loss = LOSSES["focal"](num_classes=2)
    logits = torch.tensor([[[1e6, -1e6], [torch.nan, torch.inf]]])
    assert math.isfinite(sum_at_outputs(loss, logits, torch.tensor([[0, 2]])))
    assert sum_at_outputs(loss, torch.zeros(1, 0, 2), torch.zeros(1, 0, dtype=torch.long)) == 0
    assert sum_at_outputs(LOSSES["ghm"](num_classes=2), logits, torch.tensor([[0, 2]])) is None


@pytest.mark.parametrize("name", CLOSED)
def test_chance_in_the_first_weights_is_no_fault_and_a_wrong_sum_is(name):
    """Few positives, as of large objects of one class: half more than at the prior, by chance alone."""
    loss = LOSSES[name](num_classes=1)
    logits, labels = _untrained(loss, spread=0.9, positives=3)
    observed, at_outputs = float(loss(logits, labels)) / 6, sum_at_outputs(loss, logits, labels) / 6
    expected = loss.initial_loss(1900, 3, 0.01)
    assert diagnose_initial_loss(observed, expected, at_outputs) is None
    if name == "ce":
        assert observed > 1.25 * expected
        assert "counted twice" in diagnose_initial_loss(observed, expected)
    assert "counted twice" in diagnose_initial_loss(2 * observed, expected, at_outputs)
    assert "divided by more than" in diagnose_initial_loss(observed * 6 / 3800, expected, at_outputs)
    assert "not divided" in diagnose_initial_loss(observed * 6, expected, at_outputs)


@pytest.mark.parametrize(
    ("observed", "words"),
    [
        (1.0, None),
        (1.19, None),
        (0.81, None),
        (1.5, "counted twice"),
        (60.0, "not divided"),
        (0.5, "left out"),
        (0.001, "divided by more"),
        (math.nan, "not finite"),
    ],
)
def test_a_first_loss_that_is_off_is_explained(observed, words):
    message = diagnose_initial_loss(observed, 1.0)
    assert message is None if words is None else words in message


def test_nothing_is_said_without_an_expectation():
    assert diagnose_initial_loss(5.0, None) is None


@pytest.mark.parametrize(
    ("mean", "spread", "prior", "objects", "words"),
    [
        (-4.6, 0.3, 0.01, 1, None),
        (-4.1, 0.4, 0.01, 1, None),
        (-3.0, 1.6, 0.01, 1, None),
        (0.0, 0.3, 0.01, 1, "starts at a probability of 0.5, not at its prior of 0.01"),
        (0.0, 1.6, 0.01, 1, "prior"),
        (-4.6, 0.3, None, 1, "not at its prior of 0.5"),
        (0.1, 0.3, None, 1, None),
        (math.log(20), 0.3, None, 20, None),
        (-4.6, 3.5, 0.01, 1, "standard deviation of 3.5"),
    ],
)
def test_a_head_that_does_not_start_at_its_prior_is_told(mean, spread, prior, objects, words):
    message = diagnose_start(mean, spread, prior, num_objects=objects)
    assert message is None if words is None else words in message


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
