"""Leaves what a training would, in a moment: what follows from results needs no network."""

from pathlib import Path

from focalbench.config.sweep import Trial
from focalbench.records.state import TrialState
from focalbench.records.trial import TrialFolder
from focalbench.storage import write_json


def finish(out: Path, trial: Trial, mean_ap: float) -> None:
    """Writes result and status of a trial of the sweep in ``out``."""
    TrialFolder(out / trial.name).write_status(trial, TrialState.DONE, step=6, steps=6)
    result = {"arm": trial.arm, "seed": trial.seed, "config_hash": trial.hash, "val/mAP": mean_ap, "AP": {}, "step": 6}
    write_json(out / trial.name / "result.json", result)
