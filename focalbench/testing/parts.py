"""``check_part``: whether a backbone, detector or tracker of one's own is what focalbench can work with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from focalbench.config.plugin_sections import schema_of_keys
from focalbench.losses.criterion import Criterion
from focalbench.models.detector import Detector
from focalbench.models.own_backbone import maps_fault, widths_fault
from focalbench.plugins.registration import Registration, registration_of
from focalbench.testing.report import Finding, Report
from focalbench.testing.verdicts import raised
from focalbench.tracking.tracker import Tracker

_IMAGES = (2, 3, 64, 96)


def check_part(part: Callable[..., Any]) -> Report:
    """Checks what ``focalbench.backbone``, ``detector`` or ``tracker`` decorates.

    A backbone is built with its defaults, asked for the maps of two 64 x 96 images, and trained for one step. Of a
    detector and a tracker class and keys are looked at; neither is built: a tracker may talk to a server.

    Args:
        part: the decorated function or class.

    Returns:
        What was found; a part that is wrong raises nothing here, ``raise_if_failed`` of the report does.

    Raises:
        TypeError: when it is not decorated, or a loss.
    """
    entry = registration_of(part)
    if entry is None or entry.kind not in _CHECKS:
        raise TypeError(f"check_part takes a decorated backbone, detector or tracker, got {part!r}; losses: check_loss")
    return part_report(entry)


def part_report(entry: Registration) -> Report:
    """Returns what :func:`check_part` finds of a backbone, detector or tracker that is registered."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        findings = tuple(_findings(entry))
    return Report(entry.kind, entry.name, entry.place, findings)


def _findings(entry: Registration) -> Iterator[Finding]:
    try:
        names = list(schema_of_keys(entry).get("properties", {}))
        yield Finding("keys", "ok", ", ".join(names) or "none")
        yield from _CHECKS[entry.kind](entry)
    except Exception as fault:  # whatever it raises is what was found
        yield Finding("runs", "failed", raised(fault, entry.place))


def _backbone(entry: Registration) -> Iterator[Finding]:
    module = entry.target()
    if fault := widths_fault(module):
        yield Finding("widths", "failed", fault)
        return
    widths: tuple[int, ...] = tuple(module.channels)
    yield Finding("widths", "ok", ", ".join(map(str, widths)))
    images = torch.randn(_IMAGES)
    with torch.no_grad():
        fault = maps_fault(module.eval()(images), widths, _IMAGES)
    yield Finding("maps", "failed" if fault else "ok", fault or f"strides 8, 16 and 32 of {_size(images)} images")
    if fault is None:
        yield _trained(module.train(), images)


def _size(images: Tensor) -> str:
    return f"{images.shape[2]} x {images.shape[3]}"


def _trained(module: nn.Module, images: Tensor) -> Finding:
    """One step of training: whether all that learns gets a gradient."""
    learning = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    if not learning:
        return Finding("training", "warning", "nothing in it can be trained: no parameter requires a gradient")
    optimizer = torch.optim.SGD(learning.values(), lr=1e-3)
    torch.stack([found.square().mean() for found in module(images)]).sum().backward()
    broken = [name for name, weight in learning.items() if weight.grad is not None and not weight.grad.isfinite().all()]
    if broken:
        return Finding("training", "failed", f"the gradient of {_named(broken)} is not finite")
    optimizer.step()
    idle = [name for name, weight in learning.items() if weight.grad is None]
    if idle:
        return Finding(
            "training", "warning", f"{_named(idle)}: no gradient; on several devices every parameter needs one"
        )
    count = sum(weight.numel() for weight in learning.values())
    return Finding("training", "ok", f"one step, forward and backward; {count / 1e6:.3g} M trainable parameters")


def _named(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _detector(entry: Registration) -> Iterator[Finding]:
    yield _class_of(entry.target, Detector, "class", "focalbench.models.Detector")
    criterion = entry.options["criterion"]
    if criterion is not None:
        yield _class_of(criterion, Criterion, "criterion", "focalbench.losses.Criterion")


def _tracker(entry: Registration) -> Iterator[Finding]:
    if not isinstance(entry.target, type):
        yield Finding("class", "ok", "a function: what it returns is not checked here")
        return
    finding = _class_of(entry.target, Tracker, "class", "focalbench.tracking.Tracker")
    yield finding
    if finding.state != "ok":
        return
    told = [name for name in vars(Tracker) if not name.startswith("_")]
    taken = [name for name in told if getattr(entry.target, name) is not getattr(Tracker, name)]
    if taken:
        yield Finding("methods", "ok", f"takes {', '.join(taken)}")
    else:
        yield Finding("methods", "warning", f"takes nothing: {', '.join(told)} are all as in the base class")


def _class_of(found: Any, base: type, name: str, called: str) -> Finding:
    """Whether ``found`` is a complete subclass of ``base``."""
    if not (isinstance(found, type) and issubclass(found, base)):
        return Finding(name, "failed", f"{getattr(found, '__name__', found)} is not a subclass of {called}")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        return Finding(name, "failed", f"{found.__name__} does not define {', '.join(missing)}")
    return Finding(name, "ok", f"{found.__name__}, a {called.rpartition('.')[2]}")


_CHECKS: dict[str, Callable[[Registration], Iterator[Finding]]] = {
    "backbone": _backbone,
    "detector": _detector,
    "tracker": _tracker,
}
