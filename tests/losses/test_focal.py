"""The sigmoid focal loss against mpmath, torchvision and the properties that the paper states."""

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from focalbench.losses import FocalLoss, focal, sigmoid_focal_loss, softmax_focal_loss
from focalbench.losses.focal_terms import FocalTerms

GAMMAS = (0.0, 0.1, 0.5, 1.0, 2.0, 3.3, 5.0)
LOGITS = (0.0, 1e-3, 0.5, 1.0, 3.0, 8.0, 13.0, 17.0, 25.0, 60.0, 88.5, 104.0, 1e3, 1e4)
ANY_SHAPE = {"logits": torch.zeros(3, 2, 4), "labels": torch.zeros(3, 2, 4)}
TINY = 1e-25  # below it float32 exponents of power and logarithm dominate; such elements cannot be seen in any sum


def exact(x: float, positive: bool, gamma: float, alpha: float) -> tuple[float, float]:
    """Value and derivative with 60 digits."""
    with mpmath.workdps(60):
        z = mpmath.mpf(-x if positive else x)
        weight = mpmath.mpf(alpha) if positive else 1 - mpmath.mpf(alpha)
        s = 1 / (1 + mpmath.exp(-z))
        rest = 1 / (1 + mpmath.exp(z))
        softplus = -mpmath.log(rest)
        value = weight * s ** mpmath.mpf(gamma) * softplus
        slope = weight * s ** mpmath.mpf(gamma) * (s + mpmath.mpf(gamma) * rest * softplus)
        return float(value), float(-slope if positive else slope)


def close(found: float, wanted: float) -> bool:
    return abs(found - wanted) <= 1e-6 * abs(wanted) + TINY


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "avg_factor"])
def test_value_and_gradient_agree_with_sixty_digits(gamma, reduction):
    for magnitude in LOGITS:
        for x in {magnitude, -magnitude}:
            for positive in (True, False):
                logit = torch.tensor([[x]], requires_grad=True)
                labels = torch.tensor([0 if positive else 1])
                arguments = (
                    {"reduction": "mean", "avg_factor": 3.0} if reduction == "avg_factor" else {"reduction": reduction}
                )
                loss = sigmoid_focal_loss(logit, labels, gamma=gamma, alpha=0.25, **arguments).sum()
                loss.backward()
                value, slope = exact(logit.item(), positive, gamma, 0.25)
                divisor = 3.0 if reduction == "avg_factor" else 1.0
                assert close(loss.item(), value / divisor), (x, positive)
                assert close(logit.grad.item(), slope / divisor), (x, positive)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_negatives_agree_with_float64_over_the_whole_range(gamma):
    x = torch.cat([torch.linspace(-30, 40, 20001), torch.linspace(-1e4, 1e4, 501)])
    loss, grad, scratch = torch.empty_like(x), torch.empty_like(x), torch.empty_like(x)
    alpha = torch.tensor(0.75)
    assert FocalTerms(torch.tensor(gamma), alpha, alpha).negative(x, loss, grad, scratch) == 0.75
    z = x.double()
    s, softplus = torch.sigmoid(z), -F.logsigmoid(-z)
    weight = 0.75 * torch.exp(gamma * F.logsigmoid(z))
    torch.testing.assert_close(0.75 * loss.double(), weight * softplus, rtol=1e-6, atol=TINY)
    torch.testing.assert_close(grad.double(), weight * (s + gamma * torch.sigmoid(-z) * softplus), rtol=1e-6, atol=TINY)


