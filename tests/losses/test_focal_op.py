"""The focal sum as an operation: derivatives of both orders, graphs kept or compiled, schedules between calls."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import gradcheck, gradgradcheck

from focalbench.losses import LOSSES, sigmoid_focal_loss, softmax_focal_loss
from focalbench.losses.elementwise import sum_on_cpu, sum_with_masks
from focalbench.losses.focal_op import focal_sum
from focalbench.losses.focal_terms import FocalTerms

GAMMAS = (0.0, 0.5, 1.0, 2.0, 3.3)
LABELS = torch.tensor([0, 1, 2, 3, -1, 3, 1])


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def random_logits(columns: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return (torch.randn(7, columns, generator=generator, dtype=torch.float64) * 3).requires_grad_()


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("weight", [None, torch.rand(7, 1).double(), torch.rand(7, 3).double()], ids=["", "row", "all"])
def test_both_derivatives_of_the_sum(gamma, weight):
    def loss(x):
        return focal_sum(x, LABELS, scalar(gamma), scalar(0.25), scalar(0.75), weight)

    assert gradcheck(loss, (random_logits(),))
    assert gradgradcheck(loss, (random_logits(),))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_both_derivatives_of_the_elementwise_form(gamma):
    soft = torch.rand(7, 3, dtype=torch.float64)
    for labels in (LABELS, soft):
        assert gradcheck(lambda x, y=labels: sigmoid_focal_loss(x, y, gamma=gamma), (random_logits(),))
        assert gradgradcheck(lambda x, y=labels: sigmoid_focal_loss(x, y, gamma=gamma), (random_logits(),))


@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("gamma", GAMMAS)
def test_both_derivatives_of_the_softmax_form(gamma, reduction):
    def loss(x):
        return softmax_focal_loss(x, LABELS, gamma=gamma, alpha=[0.1, 0.2, 0.3, 0.4], reduction=reduction)

    assert gradcheck(loss, (random_logits(4),))
    assert gradgradcheck(loss, (random_logits(4),))


def test_the_masked_path_equals_the_chunked_one():
    """What runs on a GPU without Triton, run here on the CPU."""
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(500, 6, generator=generator) * 4
    labels = torch.randint(-1, 7, (500,), generator=generator)
    weight = torch.rand(500, 1, generator=generator)
    for gamma in GAMMAS:
        terms = FocalTerms(torch.tensor(gamma), torch.rand(6, generator=generator), torch.tensor(0.6))
        chunked = sum_on_cpu(logits, labels, terms, weight, want_grad=True)
        masked = sum_with_masks(logits, labels, terms, weight, want_grad=True)
        for a, b in zip(chunked, masked, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-9)


def test_the_masked_path_refuses_labels_out_of_range():
    terms = FocalTerms(*torch.tensor([2.0, 0.25, 0.75]))
    with pytest.raises(RuntimeError, match=r"label is outside -1\.\.2"):
        sum_with_masks(torch.zeros(3, 2), torch.tensor([0, 3, 1]), terms, None, want_grad=False)


@pytest.mark.parametrize("name", ["focal", "softmax_focal", "focal_star", "asymmetric"])
def test_a_graph_can_be_used_twice(name):
    loss = LOSSES[name](num_classes=3)
    logits = torch.randn(1, 7, 3 + (loss.activation == "softmax"), requires_grad=True)
    value = loss(logits, LABELS[None])
    (first,) = torch.autograd.grad(value, logits, retain_graph=True)
    first = first.clone()
    (second,) = torch.autograd.grad(3 * value, logits)
    torch.testing.assert_close(second, 3 * first)


def test_losses_without_a_second_derivative_say_so():
    logits = torch.randn(1, 7, 3, requires_grad=True)
    loss = LOSSES["asymmetric"](num_classes=3)(logits, LABELS[None])
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss, logits, create_graph=True)


def test_a_schedule_may_move_between_forward_and_backward():
    loss = LOSSES["focal"](num_classes=3, gamma={"schedule": "linear", "values": [0, 4]})
    logits = torch.randn(1, 7, 3, dtype=torch.float16, requires_grad=True)  # its gradient is computed in backward
    (wanted,) = torch.autograd.grad(loss(logits, LABELS[None]), logits)
    value = loss(logits, LABELS[None])
    loss.set_progress(1.0)
    (found,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_compiles_whole_and_schedules_do_not_recompile(dtype):
    loss = LOSSES["focal"](num_classes=3, gamma={"schedule": "linear", "values": [0, 4]}, alpha=[0.2, 0.3, 0.4])
    frames = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x, y: 2 * loss(x, y), backend=frames, fullgraph=True)
    logits = torch.randn(1, 7, 3, dtype=dtype, requires_grad=True)
    for fraction in (0.0, 0.3, 1.0):
        loss.set_progress(fraction)
        found, wanted = compiled(logits, LABELS[None]), 2 * loss(logits, LABELS[None])
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (found, wanted)))
    assert frames.frame_count == 1


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it
@pytest.mark.parametrize("name", ["softmax_focal", "ghm", "ohem", "asymmetric"])
def test_other_losses_run_under_compile(name):
    loss = LOSSES[name](num_classes=3)
    loss.eval()
    logits = torch.randn(1, 7, 3 + (loss.activation == "softmax"), requires_grad=True)
    boxes = torch.tensor([0.0, 0.0, 1.0, 1.0]) + 5 * torch.arange(7.0)[None, :, None]
    compiled = torch.compile(loss, backend="eager")
    torch.testing.assert_close(compiled(logits, LABELS[None], boxes=boxes), loss(logits, LABELS[None], boxes=boxes))


def test_autocast_leaves_the_sum_in_float32():
    features, matrix = torch.randn(7, 5), torch.randn(5, 3, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = features @ matrix
        value = LOSSES["focal"](num_classes=3)(logits[None], LABELS[None])
        assert logits.dtype == torch.bfloat16
        assert value.dtype == torch.float32
    value.backward()
    assert matrix.grad.isfinite().all()
