"""Checks of the value of a loss: what it is, at extreme logits, in half precision, of empty batches, at the start."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from focalbench.losses.base import ClassificationLoss
from focalbench.losses.function_loss import FunctionLoss
from focalbench.testing.problem import BACKGROUND, IGNORED, NUM_CLASSES, Problem, Subject, solve, value_of
from focalbench.testing.verdicts import Verdict, not_finite, raised

MAGNITUDES = (0.0, 1.0, 10.0, 17.5, 30.0, 90.0, 105.0, 1e3, 1e4)
"""Of logits: float32 rounds a probability to 1 from 17, and exp overflows from 89."""
PRIOR, ANCHORS_PER_POSITIVE = 0.01, 100
_SATURATED = {
    "sigmoid": "log(sigmoid(x)) and (1 - p) ** gamma do this where p reaches 0 or 1: F.logsigmoid(x) and "
    "(gamma * F.logsigmoid(-x)).exp() do not",
    "softmax": "softmax(x).log() and (1 - p) ** gamma do this where p reaches 0 or 1: F.log_softmax(x, -1) does not, "
    "nor does a power of (1 - p).clamp(min=1e-6)",
}
_HALF = (torch.bfloat16, torch.float16)
_HALF_TOLERANCE = 1e-3
_TWICE_TOLERANCE = 1e-3


def builds(subject: Subject) -> Verdict:
    """Whether the loss can be built with these keywords."""
    loss = subject.build()
    said = ", ".join(f"{name} {value}" for name, value in subject.keywords.items()) or "its defaults"
    asked = [f"needs_{name}" for name in ("quality", "boxes") if getattr(loss, f"needs_{name}")]
    return "ok", f"{subject.kind.activation}, with {said}{''.join(f'; {name}' for name in asked)}"


def values(subject: Subject) -> Verdict:
    """Whether its value is what the caller takes."""
    loss, problem = subject.build(), subject.sample()
    logits = problem.logits.requires_grad_()
    value = value_of(loss, problem)
    fault = _not_a_sum(value, loss)
    if fault:
        return "failed", fault
    if not value.requires_grad or torch.autograd.grad(value, logits, allow_unused=True)[0] is None:
        return "failed", "the value has no gradient on the logits: something between them detaches or leaves torch"
    if not math.isfinite(value.item()):
        return "failed", f"the value is {value.item()} for logits between {logits.min():.1f} and {logits.max():.1f}"
    doubled = float(value_of(subject.build(), problem.twice()))
    unit = "an element" if subject.kind.activation == "sigmoid" else "an anchor"
    what = f"one value {unit}" if isinstance(loss, FunctionLoss) else "a sum"
    if not math.isclose(doubled, 2 * value.item(), rel_tol=_TWICE_TOLERANCE):
        return "warning", (
            f"every image twice gives {doubled:.6g}, not twice {value.item():.6g}: is a mean taken? focalbench itself "
            "divides the sum by the number of positive anchors"
        )
    return "ok", f"{what}, {value.item():.6g} over {problem.labels.numel()} anchors and {NUM_CLASSES} classes"


def _not_a_sum(value: object, loss: ClassificationLoss) -> str | None:
    if not isinstance(value, Tensor):
        return f"returns {type(value).__name__}, not a tensor"
    if value.shape != ():
        return f"returns a tensor {tuple(value.shape)}: a class returns the sum over all anchors and classes, ()"
    if value.dtype != torch.float32:
        return f"returns {value.dtype} for logits of torch.float32: compute in the dtype of the logits"
    return None


def repeatable(subject: Subject) -> Verdict:
    """Whether the same calls give the same values."""
    problem = subject.sample()
    found = []
    for seed in (1, 2):
        loss = subject.build(training=True)
        torch.default_generator.manual_seed(seed)
        found.append(_call(loss, problem))
    if not torch.equal(found[0], found[1]):
        return "failed", (
            f"the same logits and labels give {float(found[0]):.8g} and {float(found[1]):.8g}: it draws random "
            "numbers or keeps state outside itself; arms cannot be compared then"
        )
    loss = subject.build(training=True)
    first, second = (solve(loss, problem)[0] for _ in range(2))
    if not torch.equal(first, second):
        return "ok", f"the same for a new loss; one called twice moves from {first:.6g} to {second:.6g}: it has state"
    return "ok", "two calls, one value"


def _call(loss: ClassificationLoss, problem: Problem) -> Tensor:
    """The value of a problem, with whatever seed is set."""
    quality = problem.quality if loss.needs_quality else None
    return loss(problem.logits, problem.labels, quality=quality, boxes=problem.boxes if loss.needs_boxes else None)


def inputs(subject: Subject) -> Verdict:
    """Whether it leaves alone what it is called with."""
    loss, problem = subject.build(training=True), subject.sample()
    names = ("logits", "labels", "quality", "boxes")
    before = [getattr(problem, name).clone() for name in names]
    with torch.no_grad():  # where a change in place raises nothing by itself
        value_of(loss, problem)
    changed = [name for name, was in zip(names, before, strict=True) if not torch.equal(was, getattr(problem, name))]
    if isinstance(loss, FunctionLoss):
        labels = problem.labels.flatten()
        x = problem.logits.flatten(0, 1)[labels >= 0]
        targets = loss.targets(labels[labels >= 0], x)
        given = x.clone(), targets.clone()
        with torch.no_grad():
            loss.values(*given)
        names_of = zip(("logits", "targets"), given, (x, targets), strict=True)
        changed = [name for name, after, was in names_of if not torch.equal(after, was)]
    if changed:
        return "failed", f"changes its {' and '.join(changed)} in place: x.clamp(...) instead of x.clamp_(...)"
    return "ok", "left as they were"


def extremes(subject: Subject) -> Verdict:
    """Whether value and gradient are finite at logits up to 1e4."""
    fault = not_finite(subject, mixed(subject, MAGNITUDES[-1]))
    if fault is None and not_finite(subject, extreme_logits(subject)) is None:
        return "ok", "value and gradient are finite for logits from -1e4 to 1e4 and both targets, float32"
    singles = list(_singles(subject))
    found = [said for problem, label in singles if (said := _fault_at(subject, problem, label))]
    if not found:
        return "failed", f"{fault or 'not finite'}, among logits between -1e4 and 1e4"
    more = f" (and at {len(found) - 1} more of {len(singles)} points)" if len(found) > 1 else ""
    return "failed", f"{found[0]}{more}; {_SATURATED[subject.kind.activation]}"


def _fault_at(subject: Subject, problem: Problem, label: int) -> str | None:
    """What is not finite of one anchor, with its logit and target."""
    fault = not_finite(subject, problem)
    if fault is None or " for " in fault:
        return fault
    return f"{fault} for {subject.words(problem, (0, 0, subject.single_column(label)))}"


def _singles(subject: Subject) -> Iterator[tuple[Problem, int]]:
    """Single anchors at each extreme logit, the smallest first, with their labels."""
    for magnitude in MAGNITUDES:
        for logit in sorted({magnitude, -magnitude}):
            for label in (0, BACKGROUND):
                yield subject.single(logit, label), label


def extreme_logits(subject: Subject) -> Problem:
    """Returns one image with an anchor for each extreme logit and target."""
    parts = [(part.logits, part.labels, part.quality, part.boxes) for part, _ in _singles(subject)]
    return Problem(*(torch.cat(field, dim=1) for field in zip(*parts, strict=True)))


def mixed(subject: Subject, magnitude: float) -> Problem:
    """Returns the sample with logits of ``magnitude`` and of its negative, mixed."""
    problem = subject.sample()
    return problem.with_logits(torch.where(problem.logits > 0, magnitude, -magnitude))


def half_precision(subject: Subject) -> Verdict:
    """Whether bfloat16 and float16 logits are taken, and give the float32 value."""
    for dtype in _HALF:
        problem = subject.sample().to(dtype)
        name = str(dtype).removeprefix("torch.")
        try:
            value, gradient = solve(subject.build(), problem)
        except Exception as fault:
            return "failed", f"{name} logits: {raised(fault, subject.place)}; logits.float() comes first"
        wanted, slope = solve(subject.build(), problem.to(torch.float32))
        if value.dtype != torch.float32:
            return (
                "failed",
                f"{name} logits give a value in {value.dtype}: logits.float() comes first",
            )
        if not math.isclose(value.item(), wanted.item(), rel_tol=_HALF_TOLERANCE):
            return "failed", (
                f"{name} logits give {value.item():.6g}, the same logits in float32 {wanted.item():.6g}: something is "
                "computed in half precision; logits.float() comes first"
            )
        if not torch.allclose(gradient.float(), slope, rtol=2e-2, atol=1e-3 * float(slope.abs().max())):
            return "failed", f"the gradient of {name} logits is not that of the same logits in float32"
        ends = mixed(subject, MAGNITUDES[-1])
        fault_at_ends = not_finite(subject, ends.to(dtype))
        if fault_at_ends and not not_finite(subject, ends):
            return "failed", f"{name} logits of -1e4 and 1e4: {fault_at_ends}; logits.float() comes first"
    return "ok", "bfloat16 and float16 logits give the float32 value of the rounded logits"


def empty_batches(subject: Subject) -> Verdict:
    """Whether batches without anchors, or without those that count, are no trouble."""
    doubts = []
    for name, problem in _empties(subject):
        try:
            fault = not_finite(subject, problem)
        except Exception as raising:
            return "failed", f"{name}: {raised(raising, subject.place)}"
        if fault:
            return "failed", f"{name}: {fault}; a division by the number of positives, or a mean of nothing?"
        if name == _NO_POSITIVES:
            continue
        value, gradient = solve(subject.build(training=True), problem)
        if bool((gradient != 0).any()):
            return "failed", f"{name}: the gradient is not 0"
        if value.item() != 0:
            doubts.append(f"{name}: the value is {value.item():.6g}, not 0")
    if doubts:
        return "warning", "; ".join(doubts)
    return "ok", "no images, no anchors, all ignored: 0; no positives: finite"


_NO_POSITIVES = "a batch without positives"


def _empties(subject: Subject) -> Iterator[tuple[str, Problem]]:
    yield "no images", subject.alike(torch.zeros(0, 7, subject.num_outputs), BACKGROUND)
    yield "images without anchors", subject.alike(torch.zeros(2, 0, subject.num_outputs), BACKGROUND)
    logits = subject.sample().logits
    yield "all anchors ignored", subject.alike(logits, IGNORED)
    yield _NO_POSITIVES, subject.alike(logits, BACKGROUND)


def initial_loss(subject: Subject) -> Verdict:
    """Whether the loss expected before the first step is what it is."""
    expected = initial_loss_of(subject)
    if expected is None:
        return "ok", "no closed form: the first step of a training cannot be checked against one"
    positives = torch.arange(NUM_CLASSES)
    labels = torch.cat([positives, torch.full((NUM_CLASSES * (ANCHORS_PER_POSITIVE - 1),), BACKGROUND)])[None]
    prior = torch.full((subject.num_outputs,), PRIOR)
    if subject.kind.activation == "softmax":
        logits = torch.cat([prior[:-1] / NUM_CLASSES, 1 - prior[-1:]]).log()
    else:
        logits = prior.logit()
    problem = subject.alike(logits.expand(1, labels.shape[1], -1).clone(), BACKGROUND)
    problem.labels.copy_(labels)
    found = solve(subject.build(), problem)[0].item() / NUM_CLASSES
    setting = f"for each positive at the prior {PRIOR}, with {ANCHORS_PER_POSITIVE} anchors a positive"
    if not math.isclose(found, expected, rel_tol=1e-3):
        return "failed", f"initial_loss says {expected:.6g} {setting}, but the loss is {found:.6g}"
    return "ok", f"{expected:.6g} {setting}"


def initial_loss_of(subject: Subject) -> float | None:
    """Returns the loss for each positive that is expected at the prior, None where there is no closed form."""
    return subject.build().initial_loss(ANCHORS_PER_POSITIVE * NUM_CLASSES, NUM_CLASSES, PRIOR)