@pytest.mark.parametrize("gamma", [40.0, 60.0, 200.0, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gamma_beyond_all_sense_is_still_the_formula(gamma, dtype):
    logits = torch.linspace(-12, 12, 97).to(dtype)[:, None].requires_grad_()
    exact = logits.detach().double().requires_grad_()
    labels = torch.ones(97, dtype=torch.long)
    for x in (logits, exact):
        sigmoid_focal_loss(x, labels, gamma=gamma, reduction="sum").backward()
        assert torch.isfinite(x.grad).all()
    rtol = 1e-2 if dtype == torch.bfloat16 else 1e-6 + 1e-7 * gamma
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=rtol, atol=TINY)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_nan_among_the_logits_is_not_hidden(gamma):
    logits = torch.full((3, 2), -4.0)
    logits[1, 1] = torch.nan
    logits.requires_grad_()
    loss = sigmoid_focal_loss(logits, torch.tensor([2, 2, 0]), gamma=gamma, reduction="sum")
    loss.backward()
    assert loss.isnan()
    assert logits.grad.isnan().tolist() == [[False, False], [False, True], [False, False]]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("alpha", [0.25, 0.5, 1.0, 0.0, None])
def test_agrees_with_torchvision_wherever_that_is_finite(gamma, alpha):
    torchvision_ops = pytest.importorskip("torchvision.ops")
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(300, 5, generator=generator, dtype=torch.float64) * 6
    labels = torch.randint(0, 6, (300,), generator=generator)
    targets = F.one_hot(labels, 6)[:, :5].double()
    theirs = logits.clone().requires_grad_()
    reference = torchvision_ops.sigmoid_focal_loss(theirs, targets, alpha=-1 if alpha is None else alpha, gamma=gamma)
    reference.sum().backward()
    for reduction in ("none", "sum"):
        ours = logits.clone().requires_grad_()
        loss = sigmoid_focal_loss(ours, labels, gamma=gamma, alpha=alpha, reduction=reduction)
        loss.sum().backward()
        torch.testing.assert_close(loss, reference.detach() if reduction == "none" else reference.detach().sum())
        finite = theirs.grad.isfinite()
        torch.testing.assert_close(ours.grad[finite], theirs.grad[finite], rtol=1e-6, atol=1e-12)
        assert ours.grad.isfinite().all()


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_gamma_zero_without_alpha_is_binary_cross_entropy(reduction):
    logits = (torch.randn(50, 4) * 5).requires_grad_()
    labels = torch.randint(0, 5, (50,))
    loss = sigmoid_focal_loss(logits, labels, gamma=0.0, alpha=None, reduction=reduction)
    (ours,) = torch.autograd.grad(loss.sum(), logits)
    reference = F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 5)[:, :4].float(), reduction=reduction)
    (theirs,) = torch.autograd.grad(reference.sum(), logits)
    torch.testing.assert_close(loss, reference)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("p", "ratio"), [(0.9, 100.0), (0.968, 1000.0)])
def test_the_papers_ratios_at_gamma_two(p, ratio):
    logit = torch.tensor([[math.log(p / (1 - p))]], dtype=torch.float64)
    label = torch.tensor([0])
    focal = sigmoid_focal_loss(logit, label, gamma=2.0, alpha=None)
    cross_entropy = sigmoid_focal_loss(logit, label, gamma=0.0, alpha=None)
    assert float(cross_entropy / focal) == pytest.approx(ratio, rel=0.03)
    assert float(cross_entropy / focal) == pytest.approx(1 / (1 - p) ** 2, rel=1e-9)


def test_hard_examples_lose_at_most_a_factor_four_at_gamma_two():
    logits = torch.linspace(-20, 0, 50)[:, None]
    labels = torch.zeros(50, dtype=torch.long)
    ratio = sigmoid_focal_loss(logits, labels, gamma=0.0, alpha=None) / sigmoid_focal_loss(logits, labels, alpha=None)
    assert ratio.max() <= 4 * (1 + 1e-6)


def test_alpha_is_on_positives():
    logits, labels = torch.zeros(2, 1), torch.tensor([0, 1])
    loss = sigmoid_focal_loss(logits, labels, gamma=0.0, alpha=0.25)[:, 0]
    assert loss.tolist() == pytest.approx([0.25 * math.log(2), 0.75 * math.log(2)])
    assert sigmoid_focal_loss(logits, labels, alpha=1.0)[1].item() == 0


def test_alpha_per_class_weighs_its_column():
    logits, labels = torch.zeros(3, 2), torch.tensor([0, 1, 2])
    for reduction in ("none", "sum"):
        loss = sigmoid_focal_loss(logits, labels, gamma=0.0, alpha=[0.1, 0.6], reduction=reduction)
        wanted = torch.tensor([[0.1, 0.4], [0.9, 0.6], [0.9, 0.4]]) * math.log(2)
        torch.testing.assert_close(loss, wanted if reduction == "none" else wanted.sum())


