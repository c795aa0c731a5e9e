"""What holds for every loss of the family, and each one's formula, written out."""

from typing import get_args

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

from focalbench import kernels
from focalbench.config.loss import BuiltInLoss
from focalbench.losses import LOSSES, elementwise, focal_op
from focalbench.losses.base import ClassificationLoss, Counts
from focalbench.losses.cross_entropy import SigmoidFamily

K = 3
COUNTS = Counts((10, 20, 30), 1000)
LABELS = torch.tensor([[0, 1, 2, 3, -1, 3, 1], [3, 3, 3, 0, 0, -1, 2]])
CONFIGS = {config.model_fields["name"].default: config for config in get_args(BuiltInLoss)}
COMMON = {"name", "weight", "match_scale", "apply_to"}


def build(name: str, num_classes: int = K, **fields) -> ClassificationLoss:
    return LOSSES[name](num_classes=num_classes, counts=COUNTS if num_classes == K else None, **fields)


def problem(
    loss: ClassificationLoss, dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(5)
    outputs = K + (loss.activation == "softmax")
    logits = (torch.randn(2, 7, outputs, generator=generator, dtype=torch.float64) * 2).to(dtype).requires_grad_()
    quality = torch.rand(2, 7, generator=generator)
    quality[0, 0] = 0
    corners = torch.rand(2, 7, 2, generator=generator) * 20
    return logits, {"quality": quality, "boxes": torch.cat([corners, corners + 3], dim=2)}


@pytest.mark.parametrize("name", LOSSES)
def test_fields_of_the_configuration_build_the_loss(name):
    config = CONFIGS[name]()
    loss = build(name, **config.model_dump(exclude=COMMON))
    assert loss.activation == ("softmax" if name.startswith("softmax") else "sigmoid")
    assert (loss.needs_quality, loss.needs_boxes) == (name in ("quality_focal", "varifocal"), name == "ohem")


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_the_derivative(name):
    loss = build(name).eval()
    logits, others = problem(loss)
    assert gradcheck(lambda x: loss(x, LABELS, **others), (logits,))


class _SeenOnGPU(torch.Tensor):
    """A tensor on the CPU that says it were on a GPU."""

    is_cuda = True


@pytest.mark.parametrize("name", [name for name in LOSSES if isinstance(build(name), SigmoidFamily)])
def test_the_factor_of_a_sigmoid_loss_is_in_its_gradient_before_backward_on_a_gpu(name, monkeypatch):
    """Backward then has nothing to multiply, and value and gradient are those of the sum times the factor."""
    monkeypatch.setattr(kernels, "triton_kernels", lambda module: None)
    scales = []
    for module in (elementwise, focal_op):
        monkeypatch.setattr(module, "scale_in_place", lambda grad, scale: scales.append(float(scale)) or grad * scale)
    loss = build(name)
    logits, _ = problem(loss, torch.float32)
    factor = {"weight": torch.tensor(0.7), "avg_factor": torch.tensor(3.0)}
    plain = loss.normalised(logits, LABELS, **factor)
    (wanted,) = torch.autograd.grad(plain, logits)
    scales.clear()
    leaf = logits.detach().as_subclass(_SeenOnGPU).requires_grad_()
    folded = loss.normalised(leaf, LABELS, **factor)
    (found,) = torch.autograd.grad(folded, leaf)
    assert scales == [1.0]
    torch.testing.assert_close(folded.detach().as_subclass(torch.Tensor), plain.detach(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.as_subclass(torch.Tensor), wanted, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_what_a_loss_is_multiplied_with_changes_no_bit_on_a_cpu(name):
    loss = build(name).eval()
    logits, others = problem(loss, torch.float32)
    weight, avg_factor = torch.tensor(0.7), torch.tensor(3.0)
    (wanted,) = torch.autograd.grad(weight * (loss(logits, LABELS, **others) / avg_factor), logits)
    found = loss.normalised(logits, LABELS, weight=weight, avg_factor=avg_factor, **others)
    assert torch.equal(torch.autograd.grad(found, logits)[0], wanted)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_agrees_with_float64(name, dtype):
    loss = build(name).eval()
    logits, others = problem(loss, dtype)
    value = loss(logits, LABELS, **others)
    (gradient,) = torch.autograd.grad(value, logits)
    exact = logits.detach().double().requires_grad_()
    wanted = loss(exact, LABELS, **others)
    (slope,) = torch.autograd.grad(wanted, exact)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value.double(), wanted, rtol=1e-6, atol=1e-6)
    tolerance = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}[dtype]
    torch.testing.assert_close(gradient.double(), slope, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_are_finite(name, dtype):
    loss = build(name).eval()
    _, others = problem(loss)
    for magnitude in (30.0, 100.0, 1e4):
        outputs = K + (loss.activation == "softmax")
        signs = torch.randint(0, 2, (2, 7, outputs), generator=torch.Generator().manual_seed(6)) * 2 - 1
        logits = (signs * magnitude).to(dtype).requires_grad_()
        value = loss(logits, LABELS, **others)
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_empty_and_ignored_batches_cost_nothing(name):
    loss = build(name).eval()
    outputs = K + (loss.activation == "softmax")
    for shape, label in (((0, 7), 0), ((2, 0), 0), ((2, 7), -1)):
        logits = torch.randn(*shape, outputs, requires_grad=True)
        others = {"quality": torch.zeros(shape), "boxes": torch.zeros(*shape, 4)}
        value = loss(logits, torch.full(shape, label), **others)
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.item() == 0
        assert (gradient == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_logits_are_left_alone(name):
    loss = build(name)
    for dtype in (torch.float32, torch.float64):
        logits, others = problem(loss, dtype)
        before = logits.detach().clone()
        loss(logits, LABELS, **others).backward()
        assert torch.equal(logits, before)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_positives_is_finite(name):
    loss = build(name)
    logits, others = problem(loss, torch.float32)
    value = loss(logits, torch.full((2, 7), K), **others)
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.isfinite()
    assert value > 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_labels_and_shapes_are_checked(name):
    loss = build(name)
    logits, others = problem(loss, torch.float32)
    with pytest.raises(ValueError, match="out of range"):
        loss(logits, LABELS + 1, **others)
    with pytest.raises(ValueError, match="do not fit"):
        loss(logits[..., :1], LABELS, **others)


@pytest.mark.parametrize("name", LOSSES)
def test_state_survives_a_checkpoint(name):
    loss, other = build(name), build(name)
    logits, inputs = problem(loss, torch.float32)
    loss(logits, LABELS, **inputs)
    loss.set_progress(0.5)
    other.load_state_dict(loss.state_dict())
    torch.testing.assert_close(loss(logits, LABELS, **inputs), other(logits, LABELS, **inputs), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["focal", "softmax_focal", "class_balanced", "varifocal"])
def test_schedules_are_in_force_and_logged(name):
    loss = build(name, gamma={"schedule": "linear", "values": (0, 4)}, alpha={"schedule": "step", "values": (0.2, 0.8)})
    logits, others = problem(loss)
    loss.set_progress(0.75)
    assert loss.scheduled() == pytest.approx({"gamma": 3.0, "alpha": 0.8})
    still = build(name, gamma=3.0, alpha=float(torch.tensor(0.8)))
    torch.testing.assert_close(loss(logits, LABELS, **others), still(logits, LABELS, **others))


def test_only_what_exists_is_logged():
    logged = {name: set(build(name).scheduled()) for name in LOSSES}
    assert logged["ce"] == logged["ohem"] == logged["ghm"] == logged["asymmetric"] == set()
    assert logged["balanced_ce"] == logged["softmax_balanced_ce"] == {"alpha"}
    assert logged["softmax_focal"] == {"gamma"}
    assert logged["focal"] == logged["focal_star"] == {"gamma", "alpha"}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("focal", {"gamma": -1.0}),
        ("focal", {"gamma": float("nan")}),
        ("focal", {"gamma": {"schedule": "linear", "values": (0, -1)}}),
        ("focal", {"alpha": 1.1}),
        ("focal", {"alpha": [0.5, 0.5]}),
        ("focal", {"alpha": "automatic"}),
        ("balanced_ce", {"alpha": {"schedule": "linear", "values": (0, 2)}}),
        ("focal_star", {"gamma": 0.0}),
        ("focal_star", {"beta": float("inf")}),
        ("softmax_focal", {"alpha": [1.0] * K}),
        ("softmax_focal", {"alpha": [1.0] * K + [-1.0]}),
        ("softmax_focal", {"alpha": 0.5, "alpha_on": "classes"}),
        ("ohem", {"num_hardest": 0}),
        ("ohem", {"nms_thresh": 1.5}),
        ("ohem", {"negatives_per_positive": 0.0}),
        ("ghm", {"bins": 0}),
        ("ghm", {"momentum": 1.0}),
        ("class_balanced", {"beta": 1.0}),
        ("quality_focal", {"beta": -1.0}),
        ("varifocal", {"alpha": 2.0}),
        ("asymmetric", {"margin": 1.0}),
        ("asymmetric", {"gamma_neg": -1.0}),
    ],
)
def test_bad_parameters_are_clear_errors(name, fields):
    (field,) = list(fields)[-1:]
    with pytest.raises(ValueError, match=field):
        build(name, **fields)


@pytest.mark.parametrize("name", ["focal", "balanced_ce", "softmax_balanced_ce"])
def test_auto_needs_counts(name):
    with pytest.raises(ValueError, match="counted"):
        LOSSES[name](num_classes=K, alpha="auto")
    with pytest.raises(ValueError, match="positive"):
        LOSSES[name](num_classes=K, alpha="auto", counts=Counts((0, 0, 0), 10))


def test_auto_without_background_balances_the_classes_of_a_positive():
    """YOLOv2's class term: K - 1 negatives for each positive under sigmoids, none at all under a softmax."""
    counts = Counts((5, 5, 10), 0)
    alpha = LOSSES["balanced_ce"](num_classes=K, alpha="auto", counts=counts).scheduled()["alpha"]
    assert alpha == pytest.approx((K - 1) / K)
    with pytest.raises(ValueError, match="negatives"):
        LOSSES["softmax_balanced_ce"](num_classes=K, alpha="auto", counts=counts)


def test_auto_gives_both_sides_the_same_weight():
    alpha = build("balanced_ce", alpha="auto").scheduled()["alpha"]
    positives, elements = 60, 1060 * K
    assert alpha * positives == pytest.approx((1 - alpha) * (elements - positives), rel=1e-3)


def cross_entropy_ratios(name: str, positive: bool, **fields) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of one element over its cross entropy, and 1 - p_t, for several p_t; a positive's box is perfect."""
    loss = build(name, num_classes=1, **fields).eval()
    x = torch.linspace(-5, 5, 21, dtype=torch.float64)
    label = torch.tensor([[0 if positive else 1]])
    others = {"quality": torch.ones(1, 1), "boxes": torch.tensor([[[0.0, 0, 9, 9]]])}
    softmax = loss.activation == "softmax"
    values = [loss(torch.stack([v, torch.zeros_like(v)] if softmax else [v])[None, None], label, **others) for v in x]
    z = -x if positive else x
    return torch.stack(values) / F.softplus(z), torch.sigmoid(z)


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"class_balanced"}))
def test_a_loss_that_focuses_says_how(name, positive):
    """Where the ratio to cross entropy is a power of 1 - p_t, the stated exponent is that power."""
    fields = {"margin": 0.0, "gamma_pos": 1.25} if name == "asymmetric" else {}
    ratio, miss = cross_entropy_ratios(name, positive, **fields)
    slopes = ratio.log().diff() / miss.log().diff()
    stated = build(name, **fields).focusing_exponents()[0 if positive else 1]
    if (slopes - slopes.mean()).abs().max() < 1e-3:
        assert stated == pytest.approx(slopes.mean().item(), abs=1e-3)
    else:
        assert stated == 0


