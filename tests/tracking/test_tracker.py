"""The fan-out reaches all trackers, and closes them all even when one fails."""

import numpy as np
import pytest

from focalbench.tracking.tracker import MatchedScores, MultiTracker


class Recorder:
    def __init__(self, fault=None):
        self.calls = []
        self.fault = fault

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, *arguments))

    def close(self):
        self.calls.append(("close",))
        if self.fault:
            raise self.fault


def test_every_call_reaches_every_tracker():
    first, second = Recorder(), Recorder()
    tracker = MultiTracker([first, second])
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    curves = {"cat": MatchedScores(np.array([0.5]), np.array([True]), 1)}
    tracker.scalars(1, {"train/loss": 2.0})
    tracker.images(1, "val/0", image)
    tracker.pr_curves(1, curves)
    tracker.finish("done")
    tracker.flush()
    tracker.close()
    assert first.calls == second.calls
    assert first.calls == [
        ("scalars", 1, {"train/loss": 2.0}),
        ("images", 1, "val/0", image),
        ("pr_curves", 1, curves),
        ("finish", "done"),
        ("flush",),
        ("close",),
    ]


def test_a_tracker_that_cannot_close_does_not_keep_the_others_open():
    first, second, third = Recorder(OSError("full")), Recorder(), Recorder(OSError("later"))
    with pytest.raises(OSError, match="full"):
        MultiTracker([first, second, third]).close()
    assert second.calls == third.calls == [("close",)]