def test_targets_of_zero_and_one_equal_class_ids():
    logits = (torch.randn(40, 3, dtype=torch.float64) * 4).requires_grad_()
    labels = torch.randint(0, 4, (40,))
    targets = F.one_hot(labels, 4)[:, :3]
    for gamma in GAMMAS:
        a = sigmoid_focal_loss(logits, labels, gamma=gamma)
        b = sigmoid_focal_loss(logits, targets, gamma=gamma)
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), logits)[0] for loss in (a, b)))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("shape", [(), (7,), (20, 3), (2, 3, 4), (3, 5, 4, 4), (0, 5, 2)])
def test_soft_targets_of_any_shape_equal_torchvision(shape, gamma):
    torchvision_ops = pytest.importorskip("torchvision.ops")
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(shape, dtype=torch.float64)
    theirs = torchvision_ops.sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=gamma) * weight
    count = max(theirs.numel(), 1)
    for reduction, wanted in (("none", theirs), ("sum", theirs.sum()), ("mean", theirs.sum() / count)):
        ours = sigmoid_focal_loss(logits, targets, gamma=gamma, weight=weight, reduction=reduction)
        torch.testing.assert_close(ours, wanted)
        gradients = [torch.autograd.grad(x.sum(), (logits, targets), retain_graph=True) for x in (ours, wanted)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("alpha", [None, 0.25, [0.1, 0.6]])
def test_both_derivatives_in_logits_and_targets(gamma, alpha):
    logits = (torch.randn(4, 2, dtype=torch.float64) * 3).requires_grad_()
    targets = (0.05 + 0.9 * torch.rand(4, 2, dtype=torch.float64)).requires_grad_()

    def loss(x, t):
        return sigmoid_focal_loss(x, t, gamma=gamma, alpha=alpha)

    assert torch.autograd.gradcheck(loss, (logits, targets))
    assert torch.autograd.gradgradcheck(loss, (logits, targets))


def exact_target_slope(x: float, t: float, gamma: float, alpha: float) -> float:
    """dL/dt with 60 digits, by the product rule."""
    with mpmath.workdps(60):
        x, t, gamma = mpmath.mpf(x), mpmath.mpf(t), mpmath.mpf(gamma)
        p, q = 1 / (1 + mpmath.exp(-x)), 1 / (1 + mpmath.exp(x))
        on_positive, on_negative = mpmath.log1p(mpmath.exp(-x)), mpmath.log1p(mpmath.exp(x))
        weight, weight_slope = alpha * t + (1 - alpha) * (1 - t), 2 * alpha - 1
        distance, distance_slope = p * (1 - t) + q * t, q - p
        entropy, entropy_slope = t * on_positive + (1 - t) * on_negative, on_positive - on_negative
        power, power_slope = distance**gamma, gamma * distance ** (gamma - 1) * distance_slope
        return float(weight_slope * power * entropy + weight * power_slope * entropy + weight * power * entropy_slope)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("again", [False, True], ids=["once", "create_graph"])
def test_the_gradient_in_targets_agrees_with_sixty_digits(gamma, again):
    grid = [(x, t) for magnitude in LOGITS for x in (magnitude, -magnitude) for t in (0.0, 1e-6, 0.3, 1.0)]
    logits, targets = (torch.tensor(values) for values in zip(*grid, strict=True))
    targets.requires_grad_()
    (slopes,) = torch.autograd.grad(
        sigmoid_focal_loss(logits, targets, gamma=gamma, alpha=0.3, reduction="sum"), targets, create_graph=again
    )
    assert slopes.dtype == torch.float32
    wanted = [exact_target_slope(x, t, gamma, 0.3) for x, t in zip(logits.tolist(), targets.tolist(), strict=True)]
    torch.testing.assert_close(slopes.double(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("activated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_gradients_in_logits_and_targets_are_finite_everywhere(activated, dtype):
    grid = [(x, t) for magnitude in LOGITS for x in (magnitude, -magnitude) for t in (0.0, 1e-6, 0.5, 1.0)]
    logits, targets = (torch.tensor(values).to(dtype).requires_grad_() for values in zip(*grid, strict=True))
    for gamma in (0.0, 0.1, 0.5, 1.0, 2.0):
        pred = logits.sigmoid() if activated else logits
        loss = FocalLoss(gamma=gamma, activated=activated)(pred, targets)
        found = torch.autograd.grad(loss, (logits, targets))
        assert all(gradient.dtype == dtype and gradient.isfinite().all() for gradient in found)


def test_the_gradient_in_targets_costs_nothing_where_it_is_not_asked_for(monkeypatch):
    logits, targets = torch.randn(5, 3, requires_grad=True), torch.rand(5, 3)
    monkeypatch.setattr(focal, "soft_target_slope", None)
    sigmoid_focal_loss(logits, targets, reduction="sum").backward()


@pytest.mark.parametrize("call", ["sigmoid", "softmax", "class", "activated"])
@pytest.mark.parametrize("soft", [False, True], ids=["ids", "soft"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("of_logits", [False, True], ids=["alone", "and logits"])
def test_weight_avg_factor_and_targets_get_their_gradient_on_every_path(call, soft, reduction, of_logits):
    logits = torch.randn(4, 3, dtype=torch.float64).requires_grad_(of_logits)
    target = torch.rand(4, 3, dtype=torch.float64) if soft else torch.tensor([0, 2, 1, -1])
    weight = torch.rand(4, dtype=torch.float64).requires_grad_()
    avg_factor = torch.tensor(2.5, dtype=torch.float64).requires_grad_() if reduction == "mean" else None
    asked = [x for x in (logits, weight, avg_factor) if x is not None and x.requires_grad]
    asked += [target.requires_grad_()] if soft else []

    def loss(*_):
        if call in ("class", "activated"):
            pred = logits.sigmoid() if call == "activated" else logits
            return FocalLoss(activated=call == "activated")(pred, target, weight, avg_factor, reduction)
        function = sigmoid_focal_loss if call == "sigmoid" else softmax_focal_loss
        return function(logits, target, weight=weight, reduction=reduction, avg_factor=avg_factor)

    assert torch.autograd.gradcheck(loss, asked)  # which changes them in place


@pytest.mark.parametrize("loss", [sigmoid_focal_loss, softmax_focal_loss])
def test_avg_factor_alone_may_require_a_gradient(loss):
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 1, -1])
    avg_factor = torch.tensor(2.5, dtype=torch.float64, requires_grad=True)
    for create_graph in (False, True):
        found = loss(logits, labels, reduction="mean", avg_factor=avg_factor)
        wanted = loss(logits, labels).sum() / avg_factor
        pairs = [torch.autograd.grad(x, (logits, avg_factor), create_graph=create_graph) for x in (found, wanted)]
        torch.testing.assert_close(*pairs)
    twice = [torch.autograd.grad(sum(g.square().sum() for g in pair), (logits, avg_factor)) for pair in pairs]
    torch.testing.assert_close(*twice)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_soft_and_differentiable_gradients_are_exact_far_from_zero(gamma, target):
    logits = torch.tensor([[-25.0], [-15.0], [-3.0], [3.0], [15.0], [25.0]], requires_grad=True)
    exact = logits.detach().double().requires_grad_()
    found = []
    for x in (logits, exact):
        loss = sigmoid_focal_loss(x, torch.full_like(x, target), gamma=gamma, reduction="sum")
        found.append(torch.autograd.grad(loss, x)[0].double())
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-20)
    if target in (0.0, 1.0):
        labels = torch.full((6,), 0 if target else 1)
        loss = sigmoid_focal_loss(logits, labels, gamma=gamma, reduction="sum")
        (twice,) = torch.autograd.grad(loss, logits, create_graph=True)
        torch.testing.assert_close(twice.double(), found[1], rtol=1e-4, atol=1e-20)


@pytest.mark.parametrize("alpha", [0.99999, [0.99999, 0.999999]])
def test_one_minus_an_alpha_near_one_is_exact(alpha):
    loss = sigmoid_focal_loss(torch.zeros(1, 2), torch.tensor([2]), gamma=0.0, alpha=alpha)
    wanted = (1 - torch.tensor(alpha, dtype=torch.float64)) * math.log(2)
    torch.testing.assert_close(loss.double()[0], wanted.expand(2), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("form", ["anchor", "element", "flat"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "avg_factor"])
def test_weights_scale_and_never_change_the_divisor(form, reduction):
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, -1, 1])
    weight = torch.rand(6, dtype=torch.float64) if form == "anchor" else torch.rand(6, 3, dtype=torch.float64)
    full = weight[:, None].expand(6, 3) if form == "anchor" else weight
    arguments = {"reduction": "mean", "avg_factor": 2.0} if reduction == "avg_factor" else {"reduction": reduction}
    given = weight.flatten() if form == "flat" else weight
    loss = sigmoid_focal_loss(logits, labels, weight=given, **arguments)
    wanted = sigmoid_focal_loss(logits, labels) * full
    wanted = {"none": wanted, "mean": wanted.sum() / 18, "sum": wanted.sum(), "avg_factor": wanted.sum() / 2}[reduction]
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), logits)[0] for x in (loss, wanted)))


