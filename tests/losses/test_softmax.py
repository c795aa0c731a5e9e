"""Softmax losses over the classes and the background (last)."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from focalbench.losses import LOSSES, softmax_focal_loss
from focalbench.losses.base import Counts

GAMMAS = (0.0, 0.1, 0.5, 1.0, 2.0, 3.3, 5.0)


def exact(row: list[float], label: int, gamma: float) -> tuple[float, list[float]]:
    """Value and gradient with 60 digits; 1 - p_y is the sum of the others, not a difference."""
    with mpmath.workdps(60):
        powers = [mpmath.exp(mpmath.mpf(x) - max(row)) for x in row]
        total = mpmath.fsum(powers)
        p = powers[label] / total
        rest = mpmath.fsum(power for j, power in enumerate(powers) if j != label) / total
        log_p = mpmath.log1p(-rest) if rest < mpmath.mpf("0.5") else mpmath.log(p)
        # dL/dx_j = (delta_jy - p_j) p (gamma rest^(gamma - 1) log p - rest^gamma / p)
        inner = mpmath.mpf(gamma) * rest ** (mpmath.mpf(gamma) - 1) * log_p * p - rest**gamma
        slopes = [inner * (rest if j == label else -power / total) for j, power in enumerate(powers)]
        return float(-(rest**gamma) * log_p), [float(slope) for slope in slopes]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_value_and_gradient_agree_with_sixty_digits(gamma, reduction):
    rows = ([0.0, 0, 0], [1.0, -2, 0.5], [30.0, 0, 1], [-30.0, 0, 1], [80.0, -3, 79], [9e3, -1e4, 3], [-1e4, 1e4, 0])
    for row in rows:
        for label in range(3):
            logits = torch.tensor([row], requires_grad=True)
            loss = softmax_focal_loss(logits, torch.tensor([label]), gamma=gamma, reduction=reduction).sum()
            loss.backward()
            value, slopes = exact(row, label, gamma)
            assert loss.item() == pytest.approx(value, rel=1e-6, abs=1e-25)
            for found, wanted in zip(logits.grad[0].tolist(), slopes, strict=True):
                assert found == pytest.approx(wanted, rel=1e-6, abs=1e-25), (row, label)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_gamma_zero_is_torchs_cross_entropy(reduction):
    logits = (torch.randn(30, 5, dtype=torch.float64) * 4).requires_grad_()
    labels = torch.randint(-1, 5, (30,))
    weights = torch.rand(5, dtype=torch.float64)
    ours = softmax_focal_loss(logits, labels, gamma=0.0, alpha=weights, reduction=reduction)
    theirs = F.cross_entropy(logits, labels, weights, ignore_index=-1, reduction="none")
    theirs = theirs if reduction == "none" else theirs.sum() / (30 if reduction == "mean" else 1)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), logits)[0] for x in (ours, theirs)))


def test_two_outputs_are_a_sigmoid_of_their_difference():
    logits = torch.randn(20, 2, dtype=torch.float64) * 5
    labels = torch.randint(0, 2, (20,))
    from focalbench.losses import sigmoid_focal_loss

    difference = (logits[:, :1] - logits[:, 1:]) * torch.where(labels == 0, 1.0, -1.0)[:, None]
    wanted = sigmoid_focal_loss(difference, torch.zeros(20, dtype=torch.long), gamma=2.0, alpha=None)[:, 0]
    torch.testing.assert_close(softmax_focal_loss(logits, labels, gamma=2.0), wanted)


def test_a_single_alpha_goes_where_alpha_on_says():
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 2])
    paper = softmax_focal_loss(logits, labels, gamma=0.0, alpha=0.25)
    reverse = softmax_focal_loss(logits, labels, gamma=0.0, alpha=0.25, alpha_on="background")
    assert paper.tolist() == pytest.approx([0.25 * math.log(3), 0.75 * math.log(3)])
    assert reverse.tolist() == pytest.approx([0.75 * math.log(3), 0.25 * math.log(3)])


def test_one_hot_targets_equal_class_ids():
    logits = (torch.randn(20, 4, dtype=torch.float64) * 3).requires_grad_()
    labels = torch.randint(0, 4, (20,))
    weights = [0.1, 0.2, 0.3, 0.4]
    ids = softmax_focal_loss(logits, labels, alpha=weights)
    dense = softmax_focal_loss(logits, F.one_hot(labels, 4).double(), alpha=weights)
    torch.testing.assert_close(ids, dense)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), logits)[0] for x in (ids, dense)))


def test_row_weights_and_avg_factor():
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, -1, 0])
    weight = torch.rand(6, dtype=torch.float64)
    rows = softmax_focal_loss(logits, labels) * weight
    for loss, wanted in (
        (softmax_focal_loss(logits, labels, weight=weight, reduction="mean", avg_factor=2.0), rows.sum() / 2),
        (softmax_focal_loss(logits, labels, weight=weight, reduction="mean"), rows.sum() / 6),
        (softmax_focal_loss(logits, labels, weight=weight, reduction="sum"), rows.sum()),
    ):
        torch.testing.assert_close(loss, wanted)
        torch.testing.assert_close(*(torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (loss, wanted)))


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(0, 30),
    outputs=st.integers(2, 6),
    seed=st.integers(0, 2**31),
    gamma=st.sampled_from(GAMMAS),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    scale=st.sampled_from([1.0, 100.0, 1e4]),
    only_ignored=st.booleans(),
)
def test_any_shape_and_dtype_is_finite_and_reductions_agree(rows, outputs, seed, gamma, dtype, scale, only_ignored):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, outputs, generator=generator) * scale).to(dtype).requires_grad_()
    labels = torch.randint(-1, outputs, (rows,), generator=generator)
    labels = torch.full_like(labels, -1) if only_ignored else labels
    losses = softmax_focal_loss(logits, labels, gamma=gamma)
    total = softmax_focal_loss(logits, labels, gamma=gamma, reduction="sum")
    torch.testing.assert_close(total, losses.sum(), rtol=2e-6, atol=1e-12)
    (gradient,) = torch.autograd.grad(total, logits)
    assert losses.isfinite().all()
    assert gradient.isfinite().all()
    assert (gradient[labels < 0] == 0).all()


def test_auto_balances_foreground_and_background():
    counts = Counts((30, 10), 960)
    on_positives = LOSSES["softmax_balanced_ce"](num_classes=2, alpha="auto", counts=counts).class_weights()
    on_background = LOSSES["softmax_balanced_ce"](
        num_classes=2, alpha="auto", alpha_on="background", counts=counts
    ).class_weights()
    assert on_positives.tolist() == pytest.approx([0.96, 0.96, 0.04])
    assert on_background.tolist() == pytest.approx([0.96, 0.96, 0.04])


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"gamma": -1.0}, "gamma"),
        ({"alpha": 1.5}, "alpha must be in"),
        ({"alpha": [1.0, 2.0]}, "2 entries, but 3"),
        ({"gamma": torch.tensor(-1.0)}, "gamma must be finite and at least 0"),
        ({"gamma": torch.tensor(2.0, requires_grad=True)}, "gamma gets no gradient"),
        ({"alpha": torch.tensor(5.0)}, r"alpha must lie in \[0, 1\]"),
        ({"alpha": torch.tensor([1.0, -1.0, 0.0])}, "alpha must be finite"),
        ({"alpha": torch.ones(3, requires_grad=True), "labels": torch.zeros(2, 3)}, "alpha gets no gradient"),
        ({"labels": torch.tensor([True, False])}, "must be integers"),
        ({"labels": torch.tensor([0, 3])}, "label 3 is out of range"),
        ({"labels": torch.tensor([0.0, 1.0])}, "must be integers"),
        ({"labels": torch.full((2, 3), 2.0)}, "must lie in"),
        ({"weight": torch.ones(3)}, "weight has shape"),
        ({"logits": torch.zeros(2, 3, 4), "labels": torch.zeros(2, 3, 4)}, r"needs \(N, C\) logits"),
        ({"logits": torch.zeros(2, 1), "labels": torch.tensor([0, 0])}, "at least 2 outputs"),
        ({"reduction": "sum", "avg_factor": 2.0}, "can not be used"),
    ],
)
def test_bad_arguments_are_clear_errors(arguments, match):
    arguments = {"logits": torch.zeros(2, 3), "labels": torch.tensor([0, 2]), **arguments}
    with pytest.raises(ValueError, match=match):
        softmax_focal_loss(arguments.pop("logits"), arguments.pop("labels"), **arguments)
