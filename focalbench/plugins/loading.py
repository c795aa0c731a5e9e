"""Executes plugins, once each a process, and says of a fault which line of which plugin it comes from."""

from __future__ import annotations

import importlib
import importlib.util
import linecache
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from focalbench.errors import FocalbenchError, PluginError
from focalbench.plugins.registration import REGISTRATIONS, Kind, Registration
from focalbench.plugins.source import PluginSource, read_source


@dataclass(frozen=True)
class Plugin:
    """A plugin that was executed, and what it registered."""

    source: PluginSource
    registrations: tuple[Registration, ...]


_LOADED: dict[str, Plugin] = {}  # by digest
_FILES: set[str] = set()  # of the code of plugins, as tracebacks name them


def load_plugins(sources: Iterable[PluginSource]) -> tuple[Plugin, ...]:
    """Executes those of ``sources`` that this process has not executed yet; returns all of them.

    Raises:
        PluginError: when one raises, registers nothing or one name twice: with file and line.
    """
    return tuple(_LOADED.get(source.digest) or _load(source) for source in sources)


def registered(kind: Kind, name: str, digest: str) -> Registration:
    """Returns what the plugin with this source registered under ``name``.

    Raises:
        PluginError: when this process has not executed that source.
    """
    plugin = _LOADED.get(digest)
    for registration in plugin.registrations if plugin is not None else ():
        if (registration.kind, registration.name) == (kind, name):
            return registration
    raise PluginError(f"{kind} {name}: comes from a plugin that was not executed here (source {digest})")


def _load(source: PluginSource) -> Plugin:
    first = len(REGISTRATIONS)
    with redirect_stdout(sys.stderr):  # what it prints is no part of a command's own output
        module = _execute(source) if source.is_file else _import(source)
    if source.is_file:
        found = REGISTRATIONS[first:]
    else:
        found = [entry for entry in REGISTRATIONS if f"{entry.module}.".startswith(f"{module.__name__}.")]
    _require_names(source, found)
    return _LOADED.setdefault(source.digest, Plugin(source, tuple(found)))


def _execute(source: PluginSource) -> ModuleType:
    """Runs a plugin's file from its text, whatever the file holds by now."""
    text, file = source.files[0][1], str(Path(source.origin).expanduser())
    module = ModuleType(f"focalbench_plugin_{source.digest}")
    module.__file__ = file
    folder = str(Path(file).absolute().parent)
    if folder not in sys.path:  # as for a script: what lies beside it can be imported
        sys.path.append(folder)
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    _FILES.add(file)
    sys.modules[module.__name__] = module  # dataclasses look there
    try:
        exec(compile(text, file, "exec"), vars(module))
    except (Exception, SystemExit) as fault:
        del sys.modules[module.__name__]
        raise _import_fault(source, fault) from fault
    return module


def _import(source: PluginSource) -> ModuleType:
    """Imports a plugin that is installed, and makes sure that it is the source that was read."""
    known = [plugin for plugin in _LOADED.values() if plugin.source.origin == source.origin]
    if known or read_source(source.origin).digest != source.digest:
        raise PluginError(
            f"{source.origin}: has changed since this command started with source {source.digest}: it was edited, "
            f"or another version is installed here; run the command again"
        )
    spec = importlib.util.find_spec(source.origin)
    root = Path((spec.origin if spec is not None else None) or "").parent
    _FILES.update(str(root / path) for path, _ in source.files)
    try:
        return importlib.import_module(source.origin)
    except (Exception, SystemExit) as fault:
        raise _import_fault(source, fault) from fault


def _import_fault(source: PluginSource, fault: BaseException) -> PluginError:
    """What went wrong while the plugin was executed."""
    if isinstance(fault, FocalbenchError):
        return PluginError(f"{source.name}: {fault}")
    return PluginError(f"{_innermost(fault) or source.origin}: {_in_words(fault)}")


def _require_names(source: PluginSource, found: Sequence[Registration]) -> None:
    """Refuses a plugin without registrations, or with two of one name."""
    if not found:
        raise PluginError(
            f"{source.origin}: registers nothing: decorate a function or a class with @focalbench.loss, backbone, "
            "detector or tracker"
        )
    first: dict[tuple[Kind, str], Registration] = {}
    for entry in found:
        other = first.setdefault((entry.kind, entry.name), entry)
        if other is not entry:
            raise PluginError(
                f"{entry.place}: a {entry.kind} {entry.name} is defined twice, first at line {other.line}: rename one"
            )


@contextmanager
def plugin_faults() -> Iterator[None]:
    """Turns a fault that a plugin's code raises within the block into a PluginError with file and line."""
    try:
        yield
    except FocalbenchError:
        raise
    except (Exception, SystemExit) as fault:
        own = plugin_fault(fault)
        if own is None:
            raise
        traceback.print_exc()  # whole, into the worker's log
        raise own from fault


@contextmanager
def calls_of(entry: Registration | None) -> Iterator[None]:
    """Turns a call within the block that what a plugin registered does not take into a PluginError; None is none."""
    try:
        yield
    except TypeError as fault:
        if entry is None or plugin_fault(fault) is not None:  # the call was fine, or a line within tells more
            raise
        raise PluginError(f"{entry.place}: {entry.name}: {fault}") from fault


def plugin_fault(fault: BaseException) -> PluginError | None:
    """Returns what to raise in the place of ``fault``; None where no plugin's code raised it or called what did."""
    place = _innermost(fault)
    return None if place is None else PluginError(f"{place}: {_in_words(fault)}")


def _innermost(fault: BaseException) -> str | None:
    """File and line of the innermost frame that is a plugin's."""
    frames = reversed(traceback.extract_tb(fault.__traceback__))
    return next((f"{frame.filename}:{frame.lineno}" for frame in frames if frame.filename in _FILES), None)


def _in_words(fault: BaseException) -> str:
    if isinstance(fault, SystemExit):
        return "ends the process (sys.exit), which a plugin must not do: raise an error instead"
    first = (str(fault).strip() or "no message").splitlines()[0]
    way_out = ": install it wherever trials run" if isinstance(fault, ModuleNotFoundError) else ""
    return f"{type(fault).__name__}: {first}{way_out}"