def test_weights_that_want_a_gradient_get_one():
    weight = torch.ones(4, requires_grad=True)
    sigmoid_focal_loss(torch.zeros(4, 2), torch.tensor([0, 1, 2, -1]), weight=weight, reduction="sum").backward()
    assert weight.grad[:3].gt(0).all()
    assert weight.grad[3] == 0


def test_none_ignores_avg_factor():
    logits, labels = torch.randn(3, 2), torch.tensor([0, 1, 2])
    a = sigmoid_focal_loss(logits, labels, avg_factor=7.0)
    torch.testing.assert_close(a, sigmoid_focal_loss(logits, labels))


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(0, 40),
    classes=st.integers(1, 7),
    seed=st.integers(0, 2**31),
    gamma=st.sampled_from(GAMMAS),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    scale=st.sampled_from([1.0, 30.0, 1e4]),
    only_ignored=st.booleans(),
)
def test_any_shape_and_dtype_is_finite_and_reductions_agree(rows, classes, seed, gamma, dtype, scale, only_ignored):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, classes, generator=generator) * scale).to(dtype).requires_grad_()
    labels = torch.randint(-1, classes + 1, (rows,), generator=generator)
    labels = torch.full_like(labels, -1) if only_ignored else labels
    elements = sigmoid_focal_loss(logits, labels, gamma=gamma)
    assert elements.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert elements.isfinite().all()
    for reduction, wanted in (("sum", elements.sum()), ("mean", elements.sum() / max(elements.numel(), 1))):
        loss = sigmoid_focal_loss(logits, labels, gamma=gamma, reduction=reduction)
        torch.testing.assert_close(loss, wanted, rtol=2e-6, atol=1e-12)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.dtype == dtype
        assert gradient.isfinite().all()
        assert (gradient[labels < 0] == 0).all()


