"""Changes to a configuration before it is validated: a key that is set, a section that becomes another variant."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from focalbench.config.base import PLUGIN_KEYS
from focalbench.config.document import ConfigFault, Document, KeyPath, Mark, parse_value
from focalbench.config.faults import BRANCHES, Schema, default_name, schema_of, variants

_EXCLUSIVE = {("optim", "steps"): ("optim", "epochs"), ("optim", "epochs"): ("optim", "steps")}
"""Setting one of the two lets go of the other."""
_PATH_KEYS = (("data", "root"), ("data", "cache_dir"), ("model", "weights"))
"""Keys whose values are paths, beside the entries of ``plugins``."""
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
_INNER_SECTIONS = (("data", "augment"), ("sweep", "random"), ("sweep", "search"))
_FREE_KEYS = (("sweep", "grid"), ("sweep", "zip"), ("sweep", "random", "params"), ("sweep", "search", "params"))
"""Mappings whose keys contain dots themselves."""


def apply_overrides(document: Document, overrides: Iterable[str]) -> list[ConfigFault]:
    """Sets each ``KEY=VALUE`` in ``document``, whole branches first and names of variants next, whatever their order.

    Returns:
        what is wrong with overrides that are not KEY=VALUE, not YAML, or go through something that is no section.
    """
    faults: list[ConfigFault] = []
    parsed: list[tuple[KeyPath, Any, Document]] = []
    for override in overrides:
        source = f"-s {override}"
        key, equals, text = override.partition("=")
        path = split_key(key.strip())
        if not equals or not all(path):
            faults.append(ConfigFault((), "should be KEY=VALUE, as in loss.gamma=0.5", Mark(source)))
            continue
        value, places = parse_value(text, source)
        faults += [ConfigFault((*path, *fault.path), fault.reason, fault.mark) for fault in places.faults]
        parsed.append((path, value, places))
    for path, value, places in sorted(parsed, key=lambda entry: assignment_order(entry[0])):
        fault = assign(document, path, value, places)
        faults += [fault] if fault else []
    return faults


def build_on(base: Document, own: Document) -> list[ConfigFault]:
    """Writes what ``own`` says over ``base``, key by key, as overrides would.

    Returns:
        what goes through something in ``base`` that is no section.
    """
    faults = [
        assign(base, path, value, _part(own, path))
        for path, value in sorted(_leaves(own.data), key=lambda leaf: assignment_order(leaf[0]))
    ]
    return [fault for fault in faults if fault is not None]


def _leaves(section: dict[str, Any], parents: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yields the keys of a configuration with their values: what is no section of it is a value as a whole."""
    for key, value in section.items():
        path = (*parents, key)
        if isinstance(value, dict) and (len(path) == 1 or path in _INNER_SECTIONS):
            yield from _leaves(value, path)
        else:
            yield path, value


def _part(document: Document, path: KeyPath) -> Document:
    """The places of the value at ``path``, as if it were a document of its own."""
    keys, values = (
        {known[len(path) :]: mark for known, mark in places.items() if known[: len(path)] == path}
        for places in (document.keys, document.values)
    )
    return Document({}, keys, values)


def fill_variables(document: Document, *, plugins: bool = False) -> list[ConfigFault]:
    """Replaces $VAR, ${VAR} and ~ in paths by the environment's values; to be called once for each kind of path.

    Args:
        plugins: in the entries of ``plugins``; else in all other paths, those that a sweep sets among them.

    Returns:
        a fault for each variable that is not set.
    """
    faults: list[ConfigFault] = []
    for holder, key, path in _plugin_paths(document) if plugins else _section_paths(document):
        if not isinstance(holder[key], str):
            continue
        names = dict.fromkeys(match[1] or match[2] for match in _VARIABLE.finditer(holder[key]))
        for name in names:
            if name not in os.environ:
                reason = f"the environment variable {name} is not set: export it, or write the path out"
                faults.append(ConfigFault(path, reason, document.mark(path)))
        filled = _VARIABLE.sub(lambda match: os.environ.get(match[1] or match[2], match[0]), holder[key])
        holder[key] = os.path.expanduser(filled)
    return faults


_Place = tuple[Any, Any, KeyPath]
"""A list or mapping, the index or key of a value in it, and where that stands in the document."""


