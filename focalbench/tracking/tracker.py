"""The one interface through which training reports: what a tracker takes, and the fan-out to several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from focalbench.records.state import TrialState
from focalbench.tracking.hparams import Column, Scalar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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


@dataclass(frozen=True)
class TrackedTrial:
    """What a tracker may know of its trial.

    Attributes:
        folder: the trial's folder, made when missing.
        name: the trial's name.
        arm: the trial's name without seed and hash.
        hparams: the resolved configuration, flattened.
        columns: every key that a configuration can have: the constant columns of the HPARAMS page.
        resume_step: step of the checkpoint that training goes on from; what was logged up to it stays, the rest goes.
            None starts anew.
    """

    folder: Path
    name: str
    arm: str
    hparams: Mapping[str, Scalar]
    columns: Mapping[str, Column]
    resume_step: int | None = None


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
        self._each(lambda tracker: tracker.scalars(step, values))

    def images(self, step: int, tag: str, image: NDArray[np.uint8]) -> None:
        self._each(lambda tracker: tracker.images(step, tag, image))

    def pr_curves(self, step: int, curves: Mapping[str, MatchedScores]) -> None:
        self._each(lambda tracker: tracker.pr_curves(step, curves))

    def finish(self, state: TrialState) -> None:
        self._each(lambda tracker: tracker.finish(state))

    def flush(self) -> None:
        self._each(lambda tracker: tracker.flush())

    def close(self) -> None:
        """Closes all of them, the last first, even when one fails: then raises the fault of the first that did."""
        with ExitStack() as stack:  # a full disk under one must not leave the others' lines unwritten
            for tracker in self._trackers:
                stack.callback(tracker.close)

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for tracker in self._trackers:
            call(tracker)
