"""Checks of the keys of a loss: the ends of their ranges, schedules, ``alpha: auto``, and state in a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from focalbench.testing.problem import Subject, solve
from focalbench.testing.values import extreme_logits
from focalbench.testing.verdicts import Verdict, not_finite, raised

_INWARD = 0.01  # how far from an end that does not belong to the range: this share of the way to the default


def ranges(subject: Subject) -> Verdict:
    """Whether value and gradient stay finite at the ends of the ranges of all keys."""
    tried, open_keys = [], []
    # What the loss cannot stand with its defaults is no fault of a range.
    problems = [problem for problem in (extreme_logits(subject), subject.sample()) if not not_finite(subject, problem)]
    for name, node in _properties(subject).items():
        ends = list(dict.fromkeys(_ends(node, subject.schema)))
        if not ends and any(branch.get("type") == "number" for branch in _branches(node, subject.schema)):
            open_keys.append(name)
        for end in ends:
            try:
                faults = [not_finite(subject, problem, {name: end}) for problem in problems]
            except Exception as refusal:
                faults = [raised(refusal, subject.place)]
            if any(faults):
                said = next(filter(None, faults))
                return "failed", f"{name}: {_shown(end)}, which its range or type allows: {said}"
            tried.append(f"{name} {_shown(end)}")
    hint = f"{', '.join(open_keys)}: no range declared, Annotated[float, Field(gt=0)] is one" if open_keys else ""
    said = f"finite at the ends of ranges: {', '.join(tried)}" if tried else ""
    return "ok", "; ".join(filter(None, [said, hint])) or "no keys with a range"


def _properties(subject: Subject) -> dict[str, Any]:
    """The keys that the check itself was not told."""
    return {name: node for name, node in subject.schema.get("properties", {}).items() if name not in subject.keywords}


def _branches(node: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The forms that a key may have, as JSON Schema without references."""
    if "$ref" in node:
        node = root["$defs"][node["$ref"].rpartition("/")[2]]
    members = node.get("anyOf") or node.get("oneOf")
    if not members:
        yield node
        return
    for member in members:
        yield from _branches(member, root)


def _ends(node: Mapping[str, Any], root: Mapping[str, Any]) -> Iterator[Any]:
    """The values at the ends of what a key takes, and all of those that can be counted out."""
    default = node.get("default")
    for branch in _branches(node, root):
        kind = branch.get("type")
        if kind == "null":
            yield None
        elif kind == "boolean":
            yield from (False, True)
        elif "enum" in branch:
            yield from branch["enum"]
        elif kind in ("number", "integer"):
            yield from _number_ends(branch, default if isinstance(default, int | float) else None)


def _number_ends(branch: Mapping[str, Any], default: float | None) -> Iterator[float]:
    whole = branch["type"] == "integer"
    for closed, opened, inward in (("minimum", "exclusiveMinimum", 1), ("maximum", "exclusiveMaximum", -1)):
        if closed in branch:
            yield int(branch[closed]) if whole else float(branch[closed])
        elif opened in branch and whole:
            yield int(branch[opened]) + inward
        elif opened in branch:
            end = float(branch[opened])
            way = abs(default - end) if default is not None else 0.0
            yield end + inward * _INWARD * (way or 1.0)


