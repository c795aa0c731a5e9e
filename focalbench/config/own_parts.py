"""What a configuration makes use of that plugins brought, known by the digests that its sections say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from focalbench.config.loss import PluginLoss
from focalbench.config.model import PluginBackbone, PluginDetector
from focalbench.config.schema import ExperimentConfig
from focalbench.plugins.source import PluginSource


def sources_of(config: ExperimentConfig) -> tuple[PluginSource, ...]:
    """Returns the sources of the plugins that this configuration itself makes use of."""
    known = config.plugin_sources
    used = digests_in(config, "model", "loss", "run") if known else ()
    return tuple(known[digest] for digest in used if digest in known)


def digests_in(config: ExperimentConfig, *branches: str) -> tuple[str, ...]:
    """Returns the digests of the plugins that these branches of a configuration make use of, each once."""
    return tuple(dict.fromkeys(_digests(config.model_dump(mode="json", include=set(branches)))))


def _digests(data: Any) -> Iterator[str]:
    """Yields the values of every key ``source`` in ``data``."""
    if isinstance(data, dict):
        if isinstance(digest := data.get("source"), str):
            yield digest
        data = list(data.values())
    if isinstance(data, list):
        for value in data:
            yield from _digests(value)


def places_of_plugins(config: ExperimentConfig) -> tuple[tuple[str, str], ...]:
    """Returns the keys, as paths, at which something stands that a plugin brought."""
    found = {
        ("model", "name"): isinstance(config.model, PluginDetector),
        ("model", "backbone"): isinstance(getattr(config.model, "backbone", None), PluginBackbone),
        ("loss", "name"): isinstance(config.loss, PluginLoss),
        ("run", "trackers"): bool(config.run.trackers),
    }
    return tuple(path for path, is_there in found.items() if is_there)


def self_contained(config: ExperimentConfig) -> ExperimentConfig:
    """Returns ``config`` in a form that needs no plugin to be read: what plugins brought stands as it is."""
    if not config.plugin_sources:
        return config
    return ExperimentConfig.model_validate_json(config.model_dump_json())  # as it will be read: with lists, not tuples
