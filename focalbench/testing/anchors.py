"""Checks of how the anchors of a batch bear on each other: ignored ones, their order, one by one or together."""

from __future__ import annotations

import torch
from torch import Tensor

from focalbench.losses.function_loss import FunctionLoss
from focalbench.testing.problem import IGNORED, NUM_CLASSES, Problem, Subject, solve
from focalbench.testing.verdicts import Verdict

_RTOL, _ATOL = 1e-5, 1e-6


def ignored_anchors(subject: Subject) -> Verdict:
    """Whether ignored anchors have no part in value and gradient."""
    problem = subject.sample()
    ignored = problem.labels == IGNORED
    value, gradient = solve(subject.build(), problem)
    if bool((gradient[ignored] != 0).any()):
        return "failed", f"anchors with label {IGNORED} get a gradient: they must have no part in the loss"
    moved = problem.with_logits(torch.where(ignored[..., None], 8 - problem.logits, problem.logits))
    other, _ = solve(subject.build(), moved)
    if not _same(value, other):
        return "failed", (
            f"different logits of anchors with label {IGNORED} change the value from {value:.6g} to {other:.6g}: "
            "they must have no part in it"
        )
    alone = problem.image(0)
    value, _ = solve(subject.build(), alone)
    other, _ = solve(subject.build(), alone.at(alone.labels[0] != IGNORED))
    if _same(value, other):
        return "ok", "neither value nor gradient"
    if issubclass(subject.kind, FunctionLoss):
        return "warning", (
            f"without the ignored anchors the value is {other:.6g}, not {value:.6g}: a function gets them with logits "
            "and targets of 0, and what it takes over all rows counts them; a class sees which they are"
        )
    return (
        "failed",
        f"without the anchors of label {IGNORED} the value is {other:.6g}, not {value:.6g}: they are counted",
    )


def order(subject: Subject) -> Verdict:
    """Whether anchors may come in any order."""
    problem = subject.sample()
    value, gradient = solve(subject.build(), problem)
    shuffled = torch.randperm(problem.labels.shape[1], generator=torch.Generator().manual_seed(3))
    other, moved = solve(subject.build(), problem.at(shuffled))
    if not _same(value, other):
        return "failed", f"anchors in another order give {other:.6g}, not {value:.6g}"
    if not torch.allclose(moved, gradient[:, shuffled], rtol=1e-4, atol=_ATOL):
        return "failed", "anchors in another order get different gradients"
    return "ok", "anchors in another order give the same"


def independence(subject: Subject) -> Verdict:
    """Tells on what else an element's gradient depends: a fact, and no fault."""
    problem = subject.sample(torch.float64)
    _, gradient = solve(subject.build(), problem)
    others = torch.ones_like(problem.logits, dtype=torch.bool)
    others[0, 0] = False
    found = []
    if not torch.allclose(_moved(subject, problem, others)[0, 0], gradient[0, 0], rtol=1e-9, atol=1e-12):
        found.append("the other anchors of the batch")
    if subject.kind.activation == "sigmoid":
        classes = torch.zeros_like(others)
        classes[0, 0, 1:NUM_CLASSES] = True
        if not torch.allclose(_moved(subject, problem, classes)[0, 0, 0], gradient[0, 0, 0], rtol=1e-9, atol=1e-12):
            found.append("the other classes of its anchor")
    if found:
        return "ok", f"an element depends on {' and on '.join(found)}"
    unit = "element" if subject.kind.activation == "sigmoid" else "anchor"
    return "ok", f"each {unit} by itself: it depends on no other"


def _moved(subject: Subject, problem: Problem, where: Tensor) -> Tensor:
    """The gradient when the logits ``where``, (N, R, C) bool, are others."""
    return solve(subject.build(), problem.with_logits(torch.where(where, 1.5 - problem.logits, problem.logits)))[1]


def _same(value: Tensor, other: Tensor) -> bool:
    return torch.allclose(value.double(), other.double(), rtol=_RTOL, atol=_ATOL)
