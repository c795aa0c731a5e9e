"""From a YAML file and overrides to a validated configuration, and back to text."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from focalbench.config.document import (
    CORE_SCHEMA,
    Document,
    Fault,
    KeyPath,
    Mark,
    config_error,
    parse_value,
    read_document,
)
from focalbench.config.faults import BRANCHES, default_name, faults_of, variants
from focalbench.config.schema import ExperimentConfig

_EXCLUSIVE = {("optim", "steps"): ("optim", "epochs"), ("optim", "epochs"): ("optim", "steps")}
"""Setting one of the two lets go of the other."""
_FREE_KEYS = (("sweep", "grid"), ("sweep", "zip"), ("sweep", "random", "params"), ("sweep", "search", "params"))
"""Mappings whose keys contain dots themselves."""
_NOT_IDENTITY: dict[str, Any] = {
    "name": True,
    "run": True,
    "sweep": True,
    "data": {"cache", "cache_dir"},
    "eval": {"batch_size"},
}
"""What changes where or how fast a trial runs, but not what it is."""
_UNSAFE = re.compile(r"[^A-Za-z0-9._+=-]+")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The configuration in ``path`` with ``overrides`` applied; every trial of its sweep is checked too.

    Args:
        path: a YAML file.
        overrides: ``KEY=VALUE`` each, as in ``loss.gamma=0.5``; the value is read by the same YAML grammar. A new
            ``name`` of a section keeps those keys beside it that the new variant also has.

    Raises:
        ConfigError: all faults at once, each with file, line and column (or the override), key and reason.
    """
    from focalbench.config.sweep import expand

    path = Path(path)
    document = read_document(path)
    config = _configure(document, overrides, _UNSAFE.sub("_", path.stem).strip("._-"))
    expand(config, document)
    return config