def _shown(value: Any) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def schedules(subject: Subject) -> Verdict:
    """Whether each key that takes a schedule moves with it."""
    problem, idle = subject.sample(), []
    names = _schedulable(subject)
    for name, (start, end) in names.items():
        moving = subject.build({name: {"schedule": "linear", "values": (start, end)}})
        for fraction, number in ((0.0, start), (1.0, end)):
            moving.set_progress(fraction)
            found, _ = solve(moving, problem)
            wanted, _ = solve(subject.build({name: number}), problem)
            if not torch.allclose(found.double(), wanted.double(), rtol=1e-5, atol=1e-6):
                return "failed", (
                    f"with {fraction:.0%} of a training done a schedule of {name} from {start:g} to {end:g} gives "
                    f"{found:.6g}, and {name}: {number:g} gives {wanted:.6g}: read the buffer that keep() registers at "
                    "each call, and let set_progress move it"
                )
        if not math.isclose(moving.scheduled().get(name, math.nan), end, rel_tol=1e-6):
            return "failed", f"{name}: the value in force is not logged: scheduled() does not say {end:g} at the end"
        if torch.equal(_second_value(subject, {name: start}), _second_value(subject, {name: end})):
            idle.append(f"{name}: {start:g} and {end:g} give the same loss: does it have no effect?")
    if idle:
        return "warning", "; ".join(idle)
    return "ok", f"move {', '.join(names)}" if names else "no key takes one"


def _second_value(subject: Subject, changes: Mapping[str, Any]) -> torch.Tensor:
    """The value of a second step of a training: a key may bear on the state that the first one leaves."""
    loss, problem = subject.build(changes, training=True), subject.sample()
    solve(loss, problem)
    return solve(loss, problem)[0]


def _schedulable(subject: Subject) -> dict[str, tuple[float, float]]:
    """The keys that take a schedule, each with two numbers that it takes."""
    found = {}
    for name, node in _properties(subject).items():
        branches = list(_branches(node, subject.schema))
        if not any("schedule" in branch.get("properties", ()) for branch in branches):
            continue
        default = node.get("default")
        numbers = [default] if isinstance(default, int | float) else []
        numbers += [1.5 * number for number in numbers] + [0.5 * number for number in numbers] + [0.25, 0.75, 1.5, -0.5]
        fitting = [float(number) for number in dict.fromkeys(numbers) if any(_fits(number, b) for b in branches)]
        if len(fitting) > 1:
            found[name] = fitting[0], fitting[1]
    return found


def _fits(number: float, branch: Mapping[str, Any]) -> bool:
    if branch.get("type") != "number":
        return False
    return (
        branch.get("minimum", -math.inf) <= number <= branch.get("maximum", math.inf)
        and branch.get("exclusiveMinimum", -math.inf) < number < branch.get("exclusiveMaximum", math.inf)
    )  # fmt: skip


def alpha_auto(subject: Subject) -> Verdict:
    """Whether ``alpha: auto`` gives a loss."""
    node = _properties(subject).get("alpha", {})
    if not any(branch.get("const") == "auto" for branch in _branches(node, subject.schema)):
        return "ok", "no key alpha that takes auto"
    if not subject.kind.needs_counts({"alpha": "auto"}):
        return "failed", "alpha: auto has no anchors to count: needs_counts() says that it needs none"
    fault = not_finite(subject, subject.sample(), {"alpha": "auto"})
    if fault:
        return "failed", f"alpha: auto: {fault}"
    found = subject.build({"alpha": "auto"}).scheduled().get("alpha")
    return "ok", f"alpha {found:.6g} from 60 positive and 1000 negative anchors" if found is not None else "finite"


def state(subject: Subject) -> Verdict:
    """Whether a checkpoint brings back all that moves."""
    problem, moving = subject.sample(), _schedulable(subject)
    name = next(iter(moving), None)
    changes = {name: {"schedule": "linear", "values": moving[name]}} if name is not None else {}
    loss, other = (subject.build(changes, training=True) for _ in range(2))
    solve(loss, problem)
    loss.set_progress(0.5)
    other.load_state_dict(loss.state_dict())
    found, wanted = solve(other, problem)[0], solve(loss, problem)[0]
    if not torch.equal(found, wanted):
        return "failed", (
            f"after a checkpoint (state_dict, load_state_dict) the value is {found:.6g}, not {wanted:.6g}: keep what "
            "moves in buffers (register_buffer), not in attributes"
        )
    return "ok", "a checkpoint restores all of it"
