"""``check_loss``: losses known to be right pass, and what is wrong with others is named."""

import random
from typing import Annotated

import pytest
import torch
from pydantic import Field
from torch.nn import functional as F

import focalbench
from focalbench.losses import LOSSES
from focalbench.losses.base import ClassificationLoss
from focalbench.testing import Finding, LossReport, check_loss


def found(report: LossReport, name: str) -> Finding:
    (finding,) = [finding for finding in report.findings if finding.name == name]
    return finding


@pytest.mark.parametrize("name", LOSSES)
def test_built_in_losses_pass_without_a_warning(name):
    report = check_loss(LOSSES[name])
    assert not [str(finding) for finding in report.findings if finding.state != "ok"]


@focalbench.loss("tempered")
def tempered(logits, targets, *, gamma: float = 2.0, temperature: Annotated[float, Field(gt=0)] = 1.0):
    x = logits / temperature * (2 * targets - 1)
    return -F.logsigmoid(x) * (gamma * F.logsigmoid(-x)).exp()


@focalbench.loss("soft", activation="softmax")
def soft(logits, targets, *, alpha: Annotated[float, Field(ge=0, le=1)] | None = None):
    weights = 1.0 if alpha is None else torch.where(targets[:, -1] > 0, 1 - alpha, alpha)
    return -(targets * logits.log_softmax(-1)).sum(-1) * weights


def hinge(logits, targets):
    return (1 - logits * (2 * targets - 1)).clamp(min=0)


def cross_entropy(logits, targets):
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none")


def test_functions_that_are_right_pass_in_both_forms():
    for report in (check_loss(tempered), check_loss(soft), check_loss(hinge, activation="sigmoid")):
        report.raise_if_failed()
        assert report.ok
        assert len(report.findings) == 18
    assert found(check_loss(soft), "ranges").words == "finite at the ends of ranges: alpha 0, alpha 1, alpha null"


def test_facts_come_with_the_verdict():
    report = check_loss(tempered, gamma=0.0)
    assert report.initial_loss == pytest.approx(4.6052 + 299 * 0.01005, rel=1e-4)  # -log .01, and -log .99 elsewhere
    assert found(report, "builds").words == "sigmoid, with gamma 0.0"
    assert found(report, "schedules").words == "move temperature"  # gamma was given
    assert found(report, "independence").words == "each element by itself: it depends on no other"
    assert report.place.startswith(__file__)
    assert str(report).splitlines()[0] == f"loss tempered ({report.place}): 18 checks passed"


def scalar(logits, targets):
    return cross_entropy(logits, targets).sum()


def transposed(logits, targets):
    return cross_entropy(logits, targets).T


def log_of_sigmoid(logits, targets):
    p = logits.sigmoid()
    return -(targets * p.log() + (1 - targets) * (1 - p).log())


def power_at_zero(logits, targets):
    hit = torch.where(targets > 0, logits.sigmoid(), (-logits).sigmoid())
    return (1 - hit) ** 0.5 * cross_entropy(logits, targets)


def exchanged(logits, targets):
    return F.binary_cross_entropy_with_logits(targets, logits, reduction="none")


def turned(logits, targets):
    return -cross_entropy(logits, targets)


def in_place(logits, targets):
    return cross_entropy(logits.clamp_(-3, 3), targets)


def drawn(logits, targets):
    return cross_entropy(logits, targets) * (torch.rand_like(logits) + random.random())


def numbered(logits, targets):
    return cross_entropy(logits, targets) * torch.arange(1, len(logits) + 1)[:, None]


def broken(logits, targets):
    return cross_entropy(logits, targets.reshape(7))


def lacking(logits, targets):
    import a_package_that_is_not_there  # noqa: F401


def detached(logits, targets):
    return cross_entropy(logits.detach(), targets)


def divided(logits, targets):
    return cross_entropy(logits, targets) / targets.sum()


def mean_over_rows(logits, targets):
    return cross_entropy(logits, targets) / len(logits)


