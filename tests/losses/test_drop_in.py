"""``FocalLoss`` against MMDetection's conventions, written afresh here from their description."""

import math

import pytest
import torch
from torch.nn import functional as F

from focalbench.losses import FocalLoss

LABELS = torch.tensor([0, 2, 3, 3, 1])


def elements(logits: torch.Tensor, targets: torch.Tensor, gamma: float, alpha: float) -> torch.Tensor:
    """(N, K) losses by the textbook formula."""
    p = logits.sigmoid()
    distance = (1 - p) * targets + p * (1 - targets)
    balance = alpha * targets + (1 - alpha) * (1 - targets)
    return balance * distance**gamma * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("form", [None, "anchor", "element", "flat"])
@pytest.mark.parametrize(
    "avg_factor", [None, 4.0, torch.tensor(4.0), torch.tensor([4.0])], ids=["", "number", "tensor", "of-one"]
)
@pytest.mark.parametrize("activated", [False, True])
def test_reductions_weights_and_normalisers(reduction, form, avg_factor, activated):
    logits = torch.randn(5, 3, dtype=torch.float64)
    targets = F.one_hot(LABELS, 4)[:, :3].double()
    weight = {None: None, "anchor": torch.rand(5), "element": torch.rand(5, 3), "flat": torch.rand(15)}[form]
    loss = FocalLoss(gamma=1.5, alpha=0.3, reduction=reduction, loss_weight=2.0, activated=activated)
    pred = logits.sigmoid() if activated else logits
    if reduction == "sum" and avg_factor is not None:
        with pytest.raises(ValueError, match="avg_factor can not be used"):
            loss(pred, LABELS, weight, avg_factor)
        return
    wanted = elements(logits, targets, 1.5, 0.3)
    if weight is not None:
        wanted = wanted * (weight[:, None] if form == "anchor" else weight.view(5, 3))
    if reduction != "none":
        divisor = 4.0 if avg_factor is not None else (15.0 if reduction == "mean" else 1.0)
        wanted = wanted.sum() / divisor
    for target in (LABELS, targets):
        torch.testing.assert_close(loss(pred, target, weight, avg_factor), 2 * wanted, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("shape", [(3, 5, 8, 8), (10, 5), (6,), (2, 3, 4)])
@pytest.mark.parametrize("kind", ["one-hot", "soft"])
def test_dense_targets_of_any_shape(activated, shape, kind):
    """As in MMDetection's own test (tests/test_models/test_losses/test_loss.py), with weights of the same shape."""
    logits = torch.randn(shape, dtype=torch.float64)
    targets = torch.randint(0, 2, shape) if kind == "one-hot" else torch.rand(shape, dtype=torch.float64)
    weight = torch.rand(shape, dtype=torch.float64)
    loss, pred = FocalLoss(activated=activated), logits.sigmoid() if activated else logits
    wanted = elements(logits, targets.double(), 2.0, 0.25)
    torch.testing.assert_close(loss(pred, targets), wanted.mean())
    torch.testing.assert_close(loss(pred, targets, reduction_override="none"), wanted)
    torch.testing.assert_close(loss(pred, targets, weight, reduction_override="sum"), (wanted * weight).sum())
    torch.testing.assert_close(loss(pred, targets, weight, avg_factor=10), (wanted * weight).sum() / 10)
    torch.testing.assert_close(loss(pred, targets, avg_factor=10, reduction_override="none"), wanted)
    with pytest.raises(ValueError, match="avg_factor can not be used"):
        loss(pred, targets, avg_factor=10, reduction_override="sum")


@pytest.mark.parametrize("activated", [False, True])
def test_class_ids_for_more_than_two_dimensions_name_the_way_out(activated):
    loss, pred = FocalLoss(activated=activated), torch.rand(2, 3, 4, 4)
    labels = torch.randint(0, 4, (2, 4, 4))
    with pytest.raises(ValueError, match=r"x\.movedim\(1, -1\)\.flatten\(0, -2\)"):
        loss(pred, labels)
    found = loss(pred.movedim(1, -1).flatten(0, -2), labels.flatten())
    dense = F.one_hot(labels, 4)[..., :3].movedim(-1, 1)
    torch.testing.assert_close(found, loss(pred, dense))


def test_the_gradient_in_targets_of_probabilities_is_the_formulas():
    p = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.3], dtype=torch.float64)
    targets = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0], dtype=torch.float64, requires_grad=True)
    loss = FocalLoss(gamma=0.1, alpha=0.5, activated=True, reduction="sum")(p, targets)
    (found,) = torch.autograd.grad(loss, targets)
    # u^gamma (gamma (1 - 2 p) c / u + log(1 - p) - log p) / 2, logarithms at least -100; 0 where u is 0
    inside = 0.3**0.1 * (0.1 * 0.4 * -math.log(0.7) / 0.3 + math.log(0.7) - math.log(0.3)) / 2
    wanted = torch.tensor([0.0, 55.0, -55.0, 0.0, inside], dtype=torch.float64)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["gamma", "alpha"])
