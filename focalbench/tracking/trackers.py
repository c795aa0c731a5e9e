"""``TRACKERS``: everything that a trial reports to, each opened for its folder."""

from __future__ import annotations

from collections.abc import Callable

from focalbench.tracking.metrics import MetricsTracker
from focalbench.tracking.tensorboard import TensorBoardTracker
from focalbench.tracking.tracker import MultiTracker, TrackedTrial, Tracker

TRACKERS: dict[str, Callable[[TrackedTrial], Tracker]] = {
    "metrics": MetricsTracker,
    "tensorboard": TensorBoardTracker,
}


def open_trackers(trial: TrackedTrial) -> MultiTracker:
    """Opens every tracker of ``TRACKERS``, all cut back to the same step."""
    return MultiTracker([make(trial) for make in TRACKERS.values()])
