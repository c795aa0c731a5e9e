"""Changes to a configuration before it is validated: a key that is set, a section that becomes another variant."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from focalbench.config.base import PLUGIN_KEYS
from focalbench.config.document import ConfigFault, Document, KeyPath, Mark, parse_value
from focalbench.config.faults import BRANCHES, Schema, default_name, schema_of, variants

_EXCLUSIVE = {("optim", "steps"): ("optim", "epochs"), ("optim", "epochs"): ("optim", "steps")}
"""Setting one of the two lets go of the other."""
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
    if old is None or new is None or old is new:
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
