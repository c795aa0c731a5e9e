"""A validated configuration as plain data and as YAML."""

from __future__ import annotations

from typing import Any

import yaml

from focalbench.config.document import CORE_SCHEMA
from focalbench.config.faults import BRANCHES
from focalbench.config.schema import ExperimentConfig


def resolved(config: ExperimentConfig) -> dict[str, Any]:
    """Returns every key of ``config`` as plain data, defaults included, a section's ``name`` first."""
    return {key: _name_first(value) for key, value in config.model_dump(mode="json").items()}


def _name_first(value: Any) -> Any:
    if isinstance(value, dict) and "name" in value:
        return {"name": value["name"]} | value
    return value


def dump_yaml(config: ExperimentConfig, *, allow_unicode: bool = True) -> str:
    """Writes ``config``, every default spelled out, as YAML that ``load_config`` reads back to the same configuration.

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


def dump_plain(data: dict[str, Any]) -> str:
    """Writes plain data as YAML, in its own order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _switched_branches(sweep: dict[str, Any]) -> set[str]:
    drawn = [sweep.get(block, {}).get("params", ()) for block in ("random", "search")]
    keys = {*sweep.get("grid", ()), *sweep.get("zip", ()), *drawn[0], *drawn[1]}
    for entry in sweep.get("list", ()):
        keys |= set(entry)
    return {key.split(".")[0] for key in keys if key in {f"{branch}.name" for branch in BRANCHES}}


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
