"""How a check of a loss says what it saw."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from focalbench.errors import DivergedError
from focalbench.testing.problem import Problem, Subject, solve
from focalbench.testing.report import State

Verdict = tuple[State, str]
Check = Callable[[Subject], Verdict]

_NOT_THE_USERS = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent))


def raised(fault: BaseException, place: str = "") -> str:
    """Returns what was raised, and at which line of the code that is not focalbench's or torch's own.

    Args:
        fault: what was raised.
        place: file and line of the loss, which the report names already.
    """
    said = (str(fault).strip() or "no message").splitlines()[0]
    if place and said.startswith(f"{place}: "):
        return said.removeprefix(f"{place}: ")
    frames = reversed(traceback.extract_tb(fault.__traceback__))
    own = (f"{frame.filename}:{frame.lineno}: " for frame in frames if not frame.filename.startswith(_NOT_THE_USERS))
    return f"{next(own, '')}{type(fault).__name__}: {said}"


def not_finite(subject: Subject, problem: Problem, changes: Mapping[str, Any] = MappingProxyType({})) -> str | None:
    """Returns what is not finite of the loss of a problem, in training; None where all is.

    Args:
        subject: the loss.
        problem: on which it is called.
        changes: other keywords.
    """
    try:
        value, gradient = solve(subject.build(changes, training=True), problem)
    except DivergedError as fault:
        return "the value" + raised(fault, subject.place).removeprefix(subject.name)
    broken = (~gradient.isfinite()).nonzero()
    if not bool(value.isfinite()):
        return f"the value is {value.item()}"
    if len(broken):
        place = tuple(broken[0].tolist())
        return f"the gradient is {gradient[place].item()} for {subject.words(problem, place)}"
    return None