def default_config(overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The defaults with ``overrides`` applied, for commands that take keys but no file.

    Raises:
        ConfigError: all faults at once.
    """
    return _configure(Document({}), overrides, "")


def _configure(document: Document, overrides: Sequence[str], name: str) -> ExperimentConfig:
    """``document`` with ``overrides``, validated; the experiment is called ``name`` where neither says how."""
    faults = apply_overrides(document, overrides)
    if document.data.get("name") is None and name:
        document.data["name"] = name
    config = check(document)
    if isinstance(config, list):
        raise config_error(faults + config)
    if faults:
        raise config_error(faults)
    return config


def apply_overrides(document: Document, overrides: Iterable[str]) -> list[Fault]:
    """Set each ``KEY=VALUE`` in ``document``, whole branches first and names of variants next, whatever their order.

    Returns:
        what is wrong with overrides that are not KEY=VALUE, not YAML, or go through something that is no section.
    """
    faults: list[Fault] = []
    parsed: list[tuple[KeyPath, Any, Document]] = []
    for override in overrides:
        source = f"-s {override}"
        key, equals, text = override.partition("=")
        path = split_key(key.strip())
        if not equals or not all(path):
            faults.append(Fault((), "should be KEY=VALUE, as in loss.gamma=0.5", Mark(source)))
            continue
        value, places = parse_value(text, source)
        faults += [Fault((*path, *fault.path), fault.reason, fault.mark) for fault in places.faults]
        parsed.append((path, value, places))
    for path, value, places in sorted(parsed, key=lambda entry: assignment_order(entry[0])):
        fault = assign(document, path, value, places)
        faults += [fault] if fault else []
    return faults


def split_key(key: str) -> KeyPath:
    """``loss.gamma`` as a path; the keys of a sweep's grid keep their dots."""
    parts = tuple(key.split("."))
    for prefix in _FREE_KEYS:
        if parts[: len(prefix)] == prefix and len(parts) > len(prefix):
            return (*prefix, ".".join(parts[len(prefix) :]))
    return parts


def assignment_order(path: KeyPath) -> tuple[bool, bool]:
    """Sorts whole branches before names of variants before all other keys."""
    return (len(path) > 1, path[-1] != "name")


def assign(document: Document, path: KeyPath, value: Any, places: Document) -> Fault | None:
    """Set ``path`` to ``value``, whose parts stand where ``places`` says; the fault if that cannot be."""
    target: Any = document.data
    for depth, part in enumerate(path[:-1], start=1):
        if target.get(part) is None:
            target[part] = {}
            document.keys.setdefault(path[:depth], places.mark(()) or Mark(""))
        target = target[part]
        if not isinstance(target, dict):
            return Fault(path, f"'{'.'.join(map(str, path[:depth]))}' is a value, not a section", places.mark(()))
    leaf = path[-1]
    if leaf == "name" and len(path) == 2 and path[0] in BRANCHES:
        _switch_variant(target, str(path[0]), value)
    rival = _EXCLUSIVE.get(path)  # type: ignore[arg-type]
    if rival is not None and value is not None:
        target.pop(rival[-1], None)
    target[leaf] = value
    document.forget(path)
    document.keys[path] = places.mark(()) or Mark("")
    document.values.update({(*path, *inner): mark for inner, mark in places.values.items()})
    document.keys.update({(*path, *inner): mark for inner, mark in places.keys.items()})
    return None


def _switch_variant(section: dict[str, Any], branch: str, name: Any) -> None:
    """Before ``section`` becomes the variant ``name``: drop the keys that it lacks or takes other values for."""
    models = variants(branch)
    old, new = (
        models.get(section.get("name", default_name(branch))),
        models.get(name) if isinstance(name, str) else None,
    )
    if old is None or new is None or old is new:
        return
    for key in [key for key in section if key in old.model_fields and key != "name"]:
        if key not in new.model_fields or (_takes(old, key, section[key]) and not _takes(new, key, section[key])):
            del section[key]


def _takes(model: Any, key: str, value: Any) -> bool:
    try:
        model.model_validate_json(json.dumps({key: value}), strict=True)
    except ValidationError as error:
        return all(key not in detail["loc"][:1] for detail in error.errors())
    return True


def check(document: Document) -> ExperimentConfig | list[Fault]:
    """The configuration that ``document`` holds, or everything that is wrong with it."""
    for branch in BRANCHES:
        section = document.data.get(branch)
        if isinstance(section, dict) and section.get("name") is None:
            section["name"] = default_name(branch)
    try:
        # Strict, so that `gamma: true` or `lr: "0.1"` is a fault; from JSON, so that a list may become a tuple.
        return ExperimentConfig.model_validate_json(json.dumps(document.data), strict=True)
    except ValidationError as error:
        return faults_of(error, document)


def resolved(config: ExperimentConfig) -> dict[str, Any]:
    """Every key of ``config`` as plain data, defaults included, a section's ``name`` first."""
    return {key: _name_first(value) for key, value in config.model_dump(mode="json").items()}


def _name_first(value: Any) -> Any:
    if isinstance(value, dict) and "name" in value:
        return {"name": value["name"]} | value
    return value


def dump_yaml(config: ExperimentConfig, *, allow_unicode: bool = True) -> str:
    """``config`` with every default spelled out, as YAML that ``load_config`` reads back to the same configuration.

    Where a sweep changes the variant of a section, that section's defaults stay out: written down, they would be
    carried over to the other variants.
    """
    data = resolved(config)
    if config.sweep is None:
        del data["sweep"]
    else:
        data["sweep"] = config.sweep.model_dump(mode="json", exclude_defaults=True)
        for branch in _switched_branches(data["sweep"]):
            data[branch] = _name_first(getattr(config, branch).model_dump(mode="json", exclude_unset=True))
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=allow_unicode, width=110)


def _switched_branches(sweep: dict[str, Any]) -> set[str]:
    drawn = [sweep.get(block, {}).get("params", ()) for block in ("random", "search")]
    keys = {*sweep.get("grid", ()), *sweep.get("zip", ()), *drawn[0], *drawn[1]}
    for entry in sweep.get("list", ()):
        keys |= set(entry)
    return {key.split(".")[0] for key in keys if key in {f"{branch}.name" for branch in BRANCHES}}


def changes_result(key: str) -> bool:
    """Whether the dotted ``key`` is part of what a trial is: whether ``config_hash`` depends on it."""
    section, _, inner = key.partition(".")
    left_out = _NOT_IDENTITY.get(section, ())
    return left_out is not True and inner not in left_out


def config_hash(config: ExperimentConfig) -> str:
    """Eight hex digits that identify a trial: equal when nothing that can change its result differs.

    Left out: ``name``, ``run``, ``sweep``, the data cache and the batch size of evaluation.
    """
    return _digest(config.model_dump(mode="json", exclude=_NOT_IDENTITY))


def arm_hash(config: ExperimentConfig) -> str:
    """As ``config_hash`` but equal for all seeds of an arm."""
    return _digest(config.model_dump(mode="json", exclude={**_NOT_IDENTITY, "seed": True}))


def _digest(data: dict[str, Any]) -> str:
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


class _Dumper(yaml.SafeDumper):
    """Writes text in quotes where YAML 1.1 or 1.2 would read something else; short lists on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in CORE_SCHEMA:
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    flat = not any(isinstance(item, list | dict) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flat)


_Dumper.add_representer(list, _represent_list)
