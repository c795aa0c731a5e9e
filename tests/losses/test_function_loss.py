"""A loss that is a function: the sum, ignored anchors, schedules, alpha, and faults in words."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from focalbench.boxes.yolo import place_priors
from focalbench.errors import DivergedError, PluginError
from focalbench.losses import LOSSES
from focalbench.losses.base import ClassificationLoss, Counts
from focalbench.losses.function_loss import registered_loss
from focalbench.losses.region import RegionLoss
from focalbench.plugins.registration import loss, registration_of
from focalbench.structures import HeadOutputs, Targets

K = 3
LABELS = torch.tensor([[0, 1, 2, 3, -1, 3, 1], [3, 3, 3, 0, 0, -1, 2]])
COUNTS = Counts((10, 20, 30), 1000)


def focal(logits: Tensor, targets: Tensor, *, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    z = torch.where(targets > 0, -logits, logits)
    return (alpha * targets + (1 - alpha) * (1 - targets)) * z.sigmoid() ** gamma * F.softplus(z)


def softmax_focal(logits: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    log_p = (logits.log_softmax(-1) * targets).sum(-1)
    return -((1 - log_p.exp()) ** gamma) * log_p


def made(function, activation="sigmoid", num_classes=K, counts=None, **keywords) -> ClassificationLoss:
    entry = registration_of(loss("own", activation=activation)(function))
    assert entry is not None
    return registered_loss(entry)(num_classes, counts=counts, **keywords)


def random_logits(outputs: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return (torch.randn(2, 7, outputs, generator=generator, dtype=torch.float64) * 3).to(dtype).requires_grad_()


@pytest.mark.parametrize(
    ("own", "built_in"),
    [
        (made(focal, gamma=2.0, alpha=0.25), LOSSES["focal"](K)),
        (made(softmax_focal, "softmax", gamma=2.0), LOSSES["softmax_focal"](K)),
    ],
    ids=["sigmoid", "softmax"],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_copy_of_a_built_in_loss_has_its_value_and_gradient(own, built_in, dtype):
    logits = random_logits(K + (own.activation == "softmax"), dtype)
    results = []
    for function in (own, built_in):
        value = function(logits, LABELS)
        results.append((value, *torch.autograd.grad(value, logits)))
    (value, gradient), (wanted, wanted_gradient) = results
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(value, wanted, rtol=min(tolerance, 2e-6), atol=0)
    torch.testing.assert_close(gradient, wanted_gradient, rtol=tolerance, atol=tolerance * 1e-2)


def test_ignored_anchors_have_no_part_even_where_the_function_fails():
    def steep(logits: Tensor, targets: Tensor) -> Tensor:
        return logits.exp() + 0 * targets

    logits = random_logits(K, torch.float32).detach()
    logits[LABELS < 0] = 1e4
    logits.requires_grad_()
    value = made(steep)(logits, LABELS)
    (gradient,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(value, logits[LABELS >= 0].exp().sum())
    assert gradient[LABELS < 0].count_nonzero() == 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("num_anchors", [0, 4])
def test_no_anchor_and_none_that_counts_give_0(num_anchors):
    logits = torch.randn(2, num_anchors, K, requires_grad=True)
    value = made(focal)(logits, torch.full((2, num_anchors), -1))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert logits.grad.count_nonzero() == 0


def test_the_function_gets_the_number_that_a_schedule_has_reached_and_a_checkpoint_brings_it_back():
    seen = []

    def watch(logits: Tensor, targets: Tensor, *, gamma: float = 2.0, other: float = 1.0) -> Tensor:
        seen.append((gamma, other))
        return logits * 0

    schedule = {"schedule": "linear", "values": [0, 3]}
    own, logits = made(watch, gamma=schedule, other=schedule), random_logits(K)
    for fraction in (0.0, 0.1, 1.0):
        own.set_progress(fraction)
        own(logits, LABELS)
    assert seen == [(0.0, 0.0), (pytest.approx(0.3), pytest.approx(0.3)), (3.0, 3.0)]
    assert own.scheduled() == {"gamma": 3.0, "other": 3.0}
    later = made(watch, gamma=schedule, other=schedule)
    own.set_progress(0.1)
    later.load_state_dict(own.state_dict())
    later(logits, LABELS)
    own(logits, LABELS)
    assert seen[-1] == seen[-2]
    assert (own.waits_for_device, made(watch).waits_for_device) == (True, False)


@pytest.mark.parametrize(
    ("own", "name"),
    [
        (made(focal, counts=COUNTS, alpha="auto"), "focal"),
        (made(lambda x, y, *, alpha=0.5: x[:, 0], "softmax", counts=COUNTS, alpha="auto"), "softmax_focal"),
    ],
)  # fmt: skip
def test_alpha_auto_is_that_of_the_built_in_losses(own, name):
    built_in = LOSSES[name](K, alpha="auto", counts=COUNTS)
    assert own.scheduled()["alpha"] == built_in.scheduled()["alpha"] > 0.5
    with pytest.raises(ValueError, match="counted after matching"):
        made(focal, alpha="auto")


@pytest.mark.parametrize("prior_prob", [0.01, None])
def test_the_first_loss_is_known_where_each_element_stands_alone(prior_prob):
    for own, built_in in (
        (made(focal, gamma=1.0, alpha=0.3), LOSSES["focal"](K, gamma=1.0, alpha=0.3)),
        (made(softmax_focal, "softmax", gamma=1.0), LOSSES["softmax_focal"](K, gamma=1.0)),
    ):
        wanted = built_in.initial_loss(1000.0, 7.0, prior_prob)
        assert own.initial_loss(1000.0, 7.0, prior_prob) == pytest.approx(wanted, rel=1e-9)
    mixed = made(lambda logits, targets: logits.sum() * targets + len(logits))
    assert mixed.initial_loss(1000.0, 7.0, prior_prob) is None
    assert made(focal).initial_loss(1000.0, 0.0, prior_prob) is None


@pytest.mark.parametrize(
    ("function", "activation", "words"),
    [
        (lambda x, y: x.sum(), "sigmoid", r"returns a tensor \(\) for logits \(14, 3\); one value per element is"),
        (lambda x, y: x[:, 0], "sigmoid", r"returns a tensor \(14,\) .* \(14, 3\)"),
        (lambda x, y: x, "softmax", r"returns a tensor \(14, 4\) .* one value per anchor is needed, \(14,\)"),
        (lambda x, y: None, "sigmoid", "returns NoneType"),
        (lambda x, y: 1.0, "sigmoid", "returns float"),
    ],
)  # fmt: skip
def test_something_else_than_one_value_an_element_is_refused(function, activation, words):
    own = made(function, activation)
    with pytest.raises(PluginError, match=rf"test_function_loss\.py:\d+: own {words}"):
        own(random_logits(K + (activation == "softmax")), LABELS)


def test_what_is_not_finite_is_told_with_the_logit_and_the_target():
    own = made(lambda logits, targets: (targets - logits).log())
    with pytest.raises(DivergedError, match=r"own is nan for a logit of 5\.0 and a target of 0\.0"):
        own(torch.full((1, 1, K), 5.0), torch.tensor([[K]]))
    overflowing = made(lambda logits, targets: logits * 0 + 3e38)
    with pytest.raises(DivergedError, match=r"own: the sum of its values overflows torch\.float32"):
        overflowing(torch.zeros(1, 2, K), torch.tensor([[K, K]]))
    assert own(torch.full((1, 1, K), torch.nan), torch.tensor([[K]])).isnan()  # the network's fault, not the loss's


def test_a_label_out_of_range_is_refused():
    with pytest.raises(ValueError, match="label 4 is out of range"):
        made(focal)(random_logits(K), LABELS + 1)


def test_in_yolov2_a_copy_has_the_built_in_value_on_classes_and_objectness():
    anchors = place_priors(((0.6, 0.8), (1.5, 1.2)), (96, 64), 32)
    raw = torch.randn(1, len(anchors), 5 + K, generator=torch.Generator().manual_seed(0)) * 0.5
    outputs = HeadOutputs(raw[..., 5:], raw[..., :4], anchors, (96, 64), (len(anchors),), raw[..., 4])
    targets = Targets(torch.tensor([[[6.0, 8, 28, 30], [20.0, 34, 60, 70]]]), torch.tensor([[2, 0]]))
    for apply_to in ("class", "objectness", "both"):
        own = RegionLoss.around(lambda k: made(focal, num_classes=k), num_classes=K, apply_to=apply_to)
        built_in = RegionLoss.around(LOSSES["focal"], num_classes=K, apply_to=apply_to)
        for name, value in own(outputs, targets).items():
            torch.testing.assert_close(value, built_in(outputs, targets)[name], rtol=1e-5, atol=0)
