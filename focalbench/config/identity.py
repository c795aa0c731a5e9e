"""Which trials are the same: one table says what every key changes, and all that depends on it asks the table."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from enum import Flag, auto
from typing import Any

from focalbench.config.paths import data_root
from focalbench.config.schema import ExperimentConfig, RunConfig
from focalbench.errors import ConfigError

IDENTITY_VERSION = 3
"""Number of the rule by which trials get their hash. Hashes of another rule say nothing about those of this one. Up to
version 1, which wrote no number down, ``eval.every`` and the spelling of ``data.root`` were part of the hash; up to
version 2 ``run.threads`` was not, nor ``optim.warmup_power``."""


class Effect(Flag):
    """What changes when a key of the configuration does."""

    NOTHING = 0
    RESULT = auto()
    """The trained network."""
    EVALUATION = auto()
    """The scores of a network, which itself stays the same."""
    PLACE = auto()
    """Where the images lie. Whether they are other images shows in the fingerprint of the data, not in the path."""
    TIME = auto()
    """How long each image of the training takes, with its share of the evaluation; not how many images there are."""


_RESULT, _EVALUATION, _PLACE, _TIME = Effect.RESULT, Effect.EVALUATION, Effect.PLACE, Effect.TIME
_IDENTITY = _RESULT | _EVALUATION

EFFECTS: dict[str, Effect] = {
    "name": Effect.NOTHING,
    "base": Effect.NOTHING,  # what it brings stands in the other keys
    "seed": _RESULT,
    "plugins": Effect.NOTHING,  # the sections that they bring say their source
    "data.name": _RESULT | _TIME,
    "data.root": _PLACE | _TIME,
    "data.train": _RESULT | _TIME,
    "data.val": _EVALUATION | _TIME,
    "data.classes": _RESULT | _TIME,
    "data.other_classes": _RESULT | _TIME,
    "data.sample_range": _RESULT,
    "data.num_train": _RESULT | _TIME,
    "data.num_val": _EVALUATION | _TIME,
    "data.seed": _RESULT | _EVALUATION,
    "data.image_size": _RESULT | _TIME,
    "data.fit": _RESULT | _TIME,
    "data.cache": _TIME,
    "data.cache_dir": _TIME,
    "data.augment": _RESULT | _TIME,
    "model": _RESULT | _TIME,
    "loss": _RESULT,
    "optim.name": _RESULT | _TIME,
    "optim.lr": _RESULT,
    "optim.backbone_lr": _RESULT,
    "optim.momentum": _RESULT,
    "optim.nesterov": _RESULT,
    "optim.betas": _RESULT,
    "optim.weight_decay": _RESULT,
    "optim.schedule": _RESULT,
    "optim.warmup_steps": _RESULT,
    "optim.warmup_power": _RESULT,
    "optim.milestones": _RESULT,
    "optim.factor": _RESULT,
    "optim.steps": _RESULT,
    "optim.epochs": _RESULT,
    "optim.batch_size": _RESULT | _TIME,
    "optim.clip_norm": _RESULT | _TIME,
    "optim.precision": _RESULT | _TIME,
    "optim.ema": _RESULT | _TIME,
    "optim.channels_last": _RESULT | _TIME,
    "optim.compile": _RESULT | _TIME,
    "eval.every": _TIME,
    "eval.protocol": _EVALUATION | _TIME,
    "eval.score_thresh": _EVALUATION | _TIME,
    "eval.nms_thresh": _EVALUATION | _TIME,
    "eval.top_k": _EVALUATION | _TIME,
    "eval.max_detections": _EVALUATION | _TIME,
    "eval.batch_size": _TIME,
    "run.threads": _RESULT | _TIME,
    **dict.fromkeys(
        (f"run.{key}" for key in RunConfig.model_fields if key != "threads"),
        _TIME,
    ),
    "sweep": Effect.NOTHING,
}
"""Dotted key -> what it changes. A section that stands here stands for all keys in it."""

UNLESS_SET = (
    "data.other_classes",
    "data.sample_range",
    "model.fpn_norm",
    "model.norm",
    "model.trainable_stages",
    "optim.backbone_lr",
)
"""Keys that belong to a trial's identity only where they are not null: a trial whose configuration was written without
them is the same trial."""


def effect_of(key: str) -> Effect:
    """Looks up what the dotted ``key`` changes; RESULT for one that is not known, such as another version's."""
    while key and key not in EFFECTS:
        key = key.rpartition(".")[0]
    return EFFECTS.get(key, _RESULT)


def keeps_trial(key: str) -> bool:
    """Tells whether a trial stays the same when ``key`` changes: neither its network nor its scores depend on it."""
    return not effect_of(key) & _IDENTITY


def is_unset(key: str, value: object) -> bool:
    """Tells whether ``key`` with this ``value`` says as much as a configuration without it."""
    return key in UNLESS_SET and value is None


def keeps_network(key: str) -> bool:
    """Tells whether a trained network stays the same when ``key`` changes, though its scores may not."""
    return _RESULT not in effect_of(key)


def can_be_swept(key: str) -> bool:
    """Tells whether trials of one sweep may differ in ``key``: it changes their results, or may do so, and is not said
    of all of them at once, as how they run is.
    """
    section = key.partition(".")[0]
    return section != "run" and (not keeps_trial(key) or _PLACE in effect_of(key))


def _left_out() -> dict[str, Any]:
    """Return the keys that no hash covers, in the form that pydantic takes."""
    sections: dict[str, Any] = {}
    for key in filter(keeps_trial, EFFECTS):
        section, _, inner = key.partition(".")
        if inner:
            sections.setdefault(section, {})[inner] = True
        else:
            sections[section] = True
    return sections


_LEFT_OUT = _left_out()


def config_hash(config: ExperimentConfig, swept: Collection[str] = ()) -> str:
    """Returns eight hex digits that identify a trial: equal when nothing that can change its result differs.

    Args:
        config: of the trial.
        swept: dotted keys that the sweep sets for it. A sweep over several data sets has a trial for each: where
            ``data.root`` is among them, the folder that it leads to counts, however it is spelled.
    """
    return _digest(config, swept, _LEFT_OUT)


def arm_hash(config: ExperimentConfig, swept: Collection[str] = ()) -> str:
    """Returns eight hex digits that identify an arm: as ``config_hash``, but equal for all seeds."""
    return _digest(config, swept, _LEFT_OUT | {"seed": True})


def _digest(config: ExperimentConfig, swept: Collection[str], left_out: dict[str, Any]) -> str:
    data = config.model_dump(mode="json", exclude=left_out)
    if "data.root" in swept:
        data["data"]["root"] = _real_root(config)
    for section, values in data.items():
        if isinstance(values, dict):
            data[section] = {key: value for key, value in values.items() if not is_unset(f"{section}.{key}", value)}
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:8]


def _real_root(config: ExperimentConfig) -> str | None:
    """Return the folder of the data, absolute and free of links; None where nothing names it."""
    try:
        return os.path.realpath(data_root(config))
    except ConfigError:
        return None
