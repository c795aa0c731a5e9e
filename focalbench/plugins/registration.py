"""The decorators by which a plugin says what it brings. Light: no torch, and nothing of the configuration."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from focalbench.errors import PluginError

Kind = Literal["loss", "backbone", "detector", "tracker"]
Activation = Literal["sigmoid", "softmax"]
_Base = TypeVar("_Base")
_Target = TypeVar("_Target", bound=Callable[..., Any])

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")
_MARK = "__focalbench__"
REGISTRATIONS: list[Registration] = []
"""Everything that was decorated in this process, in that order."""


@dataclass(frozen=True)
class Registration:
    """One loss, backbone, detector or tracker of a plugin.

    Attributes:
        kind: what it is.
        name: by which the configuration calls it.
        target: the decorated function or class.
        options: the decorator's further arguments.
        module: in which it was defined.
        file, line: where.
    """

    kind: Kind
    name: str
    target: Callable[..., Any]
    options: Mapping[str, Any]
    module: str
    file: str
    line: int

    @property
    def place(self) -> str:
        """File and line, as in ``my_losses.py:12``."""
        return f"{self.file}:{self.line}"


def loss(name: str, *, activation: Activation = "sigmoid") -> Callable[[_Target], _Target]:
    """Makes a function or a class a classification loss that a configuration can name.

    A function takes ``(logits, targets, *, key=default, ...)``, both of the shape (A, C) and one float dtype, at least
    float32; ``targets`` are 0 or 1. It returns one value an element, (A, C), with ``activation`` sigmoid, where C is
    the number of classes, and one value an anchor, (A,), with softmax, where C counts the background too, last. A
    class is a :class:`focalbench.losses.ClassificationLoss`; its own ``activation`` counts.

    Its keyword parameters become the keys of ``loss`` in the configuration, with their types, ranges and defaults.
    """
    if activation not in ("sigmoid", "softmax"):
        raise ValueError(f"activation must be 'sigmoid' or 'softmax', got {activation!r}")
    return _register("loss", name, {"activation": activation})


def backbone(name: str) -> Callable[[_Target], _Target]:
    """Makes a function or a class a backbone that RetinaNet can name: called with its keys it returns a module.

    The module maps (N, 3, H, W) images to the list of its feature maps at strides 8, 16 and 32, and its attribute
    ``channels`` holds their three widths. Keyword parameters become keys of ``model.backbone: {name: ...}``.
    """
    return _register("backbone", name, {})


def detector(
    name: str,
    *,
    criterion: Callable[..., Any] | None = None,
    canvas_multiple: int = 1,
    has_objectness: bool = False,
) -> Callable[[_Target], _Target]:
    """Makes a subclass of :class:`focalbench.models.Detector` a network that ``model.name`` can name.

    Args:
        name: of the detector.
        criterion: a subclass of :class:`focalbench.losses.Criterion`; None: that of RetinaNet. Keyword parameters of
            both become keys of ``model`` in the configuration.
        canvas_multiple: sides of the canvas have to be multiples of this many pixels.
        has_objectness: whether ``loss.apply_to`` may name more than the classes.
    """
    options = {"criterion": criterion, "canvas_multiple": canvas_multiple, "has_objectness": has_objectness}
    return _register("detector", name, options)


def tracker(name: str) -> Callable[[_Target], _Target]:
    """Makes a subclass of :class:`focalbench.tracking.Tracker` something that ``run.trackers`` can name.

    It is called with a :class:`focalbench.tracking.TrackedTrial` and its keys.
    """
    return _register("tracker", name, {})


def _register(kind: Kind, name: str, options: Mapping[str, Any]) -> Callable[[_Target], _Target]:
    if not isinstance(name, str):
        raise TypeError(f'@focalbench.{kind} needs a name: @focalbench.{kind}("mine")')
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be the name of a {kind}: use a letter, then letters, digits and _, at most 40 characters"
        )

    def decorate(target: _Target) -> _Target:
        registration = describe(kind, name, target, options)
        REGISTRATIONS.append(registration)
        setattr(target, _MARK, registration)
        return target

    return decorate


def describe(kind: Kind, name: str, target: Callable[..., Any], options: Mapping[str, Any]) -> Registration:
    """Returns what a decorator would note of ``target``, and registers nothing."""
    module = getattr(target, "__module__", None) or "__main__"
    code = getattr(target, "__code__", None)
    return Registration(kind, name, target, options, module, *_place(module, code or target))


def _place(module: str, defined: Any) -> tuple[str, int]:
    """File and line of a function's code or of a class."""
    import inspect
    import sys

    if hasattr(defined, "co_filename"):
        return defined.co_filename, defined.co_firstlineno
    file = getattr(sys.modules.get(module), "__file__", None) or module
    try:
        return file, inspect.getsourcelines(defined)[1]
    except (OSError, TypeError):
        return file, 1


def require_subclass(entry: Registration, found: Any, base: type[_Base], called: str) -> type[_Base]:
    """Returns ``found``, which ``entry`` brought, if it is a subclass of ``base``; ``called`` says what that is.

    Raises:
        PluginError: for anything else.
    """
    if not (isinstance(found, type) and issubclass(found, base)):
        shown = getattr(found, "__name__", found)
        raise PluginError(f"{entry.place}: {entry.name}: {shown} is not a subclass of {called}")
    return found


def registration_of(target: Any) -> Registration | None:
    """Returns what a decorator noted of ``target`` itself, not of a base class."""
    found = vars(target).get(_MARK) if hasattr(target, "__dict__") else None
    return found if isinstance(found, Registration) else None