def _plugin_paths(document: Document) -> Iterator[_Place]:
    entries = document.data.get("plugins")
    if isinstance(entries, list):
        yield from ((entries, number, ("plugins", number)) for number in range(len(entries)))


def _section_paths(document: Document) -> Iterator[_Place]:
    sweep = document.data.get("sweep")
    blocks = sweep if isinstance(sweep, dict) else {}
    entries = blocks.get("list")
    for name, key in _PATH_KEYS:
        yield from _at(document.data.get(name), key, (name, key))
        for block in ("grid", "zip"):
            table = blocks.get(block)
            values = table.get(f"{name}.{key}") if isinstance(table, dict) else None
            for number in range(len(values)) if isinstance(values, list) else ():
                yield values, number, ("sweep", block, f"{name}.{key}", number)
        for number, entry in enumerate(entries if isinstance(entries, list) else ()):
            if isinstance(entry, dict):
                yield from _at(entry, f"{name}.{key}", ("sweep", "list", number, f"{name}.{key}"))
                yield from _at(entry.get(name), key, ("sweep", "list", number, name, key))


def _at(holder: Any, key: str, path: KeyPath) -> Iterator[_Place]:
    if isinstance(holder, dict) and key in holder:
        yield holder, key, path


def split_key(key: str) -> KeyPath:
    """Returns ``loss.gamma`` as a path; the keys of a sweep's grid keep their dots."""
    parts = tuple(key.split("."))
    for prefix in _FREE_KEYS:
        if parts[: len(prefix)] == prefix and len(parts) > len(prefix):
            return (*prefix, ".".join(parts[len(prefix) :]))
    return parts


def assignment_order(path: KeyPath) -> tuple[bool, bool]:
    """Returns a key for sorting: whole branches come before names of variants, these before all other keys."""
    return (len(path) > 1, path[-1] != "name")


def assign(document: Document, path: KeyPath, value: Any, places: Document) -> ConfigFault | None:
    """Sets ``path`` to ``value``, whose parts stand where ``places`` says; returns the fault if that cannot be."""
    target: Any = document.data
    for depth, part in enumerate(path[:-1], start=1):
        if target.get(part) is None:
            target[part] = {}
            document.keys.setdefault(path[:depth], places.mark(()) or Mark(""))
        target = target[part]
        if not isinstance(target, dict):
            return ConfigFault(path, f"'{'.'.join(map(str, path[:depth]))}' is a value, not a section", places.mark(()))
    leaf = path[-1]
    if leaf == "name" and len(path) == 2 and path[0] in BRANCHES:
        _switch_variant(target, str(path[0]), value, schema_of(document))
    rival = _EXCLUSIVE.get(path)  # type: ignore[arg-type]
    if rival is not None and value is not None:
        target.pop(rival[-1], None)
    target[leaf] = value
    document.forget(path)
    document.keys[path] = places.mark(()) or Mark("")
    document.values.update({(*path, *inner): mark for inner, mark in places.values.items()})
    document.keys.update({(*path, *inner): mark for inner, mark in places.keys.items()})
    return None


def _switch_variant(section: dict[str, Any], branch: str, name: Any, schema: Schema) -> None:
    """Drop the keys of ``section`` that its new variant, ``name``, lacks or takes other values for."""
    models = variants(branch, schema)
    old = models.get(section.get("name", default_name(branch)))
    new = models.get(name) if isinstance(name, str) else None
    if old is None or old is new:
        return
    if new is None:  # a plugin's that has not been loaded yet, or none at all
        for key in [
            key for key in section if key != "name" and any(key not in one.model_fields for one in models.values())
        ]:
            del section[key]
        return
    for key in [key for key in section if key in old.model_fields and key != "name"]:
        if (
            key in PLUGIN_KEYS
            or key not in new.model_fields
            or (_takes(old, key, section[key]) and not _takes(new, key, section[key]))
        ):
            del section[key]


def _takes(model: Any, key: str, value: Any) -> bool:
    try:
        model.model_validate_json(json.dumps({key: value}), strict=True)
    except ValidationError as error:
        return all(key not in detail["loc"][:1] for detail in error.errors())
    return True
