"""Smooth L1 by hand and against its limits."""

import pytest
import torch

from focalbench.losses.box import smooth_l1_loss


def test_the_two_branches_by_hand():
    """0.05 lies in the parabola: .5 * .05^2 / .1; 0.3 on the line: .3 - .05."""
    deltas, target = torch.tensor([[0.05, -0.05, 0.3, 0.0]]), torch.zeros(1, 4)
    expected = 2 * (0.5 * 0.05**2 / 0.1) + 0.25
    assert smooth_l1_loss(deltas, target, beta=0.1).item() == pytest.approx(expected)


def test_beta_zero_is_l1_and_a_large_beta_half_a_square():
    deltas, target = torch.randn(5, 4), torch.randn(5, 4)
    gap = (deltas - target).abs()
    torch.testing.assert_close(smooth_l1_loss(deltas, target, beta=0), gap.sum())
    torch.testing.assert_close(smooth_l1_loss(deltas, target, beta=100.0), (gap.square() / 200).sum())


def test_no_rows_give_zero_with_a_gradient():
    deltas = torch.zeros(0, 4, requires_grad=True)
    loss = smooth_l1_loss(deltas, torch.zeros(0, 4), beta=0.1)
    loss.backward()
    assert loss.item() == 0
    assert deltas.grad.shape == (0, 4)


def test_half_precision_is_summed_in_float32():
    deltas = torch.ones(4096, 4, dtype=torch.bfloat16)
    loss = smooth_l1_loss(deltas, torch.zeros(4096, 4), beta=0)
    assert loss.dtype == torch.float32
    assert loss.item() == 4096 * 4
