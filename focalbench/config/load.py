"""From a YAML file and overrides to a validated experiment."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from focalbench.config.document import Document, config_error, read_document
from focalbench.config.edit import apply_overrides
from focalbench.config.faults import check
from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import Trial, expand

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


def default_config(overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Applies ``overrides`` to the defaults, for commands that take keys but no file.

    Raises:
        ConfigError: all faults at once.
    """
    return _configure(Document({}), overrides, "")


def _configure(document: Document, overrides: Sequence[str], name: str) -> ExperimentConfig:
    """Validate ``document`` with ``overrides``; the experiment is called ``name`` where neither says how."""
    faults = apply_overrides(document, overrides)
    if document.data.get("name") is None and name:
        document.data["name"] = name
    config = check(document)
    if isinstance(config, list):
        raise config_error(faults + config)
    if faults:
        raise config_error(faults)
    return config
