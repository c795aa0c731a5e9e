"""The one interface through which training reports: what a tracker takes, and the fan-out to several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from focalbench.records.state import TrialState


@dataclass(frozen=True)
class MatchedScores:
    """The detections of one class after matching: all that a precision-recall curve needs.

    Attributes:
        scores: (D,) float in [0, 1]; detections matched to difficult objects are left out beforehand.
        is_hit: (D,) bool, true positive or false positive.
        num_objects: ground-truth objects of the class that count, found or not.
    """

    scores: NDArray[np.floating]
    is_hit: NDArray[np.bool_]
    num_objects: int


class Tracker:
    """Where a trial's numbers and pictures go: a subclass takes what it has a place for, the rest is passed over.

    ``step`` counts finished optimizer steps.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Stores one value a tag; values that are not finite mean "undefined here"."""

    def images(self, step: int, tag: str, image: NDArray[np.uint8]) -> None:
        """Stores one uint8 picture (H, W, 3)."""

    def pr_curves(self, step: int, curves: Mapping[str, MatchedScores]) -> None:
        """Stores one precision-recall curve a class."""

    def finish(self, state: TrialState) -> None:
        """Says that the trial is done or failed; called once, only when nothing will be retried."""

    def flush(self) -> None:
        """Makes everything stored so far survive a kill of the process."""

    def close(self) -> None:
        """Flushes and releases the files; a closed tracker takes nothing more."""


class MultiTracker(Tracker):
    """Hands everything to each of ``trackers``, in their order."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self._trackers:
            tracker.scalars(step, values)

    def images(self, step: int, tag: str, image: NDArray[np.uint8]) -> None:
        for tracker in self._trackers:
            tracker.images(step, tag, image)

    def pr_curves(self, step: int, curves: Mapping[str, MatchedScores]) -> None:
        for tracker in self._trackers:
            tracker.pr_curves(step, curves)

    def finish(self, state: TrialState) -> None:
        for tracker in self._trackers:
            tracker.finish(state)

    def flush(self) -> None:
        for tracker in self._trackers:
            tracker.flush()

    def close(self) -> None:
        """Closes all of them even when one fails; the first fault is raised at the end."""
        faults: list[Exception] = []
        for tracker in self._trackers:
            try:
                tracker.close()
            except Exception as fault:  # a full disk under one must not leave the others' lines unwritten
                faults.append(fault)
        if faults:
            raise faults[0]
