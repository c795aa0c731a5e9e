"""``TRACKERS``: everything that a trial reports to, each opened for its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from focalbench.tracking.hparams import Column, Scalar
from focalbench.tracking.metrics import MetricsTracker
from focalbench.tracking.tensorboard import TensorBoardTracker
from focalbench.tracking.tracker import MultiTracker, Tracker


@dataclass(frozen=True)
class TrackedTrial:
    """What a tracker may know of its trial.

    Attributes:
        folder: the trial's folder, made when missing.
        trial: the trial's name.
        arm: the trial's name without seed and hash.
        hparams: the resolved configuration, flattened.
        columns: the constant columns of the HPARAMS page; None takes them from ``hparams``.
        resume_step: step of the checkpoint that training goes on from; what was logged up to it stays, the rest goes.
            None starts anew.
    """

    folder: Path
    trial: str
    arm: str
    hparams: Mapping[str, Scalar]
    columns: Mapping[str, Column] | None = None
    resume_step: int | None = None


TRACKERS: dict[str, Callable[[TrackedTrial], Tracker]] = {
    "metrics": lambda trial: MetricsTracker(trial.folder, resume_step=trial.resume_step),
    "tensorboard": lambda trial: TensorBoardTracker(
        trial.folder,
        hparams=trial.hparams,
        trial=trial.trial,
        arm=trial.arm,
        columns=trial.columns,
        purge_step=None if trial.resume_step is None else trial.resume_step + 1,
    ),
}


def open_trackers(trial: TrackedTrial) -> MultiTracker:
    """Every tracker of ``TRACKERS``, all cut back to the same step."""
    return MultiTracker([make(trial) for make in TRACKERS.values()])
