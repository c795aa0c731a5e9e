"""From a YAML file and overrides to a validated experiment."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from focalbench.config.document import ConfigFault, Document, config_error, plain_document, read_document
from focalbench.config.edit import apply_overrides
from focalbench.config.faults import check
from focalbench.config.own_parts import places_of_plugins
from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import Trial, expand
from focalbench.errors import PluginError
from focalbench.plugins.source import read_source

if TYPE_CHECKING:
    from focalbench.plugins.loading import Plugin

_UNSAFE = re.compile(r"[^A-Za-z0-9._+=-]+")


@dataclass(frozen=True)
class Experiment:
    """What a file says, validated.

    Attributes:
        config: the configuration as it is written, with its sweep.
        trials: that it means, without those that ``sweep.search`` will propose.
    """

    config: ExperimentConfig
    trials: tuple[Trial, ...]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Reads the configuration in ``path``, applies ``overrides`` and expands its sweep.

    Args:
        path: a YAML file.
        overrides: ``KEY=VALUE`` each, as in ``loss.gamma=0.5``; the value is read by the same YAML grammar. A new
            ``name`` of a section keeps those keys beside it that the new variant also has.

    Raises:
        ConfigError: all faults at once, each with file, line and column (or the override), key and reason.
    """
    path = Path(path)
    document = read_document(path)
    config = _configure(document, overrides, _UNSAFE.sub("_", path.stem).strip("._-"))
    return Experiment(config, expand(config, document))


def load_mapping(mapping: Mapping[str, Any], overrides: Sequence[str] = ()) -> Experiment:
    """Takes ``mapping`` for what a file holds, applies ``overrides`` and expands its sweep.

    Without a ``name`` the experiment is called ``experiment``.

    Raises:
        ConfigError: all faults at once, each with key and reason.
    """
    document = plain_document(mapping)
    config = _configure(document, overrides, "experiment")
    return Experiment(config, expand(config, document))


def default_config(overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Applies ``overrides`` to the defaults, for commands that take keys but no file.

    Raises:
        ConfigError: all faults at once.
    """
    return _configure(Document({}), overrides, "")


def read_config(path: Path) -> ExperimentConfig:
    """Reads the configuration of a trial as it was trained: no plugin is executed, what plugins brought is taken as it
    stands.

    Raises:
        ConfigError: as ``load_config``.
    """
    document = read_document(path)
    config = check(document)
    if isinstance(config, list):
        raise config_error(config)
    return config


def schema_of_plugins(entries: Sequence[str]) -> type[ExperimentConfig]:
    """Returns the schema of a configuration that names these plugins, which are executed.

    Raises:
        PluginError: for a plugin that is not there or is wrong.
    """
    from focalbench.config.plugin_sections import schema_with
    from focalbench.plugins.loading import load_plugins

    return schema_with(load_plugins([read_source(entry) for entry in entries]))


def _configure(document: Document, overrides: Sequence[str], name: str) -> ExperimentConfig:
    """Validate ``document`` with ``overrides``; the experiment is called ``name`` where neither says how."""
    of_plugins = [override for override in overrides if override.partition("=")[0].strip() == "plugins"]
    faults = apply_overrides(document, of_plugins)
    document.schema = _executed(document)
    faults += apply_overrides(document, [override for override in overrides if override not in of_plugins])
    if document.data.get("name") is None and name:
        document.data["name"] = name
    config = check(document)
    if isinstance(config, list):
        raise config_error(faults + config)
    if faults:
        raise config_error(faults)
    strange = places_of_plugins(config) if document.schema is None else ()
    if strange:
        reason = "is not built in: `plugins` names no file or module that brings it"
        raise config_error([ConfigFault(path, reason, document.mark(path)) for path in strange])
    return config


def _executed(document: Document) -> type[ExperimentConfig] | None:
    """Execute the plugins that ``document`` names; the schema that they make, None without any."""
    entries = document.data.get("plugins")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, str) and entry for entry in entries):
        return None  # what is wrong with it, the check says
    from focalbench.config.plugin_sections import schema_with
    from focalbench.plugins.loading import load_plugins

    plugins: list[Plugin] = []
    for index, entry in enumerate(entries):
        try:
            plugins += load_plugins([read_source(entry)])
            schema = schema_with(plugins)
        except PluginError as fault:
            path = ("plugins", index)
            raise config_error([ConfigFault(path, str(fault), document.mark(path))]) from fault
    return schema