@pytest.mark.parametrize("name", LOSSES)
def test_stated_weights_and_exponents_make_up_the_loss(name):
    loss = build(name, **({"margin": 0.0, "gamma_pos": 1.25} if name == "asymmetric" else {})).eval()
    if loss.side_weights() is None:
        return
    logits, others = problem(loss)
    if loss.activation == "softmax":
        own = LABELS.clamp(min=0)[..., None]
        p_t, positive = logits.detach().softmax(-1).gather(-1, own), own < K
    else:
        positive = LABELS[..., None] == torch.arange(K)
        p_t = torch.where(positive, logits.detach().sigmoid(), 1 - logits.detach().sigmoid())
    sides = zip(loss.side_weights(), loss.focusing_exponents(), strict=True)
    on_positives, on_negatives = (-weight * (1 - p_t) ** exponent * p_t.log() for weight, exponent in sides)
    wanted = (torch.where(positive, on_positives, on_negatives) * (LABELS >= 0)[..., None]).sum()
    torch.testing.assert_close(loss(logits, LABELS, **others).detach(), wanted, rtol=1e-6, atol=1e-9)


def test_only_what_comes_from_the_anchors_asks_for_their_counts():
    asking = {name for name, loss in LOSSES.items() if loss.needs_counts({})}
    assert asking == {"class_balanced"}
    assert LOSSES["focal"].needs_counts({"alpha": "auto"})
    assert not LOSSES["focal"].needs_counts({"alpha": 0.25})


