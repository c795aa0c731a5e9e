"""Checks of the gradient of a loss: its precision, whether it is the derivative, and which way it pushes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from focalbench.testing.problem import BACKGROUND, Problem, Subject, solve, value_of
from focalbench.testing.verdicts import Verdict

_RTOL, _ATOL = 1e-3, 1e-5  # the second in units of the largest gradient
_STEP, _COARSE_STEP = 1e-6, 1e-2
_COARSE_TOLERANCE = 2e-2
_PUSHED = (-4.0, -2.0, -0.5, 0.5, 2.0, 4.0)


def precision(subject: Subject) -> Verdict:
    """Whether float32 is enough for it: gradient and value as in float64."""
    problem = subject.sample()
    value, gradient = solve(subject.build(), problem)
    exact = problem.to(torch.float64)
    wanted, slope = solve(subject.build(), exact)
    place = _first_apart(gradient.double(), slope)
    if place is not None:
        return "failed", (
            f"for {subject.words(problem, place)} the gradient is {gradient[place].item():.6g} in float32 and "
            f"{slope[place].item():.6g} in float64: precision is lost on the way, as in 1 - sigmoid(x) for large x"
        )
    if not torch.isclose(value.double(), wanted.double(), rtol=1e-4, atol=1e-6):
        return "failed", f"the value is {value.item():.8g} in float32 and {wanted.item():.8g} in float64"
    return "ok", f"autograd in float32 and in float64 agree (relative {_RTOL:g}, absolute {_ATOL:g} of the largest)"


def derivative(subject: Subject) -> Verdict:
    """Whether the gradient is the derivative of the value, by finite differences in float64."""
    problem = subject.sample(torch.float64).image(0)
    left, right = _one_sided(subject, problem, _STEP)
    numeric = (left + right) / 2
    _, gradient = solve(subject.build(), problem)
    place = _first_apart(gradient, numeric)
    if place is None:
        return "ok", f"the derivative of the value in float64, by central differences of {_STEP:g} (relative {_RTOL:g})"
    apart = _apart(gradient, numeric)
    low, high = torch.minimum(left, right), torch.maximum(left, right)
    slack = _ATOL * float(numeric.abs().max())
    between = (gradient >= low - slack) & (gradient <= high + slack) & _apart(left, right)
    if bool(between[apart].all()):
        return "warning", f"has a kink at {subject.words(problem, place)}: the gradient there is one of several"
    if _followed(subject, problem, numeric):
        return "warning", (
            "holds a factor as a constant (detach or no_grad): the gradient is not the derivative of the value. "
            "Fine if this is intended"
        )
    left, right = _one_sided(subject, problem, _COARSE_STEP)
    coarse = (left + right) / 2
    if torch.allclose(gradient, coarse, rtol=_COARSE_TOLERANCE, atol=_COARSE_TOLERANCE * float(coarse.abs().max())):
        return "ok", (
            f"the derivative of the value within {_COARSE_TOLERANCE:.0%}; more cannot be seen, because it computes in "
            "float32 even where logits are float64 (a .float()?)"
        )
    return "failed", (
        f"for {subject.words(problem, place)} the gradient is {gradient[place].item():.6g}, and the value changes by "
        f"{numeric[place].item():.6g} for each unit of the logit: a custom backward, or an operation whose "
        "gradient torch does not have?"
    )


def _one_sided(subject: Subject, problem: Problem, step: float) -> tuple[Tensor, Tensor]:
    """The slopes of the value below and above each logit, (N, R, C) each."""
    here = value_of(subject.build(), problem).double()
    left, right = torch.zeros_like(problem.logits), torch.zeros_like(problem.logits)
    for index in range(problem.logits.numel()):
        for slopes, sign in ((left, -1), (right, 1)):
            logits = problem.logits.clone()
            logits.view(-1)[index] += sign * step
            there = value_of(subject.build(), problem.with_logits(logits)).double()
            slopes.view(-1)[index] = (there - here) * sign / step
    return left, right


class _Undetached(TorchFunctionMode):
    """Lets autograd see through ``detach``, ``.data`` and ``no_grad``."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in (torch.Tensor.detach, torch.detach) or function == torch.Tensor.data.__get__:  # type: ignore[attr-defined]
            return args[0]
        if function is torch._C._set_grad_enabled:
            return None
        return function(*args, **(kwargs or {}))


def _followed(subject: Subject, problem: Problem, numeric: Tensor) -> bool:
    """Whether the gradient is the derivative once nothing is held constant."""
    logits = problem.logits.clone().requires_grad_()
    with _Undetached():
        value = value_of(subject.build(), problem.with_logits(logits))
    (gradient,) = torch.autograd.grad(value, logits)
    return _first_apart(gradient, numeric) is None


def _apart(found: Tensor, wanted: Tensor) -> Tensor:
    return ~torch.isclose(found, wanted, rtol=_RTOL, atol=_ATOL * max(float(wanted.abs().max()), 1e-12))


def _first_apart(found: Tensor, wanted: Tensor) -> tuple[int, int, int] | None:
    apart = _apart(found, wanted).nonzero()
    if not len(apart):
        return None
    image, anchor, output = apart[0].tolist()
    return image, anchor, output


def direction(subject: Subject) -> Verdict:
    """Whether it pushes logits towards their targets."""
    pushes = {label: [_push(subject, logit, label) for logit in _PUSHED] for label in (0, BACKGROUND)}
    # own logit of a positive has to rise; the background's own logit does so too with a softmax, with a sigmoid falls
    positive = -sum(pushes[0])
    negative = sum(pushes[BACKGROUND]) * (-1 if subject.kind.activation == "softmax" else 1)
    if positive < 0 and negative < 0:
        return (
            "warning",
            "pushes logits away from their targets, on both sides: is its sign or are the targets inverted?",
        )
    wrong = [
        f"{'pushes logits of ' + side + ' the wrong way' if push < 0 else 'does not move logits of ' + side}"
        for side, push in (("positives", positive), ("negatives", negative))
        if push <= 0
    ]
    if wrong:
        return "warning", f"{' and '.join(wrong)}: are targets and logits swapped in a call?"
    return "ok", "positives are pushed up, negatives down"


def _push(subject: Subject, logit: float, label: int) -> float:
    _, gradient = solve(subject.build(), subject.single(logit, label))
    return float(gradient[0, 0, subject.single_column(label)])