def test_a_parameter_that_requires_a_gradient_gets_one_or_is_refused(name):
    value = torch.tensor(0.7, requires_grad=True)
    with pytest.raises(ValueError, match=f"{name} must be a number"):
        FocalLoss(**{name: value})
    loss, logits = FocalLoss(), torch.randn(5, 3)
    setattr(loss, name, value)
    for target in (LABELS, torch.rand(5, 3)):
        with pytest.raises(ValueError, match=f"{name} gets no gradient"):
            loss(logits, target)
        loss.activated = True
        assert torch.autograd.grad(loss(logits.sigmoid(), target), value)[0].isfinite()
        loss.activated = False


def test_the_override_wins():
    loss, logits = FocalLoss(reduction="mean"), torch.randn(5, 3)
    total = loss(logits, LABELS, reduction_override="sum")
    torch.testing.assert_close(loss(logits, LABELS) * 15, total)
    assert loss(logits, LABELS, reduction_override="none").shape == (5, 3)


def test_defaults_are_mmdetections():
    loss = FocalLoss()
    assert (loss.use_sigmoid, loss.gamma, loss.alpha, loss.reduction, loss.loss_weight, loss.activated) == (
        True, 2.0, 0.25, "mean", 1.0, False,
    )  # fmt: skip


def test_probabilities_of_zero_and_one_are_safe():
    p = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float32, requires_grad=True)
    for gamma in (0.0, 0.5, 2.0):
        for label in (0, 1, 2):
            loss = FocalLoss(gamma=gamma, activated=True, reduction="sum")(p, torch.tensor([label, label]))
            (gradient,) = torch.autograd.grad(loss, p)
            assert loss.isfinite()
            assert gradient.isfinite().all()


def test_small_probabilities_cost_what_torchs_cross_entropy_says():
    p = torch.tensor([[1e-3], [1e-5], [1e-8]], requires_grad=True)
    loss = FocalLoss(gamma=0.0, alpha=0.0, reduction="none", activated=True)(p, torch.ones(3, dtype=torch.long))
    wanted = F.binary_cross_entropy(p, torch.zeros_like(p), reduction="none")
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), p)[0] for x in (loss, wanted)), rtol=1e-6, atol=0.0)


def test_a_saturated_mistake_costs_as_much_as_torchs_bound():
    loss = FocalLoss(gamma=0.0, alpha=1.0, activated=True, reduction="sum")
    assert loss(torch.tensor([[0.0]]), torch.tensor([0])).item() == 100.0


def test_a_subnormal_probability_has_a_finite_gradient():
    p = torch.tensor([[1e-42]], requires_grad=True)
    loss = FocalLoss(gamma=0.0, alpha=1.0, activated=True, reduction="sum")(p, torch.tensor([0]))
    assert loss.item() == pytest.approx(-math.log(p.item()))
    assert torch.autograd.grad(loss, p)[0].isfinite()


def test_ignored_labels_cost_nothing():
    logits = torch.randn(2, 3)
    for activated in (False, True):
        loss = FocalLoss(reduction="none", activated=activated)
        assert (loss(logits.sigmoid(), torch.tensor([0, -1]))[1] == 0).all()


@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("fault", [ValueError, AssertionError])
def test_faults_are_both_kinds_of_error(activated, fault):
    loss, pred = FocalLoss(activated=activated), torch.rand(5, 3)
    with pytest.raises(fault, match="use_sigmoid"):
        FocalLoss(use_sigmoid=False)
    with pytest.raises(fault, match="gamma"):
        FocalLoss(gamma=-1.0)
    with pytest.raises(fault, match="alpha"):
        FocalLoss(alpha=1.1)
    with pytest.raises(fault, match="reduction"):
        FocalLoss(reduction="avg")
    with pytest.raises(fault, match="reduction"):
        loss(pred, LABELS, reduction_override="avg")
    with pytest.raises(fault, match="weight has shape"):
        loss(pred, LABELS, torch.ones(4))
    with pytest.raises(fault, match="out of range"):
        loss(pred, LABELS + 1)
    with pytest.raises(fault, match=r"class ids must be integers"):
        loss(pred, LABELS.double())
    with pytest.raises(fault, match=r"must lie in \[0, 1\]"):
        loss(pred, torch.full((5, 3), 1.5))
    with pytest.raises(fault):
        loss(pred, LABELS[:3])


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_activated_input_that_is_no_probability_is_refused(p):
    with pytest.raises(ValueError, match=r"activated input must lie in \[0, 1\]"):
        FocalLoss(activated=True)(torch.tensor([[p, 0.5, 0.5]]), torch.tensor([0]))


@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_targets_on_a_device_are_checked_there(monkeypatch, activated, soft):
    """The meta device stands for one whose values cannot be looked at without waiting."""
    asserted = []
    monkeypatch.setattr(torch, "_assert_async", lambda fits, message: asserted.append(message))
    target = torch.zeros(5, 3, device="meta") if soft else torch.zeros(5, dtype=torch.int64, device="meta")
    FocalLoss(activated=activated, reduction="none")(torch.rand(5, 3, device="meta"), target)
    wanted = ["targets of the logits' shape must lie in [0, 1]" if soft else "label is outside -1..3"]
    wanted += ["activated input must lie in [0, 1]"] if activated else []
    assert len(asserted) == len(wanted)
    assert all(any(text in message for message in asserted) for text in wanted)
