"""``TRACKERS``: everything that a trial reports to, each opened for its folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from focalbench.tracking.metrics import MetricsTracker
from focalbench.tracking.tensorboard import TensorBoardTracker
from focalbench.tracking.tracker import MultiTracker, TrackedTrial, Tracker

TRACKERS: dict[str, Callable[[TrackedTrial], Tracker]] = {
    "metrics": MetricsTracker,
    "tensorboard": TensorBoardTracker,
}


def open_trackers(trial: TrackedTrial, further: Sequence[Callable[[TrackedTrial], Tracker]] = ()) -> MultiTracker:
    """Opens every tracker of ``TRACKERS``, and ``further`` ones, all cut back to the same step."""
    opened: list[Tracker] = []
    try:
        for make in (*TRACKERS.values(), *further):
            opened.append(make(trial))
    except BaseException:
        MultiTracker(opened).close()
        raise
    return MultiTracker(opened)
