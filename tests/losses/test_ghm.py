"""GHM-C: weights from the histogram of gradient norms."""

import pytest
import torch
from torch.nn import functional as F

from focalbench.losses import LOSSES


def test_by_its_formula():
    """The authors' recipe: each bin in use weighs total / (count * bins in use), the mean is over all elements."""
    logits = torch.randn(1, 50, 4, dtype=torch.float64) * 2
    labels = torch.randint(-1, 5, (1, 50))
    loss = LOSSES["ghm"](num_classes=4, momentum=0.0)
    found = loss(logits, labels)
    targets = F.one_hot(labels.clamp(min=0), 5)[..., :4].double()
    valid = (labels >= 0)[..., None].expand_as(targets)
    norms = (logits.sigmoid() - targets).abs()
    bins = (norms.float() * 30).long().clamp(max=29)
    counts = torch.bincount(bins[valid], minlength=30)
    total, used = valid.sum(), (counts > 0).sum()
    weights = total / (counts[bins].clamp(min=1) * used)
    elements = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * weights * valid
    num_positives = ((labels >= 0) & (labels < 4)).sum().clamp(min=1)
    torch.testing.assert_close(found / num_positives, elements.sum() / total)


def test_every_bin_in_use_weighs_the_same():
    """1000 easy negatives and one hard one: their gradients' sums are in the ratio of the norms alone."""
    logits = torch.full((1, 1001, 1), -4.0)
    logits[0, 0] = 4.0
    logits.requires_grad_()
    loss = LOSSES["ghm"](num_classes=1, momentum=0.0)(logits, torch.ones(1, 1001, dtype=torch.long))
    (gradient,) = torch.autograd.grad(loss, logits)
    norm = torch.sigmoid(torch.tensor(4.0))
    assert (gradient[0, 0] / gradient[0, 1:].sum()).item() == pytest.approx(float(norm / (1 - norm)), rel=1e-4)


def test_averages_move_only_while_learning():
    loss = LOSSES["ghm"](num_classes=2, momentum=0.5)
    first = torch.zeros(1, 10, 2, requires_grad=True)  # norm 1/2: bin 15
    labels = torch.full((1, 10), 2)
    loss(first.detach(), labels)
    assert loss.density.sum() == 0
    loss(first, labels)
    assert loss.density[15] == 20
    loss(torch.zeros(1, 5, 2, requires_grad=True), labels[:, :5])
    assert loss.density[15] == 15
    loss.eval()(first, labels)
    assert loss.density[15] == 15


def test_a_histogram_over_several_chunks_counts_everything():
    loss = LOSSES["ghm"](num_classes=3)
    labels = torch.randint(-1, 4, (1, 60_000))
    loss(torch.randn(1, 60_000, 3, requires_grad=True), labels)
    assert loss.density.sum() == 3 * (labels >= 0).sum()
