"""Keys of the configuration that a function's or a class's signature means: types, ranges, defaults."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from focalbench.config.loss import schedulable
from focalbench.errors import PluginError
from focalbench.plugins.registration import Registration
from focalbench.schedule import MOVES

_COLLECTING = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_PLAIN = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Key:
    """One keyword of a signature.

    Attributes:
        annotation: what may stand for it in YAML.
        default: of that type.
    """

    annotation: Any
    default: Any

    def moving(self, name: str) -> Key:
        """Returns the same for a loss: a float may be a schedule, and one called alpha ``auto``."""
        number, takes_null = _without_null(self.annotation)
        if _plain_type(number) is not float:
            return self
        return Key(schedulable(name, number, takes_null=takes_null), self.default)

    @property
    def is_marked_moving(self) -> bool:
        """Whether its annotation says that it takes a schedule."""
        number, _ = _without_null(self.annotation)
        return MOVES in getattr(number, "__metadata__", ())


def keys_of(
    entry: Registration, target: Callable[..., Any], *, skip: Sequence[str] = (), positional: int = 0
) -> dict[str, Key]:
    """Returns the keys that the signature of ``target``, which ``entry`` registers, means.

    Args:
        skip: names of parameters that are no keys.
        positional: leading parameters that are none either.

    Raises:
        PluginError: a parameter that cannot be a key: with file and line.
    """
    keys: dict[str, Key] = {}
    known = set(skip)
    for function in _functions(target):
        hints = _hints(entry, function)
        parameters = list(inspect.signature(function).parameters.values())
        known |= {parameter.name for parameter in parameters[: positional + isinstance(target, type)]}
        for parameter in parameters:
            if parameter.name not in known and parameter.kind not in _COLLECTING:
                keys[parameter.name] = _key(entry, parameter, hints.get(parameter.name))
        known |= keys.keys()
    return keys


def _functions(target: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """A function itself; of a class its ``__init__``, and those of its bases as far as keywords are passed on."""
    if not isinstance(target, type):
        yield target
        return
    for base in target.__mro__:
        own = vars(base).get("__init__")
        if own is None:
            continue
        if base is object or base.__module__.startswith("torch."):
            return
        yield own
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in inspect.signature(own).parameters.values()):
            return


def _hints(entry: Registration, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception as fault:  # whatever stands in an annotation is executed here
        raise PluginError(f"{entry.place}: {entry.name}: an annotation cannot be read: {fault}") from fault


def _key(entry: Registration, parameter: inspect.Parameter, annotation: Any) -> Key:
    name, default = parameter.name, parameter.default
    where = f"{entry.place}: {entry.name}: parameter {name}"
    if default is parameter.empty:
        raise PluginError(f"{where} has no default, which every key needs, as a configuration may leave it out")
    if annotation is None or annotation is Any:
        annotation = type(default)
        if annotation not in _PLAIN[:-1]:
            raise PluginError(f"{where} needs a type, such as {name}: float = 1.0")
    if not _is_plain(annotation):
        shown = getattr(annotation, "__name__", None) or str(annotation)
        raise PluginError(
            f"{where} is a {shown}, which YAML does not have: use bool, int, float, str, None, Literal, or a list "
            f"or tuple "
            "of these"
        )
    try:
        return Key(annotation, TypeAdapter(annotation).validate_python(default))
    except ValidationError as fault:
        raise PluginError(f"{where}: its own default {default!r} is refused: {fault.errors()[0]['msg']}") from fault


def _is_plain(annotation: Any) -> bool:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in _PLAIN:
        return True
    if origin is Annotated:
        return _is_plain(inner[0])
    if origin is Literal:
        return all(isinstance(value, _PLAIN) for value in inner)
    if origin in (list, tuple, Sequence, Union, types.UnionType):
        return all(part is Ellipsis or _is_plain(part) for part in inner)
    return False


def _without_null(annotation: Any) -> tuple[Any, bool]:
    """``float`` and True for ``float | None``; other unions as they are."""
    if get_origin(annotation) in (Union, types.UnionType):
        rest = [part for part in get_args(annotation) if part is not type(None)]
        if len(rest) == 1:
            return rest[0], True
    return annotation, False


def _plain_type(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