def test_ignored_anchors_may_hold_anything():
    logits = torch.full((2, 2), torch.nan)
    logits[0] = 1.0
    logits.requires_grad_()
    for reduction in ("none", "sum"):
        loss = sigmoid_focal_loss(logits, torch.tensor([0, -1]), reduction=reduction).sum()
        (gradient,) = torch.autograd.grad(loss, logits)
        assert loss.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_accumulated_in_float32(dtype):
    """100,000 equal losses: a sum in half precision would stop growing long before."""
    logits = torch.full((50_000, 2), -4.0, dtype=dtype, requires_grad=True)
    labels = torch.full((50_000,), 2)
    loss = sigmoid_focal_loss(logits, labels, reduction="sum")
    assert loss.item() == pytest.approx(1e5 * exact(-4.0, False, 2.0, 0.25)[0], rel=1e-6)


def test_float16_gradients_survive_because_the_scale_comes_first():
    logits = torch.full((4, 1), -9.0, dtype=torch.float16, requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.full((4,), 1), gamma=2.0, reduction="sum")
    (gradient,) = torch.autograd.grad(loss * 2.0**30, logits)
    wanted = exact(-9.0, False, 2.0, 0.25)[1] * 2.0**30
    assert gradient[0].item() == pytest.approx(wanted, rel=1e-3)  # without the scale it is below float16's least


def test_chunks_do_not_show():
    """More elements than one chunk, positives and ignored anchors on both sides of every edge."""
    generator = torch.Generator().manual_seed(2)
    logits = (torch.randn(70_001, 3, generator=generator) * 3).requires_grad_()
    labels = torch.randint(-1, 4, (70_001,), generator=generator)
    loss = sigmoid_focal_loss(logits, labels, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, logits)
    elements = sigmoid_focal_loss(logits, labels)
    (wanted,) = torch.autograd.grad(elements.sum(), logits)
    assert loss.item() == pytest.approx(elements.sum(dtype=torch.float64).item(), rel=1e-6)
    torch.testing.assert_close(gradient, wanted, rtol=2e-6, atol=1e-9)