@pytest.mark.parametrize("name", ["quality_focal", "varifocal"])
def test_quality_is_asked_for(name):
    loss = build(name)
    with pytest.raises(ValueError, match="needs quality"):
        loss(problem(loss, torch.float32)[0], LABELS)


def parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, probabilities, one-hot targets, validity and qualities of one problem, (2, 7, K) and (2, 7, 1)."""
    logits, others = problem(build("ce"))
    logits = logits.detach()
    targets = F.one_hot(LABELS.clamp(min=0), K + 1)[..., :K].double()
    return logits, logits.sigmoid(), targets, (LABELS >= 0)[..., None].double(), others["quality"][..., None].double()


def value_of(name: str, **fields) -> torch.Tensor:
    loss = build(name, **fields).eval()
    logits, others = problem(loss)
    return loss(logits, LABELS, **others).detach()


def test_cross_entropy_by_its_formula():
    logits, _, targets, valid, _ = parts()
    wanted = F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * valid
    torch.testing.assert_close(value_of("ce"), wanted.sum())
    torch.testing.assert_close(value_of("focal", gamma=0.0, alpha=None), wanted.sum())
    balanced = wanted * torch.where(targets > 0, 0.75, 0.25)
    torch.testing.assert_close(value_of("balanced_ce"), balanced.sum())


def test_focal_star_by_its_formula():
    logits, _, targets, valid, _ = parts()
    wrong = -F.logsigmoid(2 * logits * (2 * targets - 1) + 1) / 2 * torch.where(targets > 0, 0.25, 0.75)
    torch.testing.assert_close(value_of("focal_star"), (wrong * valid).sum())
    torch.testing.assert_close(value_of("focal_star", gamma=1.0, beta=0.0, alpha=None), value_of("ce"))


def test_class_balanced_by_its_formula():
    logits, p, targets, valid, _ = parts()
    raw = torch.tensor([(1 - 0.9) / (1 - 0.9**n) for n in COUNTS.positives_per_class])
    weights = torch.cat([raw * K / raw.sum(), torch.ones(1)]).double()
    assert weights[:K].mean() == pytest.approx(1.0)
    distance = torch.where(targets > 0, 1 - p, p)
    elements = distance**2 * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    wanted = (elements * weights[LABELS.clamp(min=0)][..., None] * valid).sum()
    torch.testing.assert_close(value_of("class_balanced", beta=0.9), wanted, rtol=1e-6, atol=0)
    equal = LOSSES["class_balanced"](num_classes=K, beta=0.0, gamma=0.0, counts=COUNTS)
    torch.testing.assert_close(equal(problem(equal)[0], LABELS), value_of("ce"))


def test_quality_focal_by_its_formula():
    _, p, targets, valid, quality = parts()
    y = targets * quality
    wanted = (y - p).abs() ** 2 * -(y * p.log() + (1 - y) * (1 - p).log()) * valid
    torch.testing.assert_close(value_of("quality_focal"), wanted.sum())


def test_varifocal_by_its_formula():
    _, p, targets, valid, quality = parts()
    q = targets * quality
    positive = -q * (q * p.log() + (1 - q) * (1 - p).log())
    wanted = torch.where(q > 0, positive, -0.75 * p**2 * (1 - p).log()) * valid
    torch.testing.assert_close(value_of("varifocal"), wanted.sum())


def test_asymmetric_by_its_formula():
    _, p, targets, valid, _ = parts()
    shifted = (p - 0.05).clamp(min=0)
    wanted = torch.where(targets > 0, -(1 - p) * p.log(), -(shifted**4) * (1 - shifted).log()) * valid
    torch.testing.assert_close(value_of("asymmetric", gamma_pos=1.0), wanted.sum())
    torch.testing.assert_close(
        value_of("asymmetric", gamma_pos=2.0, gamma_neg=2.0, margin=0.0), value_of("focal", alpha=None)
    )


@pytest.mark.parametrize("name", ["balanced_ce", "focal", "softmax_balanced_ce"])
@pytest.mark.parametrize(("classes", "positives", "negatives"), [(20, 10, 68_000), (20, 3, 200_000), (80, 60, 200_000)])
def test_alpha_from_the_counts_is_exact_however_rare_the_positives(name, classes, positives, negatives):
    counts = Counts((positives,) + (0,) * (classes - 1), negatives)
    loss = LOSSES[name](num_classes=classes, alpha="auto", counts=counts)
    if name.startswith("softmax"):
        weights = loss.class_weights().double()
        assert float(weights[0] / weights[-1]) == pytest.approx(negatives / positives, rel=1e-6)
    else:
        on_positives, on_negatives = (weight.double() for weight in loss.weights())
        elements = (positives + negatives) * classes - positives
        assert float(on_positives / on_negatives) == pytest.approx(elements / positives, rel=1e-6)


@pytest.mark.parametrize("name", ["varifocal", "asymmetric", "focal", "focal_star"])
def test_a_schedule_that_moves_before_backward_does_not_reach_back(name):
    loss = LOSSES[name](num_classes=2)
    logits = torch.randn(1, 6, 2, dtype=torch.float16, requires_grad=True)
    labels = torch.tensor([[0, 1, 2, 2, 2, 2]])
    value = loss(logits, labels, quality=torch.full((1, 6), 0.5))
    (expected,) = torch.autograd.grad(value, logits, retain_graph=True)
    for buffer in loss.buffers():
        buffer.mul_(0.5)
    assert torch.equal(torch.autograd.grad(value, logits)[0], expected)
