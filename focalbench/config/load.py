"""From a YAML file and overrides to a validated experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from focalbench.config.document import (
    ConfigFault,
    Document,
    KeyPath,
    Mark,
    config_error,
    parse_value,
    plain_document,
    read_document,
)
from focalbench.config.dump import dump_plain
from focalbench.config.edit import apply_overrides, build_on, fill_variables, split_key
from focalbench.config.faults import BRANCHES, check, shown
from focalbench.config.names import name_from
from focalbench.config.own_parts import places_of_plugins
from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import Trial, expand, extreme_proposals
from focalbench.errors import PluginError
from focalbench.plugins.source import read_source

if TYPE_CHECKING:
    from focalbench.plugins.loading import Plugin


@dataclass(frozen=True)
class Written:
    """What an experiment was read from.

    Attributes:
        text: of the file, or what a file would hold.
        overrides: KEY=VALUE each.
        folder: that holds the file; None where there is none.
    """

    text: str
    overrides: tuple[str, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True)
class Experiment:
    """What a file says, validated.

    Attributes:
        config: the configuration as it is written, with its sweep.
        trials: that it means, without those that ``sweep.search`` will propose.
        written: what it was read from.
    """

    config: ExperimentConfig
    trials: tuple[Trial, ...]
    written: Written = field(default=Written(""), compare=False)


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
    document = _with_base(read_document(path), path.parent, (path.resolve(),))
    config = _configure(document, overrides, name_from(path.stem))
    trials = _expand(config, document, overrides)
    return Experiment(config, trials, Written(document.text, tuple(overrides), path.parent))


def load_mapping(mapping: Mapping[str, Any], overrides: Sequence[str] = ()) -> Experiment:
    """Takes ``mapping`` for what a file holds, applies ``overrides`` and expands its sweep.

    Without a ``name`` the experiment is called ``experiment``.

    Raises:
        ConfigError: all faults at once, each with key and reason.
    """
    document = _with_base(plain_document(mapping), Path(), ())
    text = dump_plain(document.data)
    config = _configure(document, overrides, "experiment")
    return Experiment(config, _expand(config, document, overrides), Written(text, tuple(overrides)))


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


def _expand(config: ExperimentConfig, document: Document, overrides: Sequence[str]) -> tuple[Trial, ...]:
    """Returns the trials, of which at least one has what an override sets."""
    trials = expand(config, document)
    if not overrides:
        return trials
    search = config.sweep.search if config.sweep is not None else None
    later = expand(config, document, proposals=extreme_proposals(search)) if search is not None else ()
    arms = {trial.arm: trial for trial in (*trials, *later)}
    values = [trial.config.model_dump(mode="json") for trial in arms.values()]
    base = config.model_dump(mode="json")
    reason = (
        "no trial has it: every arm of the sweep sets it otherwise; change it there, or train one with -s sweep=null"
    )
    faults = [
        ConfigFault((), reason, Mark(f"-s {override}"))
        for override in overrides
        if not any(_has_effect(override, base, of_arm) for of_arm in values)
    ]
    if faults:
        raise config_error(faults)
    return trials


def _has_effect(override: str, base: dict[str, Any], trial: dict[str, Any]) -> bool:
    """Whether a trial has the value that an override gave the configuration, or one of those of a section."""
    key, _, text = override.partition("=")
    path = split_key(key.strip())
    if path[0] not in (*BRANCHES, "eval"):
        return True  # the sweep itself, or the same for all trials
    written = parse_value(text, "")[0]
    if written == {}:
        return True
    paths = [(*path, name) for name in written] if isinstance(written, dict) else [path]
    return any(_value_at(base, one) == _value_at(trial, one) for one in paths)


def _value_at(values: Any, path: KeyPath) -> Any:
    for part in path:
        values = values.get(part, KeyError) if isinstance(values, dict) else KeyError
    return values


def _with_base(document: Document, folder: Path, above: tuple[Path, ...]) -> Document:
    """Returns ``document`` written over the file that its ``base`` names, if it names one.

    Args:
        folder: that ``base`` is relative to.
        above: files that lead here.
    """
    entry, mark = document.data.pop("base", None), document.mark(("base",))
    if entry is None:
        return document
    reason = "" if isinstance(entry, str) and entry else f"should be the path of a file, not {shown(entry)}"
    path = folder / Path(str(entry)).expanduser()
    if not reason and path.resolve() in above:
        reason = f"{path} builds on itself"
    if reason:
        raise config_error([ConfigFault(("base",), reason, mark)])
    base = _with_base(read_document(path), path.parent, (*above, path.resolve()))
    base.data.pop("name", None)  # two experiments in one folder would be taken for one
    faults = build_on(base, document)
    if faults:
        raise config_error(faults)
    base.text = f"# Written over {path}\n{dump_plain(base.data)}"
    return base


def _configure(document: Document, overrides: Sequence[str], name: str) -> ExperimentConfig:
    """Validate ``document`` with ``overrides``; the experiment is called ``name`` where neither says how."""
    of_plugins = [override for override in overrides if override.partition("=")[0].strip() == "plugins"]
    faults = apply_overrides(document, of_plugins) + fill_variables(document, plugins=True)
    document.schema = _executed(document)
    faults += apply_overrides(document, [override for override in overrides if override not in of_plugins])
    faults += fill_variables(document)
    if document.data.get("base") is not None:
        faults.append(ConfigFault(("base",), "is read from the file only: write it there", document.mark(("base",))))
    if document.data.get("name") is None and name:
        document.data["name"] = name
    config = check(document)
    if isinstance(config, list):
        raise config_error(faults + config)
    if faults:
        raise config_error(faults)
    strange = places_of_plugins(config) if document.schema is None else ()
    if strange:
        reason = "is not built in, and nothing in `plugins` provides it"
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