def test_the_number_of_threads_does_not_show():
    generator = torch.Generator().manual_seed(3)
    logits = (torch.randn(20_000, 7, generator=generator) * 3).requires_grad_()
    labels = torch.randint(-1, 8, (20_000,), generator=generator)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            loss = sigmoid_focal_loss(logits, labels, reduction="sum")
            found.append((loss, torch.autograd.grad(loss, logits)[0]))
    finally:
        torch.set_num_threads(before)
    for loss, gradient in found[1:]:
        assert torch.equal(loss, found[0][0])
        assert torch.equal(gradient, found[0][1])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"gamma": -1.0}, "gamma must be >= 0"),
        ({"gamma": math.nan}, "gamma"),
        ({"gamma": math.inf}, "gamma"),
        ({"alpha": 1.5}, "alpha must be in"),
        ({"alpha": -0.1}, "alpha must be in"),
        ({"alpha": [0.1, 0.2, 0.3]}, "3 entries, but 2"),
        ({"alpha": [0.1, 2.0]}, r"alpha\[1\]"),
        ({"gamma": torch.tensor(-1.0)}, "gamma must be finite and at least 0"),
        ({"gamma": torch.tensor(math.nan)}, "gamma must be finite"),
        ({"gamma": torch.tensor(2.0, requires_grad=True)}, "gamma gets no gradient"),
        ({"alpha": torch.tensor(3.0)}, r"alpha must lie in \[0, 1\]"),
        ({"alpha": torch.tensor([0.1, -1.0])}, "alpha must lie in"),
        ({"alpha": torch.tensor(0.5, requires_grad=True)}, "alpha gets no gradient"),
        ({"avg_factor": torch.ones(2), "reduction": "mean"}, "avg_factor must be one number"),
        ({"labels": torch.tensor([0, 3, 1])}, "label 3 is out of range"),
        ({"labels": torch.tensor([0, -2, 1])}, "label -2 is out of range"),
        ({"labels": torch.tensor([0, 1])}, "labels must be"),
        ({"labels": torch.tensor([0.0, 1.0, 1.0])}, r"must be integers, .* pass labels.long\(\)"),
        ({"labels": torch.zeros(3, 2, dtype=torch.complex64)}, "real targets"),
        ({"labels": torch.full((3, 2), 2)}, "must lie in"),
        ({"alpha": [torch.tensor(0.1, requires_grad=True), 0.2]}, r"alpha\[0\] must be a number"),
        ({"alpha": torch.tensor([0.5, 0.5], requires_grad=True)}, "alpha gets no gradient"),
        ({"labels": torch.full((3, 2), 1.5)}, "must lie in"),
        ({"labels": torch.full((3, 2), torch.nan)}, "must lie in"),
        ({"weight": torch.ones(2)}, "weight has shape"),
        ({"weight": torch.ones(3, 1)}, "weight has shape"),
        ({"reduction": "total"}, "reduction must be"),
        ({"reduction": "sum", "avg_factor": 2.0}, "can not be used"),
        ({"logits": torch.zeros(3)}, "targets of the logits' shape must lie in"),
        ({"logits": torch.zeros(3), "labels": torch.zeros(3, 1)}, "must be targets of that shape"),
        ({"logits": torch.zeros(3, 2, 4, 4)}, r"class ids \(N,\) need \(N, K\) logits, the class axis last"),
        ({"logits": torch.zeros(3, 2, 3, 3), "labels": torch.zeros(3, 3, 3, dtype=torch.long)}, "the class axis last"),
        ({"logits": torch.zeros(3, 7, 2), "labels": torch.zeros(3, 7, dtype=torch.long)}, "the class axis last"),
        ({**ANY_SHAPE, "alpha": [0.1, 0.2]}, r"one alpha per class needs \(N, K\) logits"),
        ({**ANY_SHAPE, "alpha": torch.tensor([0.1, 0.2])}, r"one alpha per class needs \(N, K\) logits"),
        ({**ANY_SHAPE, "weight": torch.ones(3)}, r"expected that of the logits, \(3, 2, 4\)"),
        ({**ANY_SHAPE, "weight": torch.ones(24)}, "expected that of the logits"),
        ({**ANY_SHAPE, "gamma": torch.tensor(2.0, requires_grad=True)}, "gamma gets no gradient"),
        ({"logits": torch.zeros(3, 2, dtype=torch.long)}, "logits must be"),
    ],
)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_bad_arguments_are_clear_errors(change, match, reduction):
    arguments = {"logits": torch.zeros(3, 2), "labels": torch.tensor([0, 1, 2]), "reduction": reduction, **change}
    with pytest.raises(ValueError, match=match):
        sigmoid_focal_loss(arguments.pop("logits"), arguments.pop("labels"), **arguments)
