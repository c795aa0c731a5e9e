"""``check_loss``: what a loss of one's own has to pass, said in words."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, get_args

import torch

from focalbench.config.loss import SHARED_KEYS, BuiltInLoss
from focalbench.config.plugin_sections import schema_of_keys
from focalbench.errors import FocalbenchError
from focalbench.losses import LOSSES
from focalbench.losses.base import ClassificationLoss
from focalbench.losses.function_loss import registered_loss
from focalbench.plugins.registration import Activation, Registration, describe, registration_of
from focalbench.testing import anchors, gradients, keys, values
from focalbench.testing.problem import Subject
from focalbench.testing.report import Finding, LossReport
from focalbench.testing.verdicts import Check, raised

_FIRST: Mapping[str, Check] = {
    "builds": values.builds,
    "values": values.values,
    "repeatable": values.repeatable,
}
"""Without these the others say nothing."""
_THEN: Mapping[str, Check] = {
    "inputs": values.inputs,
    "extreme logits": values.extremes,
    "precision": gradients.precision,
    "derivative": gradients.derivative,
    "direction": gradients.direction,
    "ignored anchors": anchors.ignored_anchors,
    "half precision": values.half_precision,
    "empty batches": values.empty_batches,
    "order": anchors.order,
    "independence": anchors.independence,
    "ranges": keys.ranges,
    "schedules": keys.schedules,
    "alpha: auto": keys.alpha_auto,
    "state": keys.state,
    "initial loss": values.initial_loss,
}


def check_loss(loss: Callable[..., Any], /, *, activation: Activation | None = None, **keywords: Any) -> LossReport:
    """Checks a loss as the built-in ones are checked, and says in words what is wrong with it.

    Looked at are the shape of its values, finite values and gradients for logits from -1e4 to 1e4, the gradient against
    float64 and finite differences, which way it pushes, ignored anchors, bfloat16 and float16 logits, empty batches,
    the order of anchors, the ends of the ranges of its keys, schedules, ``alpha: auto``, state in checkpoints, and the
    closed form of its initial loss. On the CPU, in about a second; random generators are left as they were.

    Args:
        loss: a function or class that ``focalbench.loss`` decorates, a subclass of ``ClassificationLoss``, or, with
            ``activation``, a plain function of logits and targets.
        activation: of a plain function: sigmoid | softmax.
        keywords: keys of the loss with other values than their defaults, for all of the checks.

    Returns:
        What was found; a loss that is wrong raises nothing here, ``raise_if_failed`` of the report does.

    Raises:
        TypeError: when ``loss`` is none of these.
    """
    return loss_report(_entry_of(loss, activation), keywords)


def loss_report(entry: Registration, keywords: Mapping[str, Any] = MappingProxyType({})) -> LossReport:
    """Returns what :func:`check_loss` finds of a loss that is registered."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they are about, the findings say
        subject = _subject(entry, keywords)
        if isinstance(subject, Finding):
            return LossReport("loss", entry.name, entry.place, (subject,))
        findings = tuple(_findings(subject))
        known = any(finding.name == "initial loss" and finding.state == "ok" for finding in findings)
        initial = values.initial_loss_of(subject) if known else None
    return LossReport("loss", entry.name, entry.place, findings, initial)


def _entry_of(loss: Any, activation: Activation | None) -> Registration:
    """What the decorator noted, or would note of a loss without one."""
    entry = registration_of(loss)
    if entry is not None and entry.kind == "loss":
        return entry
    if entry is not None:
        raise TypeError(f"{entry.name} is a {entry.kind}, not a loss: focalbench.testing.check_part checks it")
    if isinstance(loss, type) and issubclass(loss, ClassificationLoss):
        return describe("loss", loss.__name__, loss, {"activation": loss.activation})
    if not callable(loss) or isinstance(loss, type):
        raise TypeError(f"check_loss takes a function or a subclass of ClassificationLoss, got {loss!r}")
    if activation not in ("sigmoid", "softmax"):
        raise TypeError('a function without @focalbench.loss needs activation="sigmoid" or activation="softmax"')
    return describe("loss", getattr(loss, "__name__", type(loss).__name__), loss, {"activation": activation})


def _subject(entry: Registration, keywords: Mapping[str, Any]) -> Subject | Finding:
    """The loss as the checks take it; a finding where it has no class or no keys."""
    try:
        kind = registered_loss(entry)
        return Subject(entry.name, entry.place, kind, keywords, _schema(entry))
    except FocalbenchError as fault:
        return Finding("builds", "failed", raised(fault, entry.place))


def _schema(entry: Registration) -> dict[str, Any]:
    """JSON Schema of the keys: of a built-in loss from its section."""
    for section in get_args(BuiltInLoss):
        if LOSSES[section.model_fields["name"].default] is entry.target:
            schema: dict[str, Any] = section.model_json_schema()
            own = {name: node for name, node in schema["properties"].items() if name not in SHARED_KEYS}
            return schema | {"properties": own}
    return schema_of_keys(entry)


def _findings(subject: Subject) -> Iterator[Finding]:
    for name, check in _FIRST.items():
        finding = _look(name, check, subject)
        yield finding
        if finding.state == "failed":
            yield Finding("the rest", "warning", f"{', '.join(_THEN)}: not checked until this is fixed")
            return
    for name, check in _THEN.items():
        yield _look(name, check, subject)


def _look(name: str, check: Check, subject: Subject) -> Finding:
    try:
        return Finding(name, *check(subject))
    except Exception as fault:  # whatever the loss raises is what was found
        return Finding(name, "failed", raised(fault, subject.place))