def constant_factor(logits, targets):
    with torch.no_grad():
        factor = logits.sigmoid()
    return cross_entropy(logits, targets) * factor


class _Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.softplus(x)

    @staticmethod
    def backward(ctx, grad):
        return 1.1 * grad * ctx.saved_tensors[0].sigmoid()


def own_backward(logits, targets):
    return _Wrong.apply(logits * (1 - 2 * targets))


def cancelling(logits, targets):
    return cross_entropy((logits + 1e5) - 1e5, targets)


def single_precision(logits, targets):
    return cross_entropy(logits.float(), targets.float()).to(logits.dtype)


def narrow(logits, targets, *, gamma: Annotated[float, Field(ge=0)] = 2.0):
    return cross_entropy(logits, targets) / (gamma - 0.0)


def idle(logits, targets, *, margin: float = 0.1):
    return cross_entropy(logits, targets)


def untyped(logits, targets, *, weights=None):
    return cross_entropy(logits, targets)


@pytest.mark.parametrize(
    ("loss", "name", "state", "words"),
    [
        (scalar, "values", "failed", "leave sum and mean to the caller"),
        (transposed, "values", "failed", "returns a tensor (3, 14) for logits (14, 3)"),
        (log_of_sigmoid, "extreme logits", "failed", "the value is nan for a logit of 17.5"),
        (power_at_zero, "extreme logits", "failed", "the gradient is nan for a logit of"),
        (exchanged, "direction", "warning", "does not move logits of negatives: are targets and logits swapped"),
        (turned, "direction", "warning", "away from their targets"),
        (in_place, "inputs", "failed", "changes its logits in place"),
        (drawn, "repeatable", "failed", "it draws random numbers"),
        (numbered, "order", "failed", "in another order"),
        (broken, "values", "failed", "test_loss.py:"),
        (lacking, "values", "failed", "ModuleNotFoundError: No module named 'a_package_that_is_not_there'"),
        (detached, "values", "failed", "no gradient"),
        (divided, "empty batches", "failed", "division by the number of positives"),
        (mean_over_rows, "values", "warning", "is a mean taken?"),
        (mean_over_rows, "ignored anchors", "warning", "what it takes over all rows counts them"),
        (mean_over_rows, "independence", "ok", "each element by itself"),
        (constant_factor, "derivative", "warning", "holds a factor as a constant"),
        (own_backward, "derivative", "failed", "a custom backward"),
        (cancelling, "precision", "failed", "precision is lost on the way"),
        (single_precision, "derivative", "ok", "because it computes in float32"),
        (narrow, "ranges", "failed", "gamma: 0, which its range or type allows: the value is"),
        (idle, "schedules", "warning", "margin: 0.1 and 0.15 give the same loss"),
        (untyped, "builds", "failed", "parameter weights needs a type"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_function_is_named(loss, name, state, words):
    report = check_loss(loss, activation="sigmoid")
    finding = found(report, name)
    assert (finding.state, words in finding.words) == (state, True), finding
    if state == "failed":
        with pytest.raises(AssertionError, match=name):
            report.raise_if_failed()


def as_computed(logits):
    return logits if logits.dtype == torch.float64 else logits.float()


class Sound(ClassificationLoss):
    """Cross entropy, by hand."""

    def total(self, logits, labels):
        kept = labels >= 0
        x = as_computed(logits[kept])
        return cross_entropy(x, F.one_hot(labels[kept], self.num_classes + 1)[:, : self.num_classes].to(x.dtype)).sum()


class OfIgnored(ClassificationLoss):
    def total(self, logits, labels):
        x = as_computed(logits)
        return cross_entropy(x, (labels[:, None] == torch.arange(self.num_classes)).to(x.dtype)).sum()


class InHalf(Sound):
    def total(self, logits, labels):
        value = super().total(logits, labels)
        return value.to(logits.dtype)


class Overflowing(Sound):
    def total(self, logits, labels):
        return super().total(logits if logits.dtype == torch.float64 else logits.half() * 16, labels)


class Summing(Sound):
    """float16 has nothing beyond 65504."""

    def total(self, logits, labels):
        values = super().total(logits, labels)
        return values if logits.dtype.itemsize > 2 else values.half().float()


class Elementwise(ClassificationLoss):
    def total(self, logits, labels):
        return logits.float()


class Counting(Sound):
    """Its value grows with every call, and no checkpoint knows."""

    calls = 0

    def total(self, logits, labels):
        self.calls += 1
        return super().total(logits, labels) * self.calls


class Overwriting(Sound):
    def total(self, logits, labels):
        labels.clamp_(min=0)
        return super().total(logits, labels)


class Centred(Sound):
    """Its key has a say from the second step on."""

    def __init__(self, num_classes, *, share: focalbench.losses.Schedulable = 0.5, counts=None):
        super().__init__(num_classes, counts)
        self.keep("share", share)
        self.register_buffer("mean", torch.zeros(()))

    def total(self, logits, labels):
        centred = logits - self.share * self.mean.to(logits.dtype)
        if self.training:
            self.mean.lerp_(logits[labels >= 0].detach().float().mean(), 0.1) if (labels >= 0).any() else None
        return super().total(centred, labels)


class Claiming(Sound):
    def initial_loss(self, num_anchors, num_positives, prior_prob):
        return 1.0


class Fixed(Sound):
    def __init__(self, num_classes, *, gamma: focalbench.losses.Schedulable = 2.0, counts=None):
        super().__init__(num_classes, counts)
        self.keep("gamma", gamma)
        self.power = float(self.gamma)

    def total(self, logits, labels):
        return super().total(logits, labels) * self.power


class Weighted(Sound):
    def __init__(self, num_classes, *, alpha: focalbench.losses.Schedulable = 0.5, counts=None):
        super().__init__(num_classes, counts)
        self.keep("alpha", alpha)

    def total(self, logits, labels):
        return super().total(logits, labels) * self.alpha


@pytest.mark.parametrize(
    ("loss", "name", "words"),
    [
        (OfIgnored, "ignored anchors", "anchors with label -1 get a gradient"),
        (InHalf, "half precision", "give a value in torch.bfloat16"),
        (Overflowing, "extreme logits", "for a logit of -1e+04 and a target of 1"),
        (Summing, "half precision", "logits of -1e4 and 1e4: the value is inf"),
        (Elementwise, "values", "one tensor () is needed, the sum over all anchors"),
        (Counting, "state", "keep what moves in buffers"),
        (Overwriting, "inputs", "changes its labels in place"),
        (Claiming, "initial loss", "initial_loss says 1"),
        (Weighted, "alpha: auto", "ValueError: alpha must be a number, got 'auto'"),
        (Fixed, "schedules", "read the buffer"),
    ],
)
def test_what_is_wrong_with_a_class_is_named(loss, name, words):
    finding = found(check_loss(loss), name)
    assert (finding.state, words in finding.words) == ("failed", True), finding


@pytest.mark.parametrize("loss", [Sound, Centred])
def test_a_sound_class_passes_with_and_without_state(loss):
    report = check_loss(loss)
    assert not [str(finding) for finding in report.findings if finding.state != "ok"]
    assert ("has state" in found(report, "repeatable").words) == (loss is Centred)


def test_nothing_is_looked_at_behind_a_loss_that_does_not_run():
    assert [finding.name for finding in check_loss(lacking, activation="sigmoid").findings][-1] == "the rest"


def test_kinks_do_not_fail_and_random_numbers_stay_as_they_were():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert found(check_loss(hinge, activation="sigmoid"), "derivative").state == "ok"
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("loss", [3, int, cross_entropy, torch.nn.Linear])
def test_what_is_no_loss_is_refused(loss):
    with pytest.raises(TypeError):
        check_loss(loss)
