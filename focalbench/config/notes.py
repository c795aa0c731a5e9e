"""Remarks on a valid configuration: allowed, but probably not what was meant."""

from __future__ import annotations

import os

from focalbench.config.model import RetinaNetConfig
from focalbench.config.schema import ExperimentConfig
from focalbench.config.sweep import Trial


def notes(config: ExperimentConfig, trials: tuple[Trial, ...]) -> list[str]:
    """Returns one sentence for each thing worth a second look, without repeats."""
    found = dict.fromkeys(note for trial in trials for note in _trial_notes(trial.config))
    if config.sweep is not None and len({trial.seed for trial in trials}) < 2 and len(trials) > 1:
        found["sweep.seeds: with one seed no difference can be claimed; six paired seeds can show one"] = None
    return list(found)


def _trial_notes(config: ExperimentConfig) -> list[str]:
    found = []
    size = config.data.image_size
    if any(side % 16 for side in ((size,) if isinstance(size, int) else size)):
        found.append(
            f"data.image_size: {size} is not a multiple of 16: the coarse pyramid levels reach beyond the canvas"
        )
    if config.data.name == "voc" and config.data.root is None and not os.environ.get("FOCALBENCH_DATA"):
        found.append("data.root: is left out and FOCALBENCH_DATA is not set: `run` will need one of them")
    model = config.model
    if isinstance(model, RetinaNetConfig) and model.weights != "none" and model.backbone == "tiny":
        found.append(
            "model.weights: there are no published weights for the backbone tiny; a file of your own is needed"
        )
    steps, ema = config.optim.steps, config.optim.ema
    if steps is not None and ema is not None and ema > 1 - 1 / steps:
        found.append(f"optim.ema: {ema:g} averages over more steps than a trial has")
    return found
