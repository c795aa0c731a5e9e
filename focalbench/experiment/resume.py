"""What a trial that goes on has to agree with, and what it takes over: from its newest checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from focalbench.config.identity import UNLESS_SET, keeps_trial
from focalbench.config.sweep import Trial
from focalbench.devices import PRECISIONS, resolve_precision
from focalbench.errors import CheckpointError, ConfigError
from focalbench.ranks import rank
from focalbench.storage import START_ANEW
from focalbench.training.checkpoint import load_newest, remove_leftovers

Warn = Callable[[str], None]


def newest_checkpoint(trial: Trial, folder: Path, warn: Warn) -> dict[str, Any] | None:
    """Returns the newest checkpoint of ``trial`` in ``folder`` that is whole, or None where there is none at all.

    Raises:
        CheckpointError: when there are some, all of them damaged.
    """
    if rank() == 0:
        remove_leftovers(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        checkpoint = load_newest(folder)
    for warning in caught:
        warn(f"{trial.name}: {warning.message}")
    return checkpoint


def resumed_precision(
    trial: Trial, checkpoint: Mapping[str, Any] | None, device: torch.device, warn: Warn
) -> torch.dtype:
    """Returns what the configuration asks for; ``auto`` stays what it was when the trial began, on another machine too.

    Raises:
        ConfigError: when the device cannot do it.
    """
    asked = trial.config.optim.precision
    chosen = resolve_precision(asked, device)
    began = None if checkpoint is None else checkpoint.get("precision")
    if asked != "auto" or began not in PRECISIONS or precision_name(chosen) == began:
        return chosen
    warn(
        f"{trial.name}: began in {began} and continues in it, though optim.precision: auto is now "
        f"{precision_name(chosen)}"
    )
    try:
        return resolve_precision(began, device)
    except ConfigError as fault:
        raise ConfigError(
            f"{trial.name}: began in {began}, which {device} lacks; finish it elsewhere, or use --fresh"
        ) from fault


def precision_name(precision: torch.dtype) -> str:
    """Returns the name that the configuration has for it: fp32 | bf16 | fp16."""
    return next(name for name, attribute in PRECISIONS.items() if getattr(torch, attribute) is precision)


def require_same(checkpoint: Mapping[str, Any], identity: Mapping[str, Any], folder: Path) -> None:
    """Refuses to go on from a checkpoint of another experiment, naming what differs.

    Raises:
        CheckpointError: with the key and both values.
    """
    old, new = (dict.fromkeys(UNLESS_SET, "none") | config for config in (checkpoint["config"], identity["config"]))
    for key in sorted(old.keys() | new.keys()):
        if not keeps_trial(key) and old.get(key) != new.get(key):
            raise CheckpointError(
                f"{folder}: the checkpoint was made with {key}: {old.get(key)}, now it is {new.get(key)}; "
                f"restore the old value, or {START_ANEW}"
            )
    for key in ("classes", "data"):
        if checkpoint[key] != identity[key]:
            raise CheckpointError(
                f"{folder}: the checkpoint was made with {key} {checkpoint[key]}, now found {identity[key]}: "
                "the data set changed; restore it or use --fresh"
            )
